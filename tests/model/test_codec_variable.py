"""The `variable` codec of the model: exact quotients, the error's bound, widths, what fits."""

from fractions import Fraction

import numpy as np
import pytest
from codec_pages import SEED, all_kinds, as_pages, mixed_pages, real_rows, scaled_to, to_dtype, to_float

from speckv_model import codec
from speckv_model.codec import variable
from speckv_model.codec.float16 import mantissa_bits, max_finite
from speckv_model.constants import LINE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_VALUES, Codec, Dtype

pytestmark = pytest.mark.parametrize("dtype", list(Dtype))
SETTINGS = (0, 3, 8, 60, 99, 112, 119, 128, 131, 150, 171, 200, 247, 255)


@pytest.fixture
def rng(dtype):
    print(f"SPECKV_SEED={SEED}")
    return np.random.default_rng([SEED, int(dtype)])


def exact_step(setting):
    return Fraction(8 + setting % 8, 8) * Fraction(2) ** (setting // 8 - 20)


def largest_held(setting):
    """The largest magnitude that rounds to 2047 steps or less."""
    return float(exact_step(setting) * Fraction(4095, 2))


def rows_for(rng, dtype, setting):
    """Rows of all kinds whose values the step holds: cut off at the largest it does, and scaled to it."""
    rows = all_kinds(rng, dtype)
    rows = rows[((rows & 0x7FFF) <= max_finite(dtype)).all(axis=1)]
    limit = to_dtype(min(largest_held(setting) * 0.99, 60000), dtype)
    exponent = int(np.floor(np.log2(largest_held(setting)))) - 1
    scaled = [scaled_to(rows, dtype, e) for e in (exponent, exponent - 5) if -13 <= e < 15]
    rows = np.concatenate([rows, *scaled])
    return np.where((rows & 0x7FFF) > limit, rows & 0x8000 | limit, rows).astype(np.uint16)


def test_steps(dtype):
    for setting in range(256):
        assert variable.step(setting) == exact_step(setting)
    assert variable.step(variable.DEFAULT_SETTING) == 1 / 16


@pytest.mark.parametrize("setting", SETTINGS)
def test_quantise_is_the_rounded_rational(rng, dtype, setting):
    bits = mantissa_bits(dtype)
    values = np.concatenate([rng.integers(0, 1 << 16, 400), np.arange(0, 1 << 15, 1 << bits - 1), [0x8000, 0x8001]])
    ties = to_dtype((np.arange(-40, 40) + 0.5) * variable.step(setting), dtype) if variable.step(setting) < 256 else []
    values = np.concatenate([values, ties]).astype(np.uint16)
    values = values[(values & 0x7FFF) <= max_finite(dtype)]
    got = variable.quantise(values, setting, dtype)
    for bits, value, quotient in zip(values, to_float(values, dtype), got):
        want = round(Fraction(value) / exact_step(setting))
        assert quotient == want or (abs(want) > 4096 and abs(quotient) >= 4096 and (quotient > 0) == (want > 0)), bits


@pytest.mark.parametrize("setting", SETTINGS)
def test_error_is_at_most_half_a_step_and_rounding(rng, dtype, setting):
    rows = rows_for(rng, dtype, setting)
    pages = as_pages(rows)
    stored, lines, fits = codec.encode_pages(Codec.VARIABLE, dtype, pages, setting)
    assert fits.all()
    before = pages.view("<u2")
    after = codec.decode_pages(Codec.VARIABLE, dtype, stored, lines).view("<u2")
    x, y, step = to_float(before, dtype), to_float(after, dtype), variable.step(setting)
    unit = np.exp2(np.maximum(np.frexp(y)[1] - 1, -14 if dtype == Dtype.FP16 else -126) - mantissa_bits(dtype))
    assert (abs(y - x) <= step / 2 + unit / 2).all()
    # Values of the dtype that are 2 steps or more apart come back; only -0 does not.
    neighbour = np.maximum(before.astype(np.int64) - 1, 0).astype(np.uint16)
    apart = (x != 0) & (abs(x - to_float(neighbour, dtype)) >= 2 * step)
    assert np.array_equal(after[apart], before[apart])
    assert not after[x == 0].any()
    # In FP16 there are none: eleven bits show all that twelve with the sign do. Rows for the coarsest steps are short
    # of large values.
    assert apart.any() == (dtype == Dtype.BF16 and setting < 240)


def test_zeros_take_one_line(dtype):
    for setting in range(256):
        for page in (np.zeros(4096, np.uint8), np.full(2048, 0x8000, "<u2").view(np.uint8)):
            stored = codec.encode(Codec.VARIABLE, dtype, page, setting)
            assert stored.tolist() == [setting] + [0] * 63
            assert not codec.decode(Codec.VARIABLE, dtype, stored).any()


@pytest.mark.parametrize("setting", [8, 64, 128, 160])
def test_widths(dtype, setting):
    """Every q from -2048 to 2047 by itself, in the width that it needs; one more either way does not fit."""
    step = variable.step(setting)
    quotients = np.arange(-2048, 2048)
    # Where the dtype is too coarse for it, another q.
    quotients = quotients[to_float(to_dtype(quotients * step, dtype), dtype) == quotients * step]
    for quotient in quotients[::7].tolist() + [-2048, -1025, -1024, -3, -2, -1, 1, 2, 2047 if dtype == 0 else 2040]:
        if to_float(to_dtype(quotient * step, dtype), dtype) != quotient * step:
            continue
        width = 0 if quotient == 0 else max(quotient, ~quotient).bit_length() + 1
        page = np.zeros(2048, dtype="<u2")
        page[37] = to_dtype(quotient * step, dtype)
        stored = codec.encode(Codec.VARIABLE, dtype, page.view(np.uint8), setting)
        assert stored[4] == width << 4 and not stored[5:36].any()
        assert np.array_equal(codec.decode(Codec.VARIABLE, dtype, stored), page.view(np.uint8))
    for quotient, fits in ((2048, False), (-2064, False), (-2048, True), (2040, True), (60000, False)):
        if abs(quotient) * step < 60000:
            page = np.zeros(2048, dtype="<u2")
            page[2000] = to_dtype(quotient * step, dtype)
            assert (codec.encode(Codec.VARIABLE, dtype, page.view(np.uint8), setting) is not None) == fits


@pytest.mark.parametrize("setting", SETTINGS)
def test_what_fits(rng, dtype, setting):
    """A page fits exactly if all values are finite and need at most 12 bits; then in less than 50 lines."""
    pages = np.concatenate([as_pages(np.repeat(all_kinds(rng, dtype), PAGE_ROWS, axis=0)), mixed_pages(rng, dtype, 50),
                            as_pages(rows_for(rng, dtype, setting))])
    bits = pages.view("<u2")
    finite = ((bits & 0x7FFF) <= max_finite(dtype)).all(axis=1)
    values = to_float(np.where(finite[:, None], bits, 0), dtype)
    # Exact where it matters: steps have four bits, values eleven.
    quotients = np.rint(values / variable.step(setting))
    want = finite & ((quotients >= -2048) & (quotients <= 2047)).all(axis=1)
    _, lines, fits = codec.encode_pages(Codec.VARIABLE, dtype, pages, setting)
    assert np.array_equal(fits, want)
    assert 0 < fits.sum() and (lines[fits] < 50).all()


def test_longest_page(rng, dtype):
    rows = np.full((PAGE_ROWS, ROW_VALUES), to_dtype(-2048 / 16, dtype), dtype=np.uint16)
    stored, lines, fits = codec.encode_pages(Codec.VARIABLE, dtype, as_pages(rows), 128)
    assert fits[0] and lines[0] == 49
    assert np.array_equal(codec.decode_pages(Codec.VARIABLE, dtype, stored, lines).view("<u2").ravel(), rows.ravel())


def test_infinity_and_nan_do_not_fit(rng, dtype):
    infinity = max_finite(dtype) + 1
    for value in (infinity, infinity | 0x8000, infinity + 1, 0x7FFF, 0xFFFF):
        rows = real_rows(dtype)[:PAGE_ROWS].copy()
        rows[rng.integers(PAGE_ROWS), rng.integers(ROW_VALUES)] = value
        for setting in (128, 255):
            assert codec.encode(Codec.VARIABLE, dtype, as_pages(rows)[0], setting) is None


def test_results_beyond_the_largest_finite_number(dtype):
    """-2048 * 15/8 * 2^11 is beyond FP16 and becomes its largest magnitude."""
    stored = np.zeros(2 * LINE_BYTES, dtype=np.uint8)
    stored[0], stored[4] = 255, 12
    stored[36 + 44:36 + 48] = 0xFF
    decoded = codec.decode(Codec.VARIABLE, dtype, stored).view("<u2")
    assert (decoded[:32] == (max_finite(dtype) | 0x8000 if dtype == Dtype.FP16 else to_dtype(-7864320.0, dtype))).all()
    assert not decoded[32:].any()


def test_widths_above_twelve_are_twelve(rng, dtype):
    stored = rng.integers(0, 256, (8, PAGE_LINES, LINE_BYTES), dtype=np.uint8)
    stored[:, 0, 4:36] = 0xCC
    want = codec.decode_pages(Codec.VARIABLE, dtype, stored)
    for width in (13, 14, 15):
        stored[:, 0, 4:36] = width | width << 4
        stored[:, 0, 1:4] = rng.integers(0, 256, 3)
        assert np.array_equal(codec.decode_pages(Codec.VARIABLE, dtype, stored), want)


def test_real_pages_take_no_more_than_measured(dtype):
    for setting, most in ((112, 3247), (128, 2480), (144, 1724)):
        _, lines, fits = codec.encode_pages(Codec.VARIABLE, dtype, as_pages(real_rows(dtype)), setting)
        print(f"{dtype.name} step {variable.step(setting)}: {lines.sum()} lines, {lines.min()} to {lines.max()}")
        assert fits.all() and lines.sum() <= most
