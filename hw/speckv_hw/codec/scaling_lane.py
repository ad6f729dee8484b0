from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .float16 import MANTISSA_BITS
from .pipeline import delay

__all__ = ["ScalingLane", "FACTOR_BITS", "DROPPED_BITS", "RESULT_BITS", "SHIFT_BITS"]

FACTOR_BITS = 18
DROPPED_BITS = 11
"""Low bits of a product that never reach the result; they hold what the rounding of the factor adds."""
RESULT_BITS = 14
SHIFT_BITS = 5


class ScalingLane(wiring.Component):
    """Scales a mantissa: (mantissa * factor) >> (11 + shift), and whether anything but zeros was shifted out.

    What leaves with the 11 lowest bits does not count for that. `latency` clocks, a value a clock, always in motion;
    nothing here needs a reset.

    Members
    -------
    mantissa : In(11)
    factor : In(18)
    shift : In(5)
        2 clocks later.
    result : Out(14)
    inexact : Out
    """

    latency = 5

    mantissa: In(MANTISSA_BITS)
    factor: In(FACTOR_BITS)
    shift: In(SHIFT_BITS)
    result: Out(RESULT_BITS)
    inexact: Out(1)

    def elaborate(self, platform):
        m = Module()
        mantissa1, factor1 = Signal(MANTISSA_BITS), Signal(FACTOR_BITS)
        product2 = Signal(MANTISSA_BITS + FACTOR_BITS)
        m.d.sync += [
            mantissa1.eq(self.mantissa),
            factor1.eq(self.factor),
            product2.eq(mantissa1 * factor1),
        ]
        # Down by 16 and 8, by 4 and 2, by 1: one step a clock
        value, sticky, shift = product2[DROPPED_BITS:], 0, self.shift
        for places in ((4, 3), (2, 1), (0,)):
            for place in places:
                amount = 1 << place
                lost = value[:amount].any()
                sticky = sticky | (shift[place] & lost)
                value = Mux(shift[place], value >> amount, value)
            later, lost_later = Signal(len(product2) - DROPPED_BITS), Signal()
            m.d.sync += [later.eq(value), lost_later.eq(sticky)]
            value, sticky, shift = later, lost_later, delay(m, shift, 1)
        m.d.comb += [self.result.eq(value), self.inexact.eq(sticky)]
        return m
