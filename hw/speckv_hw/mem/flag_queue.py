"""A queue of single bits."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import transfer

__all__ = ["FlagQueue"]


class FlagQueue(wiring.Component):
    """Remembers one bit for each burst in flight.

    Latency 1 clock, throughput 1 a clock, order kept. Empty on reset.

    Parameters
    ----------
    depth : int
        Bits that fit, a power of two, at least 2.

    Members
    -------
    i : In(stream(1))
    o : Out(stream(1))
    """

    latency = 1

    i: In(stream.Signature(1))
    o: Out(stream.Signature(1))

    def __init__(self, depth):
        if not isinstance(depth, int) or depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth must be a power of two of at least 2, not {depth!r}")
        self._depth = depth
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        flags = Signal(self._depth)
        write, read = Signal(range(self._depth)), Signal(range(self._depth))
        level = Signal(range(self._depth + 1))
        m.d.comb += [
            self.i.ready.eq(level != self._depth),
            self.o.valid.eq(level != 0),
            self.o.payload.eq(flags.bit_select(read, 1)),
        ]
        with m.If(transfer(self.i)):
            m.d.sync += [flags.bit_select(write, 1).eq(self.i.payload), write.eq(write + 1)]
        with m.If(transfer(self.o)):
            m.d.sync += read.eq(read + 1)
        m.d.sync += level.eq(level + transfer(self.i) - transfer(self.o))
        return m
