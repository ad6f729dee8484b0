from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import Fifo, transfer
from ..types import LINE_BITS

__all__ = ["SectionFetcher", "LINE_NUMBER_BITS", "one_of"]

LINE_NUMBER_BITS = 10
"""Numbers of the lines that wait in memory: they count on and on, and twice as many as it holds are told apart."""
_ROOM = 16
"""Words that wait, unless a line has more than half of them."""
_AHEAD = 8
"""Words that are still waiting when the next line must be asked for."""


class SectionFetcher(wiring.Component):
    """Fetches a section of fixed length from memory, page by page, and cuts its lines into words, low bits first.

    A line goes on while it comes in at up to one word a clock, since it is asked for only when there is room for all of
    its words where they wait. Order kept; idle on reset.

    Parameters
    ----------
    lines : int
        Of the section.
    width : int
        Bits of a word; divides 512.

    Members
    -------
    pages : In(stream)
        For each page the number of its first line, `line`, and of the first line behind the page, `end`: lines from
        there on are zeros, and so are all of a page that is `absent`.
    request : Out(stream(LINE_NUMBER_BITS))
    absent : Out
        What is asked for need not be there.
    line : In(512)
    arrives : In
        `line` is what was asked for.
    o : Out(stream(width))
    """

    def __init__(self, lines, width):
        self._lines = lines
        self._width = width
        super().__init__({
            "pages": In(stream.Signature(self.page_layout())),
            "request": Out(stream.Signature(LINE_NUMBER_BITS)),
            "absent": Out(1),
            "line": In(LINE_BITS),
            "arrives": In(1),
            "o": Out(stream.Signature(width)),
        })

    @staticmethod
    def page_layout():
        return data.StructLayout({"line": LINE_NUMBER_BITS, "end": LINE_NUMBER_BITS, "absent": 1})

    def elaborate(self, platform):
        m = Module()
        width = self._width
        words = LINE_BITS // width
        most = max(words + _AHEAD, _ROOM)
        m.submodules.pages = pages = Fifo(self.page_layout(), 1)
        m.submodules.queue = queue = Fifo(width, most + 1)
        left = Signal(range(self._lines + 1))
        line, end = Signal(LINE_NUMBER_BITS), Signal(LINE_NUMBER_BITS)
        missing = Signal()
        room = Signal(range(most + 1), init=most)
        pause = Signal(range(words))
        asked = transfer(self.request)
        m.d.comb += [
            pages.i.payload.eq(self.pages.payload),
            pages.i.valid.eq(self.pages.valid),
            self.pages.ready.eq(pages.i.ready),
            self.request.payload.eq(line),
            self.request.valid.eq((left != 0) & (room >= words) & (pause == 0)),
            self.absent.eq(missing | (line == end)),
            pages.o.ready.eq((left == 0) | (asked & (left == 1))),
        ]
        with m.If(pause != 0):
            m.d.sync += pause.eq(pause - 1)
        with m.If(asked):
            m.d.sync += [left.eq(left - 1), line.eq(line + 1), missing.eq(self.absent), pause.eq(words - 1)]
        with m.If(transfer(pages.o)):
            m.d.sync += [line.eq(pages.o.p.line), end.eq(pages.o.p.end), missing.eq(pages.o.p.absent),
                         left.eq(self._lines)]
        m.d.sync += room.eq(room - Mux(asked, words, 0) + transfer(self.o))

        zero = Signal()
        held = Signal(LINE_BITS, reset_less=True)
        place = Signal(words)
        """The word of `held` that goes on, if any."""
        m.d.sync += [zero.eq(self.absent), place.eq(Mux(self.arrives, 1, place << 1))]
        with m.If(self.arrives):
            m.d.sync += held.eq(Mux(zero, 0, self.line))
        m.d.comb += [
            queue.i.payload.eq(one_of(place, held)),
            queue.i.valid.eq(place.any()),
            self.o.payload.eq(queue.o.payload),
            self.o.valid.eq(queue.o.valid),
            queue.o.ready.eq(self.o.ready),
        ]
        return m


def one_of(places, line):
    """The word of `line` that the only bit that is set in `places` stands for."""
    width = len(line) // len(places)
    terms = [line.word_select(n, width) & places[n].replicate(width) for n in range(len(places))]
    while len(terms) > 1:
        terms = [a | b for a, b in zip(terms[0::2], terms[1::2])]
    return terms[0]
