"""The `fixed` codec of the model: cells repeat, errors stay within a cell, rows stand alone, and what fits."""

import numpy as np
import pytest
from codec_pages import SEED, all_kinds, as_pages, outlier_rows, random_rows, real_rows, to_dtype, to_float

from speckv_model import codec
from speckv_model.codec import fixed
from speckv_model.codec.float16 import bias, mantissa_bits, max_finite, round_magnitude
from speckv_model.constants import PAGE_BYTES, PAGE_ROWS, ROW_VALUES, Codec, Dtype

each_dtype = pytest.mark.parametrize("dtype", list(Dtype))
each_setting = pytest.mark.parametrize("setting", fixed.SETTINGS)
EXPONENTS = range(-14, 16)


@pytest.fixture
def rng():
    print(f"SPECKV_SEED={SEED}")
    return np.random.default_rng(SEED)


def held_rows(rng, dtype, count):
    """Rows of every kind that fit, `count` of them."""
    rows = all_kinds(rng, dtype)
    fits = codec.encode_pages(Codec.FIXED, dtype, as_pages(np.repeat(rows, PAGE_ROWS, axis=0)))[2]
    return rows[fits][rng.integers(fits.sum(), size=count)]


def encode_rows(rows, dtype, setting):
    """Stored rows, of rows that fit. uint16 (16 n, 128) to uint8 (16 n, row bytes)."""
    stored, lines, fits = codec.encode_pages(Codec.FIXED, dtype, as_pages(rows), setting)
    assert fits.all() and (lines == 2 * setting).all()
    return stored[:, :2 * setting].reshape(len(rows), 8 * setting)


def cells(values, exponent, rate, dtype, code):
    """Cells of `values` (8, 4, 128), the first axis being the scale's mantissa. int64 of the same shape."""
    mantissa = np.broadcast_to(np.arange(8)[:, None], (8, 4))
    codes = np.broadcast_to(np.reshape(code, (-1, 1)), (8, 4, fixed.GROUPS))
    return fixed.cells_of(values, mantissa, np.full((8, 4), exponent), codes, rate, dtype)


@each_dtype
@each_setting
def test_every_decoded_magnitude_repeats(dtype, setting):
    """Exhaustive: what a cell decodes to is in that cell, at no group code before its own would be chosen, and does not
    change the row's scale."""
    rate = fixed.Rate(setting)
    number = np.minimum(np.arange(ROW_VALUES), rate.half_levels - 1)
    place = fixed.places(rate)[..., number]
    step = fixed.steps(rate.ternary)[..., None]
    bound = rate.half_levels * (8 + np.arange(8)) // (9 + np.arange(8))
    for exponent in EXPONENTS:
        values = round_magnitude(place * step, exponent - 18 - (rate.planes - 1), dtype)
        assert np.array_equal(cells(values, exponent, rate, dtype, np.arange(4)),
                              np.broadcast_to(number, values.shape))
        for code in range(3):
            assert (cells(values, exponent, rate, dtype, code)[:, code + 1:] < rate.edge).all()
        # Exponent and top three bits of the mantissa, as the scale has them.
        top = (values.astype(np.int64) >> mantissa_bits(dtype) - 3) - 8 * bias(dtype)
        scale = np.broadcast_to(8 * exponent + np.arange(8)[:, None, None], top.shape)
        assert (top <= scale).all()
        assert (top == scale)[:, 0][number >= bound[:, None]].all()
        assert (values > 0).all() and (values <= max_finite(dtype)).all()


