from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.fixed import PLACE_BITS, SETTINGS, Rate
from speckv_model.codec.float16 import mantissa_bits, max_finite
from speckv_model.codec.variable import MOST_BITS
from speckv_model.constants import Dtype as ModelDtype

from .pipeline import delay

__all__ = ["QuantisedLane", "LaneShared", "CELL_PLANES", "STEP_WIDTH", "EXPONENT_WIDTH", "FINER"]

CELL_BITS = max(Rate(setting).half_levels - 1 for setting in SETTINGS).bit_length()
CELL_PLANES = max(Rate(setting).planes for setting in SETTINGS) - 1
FACTOR_WIDTH = MOST_BITS
WIDE, NARROW = (mantissa_bits(dtype) for dtype in (ModelDtype.FP16, ModelDtype.BF16))
FINER = WIDE - NARROW
"""Places by which steps of FP16 are further up, so that its mantissas end where those of BF16 do."""
STEP_WIDTH = 15 + FINER
PRODUCT_WIDTH = FACTOR_WIDTH + STEP_WIDTH
DROPPED = PRODUCT_WIDTH - 1 - WIDE
"""Product bits below the mantissa's last one where the top bit is set."""
EXPONENT_WIDTH = 8
_FINITE_WIDTH = 6
"""Bits of an FP16 exponent that may be too large. (BF16 holds every value that a page can name.)"""


class LaneShared(data.Struct):
    """What all lanes of a beat have in common."""
    bf16: 1
    fixed: 1
    zero: 1
    """`fixed`: all values are zero; the step is too."""
    ternary: 1
    """`fixed`: the digit counts."""
    digit_at: CELL_PLANES - 1
    """`fixed`: the digit's lowest bit in the cell's number, one-hot from bit 1 on; nowhere if no digit counts."""
    bound_low: CELL_PLANES
    bound_digit: 2
    """`fixed`: the cell, of groups with code 0, that may hold the row's largest magnitude and more."""
    bound_extra: PLACE_BITS - 1
    """How many sixteenths of a cell beyond the middle that one's place is."""


