"""A lane of the decoder of quantised pages against the model, clock by clock."""

import itertools

import numpy as np
import pytest
from codec_pages import SEED
from streams import simulate
from test_codec_lanes import late

from speckv_hw.codec.quantised_lane import PRODUCT_WIDTH, LaneShared, QuantisedLane
from speckv_model.codec import fixed, variable
from speckv_model.codec.fixed import FRACTIONS, PLACE_BITS, STEP_BITS, Rate
from speckv_model.codec.float16 import bias, max_finite, round_magnitude
from speckv_model.constants import Dtype


def exponent_field(exponent, dtype):
    """`LaneShared.exponent` of products in units of 2^`exponent`."""
    return exponent + PRODUCT_WIDTH - 1 + bias(dtype)


def values_of(bits, digits, full_scale, steps, shared):
    """What the lane makes of each, a clock each: `shared` a list of dicts, the others int arrays of that length."""
    dut = QuantisedLane()
    pad = np.zeros(dut.latency, int)
    columns = zip(np.concatenate([bits, pad]), late(np.concatenate([digits, pad]), 1),
                  np.concatenate([full_scale, pad]), late(np.concatenate([steps, pad]), 2),
                  [*(LaneShared.const(one) for one in shared), *[LaneShared.const({})] * dut.latency])
    got = []

    async def drive(ctx):
        for bits_, digit, full, step, shared_ in columns:
            ctx.set(dut.bits, int(bits_))
            ctx.set(dut.digit, int(digit))
            ctx.set(dut.full_scale, int(full))
            ctx.set(dut.step, int(step))
            ctx.set(dut.shared, shared_)
            await ctx.tick()
            got.append(ctx.get(dut.o))

    simulate(dut, drive)
    return np.array(got[dut.latency - 1:][:len(bits)])


@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("setting", fixed.SETTINGS)
def test_fixed(setting, dtype):
    """All cells with all mantissas and group codes (a sample of them where there are many), all exponents in turn."""
    rng = np.random.default_rng([SEED, setting, int(dtype)])
    rate = Rate(setting)
    grid = np.array(list(itertools.product(range(8), range(FRACTIONS), range(rate.half_levels))))
    if len(grid) > 2000:
        bounds = (8 + grid[:, 0]) * rate.half_levels // (9 + grid[:, 0])
        grid = grid[(rng.random(len(grid)) < 2000 / len(grid)) | (grid[:, 2] == bounds)]
    grid = np.tile(grid, (-(-300 // len(grid)), 1))
    mantissa, code, cell = grid.T
    signs = rng.integers(0, 2, len(grid))
    zero = rng.random(len(grid)) < 0.05
    scale_exponent = rng.permutation(len(grid)) % 30 + fixed.LOWEST_EXPONENT
    exponent = scale_exponent - (STEP_BITS + PLACE_BITS + rate.planes - 1)
    place, step = fixed.places(rate)[mantissa, code, cell], fixed.steps(rate.ternary)[mantissa, code]
    bound = rate.half_levels * (8 + mantissa) // (9 + mantissa)
    shared = [dict(variable=0, dtype=int(dtype), zero=int(zero[n]), planes=rate.planes, bound_cell=int(bound[n]),
                   exponent=int(exponent_field(exponent[n], dtype)),
                   bound_place=int(fixed.places(rate)[mantissa[n], 0, bound[n]])) for n in range(len(grid))]
    # Bits beyond the lowest ones of the cell are of no row.
    low = cell & (1 << rate.planes - 1) - 1
    garbage = rng.integers(0, 1 << 12, len(grid)) >> rate.planes << rate.planes
    got = values_of(signs | low << 1 | garbage, cell >> rate.planes - 1, code == 0, step, shared)
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
    garbage = rng.integers(0, 1 << 12, count) >> width << width
    shared = [dict(variable=1, dtype=int(dtype), planes=int(width[n]), exponent=int(exponent_field(exponent[n], dtype)))
              for n in range(count)]
    got = values_of(value & (1 << width) - 1 | garbage, np.zeros(count, int), rng.integers(0, 2, count), step, shared)
    magnitude = round_magnitude(np.abs(value) * step, exponent, dtype)
    assert (got == ((value < 0).astype(int) << 15 | magnitude)).all()
    if dtype == Dtype.FP16:
        assert (magnitude == max_finite(dtype)).any()
        assert ((magnitude > 0) & (magnitude < 0x400)).any()
