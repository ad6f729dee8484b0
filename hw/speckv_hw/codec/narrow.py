from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from .payloads import chunk

__all__ = ["Narrow"]


class Narrow(wiring.Component):
    """Splits wide chunks into narrow ones, low bits first.

    Latency 1 clock, throughput one narrow chunk a clock without gaps; empty on reset. Each wide chunk gives
    `wide` / `narrow` narrow ones; the last of a last one is last.

    Parameters
    ----------
    wide, narrow : int
        Bits; `wide` is a multiple of `narrow`.

    Members
    -------
    i : In(stream(chunk(wide)))
    o : Out(stream(chunk(narrow)))
    """

    latency = 1

    def __init__(self, wide, narrow):
        if wide % narrow:
            raise ValueError(f"wide must be a multiple of narrow ({narrow}), not {wide!r}")
        self._parts = wide // narrow
        self._narrow = narrow
        super().__init__({"i": In(stream.Signature(chunk(wide))), "o": Out(stream.Signature(chunk(narrow)))})

    def elaborate(self, platform):
        m = Module()
        held = Signal.like(self.i.payload)
        left = Signal(range(self._parts + 1))
        final = left == 1

        m.d.comb += [
            self.o.valid.eq(left != 0),
            self.o.payload.data.eq(held.data),
            self.o.payload.last.eq(held.last & final),
            self.i.ready.eq(~self.o.valid | (final & self.o.ready)),
        ]
        # Which data come next does not depend on the handshakes, only whether they are taken: cheap for 512
        # bits.
        refill = left <= 1
        with m.If(transfer(self.i) | transfer(self.o)):
            m.d.sync += held.data.eq(Mux(refill, self.i.payload.data, held.data >> self._narrow))
        with m.If(transfer(self.i)):
            m.d.sync += [held.last.eq(self.i.payload.last), left.eq(self._parts)]
        with m.Elif(transfer(self.o)):
            m.d.sync += left.eq(left - 1)
        return m
