"""Cuts requests into bursts that AXI4 allows."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import transfer
from speckv_hw.types import DRAM_LINE_WIDTH, ReadRequest

__all__ = ["LineBurst", "BurstSplitter"]


class LineBurst(data.Struct):
    line: DRAM_LINE_WIDTH
    count: 7
    """1 to 64."""
    final: 1
    """The request's last burst."""


class BurstSplitter(wiring.Component):
    """Cuts each request at the multiples of `boundary` lines.

    Latency `latency` clocks from a request to its first burst; then a burst each clock; a request is accepted
    a clock after the last burst of its predecessor was made. Order kept; every request yields a burst. Empty
    on reset.

    Parameters
    ----------
    boundary : int
        Lines, a power of two from 1 to 64. AXI4 bursts must not cross 4 KiB (section A3.4.1): 64 lines.

    Members
    -------
    i : In(stream(ReadRequest))
        `WriteRequest` has the same layout.
    o : Out(stream(LineBurst))
    """

    latency = 2

    i: In(stream.Signature(ReadRequest))
    o: Out(stream.Signature(LineBurst))

    def __init__(self, boundary=64):
        if boundary not in (1, 2, 4, 8, 16, 32, 64):
            raise ValueError(f"boundary must be a power of two from 1 to 64, not {boundary!r}")
        self._boundary = boundary
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        line = Signal(DRAM_LINE_WIDTH)
        left = Signal(7)
        to_boundary = Signal(7)
        count = Signal(7)
        m.d.comb += [
            to_boundary.eq(self._boundary - (line & (self._boundary - 1))),
            count.eq(Mux(left < to_boundary, left, to_boundary)),
            self.i.ready.eq(left == 0),
        ]
        with m.If(transfer(self.i)):
            m.d.sync += [line.eq(self.i.payload.line), left.eq(self.i.payload.count)]
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                self.o.valid.eq(left != 0),
                self.o.payload.line.eq(line),
                self.o.payload.count.eq(count),
                self.o.payload.final.eq(left == count),
            ]
            with m.If(left != 0):
                m.d.sync += [line.eq(line + count), left.eq(left - count)]
        return m
