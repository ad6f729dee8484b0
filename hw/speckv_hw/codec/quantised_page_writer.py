from amaranth.hdl import Cat, Const, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.variable import WIDTHS_AT
from speckv_model.constants import PAGE_LINES

from ..stream import transfer
from ..types import EncodeResult, StoredLine
from .quantised_payloads import HEADER_WORDS, WORD_BITS, PageWidths, page_line

__all__ = ["QuantisedPageWriter"]


class QuantisedPageWriter(wiring.Component):
    """Numbers the lines of `fixed` and `variable` pages and gives their results.

    Latency 0 for lines, one a clock; one clock for the result of each page. Of a `variable` page the first line is
    kept back and comes last, with the header, which takes a clock more. Empty on reset.

    Members
    -------
    lines : In(stream(page_line))
        Fewer than 64 a page.
    header : In(stream(PageWidths))
        Of each `variable` page, before its last line or after it.
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
    """

    lines: In(stream.Signature(page_line()))
    header: In(stream.Signature(PageWidths))
    stored: Out(stream.Signature(StoredLine))
    result: Out(stream.Signature(EncodeResult))

    def elaborate(self, platform):
        m = Module()
        line = self.lines.payload
        index = Signal(range(PAGE_LINES))
        fits = Signal()
        body = Signal(len(line.data) - WORD_BITS * HEADER_WORDS)
        stored = self.stored.payload
        keep = line.end.variable & (index == 0)
        m.d.comb += [
            self.result.payload.lines.eq(index),
            self.result.payload.fits.eq(fits),
            stored.index.eq(index),
            stored.data.eq(line.data),
        ]
        with m.FSM(name="page"):
            with m.State("BODY"):
                m.d.comb += [
                    self.stored.valid.eq(self.lines.valid & ~keep),
                    self.lines.ready.eq(self.stored.ready | keep),
                ]
                with m.If(keep):
                    m.d.sync += body.eq(line.data[WORD_BITS * HEADER_WORDS:])
                with m.If(transfer(self.lines)):
                    m.d.sync += [index.eq(index + 1), fits.eq(~line.end.bad)]
                    with m.If(line.last & line.end.variable):
                        m.next = "HEADER"
                    with m.Elif(line.last):
                        m.next = "RESULT"
            with m.State("HEADER"):
                header = self.header.payload
                m.d.comb += [
                    stored.index.eq(0),
                    stored.data.eq(Cat(header.setting, Const(0, 8 * WIDTHS_AT - 8), header.widths, body)),
                    self.stored.valid.eq(self.header.valid),
                    self.header.ready.eq(self.stored.ready),
                ]
                with m.If(transfer(self.header)):
                    m.next = "RESULT"
            with m.State("RESULT"):
                m.d.comb += self.result.valid.eq(1)
                with m.If(self.result.ready):
                    m.d.sync += index.eq(0)
                    m.next = "BODY"
        return m
