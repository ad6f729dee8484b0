"""One lane of quantiser and dequantiser, and what they share for a row, against the model, clock by clock."""

import numpy as np
import pytest
from codec_pages import SEED, random_rows, real_rows, special_rows
from streams import simulate

from speckv_hw.codec.dequantiser_lane import DequantiserLane
from speckv_hw.codec.quantiser_lane import QuantiserLane
from speckv_hw.codec.reciprocal import FRACTION_BITS, Reciprocal
from speckv_hw.codec.row_maximum import RowMaximumFinder
from speckv_model.codec import speckv
from speckv_model.codec.float16 import exponent_mantissa, max_finite
from speckv_model.constants import ROW_VALUES, Dtype

CLOCKS = 3000


def run(dut, inputs, output):
    """Sets `inputs` (signal: one value for each clock) and returns `output` as it is in each clock after
    that."""
    got = []

    async def drive(ctx):
        for values in zip(*(values for _, values in inputs)):
            for (signal, _), value in zip(inputs, values):
                ctx.set(signal, int(value))
            await ctx.tick()
            got.append(ctx.get(output))

    simulate(dut, drive)
    return got


def late(values, clocks):
    """`values` that come `clocks` clocks later."""
    return np.concatenate([np.zeros(clocks, int), values])[:len(values)]


