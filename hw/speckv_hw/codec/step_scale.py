from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec import fixed, variable
from speckv_model.codec.fixed import CODES, GROUP_VALUES, SETTINGS, Rate
from speckv_model.codec.float16 import bias
from speckv_model.constants import Dtype as ModelDtype

from .choose import choose
from .float16 import is_bf16
from .pipeline import delay
from .quantised_lane import EXPONENT_WIDTH, FACTOR_WIDTH, FINER, STEP_WIDTH, LaneShared
from .quantised_payloads import CODE_BITS
from .quantised_reader import PieceTag
from .rom import rom

__all__ = ["StepScale"]

NARROW_STEP = STEP_WIDTH - FINER
DOWN_WIDTH = 3
# Of the product's top bit where factor and step are on top
_TOP = FACTOR_WIDTH + NARROW_STEP - 1
_OF_STEP = _TOP - FACTOR_WIDTH - (NARROW_STEP - 4) - 3 + variable.LOWEST_EXPONENT
_OF_CELL = _TOP + 1 - fixed.STEP_BITS - fixed.PLACE_BITS + fixed.LOWEST_EXPONENT
_MOST_PLANES = {ternary: max(rate.planes - 1 for rate in map(Rate, SETTINGS) if rate.ternary == ternary)
                for ternary in (False, True)}
"""Planes of the cells' numbers."""


def _scaled_steps(group_code, width=CODE_BITS, lowest=False):
    """Steps of a group code by the scale code's low bits and whether rows are ternary, with their leading one up, and
    by how much less than the largest one they are up. Codes of ternary rows have `width` bits. Of FP16 with the
    `lowest` exponent and most planes, steps are not so far up that their exponent would be below zero."""
    steps, down = [], []
    for ternary in (False, True):
        most = _OF_CELL - _MOST_PLANES[ternary] + bias(ModelDtype.FP16) - 1 if lowest else NARROW_STEP
        index = CODES[ternary, width if ternary else CODE_BITS][group_code]
        for step in fixed.steps(ternary)[:, index].tolist():
            places = min(NARROW_STEP + 1 - step.bit_length(), most)
            steps.append(step << places >> 1)
            down.append(places)
    return steps, down


