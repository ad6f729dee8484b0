from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import CENTRE_RANK, CENTRE_REACH, THIRD_TIER, VERBATIM
from speckv_model.constants import ROW_VALUES

from ..types import Dtype
from .exponent_form import exponent_of, is_ones
from .pipeline import delay

__all__ = ["RowCentre", "EXPONENT_BITS"]

EXPONENT_BITS = 8
_MOST = (1 << EXPONENT_BITS) - 1


class RowCentre(wiring.Component):
    """Finds the centre of each row's exponents (``docs/format.md``, `lossless`) while its beats go by.

    `latency` clocks after a row's last beat, one beat a clock, no back-pressure: who asks must have room for the
    centres. Idle on reset.

    The counts of values that are 0, 1, ... below the largest exponent so far move up when that one grows.

    Parameters
    ----------
    lanes : int
        Values in a beat, a power of two from 8 on.

    Members
    -------
    i : In(stream, always ready)
        `forms` of the values (`exponent_form`), `dtype` and `last` of the row.
    o : Out(stream(8), always ready)
        Centre of the row; 0 where a value is too far from it to have a code.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        self._levels = lanes.bit_length() - 1
        beat = data.StructLayout({"forms": 16 * lanes, "dtype": Dtype, "last": 1})
        super().__init__({
            "i": In(stream.Signature(beat, always_ready=True)),
            "o": Out(stream.Signature(EXPONENT_BITS, always_ready=True)),
        })

    @property
    def latency(self):
        return self._levels + 9

    def elaborate(self, platform):
        m = Module()
        lanes, levels = self._lanes, self._levels

        def later(value, clocks=1):
            return delay(m, value, clocks)

        # Largest and smallest exponent of the beat; infinities and NaNs do not count, nor do zeros as the smallest:
        # they have a code wherever the centre is.
        tops, bottoms = [], []
        for lane in range(lanes):
            form = self.i.p.forms.word_select(lane, 16)
            exponent = exponent_of(form, self.i.p.dtype)
            ones = is_ones(form, self.i.p.dtype)
            tops.append(later(Mux(ones, 0, exponent)))
            bottoms.append(later(Mux(ones | (exponent == 0), _MOST, exponent)))
        finite = [later(one, levels) for one in tops]
        beat_largest = self._tree(later, tops, lambda a, b: Mux(a > b, a, b))
        beat_smallest = self._tree(later, bottoms, lambda a, b: Mux(a > b, b, a))
        valid = later(self.i.valid, 1 + levels)
        last = later(self.i.p.last, 1 + levels)

        # Those of the row so far
        largest, smallest, growth = Signal(EXPONENT_BITS), Signal(EXPONENT_BITS), Signal(EXPONENT_BITS)
        first, fresh = Signal(init=1), Signal()
        larger = beat_largest > largest
        with m.If(valid):
            m.d.sync += [first.eq(last), fresh.eq(first), growth.eq(Mux(larger, beat_largest - largest, 0))]
            with m.If(first | larger):
                m.d.sync += largest.eq(beat_largest)
            with m.If(first | (beat_smallest < smallest)):
                m.d.sync += smallest.eq(beat_smallest)
        finite = [later(one) for one in finite]
        valid, last = later(valid), later(last)

        # How far below the largest each value is, and how many are so near
        below = [(largest - one)[:EXPONENT_BITS] for one in finite]
        near = [Cat(later(one[:3]), later(one[3:].any())) for one in below]
        counts = []
        for reach in range(CENTRE_REACH):
            flags = [one <= reach for one in near]
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
            with m.If(valid):
                m.d.sync += total.eq(Mux(fresh, 0, moved) + counts[reach])
        ended = later(valid & last)
        largest, smallest = later(largest), later(smallest)

        # The centre
        reach = later(sum(((total < CENTRE_RANK) for total in totals[1:]), totals[0] < CENTRE_RANK)[:3])
        ended, largest, smallest = later(ended), later(largest), later(smallest)
        centre = later(Mux(largest > reach, largest - reach, 1)[:EXPONENT_BITS])
        ended, smallest = later(ended), later(smallest)
        m.d.sync += [
            self.o.valid.eq(ended),
            self.o.payload.eq(Mux(centre > smallest + max(THIRD_TIER), VERBATIM, centre)),
        ]
        return m

    def _tree(self, later, values, combine):
        while len(values) > 1:
            values = [later(combine(a, b)) for a, b in zip(values[0::2], values[1::2])]
        return values[0]
