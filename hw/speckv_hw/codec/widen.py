from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from .payloads import chunk

__all__ = ["Widen"]


class Widen(wiring.Component):
    """Joins narrow chunks into wide ones, low bits first; a last chunk completes its wide one with zeros.

    Latency 1 clock after the completing chunk, throughput one narrow chunk a clock; empty on reset.

    Parameters
    ----------
    narrow, wide : int
        Bits; `wide` is a multiple of `narrow`.

    Members
    -------
    i : In(stream(chunk(narrow)))
    o : Out(stream(chunk(wide)))
    """

    latency = 1

    def __init__(self, narrow, wide):
        if wide % narrow:
            raise ValueError(f"wide must be a multiple of narrow ({narrow}), not {wide!r}")
        self._parts = wide // narrow
        self._narrow = narrow
        super().__init__({"i": In(stream.Signature(chunk(narrow))), "o": Out(stream.Signature(chunk(wide)))})

    def elaborate(self, platform):
        m = Module()
        part = Signal(range(max(self._parts, 2)))
        complete = (part == self._parts - 1) | self.i.payload.last
        # Without a reset: what clears it then is the registers' own, and takes no logic.
        joined = Signal.like(self.o.payload.data, reset_less=True)

        m.d.comb += [self.i.ready.eq(~self.o.valid | self.o.ready), self.o.payload.data.eq(joined)]
        with m.If(transfer(self.o)):
            m.d.sync += self.o.valid.eq(0)
        with m.If(transfer(self.i)):
            m.d.sync += [
                part.eq(Mux(complete, 0, part + 1)),
                self.o.valid.eq(complete),
                self.o.payload.last.eq(self.i.payload.last),
            ]
            with m.Switch(part):
                with m.Case(0):
                    m.d.sync += joined.eq(self.i.payload.data)
                for n in range(1, self._parts):
                    with m.Case(n):
                        m.d.sync += joined[n * self._narrow:(n + 1) * self._narrow].eq(self.i.payload.data)
        return m