@each_dtype
@each_setting
def test_every_largest_magnitude_reaches_its_cell(dtype, setting):
    """Exhaustive: the magnitude that gives a row its scale is in cells that keep it, and its group has code 0."""
    rate = fixed.Rate(setting)
    bits = mantissa_bits(dtype)
    every = np.arange(bias(dtype) - 14 << bits, min(bias(dtype) + 16 << bits, max_finite(dtype) + 1))
    exponent, mantissa = (every >> bits) - bias(dtype), every >> bits - 3 & 7
    rows = np.repeat(every[:, None], ROW_VALUES, axis=1).astype(np.uint16)
    codes = np.zeros((len(every), fixed.GROUPS), dtype=np.int64)
    cell = fixed.cells_of(rows, mantissa, exponent, codes, rate, dtype)[:, 0]
    assert (cell >= rate.half_levels * (8 + mantissa) // (9 + mantissa)).all()
    assert (cell >= rate.edge).all() and (cell < rate.half_levels).all()


@each_dtype
@each_setting
def test_error_is_within_a_cell(rng, dtype, setting):
    rate = fixed.Rate(setting)
    rows = held_rows(rng, dtype, 64 * PAGE_ROWS)
    body = encode_rows(rows, dtype, setting)
    before, after = (to_float(one, dtype) for one in (rows, fixed.decode_rows(body, rate, dtype)))
    scale = body[:, 0].astype(np.int64) - 1
    codes = np.repeat(body[:, 2:6, None] >> np.arange(0, 8, 2) & 3, 8).reshape(rows.shape)
    fraction = np.array([(5 / 6 if rate.ternary else 3 / 4) ** code for code in range(4)])
    width = ((9 + scale % 8) / 8 * 2.0 ** (scale // 8 - 14))[:, None] * fraction[codes] / rate.half_levels
    zero = scale < 0
    assert not before[zero].any() and not after[zero].any()
    error, width, after = abs(after - before)[~zero], width[~zero], abs(after[~zero])
    rounding = np.maximum(after * 2.0 ** -(11 if dtype == Dtype.FP16 else 8), 2.0 ** -25 if dtype == Dtype.FP16 else 0)
    # The tables of widths are rounded to about 2^-13.
    slack = width * rate.half_levels * 2.0 ** -13
    assert (error <= width + rounding + slack).all()
    assert (error <= width / 2 + rounding + slack).mean() > 0.97
    assert np.array_equal(np.signbit(before[~zero]), np.signbit(to_float(
        fixed.decode_rows(body, rate, dtype), dtype)[~zero]))


@each_dtype
def test_signal_to_noise_on_real_rows(dtype):
    rows = real_rows(dtype)
    values = to_float(rows, dtype)
    least = (16.2, 19.4, 22.4, 25.4, 28.4, 31.4, 34.3, 37.3, 40.2, 43.1)
    for setting, bound in zip(fixed.SETTINGS, least):
        decoded = to_float(fixed.decode_rows(encode_rows(rows, dtype, setting), fixed.Rate(setting), dtype), dtype)
        ratio = 10 * np.log10((values ** 2).sum() / ((decoded - values) ** 2).sum())
        print(f"{dtype.name} {setting}: {ratio:.2f} dB")
        assert ratio >= bound


@each_dtype
@each_setting
def test_rows_of_zeros(dtype, setting):
    signs = np.tile(np.array([0, 0x8000], np.uint16), (PAGE_ROWS, 64))
    for rows in (np.zeros_like(signs), signs, signs | 0x8000):
        body = encode_rows(rows, dtype, setting)
        assert not body.any()
        assert not fixed.decode_rows(body, fixed.Rate(setting), dtype).any()


@each_dtype
@each_setting
def test_zeros_and_small_values_beside_others(dtype, setting):
    """They decode to half a cell of their group, with their sign."""
    row = np.zeros((PAGE_ROWS, ROW_VALUES), dtype=np.uint16)
    row[:, :4] = [to_dtype(1.0, dtype), 0x8000, 1, 0x8001]
    rate = fixed.Rate(setting)
    decoded = to_float(fixed.decode_rows(encode_rows(row, dtype, setting), rate, dtype), dtype)[0]
    half = 9 / 8 / rate.half_levels / 2
    smaller = half * (5 / 6 if rate.ternary else 3 / 4) ** 3
    assert np.allclose(decoded[1:8], [-half, half, -half, half, half, half, half], rtol=0.005)
    assert np.allclose(decoded[8:], smaller, rtol=0.005)


@each_dtype
@each_setting
def test_one_outlier(rng, dtype, setting):
    rows = outlier_rows(rng, dtype, 16 * PAGE_ROWS)
    decoded = fixed.decode_rows(encode_rows(rows, dtype, setting), fixed.Rate(setting), dtype)
    place = (rows & 0x7FFF).argmax(axis=1)
    before, after = (to_float(one, dtype)[np.arange(len(rows)), place] for one in (rows, decoded))
    assert (abs(after / before - 1) < 1 / fixed.Rate(setting).half_levels).all()


def fits(row, dtype, setting=8):
    """Whether a page of real rows and one other fits."""
    rows = real_rows(dtype)[:PAGE_ROWS].copy()
    rows[7] = row
    stored, lines, fits = codec.encode_pages(Codec.FIXED, dtype, as_pages(rows), setting)
    assert lines[0] == 2 * setting and stored.any() == fits[0]
    return fits[0]


@each_dtype
@each_setting
def test_what_fits(rng, dtype, setting):
    bits = mantissa_bits(dtype)
    infinity = max_finite(dtype) + 1
    lowest = bias(dtype) - 14 << bits
    highest = min((bias(dtype) + 16 << bits) - 1, max_finite(dtype))

    def row(value, others=0):
        some = np.full(ROW_VALUES, others, dtype=np.uint16)
        some[rng.integers(ROW_VALUES)] = value
        return some

    for value in (infinity, infinity + 1, 0x7FFF, highest + 1, lowest - 1, 1):
        assert not fits(row(value), dtype, setting) and not fits(row(value | 0x8000), dtype, setting)
    for value in (0, lowest, lowest + 1, highest, highest - 1):
        assert fits(row(value), dtype, setting) and fits(row(value | 0x8000), dtype, setting)
    # One value in range is enough, small ones beside it do not matter.
    assert fits(row(lowest, lowest - 1), dtype, setting) and fits(row(lowest, 1), dtype, setting)
    assert not fits(row(infinity, highest), dtype, setting)


@each_dtype
def test_magnitudes_fit_if_in_range(dtype):
    infinity = max_finite(dtype) + 1
    every = np.arange(0, 1 << 15, 5, dtype=np.uint16)
    rows = np.zeros((len(every), PAGE_ROWS, ROW_VALUES), dtype=np.uint16)
    value = to_float(np.where(every < infinity, every, 0), dtype)
    want = (every < infinity) & ((value == 0) | ((value >= 2.0 ** -14) & (value < 2.0 ** 16)))
    rows[:, 3, 5] = every
    for part in np.array_split(np.arange(len(every)), 8):
        pages = rows[part].view(np.uint8).reshape(-1, PAGE_BYTES)
        assert np.array_equal(codec.encode_pages(Codec.FIXED, dtype, pages)[2], want[part])


@each_dtype
@each_setting
def test_rows_by_themselves(rng, dtype, setting):
    """A row encodes alike wherever it is, and decodes from its own bytes alone."""
    rows = held_rows(rng, dtype, 8 * PAGE_ROWS)
    body = encode_rows(rows, dtype, setting)
    order = rng.permutation(len(rows))
    assert np.array_equal(encode_rows(rows[order], dtype, setting), body[order])
    # Bytes that no encoder writes, too.
    for stored in (body, rng.integers(0, 256, body.shape, dtype=np.uint8)):
        pages = codec.decode_pages(Codec.FIXED, dtype, stored.reshape(-1, 2 * setting, 64))
        pages = pages.view("<u2").reshape(-1, ROW_VALUES)
        for row in range(len(rows)):
            assert np.array_equal(fixed.decode_rows(stored[row], fixed.Rate(setting), dtype), pages[row])


@each_dtype
def test_setting_is_known_from_the_lines(rng, dtype):
    stored = rng.integers(0, 256, (1, 127, 64), dtype=np.uint8)
    for lines in range(128):
        setting = min(max(lines // 2, 7), 16)
        data = stored[0].copy()
        data[lines:] = 0
        want = fixed.decode_rows(data.reshape(-1)[:128 * setting].reshape(PAGE_ROWS, -1), fixed.Rate(setting), dtype)
        got = codec.decode_pages(Codec.FIXED, dtype, stored, [lines]).view("<u2").reshape(PAGE_ROWS, ROW_VALUES)
        assert np.array_equal(got, want)


@each_dtype
@each_setting
def test_bytes_that_no_encoder_writes(rng, dtype, setting):
    rate = fixed.Rate(setting)
    body = encode_rows(held_rows(rng, dtype, 2 * PAGE_ROWS), dtype, setting)
    body[:, 0] = 240
    want = fixed.decode_rows(body, rate, dtype)
    for scale in range(241, 256):
        body[:, 0] = scale
        assert np.array_equal(fixed.decode_rows(body, rate, dtype), want)
    body[:, 1] = rng.integers(0, 256, len(body))
    assert np.array_equal(fixed.decode_rows(body, rate, dtype), want)
    if rate.ternary:
        # Digits of group 0: 243 and 27 more, as far as the bits allow.
        low, high = body[:, 6].astype(np.int64), body[:, 7] & 31
        body[:, 6] = np.where(low <= 12, low + 243, low)
        body[:, 7] += np.where(high <= 4, 27, 0).astype(np.uint8)
    else:
        body[:, 6:8] = rng.integers(0, 256, (len(body), 2))
    assert np.array_equal(fixed.decode_rows(body, rate, dtype), want)
    body[:, 0] = 0
    assert not fixed.decode_rows(body, rate, dtype).any()


@each_setting
def test_check_of_a_row(rng, setting):
    """Any wrong bit shows, and any two that are no multiple of 255 bits apart in the order that the check has."""
    body = encode_rows(held_rows(rng, Dtype.BF16, 4 * PAGE_ROWS), Dtype.BF16, setting)
    assert np.array_equal(fixed.row_check(body), body[:, 1])
    order = np.array([0, *range(2, body.shape[1]), 1])
    bits = 8 * len(order)
    flips = np.zeros((bits, len(order)), dtype=np.uint8)
    flips[np.arange(bits), order[np.arange(bits) // 8]] = 0x80 >> np.arange(bits) % 8

    def differs(rows):
        return fixed.row_check(rows) ^ rows[..., 1]

    for row in body:
        assert differs(row ^ flips).all()
    # The check is linear, so two flips stay unseen exactly where they change it alike.
    alike = differs(flips)[:, None] == differs(flips)
    distance = abs(np.arange(bits)[:, None] - np.arange(bits))
    assert np.array_equal(alike, distance % 255 == 0)
    for first, second in rng.integers(0, bits, (2000, 2)):
        row = body[rng.integers(len(body))]
        assert (differs(row ^ flips[first] ^ flips[second]) != 0) == ((first - second) % 255 != 0)
    # Bursts of up to eight bits.
    for start in range(bits - 8):
        burst = np.bitwise_xor.reduce(flips[start:start + 8][rng.integers(0, 2, 8) == 1], axis=0, initial=0)
        assert differs(body[0] ^ burst) != 0 or not burst.any()


@each_dtype
def test_random_rows_of_each_scale(rng, dtype):
    """Rows decode and encode again alike at every scale code, 1 to 240."""
    for setting in fixed.SETTINGS:
        rate = fixed.Rate(setting)
        body = rng.integers(0, 256, (240, rate.row_bytes), dtype=np.uint8)
        body[:, 0] = np.arange(1, 241)
        # One value of each row is as large as the scale says: the last cell of group 0, which has fraction 0.
        body[:, 2] &= 0xFC
        rows = fixed.decode_rows(body, rate, dtype)
        rows[:, 0] = [(bias(dtype) - 14 << mantissa_bits(dtype)) + ((code - 1) << mantissa_bits(dtype) - 3)
                      for code in range(1, 241)]
        largest = (rows & 0x7FFF).max(axis=1).astype(np.int64) >> mantissa_bits(dtype) - 3
        first = encode_rows(rows, dtype, setting)
        assert np.array_equal(first[:, 0], largest - 8 * (bias(dtype) - 14) + 1)
        assert np.array_equal(first[:, 0], np.arange(1, 241))
        again = encode_rows(fixed.decode_rows(first, rate, dtype), dtype, setting)
        assert np.array_equal(again, first)


@each_dtype
def test_pages_of_random_bits_do_not_fit(rng, dtype):
    fits = codec.encode_pages(Codec.FIXED, dtype, as_pages(random_rows(rng, 64 * PAGE_ROWS)))[2]
    assert not fits.any()
