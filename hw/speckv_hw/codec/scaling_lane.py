from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..types import Dtype
from .float16 import EXPONENT_BITS, MANTISSA_BITS, exponent_mantissa, is_bf16
from .pipeline import delay
from .quantised_payloads import FACTOR_BITS, LANE_BITS, CellBits

__all__ = ["ScalingLane"]

_POINT = 15
"""Product bits below those that a result can have, moved down by as little as there is."""
_EXACT = MANTISSA_BITS
"""Product bits in which the rounding of a step's factor shows. A quotient that is no multiple of a half is farther from
the next smaller one: by at least 2^`_POINT` / 15, as the mantissa of a step is at most 15 / 8."""
_BITS = MANTISSA_BITS + FACTOR_BITS - _POINT


class ScalingLane(wiring.Component):
    """Quantises one value: to the cell of a `fixed` row that its magnitude lies in, or to a multiple of a step.

    `latency` clocks, one value a clock, no back-pressure. What values share comes as late as it is used, so that one
    delay serves all lanes. Nothing here needs a reset.

    The product of mantissa and factor moves down by `base` - the value's exponent. What is left is in halves. Of a
    `fixed` row the cell is cut off, and it is twice as large where there are base-3 digits, so that digits are at bit
    `slots` and the one above in any case; the last cell takes what rounding of the factors puts beyond it.

    Members
    -------
    value : In(16)
    dtype : In
        With `value`.
    base : In(9)
        1 clock later; see `RowRate`, as for what follows.
    factor : In(18)
        2 clocks later.
    variable : In
        5 clocks later; `late_variable` is the same 1 clock later.
    ternary, zero, slots : In
        6 clocks later.
    o : Out(12)
        `variable`: two's complement, meaningless if it `exceeds`. `fixed`: `CellBits`.
    exceeds : Out
        The value needs more bits; counts if `variable`.
    """

    latency = 7

    value: In(16)
    dtype: In(Dtype)
    base: In(9)
    factor: In(FACTOR_BITS)
    variable: In(1)
    late_variable: In(1)
    ternary: In(1)
    zero: In(1)
    slots: In(3)
    o: Out(LANE_BITS)
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
        places2 = Signal(4)
        exceeds2 = Signal()
        m.d.comb += places.eq(self.base - exponent1)
        m.d.sync += [exceeds2.eq(places[-1]), places2.eq(places[:4] | places[4:9].any().replicate(4))]

        # 3: the product
        product = Signal(MANTISSA_BITS + FACTOR_BITS)
        m.d.sync += product.eq(delay(m, mantissa1, 1) * self.factor)

        # 4, 5: down, by fours and by ones; whether anything is lost
        places3, places4 = delay(m, places2, 1), delay(m, places2[:2], 2)
        bits4, bits5 = Signal(_BITS), Signal(_BITS)
        lost4, lost5 = Signal(), Signal()
        whole, below = product[_POINT:], product[_EXACT:_POINT].any()
        with m.Switch(places3[2:]):
            for fours in range(4):
                with m.Case(fours):
                    m.d.sync += [bits4.eq(whole >> 4 * fours), lost4.eq(below | whole[:4 * fours].any())]
        with m.Switch(places4):
            for ones in range(4):
                with m.Case(ones):
                    m.d.sync += [bits5.eq(bits4 >> ones), lost5.eq(lost4 | bits4[:ones].any())]

        # 6: round to even, then the sign: -x is ~x + 1
        sign5 = delay(m, self.value[15], 5)
        negate = sign5 & self.variable
        up = self.variable & bits5[0] & (lost5 | bits5[1])
        number = Signal(_BITS - 1)
        m.d.sync += number.eq((bits5[1:] ^ negate.replicate(_BITS - 1)) + (negate ^ up))

        # 7: the format
        sign6 = delay(m, sign5, 1) & ~self.zero
        exceeds6 = delay(m, exceeds2, 4)
        digit = Signal(2)
        beyond = Signal()
        cell = Signal(CellBits)
        with m.Switch(self.slots):
            for slots in range(2, 7):
                with m.Case(slots):
                    m.d.comb += digit.eq(number[slots:slots + 2])
        m.d.comb += [
            beyond.eq(digit[0] & (digit[1] | ~self.ternary)),
            cell.slots.eq(Cat(Mux(self.ternary, sign6, number[0] | beyond), number[1:6] | beyond.replicate(5))),
            cell.sign.eq(sign6),
            cell.digit.eq(Cat(digit[0] & ~beyond, digit[1])),
        ]
        m.d.sync += [
            self.o.eq(Mux(self.late_variable, number[:LANE_BITS], cell)),
            self.exceeds.eq(self.late_variable & (exceeds6 | (number[LANE_BITS] ^ number[LANE_BITS - 1]))),
        ]
        return m
