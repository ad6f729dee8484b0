"""Steps and exponents of groups against the model's tables, clock by clock."""

import numpy as np
import pytest
from codec_pages import SEED
from streams import simulate
from test_quantised_lane import FACTOR_BITS, scaled

from speckv_hw.codec.quantised_reader import PieceTag
from speckv_hw.codec.step_scale import StepScale
from speckv_model.codec import fixed, variable
from speckv_model.codec.fixed import CODES, PLACE_BITS, STEP_BITS, Rate
from speckv_model.constants import Dtype

LANES = 32
GROUPS = LANES // fixed.GROUP_VALUES


def run(tags, scales, codes, halves=None):
    """Exponents and steps of each, int arrays (clocks, groups), and what groups share."""
    dut = StepScale(LANES)
    count = len(tags)
    exponents, steps, shared, full_scale = [], [], [], []

    async def drive(ctx):
        for n in range(count + 4):
            at = min(n, count - 1)
            ctx.set(dut.tag, PieceTag.const(tags[at]))
            ctx.set(dut.scale, int(scales[at]))
            ctx.set(dut.second_half, int(halves[at]) if halves is not None else 0)
            for group in range(GROUPS):
                ctx.set(dut.codes[group], int(codes[at][group]))
            await ctx.tick()
            exponents.append([ctx.get(dut.exponents[group]) for group in range(GROUPS)])
            steps.append([ctx.get(dut.steps[group]) for group in range(GROUPS)])
            shared.append(ctx.get(dut.shared))
            full_scale.append(ctx.get(dut.full_scale))

    simulate(dut, drive)
    return np.array(exponents[1:][:count]), np.array(steps[3:][:count]), shared[:count], full_scale[:count]


@pytest.mark.parametrize("dtype", list(Dtype))
def test_fixed(dtype):
    """Every scale code, also those that no encoder writes, with some setting, layout and codes; the smallest scales
    with the most planes."""
    rng = np.random.default_rng([SEED, int(dtype)])
    scales = rng.permutation(np.concatenate([np.tile(np.arange(256), 6), np.tile(np.arange(1, 17), 16)]))
    settings = np.where((scales <= 16) & (rng.random(len(scales)) < 0.8), rng.choice([15, 16], len(scales)),
                        rng.choice(fixed.SETTINGS, len(scales)))
    by_row, halves = rng.integers(0, 2, (2, len(scales)))
    rates = [Rate(int(setting), bool(one)) for setting, one in zip(settings, by_row)]
    widths = [rate.code_widths[half] for rate, half in zip(rates, halves)]
    codes = rng.integers(0, 8, (len(scales), GROUPS)) % (1 << np.array(widths))[:, None]
    fractions = [np.array(CODES[rate.ternary, width])[own] for rate, width, own in zip(rates, widths, codes)]
    tags = [dict(setting=rate.setting, dtype=int(dtype), cell_planes=rate.planes - 1, by_row=int(rate.by_row))
            for rate in rates]
    exponents, steps, shared, full_scale = run(tags, scales, codes, halves)
    for n, (scale, rate) in enumerate(zip(scales, rates)):
        assert shared[n].zero == (scale == 0)
        assert full_scale[n] == sum(int(code == 0) << group for group, code in enumerate(codes[n]))
        if scale == 0:
            assert not exponents[n].any() and not steps[n].any()
            continue
        octave, j = divmod(min(int(scale), fixed.LARGEST_CODE) - 1, 8)
        unit = octave + fixed.LOWEST_EXPONENT - (STEP_BITS + PLACE_BITS + rate.planes - 1)
        want = scaled(fixed.steps(rate.ternary)[j, fractions[n]], unit, dtype)
        assert (exponents[n] == want[0]).all() and (steps[n] == want[1]).all()
        cell = rate.half_levels * (8 + j) // (9 + j)
        digit, low = divmod(cell, 1 << rate.planes - 1)
        assert (shared[n].bound_digit, shared[n].bound_low) == (digit, low)
        assert shared[n].bound_extra == fixed.places(rate)[j, 0, cell] % 16 - 8
        assert shared[n].ternary == rate.ternary
        assert shared[n].digit_at == (1 << rate.planes - 2 if rate.ternary else 0)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_variable(dtype):
    """Every setting with every width; the scale and codes do not matter."""
    rng = np.random.default_rng([SEED, int(dtype)])
    setting, width = (axis.ravel() for axis in np.mgrid[:256, 1:variable.MOST_BITS + 1])
    tags = [dict(variable=1, setting=int(s), width=int(w), dtype=int(dtype)) for s, w in zip(setting, width)]
    codes = rng.integers(0, 8, (len(tags), GROUPS))
    exponents, steps, shared, _ = run(tags, rng.integers(0, 256, len(tags)), codes)
    unit = (setting >> 3) + variable.LOWEST_EXPONENT - 3 - (FACTOR_BITS - width)
    want = scaled(8 + (setting & 7), unit, dtype)
    assert (exponents == want[0][:, None]).all() and (steps == want[1][:, None]).all()
    assert not any(one.zero or one.bound_extra or one.digit_at or one.fixed for one in shared)
