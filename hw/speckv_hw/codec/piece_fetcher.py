from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import Fifo, transfer
from ..types import LINE_BITS
from .payloads import chunk
from .piece_maker import PIECE_BITS
from .section_fetcher import LINE_NUMBER_BITS, one_of

__all__ = ["PieceFetcher"]

_LINE_PIECES = LINE_BITS // PIECE_BITS
_QUEUE = 17
"""Pieces: two lines, and the register at the end."""


class PieceFetcher(wiring.Component):
    """Fetches the pieces of both tiers of a page's middle from memory, side by side.

    A piece a clock and three clocks more for each line, of one tier at a time; each has a queue for the pieces of two
    lines. Idle on reset.

    Members
    -------
    second_pages, third_pages : In(stream(page_layout()))
        For each page the line of a tier's first piece, its place there, and how many `pieces` there are, at least one.
        Those of an `absent` tier are zeros.
    request : Out(stream(LINE_NUMBER_BITS))
    line : In(512)
    arrives : In
        `line` is what was asked for.
    second, third : Out(stream(chunk(64)))
        `last` of a page.
    """

    @staticmethod
    def page_layout():
        return data.StructLayout(
            {"line": LINE_NUMBER_BITS, "place": range(_LINE_PIECES), "pieces": 8, "absent": 1})

    def __init__(self):
        pages = stream.Signature(self.page_layout())
        pieces = stream.Signature(chunk(PIECE_BITS))
        super().__init__({
            "second_pages": In(pages),
            "third_pages": In(pages),
            "request": Out(stream.Signature(LINE_NUMBER_BITS)),
            "line": In(LINE_BITS),
            "arrives": In(1),
            "second": Out(pieces),
            "third": Out(pieces),
        })

    def elaborate(self, platform):
        m = Module()
        busy = Signal()
        chosen = Signal()
        """The tier whose line is asked for or cut: 1 the third."""
        before = Signal()
        held = Signal(LINE_BITS, reset_less=True)
        place = Signal(range(_LINE_PIECES))
        left = Signal(8)
        zero, going = Signal(), Signal()
        last = left == 1
        line_last = last | (place == _LINE_PIECES - 1)
        word = chunk(PIECE_BITS)(Cat(one_of(Cat(place == n for n in range(_LINE_PIECES)), held), last))

        tiers = []
        for n, name in enumerate(("second", "third")):
            m.submodules[f"{name}_pages"] = pages = Fifo(self.page_layout(), 1)
            m.submodules[name] = queue = Fifo(chunk(PIECE_BITS), _QUEUE)
            source, sink = getattr(self, f"{name}_pages"), getattr(self, name)
            line = Signal(LINE_NUMBER_BITS, name=f"{name}_line")
            place_, pieces, absent = Signal(range(_LINE_PIECES)), Signal(8), Signal()
            ours = going & (before == n)
            m.d.comb += [
                pages.i.payload.eq(source.payload),
                pages.i.valid.eq(source.valid),
                source.ready.eq(pages.i.ready),
                pages.o.ready.eq(pieces == 0),
                queue.i.payload.eq(word),
                queue.i.valid.eq(ours),
                sink.payload.eq(queue.o.payload),
                sink.valid.eq(queue.o.valid),
                queue.o.ready.eq(sink.ready),
            ]
            with m.If(transfer(pages.o)):
                m.d.sync += [line.eq(pages.o.p.line), place_.eq(pages.o.p.place), pieces.eq(pages.o.p.pieces),
                             absent.eq(pages.o.p.absent)]
            with m.If(ours):
                m.d.sync += [pieces.eq(pieces - 1), place_.eq(place + 1)]
                with m.If(line_last):
                    m.d.sync += line.eq(line + 1)
            wants = (pieces != 0) & (queue.level < _QUEUE - _LINE_PIECES)
            tiers.append((line, place_, pieces, absent, wants))

        # The other tier first, if it wants a line too
        (second_line, *second_state, wants_second), (third_line, *third_state, wants_third) = tiers
        m.d.comb += [
            chosen.eq(Mux(before, ~wants_second, wants_third)),
            self.request.valid.eq(~busy & (wants_second | wants_third)),
            self.request.payload.eq(Mux(chosen, third_line, second_line)),
        ]
        with m.If(transfer(self.request)):
            m.d.sync += [busy.eq(1), before.eq(chosen)]
            m.d.sync += [register.eq(Mux(chosen, third, second))
                         for register, third, second in zip((place, left, zero), third_state, second_state)]
        with m.If(self.arrives):
            m.d.sync += [held.eq(Mux(zero, 0, self.line)), going.eq(1)]
        with m.If(going):
            m.d.sync += [place.eq(place + 1), left.eq(left - 1)]
            with m.If(line_last):
                m.d.sync += [going.eq(0), busy.eq(0)]
        return m
