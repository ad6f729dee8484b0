from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import CENTRE_RANK, CENTRE_REACH, THIRD_TIER, VERBATIM
from speckv_model.constants import ROW_VALUES

from .pipeline import delay

__all__ = ["RowCentreFinder"]


class RowCentreFinder(wiring.Component):
    """Finds the centre exponent of each row, or that the row is kept verbatim, while its beats go by.

    `latency` clocks after a row's last beat, one beat a clock; `advance` low holds all of it. Idle on reset.

    The counts of values that are 0, 1, ... below the largest exponent so far move up when that one grows.

    Parameters
    ----------
    lanes : int
        Values in a beat, a power of two from 8 on.

    Members
    -------
    advance : In
    i : In(stream, always ready)
        `exponents`, `ones` (lanes with an infinity or NaN) and `last` of the row.
    o : Out(stream(8), always ready)
        Centre of the row, 0 for a verbatim one.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        self._levels = lanes.bit_length() - 1
        super().__init__({
            "advance": In(1),
            "i": In(stream.Signature(data.StructLayout(
                {"exponents": data.ArrayLayout(8, lanes), "ones": lanes, "last": 1}), always_ready=True)),
            "o": Out(stream.Signature(8, always_ready=True)),
        })

    @property
    def latency(self):
        return self._levels + 9

    def elaborate(self, platform):
        m = Module()
        lanes, levels, advance = self._lanes, self._levels, self.advance

        def later(value, clocks=1):
            return delay(m, value, clocks, enable=advance)

        # Largest finite exponent of the beat, and the complement of the smallest that is not zero
        exponents = self.i.payload.exponents
        finite = [later(Mux(self.i.payload.ones[n], 0, exponents[n])) for n in range(lanes)]
        small = [later(Mux(self.i.payload.ones[n] | (exponents[n] == 0), 0, ~exponents[n])[:8]) for n in range(lanes)]
        beat_largest, beat_small = self._largest(later, finite), self._largest(later, small)
        finite = [later(one, levels) for one in finite]
        valid = later(self.i.valid, 1 + levels)
        last = later(self.i.payload.last, 1 + levels)

        # Those of the row so far
        largest, smallest, growth, first = Signal(8), Signal(8), Signal(8), Signal(init=1)
        fresh = Signal()
        larger = beat_largest > largest
        with m.If(advance & valid):
            m.d.sync += [first.eq(last), fresh.eq(first)]
            with m.If(first | larger):
                m.d.sync += largest.eq(beat_largest)
            m.d.sync += growth.eq(Mux(larger, beat_largest - largest, 0))
            with m.If(first | (beat_small > smallest)):
                m.d.sync += smallest.eq(beat_small)
        finite = [later(one) for one in finite]
        valid, last = later(valid), later(last)

        # How far below the largest each value is, and how many are so near
        below = [(largest - one)[:8] for one in finite]
        near = [later(one[:3]) for one in below]
        far = [later(one[3:].any()) for one in below]
        counts = []
        for reach in range(CENTRE_REACH):
            flags = [~far[n] & (near[n] <= reach) for n in range(lanes)]
            partial = [later(sum(flags[n + 1:n + 8], flags[n])[:4]) for n in range(0, lanes, 8)]
            counts.append(later(sum(partial[1:], partial[0])))
        valid, last, growth, fresh, largest, smallest = (
            later(one, 3) for one in (valid, last, growth, fresh, largest, smallest))

        # Counts of the row so far
        totals = [Signal(range(ROW_VALUES + 1), name=f"total{n}") for n in range(CENTRE_REACH)]
        for reach, total in enumerate(totals):
            moved = Signal.like(total, name=f"moved{reach}")
            with m.Switch(growth):
                for step in range(reach + 1):
                    with m.Case(step):
                        m.d.comb += moved.eq(totals[reach - step])
            with m.If(advance & valid):
                m.d.sync += total.eq(Mux(fresh, 0, moved) + counts[reach])
        ended = later(valid & last)
        largest, smallest = later(largest), later(smallest)

        # The centre
        reach = later(sum(((total < CENTRE_RANK) for total in totals[1:]), totals[0] < CENTRE_RANK)[:3])
        ended, largest, smallest = later(ended), later(largest), later(smallest)
        centre = later(Mux(largest > reach, largest - reach, 1)[:8])
        # Complement of the exponent below which none has a code
        ended, smallest = later(ended), later(smallest)
        verbatim = centre + smallest > max(THIRD_TIER) + 255
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(ended), self.o.payload.eq(Mux(verbatim, VERBATIM, centre))]
        return m

    def _largest(self, later, values):
        while len(values) > 1:
            values = [later(Mux(a > b, a, b)) for a, b in zip(values[0::2], values[1::2])]
        return values[0]
