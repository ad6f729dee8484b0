from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import Fifo, chain, transfer
from ..types import LINE_BITS, EncodeResult, StoredLine
from .payloads import chunk
from .quantised_packer import QuantisedPage

__all__ = ["QuantisedWriter"]


class QuantisedWriter(wiring.Component):
    """Numbers the lines of `fixed` and `variable` pages and ends each page with its result.

    Latency 0 for lines, one a clock; line 0 of a page comes last, when a header is known. Two clocks more for each
    page. Empty on reset.

    Members
    -------
    body : In(stream(chunk(512)))
        `last` does not matter.
    page : In(stream(QuantisedPage))
        Before the lines of the next page.
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
    """

    body: In(stream.Signature(chunk(LINE_BITS)))
    page: In(stream.Signature(QuantisedPage))
    stored: Out(stream.Signature(StoredLine))
    result: Out(stream.Signature(EncodeResult))

    def elaborate(self, platform):
        m = Module()
        m.submodules.pages = pages = Fifo(QuantisedPage, 2)
        chain(m, self.page, pages)
        page = pages.o.p
        index = Signal(7)
        first = Signal(LINE_BITS)
        is_variable = Signal()
        stored = self.stored.p
        complete = pages.o.valid & (index == page.lines)
        m.d.comb += [
            self.result.p.lines.eq(page.lines),
            self.result.p.fits.eq(page.fits),
            stored.index.eq(index),
            stored.data.eq(self.body.p.data),
        ]
        with m.FSM(name="page"):
            with m.State("LINES"):
                # Whether line 0 is to be sent at once is known once the page is: so it always waits.
                with m.If(complete):
                    m.d.sync += is_variable.eq(page.variable)
                    m.next = "FIRST"
                with m.Elif(index == 0):
                    m.d.comb += self.body.ready.eq(1)
                    m.d.sync += first.eq(self.body.p.data)
                with m.Else():
                    m.d.comb += [self.stored.valid.eq(self.body.valid), self.body.ready.eq(self.stored.ready)]
                with m.If(transfer(self.body)):
                    m.d.sync += index.eq(index + 1)
            with m.State("FIRST"):
                m.d.comb += [self.stored.valid.eq(1), stored.index.eq(0), stored.data.eq(first)]
                with m.If(is_variable):
                    m.d.comb += stored.data.eq(first | page.header)
                with m.If(self.stored.ready):
                    m.next = "RESULT"
            with m.State("RESULT"):
                # The next page's line 0 only has to be kept.
                m.d.comb += [
                    self.result.valid.eq(1),
                    pages.o.ready.eq(self.result.ready),
                    self.body.ready.eq(self.result.ready),
                ]
                with m.If(self.result.ready):
                    m.d.sync += [first.eq(self.body.p.data), index.eq(self.body.valid)]
                    m.next = "LINES"
        return m
