from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.fixed import PLACE_BITS, SETTINGS, STEP_BITS, Rate
from speckv_model.codec.float16 import max_finite
from speckv_model.codec.variable import MOST_BITS
from speckv_model.constants import Dtype as ModelDtype

from ..types import Dtype
from .float16 import is_bf16
from .pipeline import delay

__all__ = ["QuantisedLane", "LaneShared", "PLACE_WIDTH", "STEP_WIDTH", "EXPONENT_WIDTH"]

CELL_BITS = max(Rate(setting).half_levels - 1 for setting in SETTINGS).bit_length()
PLACE_WIDTH = CELL_BITS + PLACE_BITS
STEP_WIDTH = STEP_BITS + 2
FACTOR_WIDTH = max(PLACE_WIDTH, MOST_BITS)
PRODUCT_WIDTH = FACTOR_WIDTH + STEP_WIDTH
EXPONENT_WIDTH = 9


class LaneShared(data.Struct):
    """What all lanes of a beat have in common."""
    variable: 1
    dtype: Dtype
    zero: 1
    """All values are zero."""
    planes: 4
    """Bits of a value: `variable` its width, `fixed` sign and low bits of the cell number."""
    exponent: EXPONENT_WIDTH
    """Exponent field of a product whose top bit is set; at least 1."""
    bound_cell: CELL_BITS
    """`fixed`: the cell, of groups with code 0, that may hold the row's largest magnitude and more."""
    bound_place: PLACE_WIDTH


class QuantisedLane(wiring.Component):
    """Turns the bits of a quantised value into the value: RNE(magnitude * step) in its dtype, subnormals included.

    `latency` clocks, a value a clock, always in motion; what counts is known elsewhere. Nothing here needs a reset.

    Members
    -------
    bits : In(12)
        `variable`: two's complement in the low bits. `fixed`: sign, then the low bits of the cell number.
    digit : In(2)
        `fixed`: base-3 digit, 0 where there is none; 1 clock later.
    full_scale : In
        `fixed`: the group has code 0.
    shared : In(LaneShared)
    step : In(16)
        Width of a cell, or the step; 2 clocks later.
    o : Out(16)
    """

    latency = 8

    bits: In(MOST_BITS)
    digit: In(2)
    full_scale: In(1)
    shared: In(LaneShared)
    step: In(STEP_WIDTH)
    o: Out(16)

    def elaborate(self, platform):
        m = Module()
        shared = self.shared

        # 1: sign; bits beyond the value's own become zero, those of a negative one are inverted
        sign1 = Signal()
        folded1 = Signal(MOST_BITS)
        mask = Signal(MOST_BITS)
        m.d.comb += mask.eq((1 << shared.planes) - 1)
        top = (self.bits & (mask ^ (mask >> 1))).any()
        negative = Mux(shared.variable, top, self.bits[0])
        cell_mask = mask >> 1
        m.d.sync += [
            sign1.eq(negative & ~shared.zero),
            folded1.eq(Mux(shared.variable, (self.bits ^ negative.replicate(MOST_BITS)) & mask,
                           (self.bits >> 1) & cell_mask)),
        ]

        # 2: magnitude, or place of the cell
        shared1 = delay(m, shared, 1)
        digit_up = Signal(CELL_BITS)
        cell = Signal(CELL_BITS)
        factor2 = Signal(FACTOR_WIDTH)
        m.d.comb += [
            digit_up.eq(self.digit << (shared1.planes - 1)[:3]),
            cell.eq(folded1 | digit_up),
        ]
        at_bound = delay(m, self.full_scale, 1) & (cell == shared1.bound_cell)
        m.d.sync += factor2.eq(Mux(
            shared1.variable, folded1 + sign1,
            Mux(at_bound, shared1.bound_place, Cat(Const(1 << PLACE_BITS - 1, PLACE_BITS), cell))))

        # 3 and 4: the product
        factor3, step3 = Signal.like(factor2), Signal(STEP_WIDTH)
        product4 = Signal(PRODUCT_WIDTH)
        m.d.sync += [factor3.eq(factor2), step3.eq(self.step), product4.eq(factor3 * step3)]

        # 5: how far its leading one can go up
        zeros = Signal(range(PRODUCT_WIDTH + 1))
        m.d.comb += zeros.eq(PRODUCT_WIDTH)
        for place in range(PRODUCT_WIDTH):
            with m.If(product4[place]):
                m.d.comb += zeros.eq(PRODUCT_WIDTH - 1 - place)
        exponent4 = delay(m, shared.exponent, 4)
        room = exponent4 - 1
        shift5 = Signal.like(zeros)
        product5 = Signal.like(product4)
        m.d.sync += [shift5.eq(Mux(zeros < room, zeros, room)), product5.eq(product4)]

        # 6: up, its exponent down
        upper6 = Signal(PRODUCT_WIDTH)
        field6 = Signal(EXPONENT_WIDTH)
        m.d.sync += [upper6.eq(product5 << shift5), field6.eq(delay(m, exponent4, 1) - shift5)]

        # 7: round to the dtype's mantissa
        bf16 = delay(m, is_bf16(shared.dtype), 6)

        def rounding(bits):
            lowest = PRODUCT_WIDTH - 1 - bits
            return upper6[lowest:], upper6[lowest - 1] & (upper6[lowest] | upper6[:lowest - 1].any())

        whole7, up7 = Signal(11), Signal()
        field7 = Signal.like(field6)
        (narrow, narrow_up), (wide, wide_up) = rounding(7), rounding(10)
        m.d.sync += [
            whole7.eq(Mux(bf16, narrow, wide)),
            up7.eq(Mux(bf16, narrow_up, wide_up)),
            field7.eq(field6 - 1),
        ]

        # 8: the exponent's lowest bit and the leading one are in the same place
        bf16_later = delay(m, bf16, 1)
        value = Signal(EXPONENT_WIDTH + 10)
        largest = Mux(bf16_later, max_finite(ModelDtype.BF16), max_finite(ModelDtype.FP16))
        m.d.comb += value.eq(Mux(bf16_later, field7 << 7, field7 << 10) + whole7 + up7)
        gone = delay(m, shared.zero, 7) | delay(m, product4 == 0, 3)
        m.d.sync += self.o.eq(Cat(Mux(gone, 0, Mux(value > largest, largest, value))[:15], delay(m, sign1, 6)))
        return m
