from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import CENTRE_RANK, CENTRE_REACH, THIRD_TIER, VERBATIM
from speckv_model.constants import ROW_VALUES

from ..stream import Fifo
from .pipeline import delay

__all__ = ["RowCentre", "exponent_beat"]

EXPONENT_BITS = 8


def exponent_beat(lanes):
    """Exponent fields of a beat of values, 0 in place of all ones (infinity, NaN)."""
    return data.StructLayout({"exponents": data.ArrayLayout(EXPONENT_BITS, lanes), "last": 1})


class RowCentre(wiring.Component):
    """Finds the centre of each row's exponents (``docs/format.md``, `lossless`).

    Two passes over the row: its largest and smallest exponent, then how many are near the largest. One beat a clock, no
    back-pressure: who asks must have room for the centres. Empty on reset.

    Parameters
    ----------
    lanes : int
        Values in a beat, a power of two.

    Members
    -------
    i : In(stream(exponent_beat(lanes)), always ready)
    o : Out(stream(8), always ready)
        The centre; 0 where a value is too far from it to have a code.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(exponent_beat(lanes), always_ready=True)),
            "o": Out(stream.Signature(EXPONENT_BITS, always_ready=True)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        beats = ROW_VALUES // lanes

        # First pass: the range of the row
        m.submodules.waiting = waiting = Fifo(exponent_beat(lanes), 16 if beats <= 4 else 32)
        limits = data.StructLayout({"largest": EXPONENT_BITS, "smallest": EXPONENT_BITS})
        m.submodules.ranges = ranges = Fifo(limits, 4)
        exponents = [self.i.p.exponents[lane] for lane in range(lanes)]
        # Zeros have a code wherever the centre is.
        tops = exponents
        bottoms = [Mux(exponent == 0, (1 << EXPONENT_BITS) - 1, exponent) for exponent in exponents]
        levels = 0
        while len(tops) > 1:
            tops = self._level(m, tops, lambda a, b: Mux(a > b, a, b), f"top{levels}")
            bottoms = self._level(m, bottoms, lambda a, b: Mux(a < b, a, b), f"bottom{levels}")
            levels += 1
        (top,), (bottom,) = tops, bottoms
        valid, last = delay(m, self.i.valid, levels), delay(m, self.i.p.last, levels)
        largest, smallest, more = Signal(EXPONENT_BITS), Signal(EXPONENT_BITS), Signal()
        complete = Signal()
        m.d.sync += complete.eq(valid & last)
        with m.If(valid):
            m.d.sync += more.eq(~last)
            with m.If(~more | (top > largest)):
                m.d.sync += largest.eq(top)
            with m.If(~more | (bottom < smallest)):
                m.d.sync += smallest.eq(bottom)
        m.d.comb += [
            waiting.i.payload.eq(self.i.payload),
            waiting.i.valid.eq(self.i.valid),
            ranges.i.p.largest.eq(largest),
            ranges.i.p.smallest.eq(smallest),
            ranges.i.valid.eq(complete),
        ]

        # Second pass: how many are at most so far below the largest
        issue = Signal()
        m.d.comb += [
            issue.eq(waiting.o.valid & ranges.o.valid),
            waiting.o.ready.eq(issue),
            ranges.o.ready.eq(issue & waiting.o.p.last),
        ]
        near = []
        for lane in range(lanes):
            distance = Signal(EXPONENT_BITS, name=f"distance{lane}")
            m.d.sync += distance.eq(ranges.o.p.largest - waiting.o.p.exponents[lane])
            near.append(distance)
        counts = []
        for reach in range(CENTRE_REACH):
            level = [distance <= reach for distance in near]
            clocks = 0
            while len(level) > 1:
                level = self._level(m, level, lambda a, b: a + b, f"count{reach}_{clocks}")
                clocks += 1
            counts.append(level[0])
        valid = delay(m, issue, 1 + clocks)
        last = delay(m, waiting.o.p.last, 1 + clocks)
        limits_later = delay(m, ranges.o.p, 1 + clocks)
        totals = [Signal(range(ROW_VALUES + 1), name=f"total{reach}") for reach in range(CENTRE_REACH)]
        going = Signal()
        counted = Signal()
        with m.If(valid):
            m.d.sync += going.eq(~last)
            for total, count in zip(totals, counts):
                m.d.sync += total.eq(Mux(going, total, 0) + count)
        m.d.sync += counted.eq(valid & last)

        below, centre = Signal(3), Signal(EXPONENT_BITS)
        limits_counted = delay(m, limits_later, 1)
        enough = Cat(total >= CENTRE_RANK for total in totals)
        m.d.comb += below.eq(CENTRE_REACH)
        for reach in reversed(range(CENTRE_REACH)):
            with m.If(enough[reach]):
                m.d.comb += below.eq(reach)
        floor = Signal(EXPONENT_BITS)
        m.d.sync += centre.eq(Mux(limits_counted.largest > below, limits_counted.largest - below, 1))
        m.d.comb += floor.eq(Mux(centre > max(THIRD_TIER), centre - max(THIRD_TIER), 0))
        m.d.sync += [
            self.o.payload.eq(Mux(delay(m, limits_counted.smallest, 1) < floor, VERBATIM, centre)),
            self.o.valid.eq(delay(m, counted, 1)),
        ]
        return m

    def _level(self, m, values, combine, name):
        """One level of a tree: pairs combined and registered."""
        level = []
        for n, (a, b) in enumerate(zip(values[::2], values[1::2])):
            value = combine(a, b)
            one = Signal(len(value), name=f"{name}_{n}")
            m.d.sync += one.eq(value)
            level.append(one)
        return level