class QuantisedLane(wiring.Component):
    """Turns the bits of a quantised value into the value: RNE(factor * step) in its dtype, subnormals included.

    The factor, |q| or the place of the cell, has its leading one brought up before it is multiplied, as far as the
    exponent can go down; as the step's is up too, that of the product is in one of two places.

    `latency` clocks, a value a clock, always in motion; what counts is known elsewhere. Nothing here needs a reset.

    Members
    -------
    value : In(12)
        `variable`: two's complement, its sign in the top bit and zeros below its lowest one; else 0.
    sign : In
    planes : In(6)
        `fixed`: low bits of the cell number and zeros above; else 0.
    digit : In(2)
        `fixed`: base-3 digit.
    full_scale : In
        The group has code 0.
    shared : In(LaneShared)
    exponent : In(8)
        Exponent field, less one, of a product whose top bit is set; 1 clock later.
    step : In(18)
        Leading one in bit 17 for FP16, 14 for BF16, or lower where the exponent is 0; 3 clocks later.
    o : Out(16)
    """

    latency = 7

    value: In(MOST_BITS)
    sign: In(1)
    planes: In(CELL_PLANES)
    digit: In(2)
    full_scale: In(1)
    shared: In(LaneShared)
    exponent: In(EXPONENT_WIDTH)
    step: In(STEP_WIDTH)
    o: Out(16)

    def elaborate(self, platform):
        m = Module()
        factor1, sign1 = self._factor(m)
        factor3, up3 = self._normalise(m, factor1)

        # 4: the product
        product4 = Signal(PRODUCT_WIDTH)
        exponent3, exponent4 = delay(m, self.exponent, 2), Signal(EXPONENT_WIDTH)
        lowest4, nothing4 = Signal(), Signal()
        lowest = exponent3 == up3
        m.d.sync += [
            product4.eq(factor3 * self.step),
            exponent4.eq(exponent3 - up3),
            lowest4.eq(lowest),
            nothing4.eq(~factor3[-1] & ~lowest),
        ]

        # 5: the window with the leading one; where that is below the top bit it stands for the exponent's lowest one
        bf16 = delay(m, self.shared.bf16, 4)
        lower = ~(product4[-1] | (bf16 & product4[-1 - FINER]) | lowest4)
        upper = product4[DROPPED:]
        mantissa5 = Signal(WIDE + 1)
        field5 = Signal(_FINITE_WIDTH + WIDE)
        half5, rest5 = Signal(), Signal()
        window = Mux(lower, product4[DROPPED - 1:][:WIDE], upper[:WIDE])
        leading = Cat(Const(0, NARROW), bf16 & lower, Const(0, FINER - 1))
        wide = Cat(Const(0, WIDE), exponent4[:_FINITE_WIDTH])
        narrow = Cat(Const(0, NARROW), exponent4)
        m.d.sync += [
            mantissa5.eq(Cat(window & ~leading, upper[WIDE])),
            half5.eq(Mux(lower, product4[DROPPED - 2], product4[DROPPED - 1])),
            rest5.eq(product4[:DROPPED - 2].any() | (~lower & product4[DROPPED - 2])),
            field5.eq(Mux(nothing4, 0, Mux(bf16, narrow, wide))),
        ]

        # 6: round; a leading one goes to the exponent
        value6 = Signal(len(field5))
        m.d.sync += value6.eq(field5 + mantissa5 + (half5 & (rest5 | mantissa5[0])))

        # 7: not more than the largest finite magnitude
        largest = max_finite(ModelDtype.FP16)
        # Registers that begin with it can be set to it, without logic in front of them.
        magnitude7 = Signal(15, init=largest, reset_less=True)
        beyond = ~delay(m, bf16, 2) & (value6[15:].any() | value6[WIDE:15].all())
        m.d.sync += magnitude7.eq(Mux(beyond, largest, value6))
        m.d.comb += self.o.eq(Cat(magnitude7, delay(m, sign1, 6)))
        return m

    def _factor(self, m):
        """1: magnitude of the multiple, or place of the cell; sign."""
        shared, value = self.shared, self.value
        factor, sign = Signal(FACTOR_WIDTH), Signal()
        negative = value[-1]
        at = Cat(Const(0, 1), shared.digit_at, Const(0, 1))
        digit = [(self.digit[0] & at[n]) | (self.digit[1] & at[n - 1] if n else 0) for n in range(CELL_BITS)]
        cell = Cat(*digit) | self.planes
        at_bound = (self.full_scale & (self.planes == shared.bound_low)
                    & ((self.digit == shared.bound_digit) | ~shared.ternary))
        place = Cat(shared.bound_extra & at_bound.replicate(PLACE_BITS - 1), shared.fixed, cell)
        # To negate, all bits above the lowest one that is set are inverted.
        inverted = Signal(FACTOR_WIDTH)
        for n in range(1, FACTOR_WIDTH):
            m.d.comb += inverted[n].eq(inverted[n - 1] | (negative & value[n - 1]))
        m.d.sync += [factor.eq((value ^ inverted) | place), sign.eq(negative | (self.sign & ~shared.zero))]
        return factor, sign

    def _normalise(self, m, factor):
        """2 and 3: up by fours and by ones, and how far."""
        exponent = self.exponent
        large = exponent[4:].any()

        def allows(places):
            return large | Const(sum(1 << n for n in range(places, 16)), 16).bit_select(exponent[:4], 1)

        low, middle, high = factor[:4], factor[4:8], factor[8:]
        eight = ~factor[4:].any() & allows(8)
        four = ~high.any() & allows(4) & ~eight
        factor2 = Signal(FACTOR_WIDTH)
        fours2 = Signal(2)
        left2 = Signal(3)
        m.d.sync += [
            factor2.eq(Cat(Mux(four | eight, 0, low), Mux(four, low, middle),
                           high | Mux(four, middle, 0) | Mux(eight, low, 0))),
            fours2.eq(Cat(four, eight)),
            left2.eq(Cat(Mux(eight, allows(8 + n), Mux(four, allows(4 + n), allows(n))) for n in range(1, 4))),
        ]
        one = left2[0] & ~factor2[-1]
        two = left2[1] & ~factor2[-2:].any()
        three = left2[2] & ~factor2[-3:].any()
        ones = Cat(three | (one & ~two), two)
        factor3, up3 = Signal(FACTOR_WIDTH), Signal(4)
        m.d.sync += [factor3.eq(factor2 << ones), up3.eq(Cat(ones, fours2))]
        return factor3, up3
