from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec import fixed, variable
from speckv_model.constants import PAGE_ROWS

from ..stream import Fifo, transfer
from ..types import LINE_BITS, Codec, DecodeStart, Dtype
from .choose import choose
from .payloads import chunk
from .word_unpacker import LINE_WORDS, WordUnpacker

__all__ = ["QuantisedReader", "PieceTag", "PIECE_WORDS", "HEAD_WORDS"]

PIECE_WORDS = variable.MOST_BITS
"""Of a unit, whose values' lowest bits need not be there, or of a row's first piece."""
HEAD_WORDS = 8
"""Words of a row's first piece before the signs; rows with odd N have only the last two."""
UNIT_WORDS = fixed.UNIT_BYTES // 4
PLANE_WORDS = fixed.PLANE_BYTES // 4
HEADER_WORDS = variable.BODY_AT // 4
WIDTHS = data.ArrayLayout(4, variable.UNITS)


class PieceTag(data.Struct):
    """What a fragment of a page is. `variable`: a unit, its sign plane in the last word. `fixed`: of a row's pieces the
    first one, with the signs in the last words, or the next two planes of the cells' numbers."""
    variable: 1
    dtype: Dtype
    by_row: 1
    setting: 8
    """Of `fixed`, the row's length in units of 8 bytes."""
    width: 4
    """`variable`: bits that a value takes."""
    cell_planes: 3
    """`fixed`: planes of the cells' numbers."""
    index: 2
    """`fixed`: which of the row's pieces."""
    last: 1
    """The unit or row is complete."""
    single: 1
    """The row was fetched alone."""


