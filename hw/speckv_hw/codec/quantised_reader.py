from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec import fixed, variable
from speckv_model.constants import PAGE_ROWS

from ..stream import Fifo, transfer
from ..types import LINE_BITS, Codec, DecodeStart, Dtype
from .payloads import chunk
from .word_unpacker import LINE_WORDS, WordUnpacker

__all__ = ["QuantisedReader", "PieceTag"]

UNIT_WORDS = fixed.UNIT_BYTES // 4
HEADER_WORDS = variable.BODY_AT // 4
WIDTHS = data.ArrayLayout(4, variable.UNITS)


class PieceTag(data.Struct):
    """What a fragment of a page is: 32 values of `variable`, or half a row or all of it of `fixed`."""
    variable: 1
    dtype: Dtype
    setting: 8
    """Of `fixed`, the row's length in units of 8 bytes."""
    width: 4
    """`variable`: bits that a value takes."""
    second: 1
    """`fixed`: the second piece of the row."""
    last: 1
    """The block is complete."""
    single: 1
    """The row was fetched alone."""


class QuantisedReader(wiring.Component):
    """Takes the stored lines of `fixed` and `variable` pages and asks for the words of their rows and units.

    One line a clock and, independently, one request a clock; three clocks more for the lines of each page. Takes
    exactly as many lines as the start says. Empty on reset.

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
        page_layout = data.StructLayout({"variable": 1, "dtype": Dtype, "setting": 8, "single": 1, "skip": 3, "body": 1,
                                         "widths": WIDTHS})
        m.submodules.pages = pages = Fifo(page_layout, 2)
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
        ]
        with m.FSM(name="lines"):
            with m.State("START"):
                is_variable = start.codec == Codec.VARIABLE
                waits = is_variable & (start.lines != 0)
                m.d.comb += [
                    page.p.variable.eq(is_variable),
                    page.p.dtype.eq(start.dtype),
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
                    page.p.widths.eq(self.stored.payload[8 * variable.WIDTHS_AT:8 * variable.BODY_AT]),
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
        block = Signal(range(variable.UNITS))
        second = Signal()
        opened = Signal()
        request, tag = self.requests.p, self.requests.p.tag
        width = Signal(4)
        count = Signal(range(LINE_WORDS + 1))
        words = Signal(6)
        two = Signal()
        last_block = Signal()
        m.d.comb += [
            width.eq(Mux(page.widths[0] > variable.MOST_BITS, variable.MOST_BITS, page.widths[0])),
            words.eq(page.setting * UNIT_WORDS),
            two.eq(~page.variable & (words > LINE_WORDS)),
            last_block.eq(block == Mux(page.variable, variable.UNITS - 1, Mux(page.single, 0, PAGE_ROWS - 1))),
            tag.variable.eq(page.variable),
            tag.dtype.eq(page.dtype),
            tag.setting.eq(page.setting),
            tag.width.eq(width),
            tag.second.eq(second),
            tag.last.eq(~two | second),
            tag.single.eq(page.single),
            count.eq(Mux(page.variable, width, Mux(second, words - LINE_WORDS, Mux(two, LINE_WORDS, words)))),
            request.count.eq(Mux(request.empty, 0, count)),
            request.empty.eq((block == 0) & ~second & ~opened & (request.skip + count > LINE_WORDS)),
            request.first.eq((block == 0) & ~second & ~opened),
            request.last.eq(last_block & tag.last & ~request.empty),
            request.skip.eq(Mux(page.variable, HEADER_WORDS, page.skip * UNIT_WORDS)),
            request.body.eq(page.body),
            self.requests.valid.eq(busy),
            pages.ready.eq(~busy | (self.requests.ready & request.last)),
        ]
        with m.If(transfer(self.requests)):
            m.d.sync += [second.eq(~tag.last & ~request.empty), opened.eq(request.empty)]
            with m.If(tag.last & ~request.empty):
                m.d.sync += [block.eq(block + 1), page.widths.eq(page.widths.as_value() >> 4)]
            with m.If(request.last):
                m.d.sync += [busy.eq(0), block.eq(0)]
        with m.If(transfer(pages)):
            m.d.sync += [page.eq(pages.p), busy.eq(1)]