def row_scales(maxima, dtype):
    """Exponent, shift and reciprocal of rows, by the definitions in `RowScale`."""
    exponent, mantissa = exponent_mantissa(maxima, dtype)
    shift = np.array([11 - max(int(one).bit_length(), 1) for one in mantissa])
    upper = np.where(mantissa, mantissa << shift, 1024).astype(np.int64)
    return exponent, shift, -(-(254 << FRACTION_BITS) // upper)


def finite_maxima(rng, dtype, count):
    """Maxima of all sizes, small ones and those of few mantissa bits, which give ties, among them."""
    top = max_finite(dtype)
    low = rng.integers(0, 0x800, count)
    few_bits = rng.integers(0, top, count) & 0x7FE0
    kind = rng.choice([rng.integers(0, top + 1, count), low, few_bits, few_bits | 127 << 1])
    return np.minimum(kind, top).astype(np.uint16)


def near_ties(rng, count):
    """FP16 maxima, and values below them that quantise to a tie or come as close to one as can be."""
    maxima = rng.choice([rng.integers(1024, 2048, count), rng.integers(2000, 2048, count)])
    values = np.arange(1024, 2048)
    # A tie is an odd multiple of m in 254 * x.
    past_tie = (2 * 127 * values - maxima[:, None]) % (2 * maxima[:, None])
    distance = np.minimum(past_tie, 2 * maxima[:, None] - past_tie) + rng.integers(0, 3, past_tie.shape)
    distance[values > maxima[:, None]] = 5000
    values = values[distance.argmin(axis=1)]
    exponent = rng.integers(1, 31, count) << 10
    return (exponent + maxima - 1024).astype(np.uint16), (exponent + values - 1024).astype(np.uint16)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_quantiser_lane(dtype):
    rng = np.random.default_rng([SEED, int(dtype)])
    maxima = np.concatenate([finite_maxima(rng, dtype, CLOCKS // 4) for _ in range(4)])
    # Most values are near the maximum: farther ones quantise to zero.
    spread = rng.choice([2, 64, 1 << 7, 1 << 10, 1 << 13], CLOCKS)
    values = (maxima - np.minimum(rng.integers(0, spread), maxima)).astype(np.uint16)
    if dtype == Dtype.FP16:
        maxima[:1000], values[:1000] = near_ties(rng, 1000)
    values |= rng.integers(0, 2, CLOCKS).astype(np.uint16) << 15
    through = rng.integers(0, 256, CLOCKS)
    raw = rng.random(CLOCKS) < 0.1
    exponent, shift, reciprocal = row_scales(maxima, dtype)

    dut = QuantiserLane()
    got = run(dut, [
        (dut.value, values), (dut.byte, through), (dut.dtype.as_value(), [dtype] * CLOCKS),
        (dut.row_exponent, exponent), (dut.row_shift, late(shift, 1)),
        (dut.row_reciprocal, late(reciprocal, 2)), (dut.raw, late(raw, 5)),
    ], dut.o)
    want = np.where(raw, through, speckv.quantise(values[:, None], maxima, dtype)[:, 0].view(np.uint8))
    assert dut.latency == 6
    assert got[dut.latency - 1:] == want[:CLOCKS - dut.latency + 1].tolist()


@pytest.mark.parametrize("dtype", list(Dtype))
def test_dequantiser_lane(dtype):
    rng = np.random.default_rng([SEED, int(dtype)])
    maxima = np.concatenate([finite_maxima(rng, dtype, CLOCKS // 4) for _ in range(4)])
    maxima = np.where(rng.random(CLOCKS) < 0.1, rng.integers(0, 0x8000, CLOCKS), maxima).astype(np.uint16)
    quantised = rng.integers(0, 256, CLOCKS).astype(np.uint8)
    exponent, mantissa = exponent_mantissa(maxima, dtype)

    dut = DequantiserLane()
    got = run(dut, [
        (dut.advance, [1] * CLOCKS), (dut.byte, quantised), (dut.dtype.as_value(), [dtype] * CLOCKS),
        (dut.row_room, late(np.minimum(exponent - 1, 7), 1)), (dut.row_mantissa, late(mantissa, 2)),
        (dut.row_exponent, late(exponent, 4)),
    ], dut.o)
    want = speckv.dequantise(quantised[:, None], maxima, dtype)[:, 0]
    assert dut.latency == 7
    assert got[dut.latency - 1:] == want[:CLOCKS - dut.latency + 1].tolist()


@pytest.mark.parametrize("dtype", list(Dtype))
def test_reciprocal(dtype):
    rng = np.random.default_rng([SEED, int(dtype)])
    maxima = np.concatenate([rng.integers(0, 0x8000, 500), np.arange(1, 600)]).astype(np.uint16)
    exponent, shift, reciprocal = row_scales(maxima, dtype)
    raw = maxima > max_finite(dtype)

    dut = Reciprocal()
    got = run(dut, [
        (dut.i.payload.magnitude, maxima), (dut.i.payload.dtype.as_value(), [dtype] * len(maxima)),
        (dut.i.valid, [1] * len(maxima)),
    ], dut.o.payload)
    assert dut.latency == 3
    for n, scale in enumerate(got[dut.latency - 1:]):
        assert (scale.raw, scale.maximum, scale.exponent) == (raw[n], 0 if raw[n] else maxima[n], exponent[n])
        assert (scale.shift, scale.reciprocal) == (shift[n], reciprocal[n])


@pytest.mark.parametrize("lanes", [8, 16, 32])
def test_row_maximum(lanes):
    rng = np.random.default_rng(SEED)
    dtype = Dtype.BF16
    rows = np.concatenate([real_rows(dtype)[:3], random_rows(rng, 3), special_rows(rng, dtype)[:20]])
    beats = rows.reshape(-1, lanes)
    per_row = ROW_VALUES // lanes
    dut = RowMaximumFinder(lanes)
    got, clock = [], 0
    due = []

    async def drive(ctx):
        nonlocal clock
        for n, beat in enumerate(beats):
            last = n % per_row == per_row - 1
            ctx.set(dut.i.payload.values, [int(value) for value in beat])
            ctx.set(dut.i.payload.last, last)
            ctx.set(dut.i.valid, 1)
            if last:
                due.append(clock + dut.latency)
            await tick(ctx)
            ctx.set(dut.i.valid, 0)
            while rng.random() < 0.2:
                await tick(ctx)
        for _ in range(dut.latency):
            await tick(ctx)

    async def tick(ctx):
        nonlocal clock
        await ctx.tick()
        clock += 1
        if ctx.get(dut.o.valid):
            got.append((clock, ctx.get(dut.o.payload.magnitude)))

    simulate(dut, drive, clocks=2000)
    assert got == list(zip(due, (rows & 0x7FFF).max(axis=1).tolist()))
    assert dut.latency == lanes.bit_length()
