"""Scaling of a mantissa against integers, and the rounded multiples of a step that it is for."""

import numpy as np
import pytest
from codec_pages import SEED
from streams import simulate
from test_codec_lanes import late

from speckv_hw.codec.quantised_encoder import step_inverses
from speckv_hw.codec.scaling_lane import DROPPED_BITS, FACTOR_BITS, RESULT_BITS, SHIFT_BITS, ScalingLane


def scale(mantissas, factors, shifts):
    """`result` and `inexact` for each, clock by clock. Arrays of the same length to int64 arrays of that length."""
    dut = ScalingLane()
    count = len(mantissas)
    pad = np.zeros(dut.latency, int)
    inputs = zip(np.concatenate([mantissas, pad]), np.concatenate([factors, pad]),
                 late(np.concatenate([shifts, pad]), 2))
    got = []

    async def drive(ctx):
        for mantissa, factor, shift in inputs:
            ctx.set(dut.mantissa, int(mantissa))
            ctx.set(dut.factor, int(factor))
            ctx.set(dut.shift, int(shift))
            await ctx.tick()
            got.append((ctx.get(dut.result), ctx.get(dut.inexact)))

    simulate(dut, drive)
    return np.array(got[dut.latency - 1:][:count]).T


@pytest.mark.parametrize("few_bits", [False, True])
def test_against_integers(few_bits):
    rng = np.random.default_rng(SEED)
    count = 4000
    mantissas = rng.integers(0, 1 << 11, count)
    factors = rng.integers(0, 1 << FACTOR_BITS, count)
    if few_bits:
        # Powers of two, of which the bits that are shifted out can be zero.
        mantissas = 1 << rng.integers(0, 11, count)
        factors = rng.integers(0, 4, count) << rng.integers(0, FACTOR_BITS - 1, count)
    shifts = rng.integers(0, 1 << SHIFT_BITS, count)
    result, inexact = scale(mantissas, factors, shifts)
    product = mantissas * factors >> DROPPED_BITS
    assert (result == (product >> shifts) % (1 << RESULT_BITS)).all()
    assert (inexact == (product & (1 << shifts) - 1 != 0)).all()


@pytest.mark.parametrize("step", range(8))
def test_multiples_of_a_step(step):
    """Every mantissa with every shift that can leave a multiple which is held, rounded to nearest even."""
    shifts, mantissas = (grid.reshape(-1) for grid in np.meshgrid(np.arange(4, 20), np.arange(1 << 11)))
    result, inexact = scale(mantissas, np.full(len(mantissas), step_inverses()[step]), shifts)
    rounded = (result >> 1) + (result & 1 & (inexact | result >> 1 & 1))
    # The result is in halves: mantissa * 8 / (8 + step) * 2^(17 - 11 - shift - 1).
    numerator, denominator = mantissas * 8 << 6, (8 + step) << shifts + 1
    whole, remainder = np.divmod(numerator, denominator)
    want = whole + ((2 * remainder > denominator) | ((2 * remainder == denominator) & (whole & 1 == 1)))
    assert (rounded == want).all()