class QuantisedReader(wiring.Component):
    """Takes the stored lines of `fixed` and `variable` pages and asks for the words of their rows and units.

    One line a clock and, independently, one request a clock, at most four for a row; three clocks more for the lines of
    each page. Takes exactly as many lines as the start says. Empty on reset.

    Members
    -------
    start : In(stream(DecodeStart))
    stored : In(stream(512))
    body : Out(stream(chunk(512)))
        The lines, for the unpacker.
    requests : Out(stream(WordUnpacker.request_layout(PieceTag)))
    """

    start: In(stream.Signature(DecodeStart))
    stored: In(stream.Signature(LINE_BITS))
    body: Out(stream.Signature(chunk(LINE_BITS)))
    requests: Out(stream.Signature(WordUnpacker.request_layout(PieceTag)))

    def elaborate(self, platform):
        m = Module()
        page_layout = data.StructLayout({"variable": 1, "dtype": Dtype, "by_row": 1, "setting": 8, "single": 1,
                                         "skip": 3, "body": 1, "widths": WIDTHS})
        m.submodules.pages = pages = Fifo(page_layout, 1)
        self._take_lines(m, pages.i)
        self._ask(m, pages.o)
        return m

    def _take_lines(self, m, page):
        start = self.start.p
        left = Signal.like(start.lines)
        kept = Signal(DecodeStart)
        rate = Signal(8)
        whole = start.lines[1:]
        low, high = fixed.SETTINGS[0], fixed.SETTINGS[-1]
        m.d.comb += [
            rate.eq(Mux(start.single, start.rate, Mux(whole < low, low, Mux(whole > high, high, whole)))),
            self.body.payload.data.eq(self.stored.payload),
            self.body.payload.last.eq(left == 1),
            page.p.widths.eq(self.stored.payload[8 * variable.WIDTHS_AT:8 * variable.BODY_AT]),
        ]
        with m.FSM(name="lines"):
            with m.State("START"):
                is_variable = start.codec == Codec.VARIABLE
                waits = is_variable & (start.lines != 0)
                m.d.comb += [
                    page.p.variable.eq(is_variable),
                    page.p.dtype.eq(start.dtype),
                    page.p.by_row.eq(start.by_row),
                    page.p.setting.eq(Mux(is_variable, 0, rate)),
                    page.p.single.eq(start.single & ~is_variable),
                    page.p.skip.eq(Mux(start.single, start.skip, 0)),
                    page.p.body.eq(start.lines != 0),
                    page.valid.eq(self.start.valid & ~waits),
                    self.start.ready.eq(waits | page.ready),
                ]
                m.d.sync += [left.eq(start.lines), kept.eq(start)]
                with m.If(transfer(self.start)):
                    with m.If(waits):
                        m.next = "HEADER"
                    with m.Elif(start.lines != 0):
                        m.next = "LINES"
            with m.State("HEADER"):
                m.d.comb += [
                    page.p.variable.eq(1),
                    page.p.dtype.eq(kept.dtype),
                    page.p.setting.eq(self.stored.payload[8 * variable.SETTING_AT:][:8]),
                    page.p.body.eq(1),
                    page.valid.eq(self.stored.valid),
                ]
                with m.If(transfer(page)):
                    m.next = "LINES"
            with m.State("LINES"):
                m.d.comb += [self.body.valid.eq(self.stored.valid), self.stored.ready.eq(self.body.ready)]
                with m.If(transfer(self.body)):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "START"

    def _ask(self, m, pages):
        page = Signal.like(pages.p)
        busy = Signal()
        following = Signal(range(variable.UNITS), init=1)
        index = Signal(2)
        opened = Signal()
        width = Signal(4)
        request, tag = self.requests.p, self.requests.p.tag
        count = Signal(range(PIECE_WORDS + 1))
        cell_planes = Signal(3)
        ternary = ~page.setting[0]
        begins = (following == 1) & (index == 0) & ~opened
        blocks = Mux(page.variable, variable.UNITS, Mux(page.single, 1, PAGE_ROWS))
        pairs = cell_planes[1:] + cell_planes[0]
        with m.If(page.variable):
            m.d.comb += [count.eq(width), request.place.eq(PIECE_WORDS - width)]
        with m.Elif(index == 0):
            m.d.comb += [
                count.eq(Mux(ternary, HEAD_WORDS, UNIT_WORDS) + PLANE_WORDS),
                request.place.eq(Mux(ternary, 0, HEAD_WORDS - UNIT_WORDS)),
            ]
        with m.Else():
            m.d.comb += count.eq(Mux((index == pairs) & cell_planes[0], PLANE_WORDS, 2 * PLANE_WORDS))
        m.d.comb += [
            cell_planes.eq(page.setting[1:] - Mux(ternary, 3, 1)),
            tag.variable.eq(page.variable),
            tag.dtype.eq(page.dtype),
            tag.by_row.eq(page.by_row),
            tag.setting.eq(page.setting),
            tag.width.eq(width),
            tag.cell_planes.eq(cell_planes),
            tag.index.eq(index),
            tag.last.eq(page.variable | (index == pairs)),
            tag.single.eq(page.single),
            request.count.eq(Mux(request.empty, 0, count)),
            request.empty.eq(begins & (request.skip + count > LINE_WORDS)),
            request.first.eq(begins),
            request.last.eq((following == blocks[:len(following)]) & tag.last & ~request.empty),
            request.skip.eq(Mux(page.variable, HEADER_WORDS, page.skip * UNIT_WORDS)),
            request.body.eq(page.body),
            self.requests.valid.eq(busy),
            pages.ready.eq(~busy | (self.requests.ready & request.last)),
        ]
        with m.If(transfer(self.requests)):
            m.d.sync += opened.eq(request.empty)
            with m.If(~request.empty):
                m.d.sync += index.eq(Mux(tag.last, 0, index + 1))
            with m.If(tag.last & ~request.empty):
                m.d.sync += [following.eq(following + 1), width.eq(_limited(choose(following, page.widths)))]
            with m.If(request.last):
                m.d.sync += [busy.eq(0), following.eq(1)]
        with m.If(transfer(pages)):
            m.d.sync += [page.eq(pages.p), busy.eq(1), width.eq(_limited(pages.p.widths[0]))]


def _limited(width):
    return Mux(width > variable.MOST_BITS, variable.MOST_BITS, width)
