"""The `fixed` codec of the model: cells repeat, errors stay within a cell, rows stand alone, and what fits."""

from functools import cache

import numpy as np
import pytest
from codec_pages import SEED, all_kinds, as_pages, outlier_rows, random_rows, real_rows, to_dtype, to_float

from speckv_model import codec
from speckv_model.check import crc16
from speckv_model.codec import fixed
from speckv_model.codec.float16 import bias, mantissa_bits, max_finite, round_magnitude
from speckv_model.constants import PAGE_BYTES, PAGE_ROWS, ROW_VALUES, Codec, Dtype

each_dtype = pytest.mark.parametrize("dtype", list(Dtype))
each_setting = pytest.mark.parametrize("setting", fixed.SETTINGS)
RATES = [*map(fixed.Rate, fixed.SETTINGS), *(fixed.Rate(setting, True) for setting in (7, 8, 15, 16))]
each_rate = pytest.mark.parametrize("rate", RATES, ids=lambda rate: f"{rate.setting}{'-by-row' * rate.by_row}")
EXPONENTS = range(-14, 16)


@pytest.fixture
def rng():
    print(f"SPECKV_SEED={SEED}")
    return np.random.default_rng(SEED)


@cache
def all_held_rows(dtype):
    rows = all_kinds(np.random.default_rng(SEED), dtype)
    fits = codec.encode_pages(Codec.FIXED, dtype, as_pages(np.repeat(rows, PAGE_ROWS, axis=0)))[2]
    return rows[fits]


def held_rows(rng, dtype, count):
    """Rows of every kind that fit, `count` of them."""
    rows = all_held_rows(dtype)
    return rows[rng.integers(len(rows), size=count)]


def encode_rows(rows, dtype, rate):
    """Stored rows, of rows that fit. uint16 (16 n, 128) to uint8 (16 n, row bytes)."""
    stored, lines, fits = codec.encode_pages(Codec.FIXED, dtype, as_pages(rows), rate.setting, rate.by_row)
    assert fits.all() and (lines == rate.lines).all()
    return stored[:, :rate.lines].reshape(len(rows), rate.row_bytes)


def cells(values, exponent, rate, dtype, fractions):
    """Cells of `values` (8, n, 128), the first axis being the scale's mantissa, at n `fractions`. int64 of the same
    shape."""
    shape = values.shape[:2]
    mantissa = np.broadcast_to(np.arange(8)[:, None], shape)
    fractions = np.broadcast_to(np.reshape(fractions, (-1, 1)), (*shape, fixed.GROUPS))
    return fixed.cells_of(values, mantissa, np.full(shape, exponent), fractions, rate, dtype)


