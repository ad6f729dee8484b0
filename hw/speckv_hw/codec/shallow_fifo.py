from amaranth.hdl import Module, Shape, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer

__all__ = ["ShallowFifo"]


class ShallowFifo(wiring.Component):
    """A queue in distributed memory, with a register at its output.

    Latency 2 clocks, one payload a clock, order kept; empty on reset. Holds one payload more than `depth`.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    depth : int
        Payloads that fit into the memory, a power of two: 16 take the least area, more take as many times that.

    Members
    -------
    i : In(stream)
    o : Out(stream)
    """

    latency = 2

    def __init__(self, shape, depth=16):
        if not isinstance(depth, int) or depth < 2 or depth & depth - 1:
            raise ValueError(f"depth must be a power of two from 2 on, not {depth!r}")
        self._shape = shape
        self._depth = depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        # Read without a clock: that is what distributed memory does and block memory does not.
        m.submodules.memory = store = memory.Memory(shape=Shape.cast(self._shape).width, depth=self._depth, init=[])
        write, read = store.write_port(), store.read_port(domain="comb")
        filled = Signal(range(self._depth + 1))
        take = Signal()
        some = Signal()
        full = Signal()
        m.d.comb += [
            full.eq(filled[-1]),
            some.eq(filled != 0),
            self.i.ready.eq(~full),
            write.en.eq(transfer(self.i)),
            write.data.eq(Value.cast(self.i.payload)),
            take.eq(some & (~self.o.valid | self.o.ready)),
        ]
        m.d.sync += [
            write.addr.eq(write.addr + write.en),
            read.addr.eq(read.addr + take),
            filled.eq(filled + write.en - take),
        ]
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.valid.eq(some), Value.cast(self.o.payload).eq(read.data)]
        return m
