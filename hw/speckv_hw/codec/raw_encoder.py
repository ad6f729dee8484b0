from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.constants import PAGE_LINES

from ..stream import transfer
from ..types import EncodeResult, StoredLine
from .payloads import PageLine

__all__ = ["RawEncoder"]


class RawEncoder(wiring.Component):
    """Numbers the 64 lines of a page and gives the result after them.

    Latency 0, one line a clock and one clock for the result; order kept.

    Members
    -------
    lines : In(stream(PageLine))
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
    """

    lines: In(stream.Signature(PageLine))
    stored: Out(stream.Signature(StoredLine))
    result: Out(stream.Signature(EncodeResult))

    def elaborate(self, platform):
        m = Module()
        index = Signal(range(PAGE_LINES))
        ended = Signal()
        m.d.comb += [
            self.stored.payload.index.eq(index),
            self.stored.payload.data.eq(self.lines.payload.data),
            self.stored.valid.eq(self.lines.valid & ~ended),
            self.lines.ready.eq(self.stored.ready & ~ended),
            self.result.payload.lines.eq(PAGE_LINES),
            self.result.payload.fits.eq(1),
            self.result.valid.eq(ended),
        ]
        with m.If(transfer(self.stored)):
            m.d.sync += [index.eq(index + 1), ended.eq(index == PAGE_LINES - 1)]
        with m.If(transfer(self.result)):
            m.d.sync += ended.eq(0)
        return m
