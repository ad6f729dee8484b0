"""A lane of the decoder of quantised pages against the model, clock by clock."""

import itertools

import numpy as np
import pytest
from codec_pages import SEED
from streams import simulate
from test_codec_lanes import late

from speckv_hw.codec.quantised_lane import FINER, LaneShared, QuantisedLane
from speckv_model.codec import fixed, variable
from speckv_model.codec.fixed import FRACTIONS, PLACE_BITS, STEP_BITS, Rate
from speckv_model.codec.float16 import bias, max_finite, round_magnitude
from speckv_model.constants import Dtype

FACTOR_BITS, STEP_WIDTH = 12, 15


def scaled(step, exponent, dtype):
    """`exponent` and `step` of the lane for products of 12-bit factors with `step` * 2^`exponent`."""
    up = STEP_WIDTH - np.array([int(one).bit_length() for one in step])
    field = exponent - up + FACTOR_BITS + STEP_WIDTH - 1 + bias(dtype) - 1
    # Whole where it goes down: steps that are so small have few bits.
    step = np.where(up >= 0, step << np.maximum(up, 0), step >> np.maximum(-up, 0))
    step = step >> np.maximum(-field, 0)
    return np.maximum(field, 0), step << (FINER if dtype == Dtype.FP16 else 0)


def values_of(inputs, shared):
    """What the lane makes of `inputs`, int arrays by name, and of `shared`, a dict for each clock."""
    dut = QuantisedLane()
    later = dict(exponent=1, step=3)
    pad = np.zeros(dut.latency, int)
    columns = {name: late(np.concatenate([values, pad]), later.get(name, 0)) for name, values in inputs.items()}
    shared = [*(LaneShared.const(one) for one in shared), *[LaneShared.const({})] * dut.latency]
    got = []

    async def drive(ctx):
        for n, one in enumerate(shared):
            ctx.set(dut.shared, one)
            for name, column in columns.items():
                ctx.set(getattr(dut, name), int(column[n]))
            await ctx.tick()
            got.append(ctx.get(dut.o))

    simulate(dut, drive)
    return np.array(got[dut.latency - 1:][:len(shared) - dut.latency])


@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("setting", fixed.SETTINGS)
def test_fixed(setting, dtype):
    """All cells with all mantissas and fractions (a sample of them where there are many), all exponents in turn."""
    rng = np.random.default_rng([SEED, setting, int(dtype)])
    rate = Rate(setting)
    grid = np.array(list(itertools.product(range(8), range(len(FRACTIONS[rate.ternary])), range(rate.half_levels))))
    if len(grid) > 2000:
        bounds = (8 + grid[:, 0]) * rate.half_levels // (9 + grid[:, 0])
        grid = grid[(rng.random(len(grid)) < 2000 / len(grid)) | (grid[:, 2] == bounds)]
    grid = np.tile(grid, (-(-300 // len(grid)), 1))
    mantissa, code, cell = grid.T
    signs = rng.integers(0, 2, len(grid))
    zero = rng.random(len(grid)) < 0.05
    scale_exponent = rng.permutation(len(grid)) % 30 + fixed.LOWEST_EXPONENT
    exponent = scale_exponent - (STEP_BITS + PLACE_BITS + rate.planes - 1)
    places = fixed.places(rate)
    place, step = places[mantissa, code, cell], fixed.steps(rate.ternary)[mantissa, code]
    bound = rate.half_levels * (8 + mantissa) // (9 + mantissa)
    extra = places[mantissa, 0, bound] % 16 - 8
    digit_bit = rate.planes - 1
    low = (1 << digit_bit) - 1
    shared = [dict(bf16=int(dtype == Dtype.BF16), fixed=1, zero=int(zero[n]), ternary=int(rate.ternary),
                   digit_at=1 << digit_bit - 1 if rate.ternary else 0, bound_low=int(bound[n] & low),
                   bound_digit=int(bound[n] >> digit_bit), bound_extra=int(extra[n])) for n in range(len(grid))]
    field, step_in = scaled(step, exponent, dtype)
    got = values_of(dict(sign=signs, planes=cell & low, full_scale=code == 0, exponent=np.where(zero, 0, field),
                         digit=cell >> digit_bit if rate.ternary else rng.integers(0, 4, len(grid)),
                         step=np.where(zero, 0, step_in)), shared)
    want = np.where(zero, 0, signs << 15 | round_magnitude(place * step, exponent, dtype))
    assert (got == want).all()


@pytest.mark.parametrize("dtype", list(Dtype))
def test_variable(dtype):
    """All widths, all settings; of large steps FP16 saturates, of small ones it has subnormals."""
    rng = np.random.default_rng([SEED, int(dtype)])
    count = 6000
    width = rng.integers(0, variable.MOST_BITS + 1, count)
    setting = np.arange(count) % 256
    low, high = -(1 << np.maximum(width, 1) - 1), (1 << np.maximum(width, 1) - 1) - 1
    value = np.where(width == 0, 0, rng.integers(low, high + 1))
    value = np.where((rng.random(count) < 0.2) & (width > 0), rng.choice([low, high, np.maximum(low, -1)]), value)
    exponent = (setting >> 3) + variable.LOWEST_EXPONENT - 3
    step = 8 + (setting & 7)
    field, step_in = scaled(step, exponent - (FACTOR_BITS - width), dtype)
    shared = [dict(bf16=int(dtype == Dtype.BF16))] * count
    got = values_of(dict(value=(value & (1 << width) - 1) << FACTOR_BITS - width, digit=rng.integers(0, 4, count),
                         full_scale=rng.integers(0, 2, count), exponent=field, step=step_in), shared)
    magnitude = round_magnitude(np.abs(value) * step, exponent, dtype)
    assert (got == ((value < 0).astype(int) << 15 | magnitude)).all()
    if dtype == Dtype.FP16:
        assert (magnitude == max_finite(dtype)).any()
        assert ((magnitude > 0) & (magnitude < 0x400)).any()