class StepScale(wiring.Component):
    """From what a row or unit says of its scale to steps and exponents of its groups, in a pipeline without stops.

    Nothing here needs a reset.

    Parameters
    ----------
    lanes : int
        Values of a beat.

    Members
    -------
    tag : In(PieceTag)
    scale : In(8)
        The row's scale code.
    codes : In(ArrayLayout(3, lanes / 8))
        Of the row's groups.
    second_half : In
        These are of the second half of the row.
    shared : Out(LaneShared)
        1 clock later.
    full_scale : Out(lanes / 8)
        1 clock later.
    exponents, steps : Out(ArrayLayout)
        As lanes want them, 2 and 4 clocks later.
    """

    def __init__(self, lanes):
        self._groups = groups = lanes // GROUP_VALUES
        super().__init__({
            "tag": In(PieceTag),
            "scale": In(8),
            "codes": In(data.ArrayLayout(CODE_BITS, groups)),
            "second_half": In(1),
            "shared": Out(LaneShared),
            "full_scale": Out(groups),
            "exponents": Out(data.ArrayLayout(EXPONENT_WIDTH, groups)),
            "steps": Out(data.ArrayLayout(STEP_WIDTH, groups)),
        })

    def elaborate(self, platform):
        m = Module()
        tag = self.tag
        ternary = ~tag.setting[0]
        bf16 = is_bf16(tag.dtype)
        code = Mux(self.scale > fixed.LARGEST_CODE, fixed.LARGEST_CODE - 1, self.scale - 1)[:8]
        zero = ~tag.variable & (self.scale == 0)

        # 1: what lanes share; exponents before the step's own, steps of each code
        self._share(m, code[:3], zero)
        by_dtype = [bias(dtype) - 1 for dtype in (ModelDtype.FP16, ModelDtype.BF16)]
        exponent1 = Signal(signed(EXPONENT_WIDTH + 1))
        low1 = Signal(3)
        codes1 = Signal.like(self.codes)
        steps1, down1 = [], []
        lowest = (self.scale <= 8) & ~bf16 & (tag.cell_planes == Mux(ternary, _MOST_PLANES[True], _MOST_PLANES[False]))
        # Where a code means another fraction if it has fewer bits
        narrow = {1: (1, tag.by_row & self.second_half), 3: (2, tag.by_row | self.second_half)}
        for group_code in range(1 << CODE_BITS):
            width, flag = narrow.get(group_code, (CODE_BITS, lowest))
            steps, down = (usual + other for usual, other in zip(
                _scaled_steps(group_code), _scaled_steps(group_code, width, flag is lowest)))
            index = Cat(code[:3], ternary, flag)
            step = Signal(NARROW_STEP, name=f"step1_{group_code}", reset_less=True)
            places = Signal(DOWN_WIDTH, name=f"down1_{group_code}", reset_less=True)
            m.d.sync += [step.eq(Mux(zero | tag.variable, 0, rom(steps, index))),
                         places.eq(Mux(tag.variable, 0, rom(down, index)))]
            steps1.append(step)
            down1.append(places)
        m.d.sync += [
            exponent1.eq(Mux(tag.variable, tag.setting[3:], code[3:])
                         + Mux(tag.variable, tag.width + _OF_STEP, _OF_CELL - tag.cell_planes)
                         + Mux(bf16, by_dtype[1], by_dtype[0])),
            low1.eq(tag.setting[:3]),
            codes1.eq(Mux(tag.variable, 0, self.codes)),
        ]
        m.d.comb += self.full_scale.eq(Cat(own == 0 for own in codes1))

        # 2: of each group. An exponent that cannot go down so far is zero, and the step goes down instead.
        variable1, bf16_2 = delay(m, tag.variable, 1), delay(m, bf16, 2)
        step2 = Signal(NARROW_STEP)
        under = exponent1 < 0
        whole = Cat(Const(0, NARROW_STEP - 4), low1, 1)
        m.d.sync += step2.eq(Mux(variable1, whole >> Mux(under, -exponent1, 0)[:3], 0))

        # 3: FP16 has its steps further up
        step3 = Signal(STEP_WIDTH)
        m.d.sync += step3.eq(Mux(bf16_2, step2, step2 << FINER))
        for group in range(self._groups):
            own1 = codes1[group]
            own2, own3 = (Signal(NARROW_STEP, name=f"own{clock}_{group}") for clock in (2, 3))
            m.d.sync += [
                self.exponents[group].eq(exponent1 - choose(own1, down1)),
                own2.eq(choose(own1, steps1)),
                own3.eq(own2),
                self.steps[group].eq(Mux(delay(m, bf16_2, 1), own3, own3 << FINER) | step3),
            ]
            with m.If(under | delay(m, zero, 1)):
                m.d.sync += self.exponents[group].eq(0)
        return m

    def _share(self, m, mantissa, zero):
        tag = self.tag
        rates = [Rate(setting) for setting in SETTINGS]
        lowest_bits = [(rate.setting % 16, j, rate) for rate in rates for j in range(8)]
        low, digit, extra = [0] * 128, [0] * 128, [0] * 128
        for rate_index, j, rate in lowest_bits:
            cell = rate.half_levels * (8 + j) // (9 + j)
            index = 8 * rate_index + j
            digit[index], low[index] = divmod(cell, 1 << rate.planes - 1)
            extra[index] = int(fixed.places(rate)[j, 0, cell]) - (16 * cell + 8)
        index = Cat(mantissa, tag.setting[:4])
        ternary = ~tag.variable & ~tag.setting[0]
        m.d.sync += [
            self.shared.bf16.eq(is_bf16(tag.dtype)),
            self.shared.fixed.eq(~tag.variable),
            self.shared.zero.eq(zero),
            self.shared.ternary.eq(ternary),
            self.shared.digit_at.eq(Cat(ternary & (tag.cell_planes == 1 + n)
                                        for n in range(len(self.shared.digit_at)))),
            self.shared.bound_low.eq(rom(low, index)),
            self.shared.bound_digit.eq(rom(digit, index)),
            self.shared.bound_extra.eq(Mux(tag.variable, 0, rom(extra, index))),
        ]
