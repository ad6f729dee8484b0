from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.constants import PAGE_LINES

from ..stream import transfer
from ..types import LINE_BITS, EncodeResult, StoredLine
from .payloads import PageHeader, chunk

__all__ = ["PageWriter"]


class PageWriter(wiring.Component):
    """Numbers the lines of an encoded page: the body from 1 on, then the header as line 0, then the result.

    Latency 0 for lines, one a clock; two clocks for header and result of each page. Lines above 63, which
    only a page that does not fit has, are dropped.

    Members
    -------
    body : In(stream(chunk(512)))
    header : In(stream(PageHeader))
        After the last body line.
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
    """

    body: In(stream.Signature(chunk(LINE_BITS)))
    header: In(stream.Signature(PageHeader))
    stored: Out(stream.Signature(StoredLine))
    result: Out(stream.Signature(EncodeResult))

    def elaborate(self, platform):
        m = Module()
        index = Signal(range(PAGE_LINES + 2), init=1)
        stored = self.stored.payload
        inside = index < PAGE_LINES
        m.d.comb += [
            self.result.payload.lines.eq(index),
            self.result.payload.fits.eq(inside),
        ]

        with m.FSM(name="page"):
            with m.State("BODY"):
                m.d.comb += [
                    stored.index.eq(index),
                    stored.data.eq(self.body.payload.data),
                    self.stored.valid.eq(self.body.valid & inside),
                    self.body.ready.eq(self.stored.ready | ~inside),
                ]
                with m.If(transfer(self.body)):
                    m.d.sync += index.eq(index + 1)
                    with m.If(self.body.payload.last):
                        m.next = "HEADER"
            with m.State("HEADER"):
                m.d.comb += [
                    stored.index.eq(0),
                    stored.data.eq(self.header.payload),
                    self.stored.valid.eq(self.header.valid),
                    self.header.ready.eq(self.stored.ready),
                ]
                with m.If(transfer(self.header)):
                    m.next = "RESULT"
            with m.State("RESULT"):
                m.d.comb += self.result.valid.eq(1)
                with m.If(self.result.ready):
                    m.d.sync += index.eq(1)
                    m.next = "BODY"
        return m
