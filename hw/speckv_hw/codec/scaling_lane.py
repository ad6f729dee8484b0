from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..types import Dtype
from .float16 import EXPONENT_BITS, MANTISSA_BITS, exponent_mantissa, is_bf16
from .pipeline import delay
from .quantised_payloads import DIGIT_AT, FACTOR_BITS, LANE_BITS, SLOTS

__all__ = ["ScalingLane"]

_POINT = 15
"""Product bits below those that a result can have, moved down by as little as there is."""
_EXACT = MANTISSA_BITS
"""Product bits in which the rounding of a step's factor shows. A quotient that is no multiple of a half is farther from
the next smaller one: by at least 2^`_POINT` / 15, as the mantissa of a step is at most 15 / 8."""
_BITS = MANTISSA_BITS + FACTOR_BITS - _POINT
_PLACE_BITS = 4
"""Moving down by the most that these say leaves nothing."""


class ScalingLane(wiring.Component):
    """Quantises one value: to the cell of a `fixed` row that its magnitude lies in, or to a multiple of a step.

    `latency` clocks, one value a clock, no back-pressure. What values share comes as late as it is used, so that one
    delay serves all lanes. Nothing here needs a reset.

    The product of mantissa and factor moves down by `base` - the value's exponent. What is left is in halves. Of a
    `fixed` row the cell is cut off and its top is in a fixed place: a base-3 digit is at bit `DIGIT_AT`, below it are
    as many bits as the row has of the cell, then those that it has not; the last cell takes what rounding of the
    factors puts beyond it.

    Members
    -------
    value : In(16)
    dtype : In
        With `value`.
    base : In(9)
        1 clock later; see `RowRate`, as for what follows.
    factor : In(18)
        2 clocks later.
    variable, zero : In
        `late` - 2 clocks later, and `late` - 1.
    late_variable, ternary : In
        `late` clocks later.
    sign_slot : In(6)
        `late` clocks later: which bit plane has the signs, if any.
    o : Out(12)
        `variable`: two's complement, meaningless if it `exceeds`. `fixed`: bit planes and a digit.
    sign : Out
        Of a `fixed` row, zero in one of zeros.
    exceeds : Out
        The value needs more bits; counts if `variable`.
    """

    latency = 9
    late = 8

    value: In(16)
    dtype: In(Dtype)
    base: In(9)
    factor: In(FACTOR_BITS)
    variable: In(1)
    zero: In(1)
    late_variable: In(1)
    ternary: In(1)
    sign_slot: In(SLOTS)
    o: Out(LANE_BITS)
    sign: Out(1)
    exceeds: Out(1)

    def elaborate(self, platform):
        m = Module()

        # 1: exponent and mantissa
        exponent, mantissa = exponent_mantissa(self.value[:15], self.dtype)
        exponent1 = Signal(EXPONENT_BITS)
        mantissa1 = Signal(MANTISSA_BITS)
        m.d.sync += [exponent1.eq(exponent), mantissa1.eq(Mux(is_bf16(self.dtype), mantissa << 3, mantissa))]

        # 2: how far down
        places = Signal(10)
        places2 = Signal(_PLACE_BITS)
        m.d.comb += places.eq(self.base - exponent1)
        m.d.sync += places2.eq(Mux(places[_PLACE_BITS:9].any(), (1 << _PLACE_BITS) - 1, places[:_PLACE_BITS]))
        exceeds2 = delay(m, places[-1], 1)

        # 3: the product
        product = Signal(MANTISSA_BITS + FACTOR_BITS)
        m.d.sync += product.eq(delay(m, mantissa1, 1) * self.factor)

        # 4 to 7: down by eight, four, two, one; whether anything is lost. One stage each takes the fewest LUTs.
        bits, lost = product[_POINT:], product[_EXACT:_POINT].any()
        negative = delay(m, self.value[15], self.late - 2)
        negate = negative & self.variable
        for clocks, place in enumerate(reversed(range(_PLACE_BITS)), 1):
            down, count = delay(m, places2[place], clocks), 1 << place
            lost = delay(m, lost | (down & bits[:count].any()), 1)
            bits = Mux(down, bits >> count, bits)[:_BITS]
            if place == 0:
                bits = Cat(bits[0] & self.variable, bits[1:] ^ negate.replicate(_BITS - 1))
            bits = delay(m, bits, 1)

        # 8: round to even, with the sign: -x is ~x + 1
        negate7 = delay(m, negate, 1)
        up = bits[0] & (lost | (bits[1] ^ negate7))
        number = delay(m, (bits[1:] + (negate7 ^ up))[:_BITS - 1], 1)
        sign8 = Signal()
        m.d.sync += sign8.eq(Mux(self.zero, 0, delay(m, negative, 1)))

        # 9: the last cell, and the sign's place
        digit = number[DIGIT_AT:DIGIT_AT + 2]
        beyond = ~self.late_variable & digit[0] & (digit[1] | ~self.ternary)
        low = number[:SLOTS] | beyond.replicate(SLOTS)
        placed = Cat(Mux(here, sign8, bit) for here, bit in zip(self.sign_slot, low))
        m.d.sync += [
            self.o.eq(Cat(placed, digit[0] & ~beyond, number[DIGIT_AT + 1:LANE_BITS])),
            self.sign.eq(sign8),
            self.exceeds.eq(self.late_variable & (
                delay(m, exceeds2, self.late - 2) | (number[LANE_BITS] ^ number[LANE_BITS - 1]))),
        ]
        return m