def group_codes(body, rate):
    """The code of each group of stored rows, bit by bit. int64 (n, 16)."""
    bits = np.unpackbits(body[:, 1:9], axis=1, bitorder="little").astype(np.int64)
    codes, at = [], 0
    for group in range(16):
        width = rate.code_widths[group // 8]
        codes.append(bits[:, at:at + width] @ (1 << np.arange(width)))
        at += width
    return np.stack(codes, axis=1)


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
    fractions = fixed.FRACTIONS[rate.ternary]
    for exponent in EXPONENTS:
        values = round_magnitude(place * step, exponent - 18 - (rate.planes - 1), dtype)
        assert (cells(values, exponent, rate, dtype, np.arange(len(fractions))) == number).all()
        for own in (list(own) for (ternary, _), own in fixed.CODES.items() if ternary == rate.ternary):
            for code, (large, small) in enumerate(zip(own, own[1:])):
                edge = rate.half_levels * fractions[small] / fractions[large]
                assert edge.denominator == 1 and edge < rate.half_levels
                later = values[:, own[code + 1:]]
                assert (cells(later, exponent, rate, dtype, [large] * later.shape[1]) < int(edge)).all()
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
    assert (cell[:, None] >= rate.edges[:, 0]).all() and (cell < rate.half_levels).all()


@each_dtype
@each_rate
def test_error_is_within_a_cell(rng, dtype, rate):
    rows = held_rows(rng, dtype, 64 * PAGE_ROWS)
    body = encode_rows(rows, dtype, rate)
    before, after = (to_float(one, dtype) for one in (rows, fixed.decode_rows(body, rate, dtype)))
    scale = body[:, 0].astype(np.int64) - 1
    codes = group_codes(body, rate)
    fraction = np.array([float(each) for each in fixed.FRACTIONS[rate.ternary]])
    fraction = np.repeat(fraction[rate.fractions[np.arange(16), codes]], 8, axis=1)
    width = ((9 + scale % 8) / 8 * 2.0 ** (scale // 8 - 14))[:, None] * fraction / rate.half_levels
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
@pytest.mark.parametrize("by_row", [False, True])
def test_signal_to_noise_on_real_rows(dtype, by_row):
    rows = real_rows(dtype)
    values = to_float(rows, dtype)
    least = ((16.3, 19.1, 22.5, 25.1, 28.5, 31.1, 34.4, 37.0, 40.3, 42.8) if by_row else
             (16.4, 20.1, 22.6, 26.1, 28.6, 32.1, 34.5, 38.1, 40.4, 43.8))
    for setting, bound in zip(fixed.SETTINGS, least):
        rate = fixed.Rate(setting, by_row)
        decoded = to_float(fixed.decode_rows(encode_rows(rows, dtype, rate), rate, dtype), dtype)
        ratio = 10 * np.log10((values ** 2).sum() / ((decoded - values) ** 2).sum())
        print(f"{dtype.name} {setting}: {ratio:.2f} dB")
        assert ratio >= bound


@each_dtype
@each_rate
def test_rows_of_zeros(dtype, rate):
    signs = np.tile(np.array([0, 0x8000], np.uint16), (PAGE_ROWS, 64))
    for rows in (np.zeros_like(signs), signs, signs | 0x8000):
        body = encode_rows(rows, dtype, rate)
        assert not body.any()
        assert not fixed.decode_rows(body, rate, dtype).any()


@each_dtype
@each_rate
def test_zeros_and_small_values_beside_others(dtype, rate):
    """They decode to half a cell of their group, with their sign."""
    row = np.zeros((PAGE_ROWS, ROW_VALUES), dtype=np.uint16)
    row[:, :4] = [to_dtype(1.0, dtype), 0x8000, 1, 0x8001]
    decoded = to_float(fixed.decode_rows(encode_rows(row, dtype, rate), rate, dtype), dtype)[0]
    half = 9 / 8 / rate.half_levels / 2
    smaller = half * np.repeat([float(fixed.FRACTIONS[rate.ternary][own[-1]]) for own in rate.fractions], 8)
    assert np.allclose(decoded[1:8], [-half, half, -half, half, half, half, half], rtol=0.005)
    assert np.allclose(decoded[8:], smaller[8:], rtol=0.005)


@each_dtype
@each_rate
def test_one_outlier(rng, dtype, rate):
    rows = outlier_rows(rng, dtype, 16 * PAGE_ROWS)
    decoded = fixed.decode_rows(encode_rows(rows, dtype, rate), rate, dtype)
    place = (rows & 0x7FFF).argmax(axis=1)
    before, after = (to_float(one, dtype)[np.arange(len(rows)), place] for one in (rows, decoded))
    assert (abs(after / before - 1) < 1 / rate.half_levels).all()


def fits(row, dtype, rate):
    """Whether a page of real rows and one other fits."""
    rows = real_rows(dtype)[:PAGE_ROWS].copy()
    rows[7] = row
    stored, lines, fits = codec.encode_pages(Codec.FIXED, dtype, as_pages(rows), rate.setting, rate.by_row)
    assert lines[0] == rate.lines and stored.any() == fits[0]
    return fits[0]


@each_dtype
@each_rate
def test_what_fits(rng, dtype, rate):
    bits = mantissa_bits(dtype)
    infinity = max_finite(dtype) + 1
    lowest = bias(dtype) - 14 << bits
    highest = min((bias(dtype) + 16 << bits) - 1, max_finite(dtype))

    def row(value, others=0):
        some = np.full(ROW_VALUES, others, dtype=np.uint16)
        some[rng.integers(ROW_VALUES)] = value
        return some

    for value in (infinity, infinity + 1, 0x7FFF, highest + 1, lowest - 1, 1):
        assert not fits(row(value), dtype, rate) and not fits(row(value | 0x8000), dtype, rate)
    for value in (0, lowest, lowest + 1, highest, highest - 1):
        assert fits(row(value), dtype, rate) and fits(row(value | 0x8000), dtype, rate)
    # One value in range is enough, small ones beside it do not matter.
    assert fits(row(lowest, lowest - 1), dtype, rate) and fits(row(lowest, 1), dtype, rate)
    assert not fits(row(infinity, highest), dtype, rate)


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
def test_no_drift_of_checked_rows(rng, dtype, setting):
    """Decoded rows, and what any bytes decode to, encode to what they were decoded from."""
    rate = fixed.Rate(setting, by_row=True)
    body = encode_rows(held_rows(rng, dtype, 64 * PAGE_ROWS), dtype, rate)
    assert np.array_equal(encode_rows(fixed.decode_rows(body, rate, dtype), dtype, rate), body)
    body = rng.integers(0, 256, (64 * PAGE_ROWS, rate.row_bytes), dtype=np.uint8)
    body[rng.random(body.shape) < 0.3] = 0
    rows = fixed.decode_rows(body, rate, dtype)
    rows = rows[((rows & 0x7FFF).max(axis=1) >= bias(dtype) - 14 << mantissa_bits(dtype)) | ~rows.any(axis=1)]
    first = encode_rows(rows[:len(rows) // 16 * 16], dtype, rate)
    assert np.array_equal(encode_rows(fixed.decode_rows(first, rate, dtype), dtype, rate), first)


@each_dtype
@each_rate
def test_rows_by_themselves(rng, dtype, rate):
    """A row encodes alike wherever it is, and decodes from its own bytes alone."""
    rows = held_rows(rng, dtype, 8 * PAGE_ROWS)
    body = encode_rows(rows, dtype, rate)
    order = rng.permutation(len(rows))
    assert np.array_equal(encode_rows(rows[order], dtype, rate), body[order])
    # Bytes that no encoder writes, too.
    for stored in (body, rng.integers(0, 256, body.shape, dtype=np.uint8)):
        pages = codec.decode_pages(Codec.FIXED, dtype, stored.reshape(-1, rate.lines, 64), by_row=rate.by_row)
        pages = pages.view("<u2").reshape(-1, ROW_VALUES)
        for row in range(len(rows)):
            assert np.array_equal(fixed.decode_rows(stored[row], rate, dtype), pages[row])


@each_dtype
@pytest.mark.parametrize("by_row", [False, True])
def test_setting_is_known_from_the_lines(rng, dtype, by_row):
    stored = rng.integers(0, 256, (1, 127, 64), dtype=np.uint8)
    for lines in range(128):
        rate = fixed.Rate(min(max(lines // 2, 7), 16), by_row)
        data = stored[0].copy()
        data[lines:] = 0
        want = fixed.decode_rows(data.reshape(-1)[:128 * rate.setting].reshape(PAGE_ROWS, -1), rate, dtype)
        got = codec.decode_pages(Codec.FIXED, dtype, stored, [lines], by_row).view("<u2")
        assert np.array_equal(got.reshape(PAGE_ROWS, ROW_VALUES), want)


@each_dtype
@each_rate
def test_bytes_that_no_encoder_writes(rng, dtype, rate):
    body = encode_rows(held_rows(rng, dtype, 2 * PAGE_ROWS), dtype, rate)
    body[:, 0] = 240
    want = fixed.decode_rows(body, rate, dtype)
    for scale in range(241, 256):
        body[:, 0] = scale
        assert np.array_equal(fixed.decode_rows(body, rate, dtype), want)
    if rate.by_row:
        check = 4 if rate.ternary else 6
        body[:, check:check + 2] = rng.integers(0, 256, (len(body), 2))
        assert np.array_equal(fixed.decode_rows(body, rate, dtype), want)
    if rate.ternary:
        # Digits of group 0: 243 and 27 more, as far as the bits allow.
        low, high = body[:, 6].astype(np.int64), body[:, 7] & 31
        body[:, 6] = np.where(low <= 12, low + 243, low)
        body[:, 7] += np.where(high <= 4, 27, 0).astype(np.uint8)
    elif not rate.by_row:
        assert not body[:, 7].any()
        body[:, 7] = rng.integers(0, 256, len(body))
    assert np.array_equal(fixed.decode_rows(body, rate, dtype), want)
    body[:, 0] = 0
    assert not fixed.decode_rows(body, rate, dtype).any()


def test_check_is_crc_16():
    """The check value of CRC-16/XMODEM is 0x31C3, for the nine digits; zeros in front change nothing."""
    assert crc16(np.frombuffer(bytes(6) + b"123456789", dtype=np.uint8)) == 0x31C3
    assert crc16(np.zeros((3, 2, 16), dtype=np.uint8)).tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("rate", [rate for rate in RATES if rate.by_row], ids=lambda rate: str(rate.setting))
def test_check_of_a_row(rng, rate):
    """Any wrong bit shows, any two, any odd number of them, and any burst of sixteen."""
    check = 4 if rate.ternary else 6
    assert rate.check_at == check
    body = encode_rows(held_rows(rng, Dtype.BF16, 4 * PAGE_ROWS), Dtype.BF16, rate)
    assert np.array_equal(fixed.row_check(body, rate), body[:, check:check + 2])
    # The order in which the check takes its bits: its own ones last, high byte first.
    order = np.array([*(n for n in range(body.shape[1]) if n not in (check, check + 1)), check + 1, check])
    bits = 8 * len(order)
    flips = np.zeros((bits, len(order)), dtype=np.uint8)
    flips[np.arange(bits), order[np.arange(bits) // 8]] = 0x80 >> np.arange(bits) % 8

    def differs(rows):
        return (fixed.row_check(rows, rate) ^ rows[..., check:check + 2]).astype(np.int64) @ [1, 256]

    for row in body[:8]:
        assert differs(row ^ flips).all()
    # The check is linear, so flips stay unseen exactly where together they change nothing.
    assert len(np.unique(differs(flips))) == bits
    for _ in range(500):
        some = rng.choice(bits, 2 * rng.integers(1, 40) + 1, replace=False)
        assert differs(body[rng.integers(len(body))] ^ np.bitwise_xor.reduce(flips[some], axis=0)) != 0
    for start in range(bits - 15):
        burst = np.bitwise_xor.reduce(flips[start:start + 16][rng.integers(0, 2, 16) == 1], axis=0, initial=0)
        assert differs(body[0] ^ burst) != 0 or not burst.any()


@each_rate
def test_layout_of_a_row(rng, rate):
    """Group codes are where the format has them: a code changes its own group only, and by its fraction."""
    body = np.zeros((16, rate.row_bytes), dtype=np.uint8)
    body[:, 0] = 1 + 8 * 14
    starts = np.cumsum([8, *np.repeat(rate.code_widths, 8)])
    for group in range(16):
        body[group, starts[group] // 8] |= 1 << starts[group] % 8
    values = to_float(fixed.decode_rows(body, rate, Dtype.FP16), Dtype.FP16).reshape(16, 16, 8)
    for group in range(16):
        second = 5 / 6 if rate.ternary else 3 / 4
        if rate.ternary and rate.by_row and group >= 8:
            second = 2 / 3
        want = np.full(16, 1.125 / rate.half_levels / 2)
        want[group] *= second
        assert np.allclose(values[group], want[:, None], rtol=1e-3)
    assert (starts[-1] + 7) // 8 == 1 + rate.code_bytes


@each_dtype
def test_random_rows_of_each_scale(rng, dtype):
    """Rows decode and encode again alike at every scale code, 1 to 240."""
    for rate in RATES:
        body = rng.integers(0, 256, (240, rate.row_bytes), dtype=np.uint8)
        body[:, 0] = np.arange(1, 241)
        # One value of each row is as large as the scale says: the last cell of group 0, which has fraction 0.
        body[:, 1] &= 0xF8
        rows = fixed.decode_rows(body, rate, dtype)
        rows[:, 0] = [(bias(dtype) - 14 << mantissa_bits(dtype)) + ((code - 1) << mantissa_bits(dtype) - 3)
                      for code in range(1, 241)]
        largest = (rows & 0x7FFF).max(axis=1).astype(np.int64) >> mantissa_bits(dtype) - 3
        first = encode_rows(rows, dtype, rate)
        assert np.array_equal(first[:, 0], largest - 8 * (bias(dtype) - 14) + 1)
        assert np.array_equal(first[:, 0], np.arange(1, 241))
        again = encode_rows(fixed.decode_rows(first, rate, dtype), dtype, rate)
        assert np.array_equal(again, first)


@each_dtype
def test_pages_of_random_bits_do_not_fit(rng, dtype):
    fits = codec.encode_pages(Codec.FIXED, dtype, as_pages(random_rows(rng, 64 * PAGE_ROWS)))[2]
    assert not fits.any()
