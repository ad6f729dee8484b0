from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .payloads import RowMaximum, value_beat
from .pipeline import delay

__all__ = ["RowMaximumFinder"]


class RowMaximumFinder(wiring.Component):
    """Finds the largest magnitude of each row, as its 15 bits; infinity and NaN are larger than all numbers.

    `latency` clocks after a row's last beat, one beat a clock, no back-pressure; idle on reset.

    Parameters
    ----------
    lanes : int
        Values in a beat, a power of two.

    Members
    -------
    i : In(stream(value_beat), always ready)
    o : Out(stream(RowMaximum), always ready)
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(value_beat(lanes), always_ready=True)),
            "o": Out(stream.Signature(RowMaximum, always_ready=True)),
        })

    @property
    def latency(self):
        return self._lanes.bit_length()

    def elaborate(self, platform):
        m = Module()
        level = [self.i.payload.values[n][:15] for n in range(self._lanes)]
        while len(level) > 1:
            larger = [Signal(15, name=f"larger{len(level) // 2}_{n}") for n in range(len(level) // 2)]
            m.d.sync += [
                one.eq(Mux(a > b, a, b)) for one, a, b in zip(larger, level[0::2], level[1::2])
            ]
            level = larger

        found, = level
        stages = self.latency - 1
        valid = delay(m, self.i.valid, stages)
        last = delay(m, self.i.payload.last, stages)
        dtype = delay(m, self.i.payload.dtype, stages)
        best = self.o.payload.magnitude
        more = Signal()

        m.d.sync += self.o.valid.eq(valid & last)
        with m.If(valid):
            m.d.sync += [self.o.payload.dtype.eq(dtype), more.eq(~last)]
            with m.If(~more | (found > best)):
                m.d.sync += best.eq(found)
        return m
