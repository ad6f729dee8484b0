from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from ..types import LINE_BITS
from .payloads import chunk
from .piece_maker import PIECE_BITS

__all__ = ["PieceReader"]

_LINE_PIECES = LINE_BITS // PIECE_BITS


class PieceReader(wiring.Component):
    """Cuts the pieces of a tier out of the lines that have some.

    Latency 1 clock, one piece a clock and one clock between pages; order kept. A page without pieces gives one of
    zeros. Empty on reset.

    Members
    -------
    pages : In(stream)
        For each page the number of `pieces`, and `start`, the place of the first one in its line.
    lines : In(stream(512))
        As many as these pieces need.
    o : Out(stream(chunk(64)))
        `last` of the page.
    """

    latency = 1

    @staticmethod
    def page_layout():
        return data.StructLayout({"pieces": 8, "start": range(_LINE_PIECES)})

    def __init__(self):
        super().__init__({
            "pages": In(stream.Signature(self.page_layout())),
            "lines": In(stream.Signature(LINE_BITS)),
            "o": Out(stream.Signature(chunk(PIECE_BITS))),
        })

    def elaborate(self, platform):
        m = Module()
        left = Signal(8)
        place = Signal(range(_LINE_PIECES))
        busy = Signal()
        free = ~self.o.valid | self.o.ready
        final = left <= 1
        go = Signal()
        m.d.comb += [
            self.pages.ready.eq(~busy),
            go.eq(busy & free & (self.lines.valid | (left == 0))),
            self.lines.ready.eq(busy & free & (left != 0) & (final | (place == _LINE_PIECES - 1))),
        ]
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(go),
                self.o.payload.last.eq(final),
                self.o.payload.data.eq(Mux(left == 0, 0, self.lines.payload.word_select(place, PIECE_BITS))),
            ]
        with m.If(transfer(self.pages)):
            m.d.sync += [left.eq(self.pages.payload.pieces), place.eq(self.pages.payload.start), busy.eq(1)]
        with m.Elif(go):
            m.d.sync += [left.eq(left - 1), place.eq(place + 1), busy.eq(~final)]
        return m
