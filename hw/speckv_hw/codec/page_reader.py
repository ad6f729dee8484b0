from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from ..types import LINE_BITS, DecodeStart
from .payloads import chunk
from .row_reader import RowReader

__all__ = ["PageReader"]


class PageReader(wiring.Component):
    """Takes the stored lines of a `speckv` page apart: line 0 is the header, the others are the body.

    Latency 0 for body lines; one line a clock, a clock more for the start and for the header of each page.
    Takes exactly as many lines as the start says; without any the header is zero. Empty on reset.

    Members
    -------
    start : In(stream(DecodeStart))
        `codec` does not matter.
    stored : In(stream(512))
    header : Out(stream(RowReader.header_layout))
    body : Out(stream(chunk(512)))
    """

    start: In(stream.Signature(DecodeStart))
    stored: In(stream.Signature(LINE_BITS))
    header: Out(stream.Signature(RowReader.header_layout()))
    body: Out(stream.Signature(chunk(LINE_BITS)))

    def elaborate(self, platform):
        m = Module()
        page = Signal(DecodeStart)
        left = Signal.like(page.lines)
        header = self.header.payload
        m.d.comb += [
            header.dtype.eq(page.dtype),
            header.body.eq(left > 1),
            self.body.payload.data.eq(self.stored.payload),
            self.body.payload.last.eq(left == 1),
        ]
        with m.FSM(name="page"):
            with m.State("START"):
                m.d.comb += self.start.ready.eq(1)
                with m.If(transfer(self.start)):
                    m.d.sync += [page.eq(self.start.payload), left.eq(self.start.payload.lines)]
                    m.next = "HEADER"
            with m.State("HEADER"):
                with m.If(left == 0):
                    m.d.comb += self.header.valid.eq(1)
                with m.Else():
                    m.d.comb += [
                        header.header.eq(self.stored.payload),
                        self.header.valid.eq(self.stored.valid),
                        self.stored.ready.eq(self.header.ready),
                    ]
                with m.If(transfer(self.header)):
                    m.d.sync += left.eq(left - 1)
                    m.next = "START"
                    with m.If(header.body):
                        m.next = "BODY"
            with m.State("BODY"):
                m.d.comb += [self.body.valid.eq(self.stored.valid), self.stored.ready.eq(self.body.ready)]
                with m.If(transfer(self.body)):
                    m.d.sync += left.eq(left - 1)
                    with m.If(self.body.payload.last):
                        m.next = "START"
        return m
