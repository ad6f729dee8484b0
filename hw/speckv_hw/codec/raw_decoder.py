from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.constants import PAGE_LINES

from ..stream import transfer
from ..types import LINE_BITS, DecodeStart

__all__ = ["RawDecoder"]


class RawDecoder(wiring.Component):
    """Passes the 64 lines of a page on; lines that are not stored are zero, surplus ones are dropped.

    Latency 0, one line a clock and one clock for the start; order kept. Empty on reset.

    Members
    -------
    start : In(stream(DecodeStart))
        Only `lines` matters.
    stored : In(stream(512))
    lines : Out(stream(512))
    """

    start: In(stream.Signature(DecodeStart))
    stored: In(stream.Signature(LINE_BITS))
    lines: Out(stream.Signature(LINE_BITS))

    def elaborate(self, platform):
        m = Module()
        left = Signal.like(self.start.payload.lines)
        due = Signal(range(PAGE_LINES + 1))
        stored = left != 0
        wanted = due != 0
        m.d.comb += [
            self.start.ready.eq(~stored & ~wanted),
            self.lines.payload.eq(Mux(stored, self.stored.payload, 0)),
            self.lines.valid.eq(wanted & (self.stored.valid | ~stored)),
            self.stored.ready.eq(stored & (self.lines.ready | ~wanted)),
        ]
        with m.If(transfer(self.start)):
            m.d.sync += [left.eq(self.start.payload.lines), due.eq(PAGE_LINES)]
        with m.If(transfer(self.stored)):
            m.d.sync += left.eq(left - 1)
        with m.If(transfer(self.lines)):
            m.d.sync += due.eq(due - 1)
        return m
