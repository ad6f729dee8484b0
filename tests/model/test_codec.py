"""The page codecs of the model: exact against rational arithmetic, free of drift, defined for any bytes."""

from fractions import Fraction

import numpy as np
import pytest
from codec_pages import SEED, as_pages, mixed_pages, random_rows, real_rows, runs_row, special_rows

from speckv_model import codec
from speckv_model.codec import speckv
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_VALUES, Codec, Dtype

pytestmark = pytest.mark.parametrize("dtype", list(Dtype))


@pytest.fixture
def rng(dtype):
    return np.random.default_rng([SEED, int(dtype)])


def fraction(bits, dtype):
    """The exact value of a finite 16-bit pattern; an exponent of all ones counts as an ordinary number."""
    mantissa_bits, bias = (10, 15) if dtype == Dtype.FP16 else (7, 127)
    field, mantissa = (bits & 0x7FFF) >> mantissa_bits, bits & (1 << mantissa_bits) - 1
    if field:
        mantissa += 1 << mantissa_bits
    value = Fraction(mantissa) * Fraction(2) ** (max(field, 1) - bias - mantissa_bits)
    return -value if bits & 0x8000 else value


def nearest(value, dtype):
    """Bits of the pattern nearest to a rational magnitude, ties to the even pattern, found by bisection."""
    low, high = 0, 0x7FFF
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fraction(middle, dtype) <= value else (low, middle)
    below, above = value - fraction(low, dtype), fraction(high, dtype) - value
    return low if below < above or (below == above and low % 2 == 0) else high


def sample_rows(rng, dtype):
    """A few rows of every kind without infinities and NaNs."""
    rows = np.concatenate([
        real_rows(dtype)[rng.integers(1536, size=8)], special_rows(rng, dtype),
        random_rows(rng, 8, finite=dtype), random_rows(rng, 8, spread=0x7FF, finite=dtype),
    ])
    return rows[(rows & 0x7FFF).max(axis=1) < (0x7C00 if dtype == Dtype.FP16 else 0x7F80)]


def all_pages(rng, dtype):
    return np.concatenate([
        as_pages(real_rows(dtype)), as_pages(special_rows(rng, dtype)), mixed_pages(rng, dtype, 40),
        as_pages(random_rows(rng, 160, finite=dtype)), as_pages(random_rows(rng, 160, spread=0x7FF)),
        as_pages(random_rows(rng, 160, spread=90))])


def test_quantise_is_the_rounded_rational(rng, dtype):
    rows = sample_rows(rng, dtype)
    maxima = (rows & 0x7FFF).max(axis=1)
    quantised = speckv.quantise(rows, maxima, dtype)
    for row, maximum, got in zip(rows, maxima, quantised):
        scale = fraction(int(maximum), dtype) / 127 or 1
        assert got.tolist() == [round(fraction(int(bits), dtype) / scale) for bits in row]


def test_quantise_agrees_with_floating_point(rng, dtype):
    rows = np.concatenate([real_rows(dtype), random_rows(rng, 64, finite=dtype)])
    maxima = (rows & 0x7FFF).max(axis=1)
    if dtype == Dtype.FP16:
        values = rows.view(np.float16).astype(np.float64)
    else:
        values = (rows.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    ratio = values / (abs(values).max(axis=1, keepdims=True) / 127)
    # Where the quotient is a tie but for the rounding of float64, only exact arithmetic can tell.
    clear = abs(ratio % 1 - 0.5) > 1e-9
    assert clear.mean() > 0.99
    assert np.array_equal(speckv.quantise(rows, maxima, dtype)[clear], np.rint(ratio)[clear])


def test_dequantise_is_the_rounded_rational(rng, dtype):
    mantissa_bits = 10 if dtype == Dtype.FP16 else 7
    smallest_normals = [exponent << mantissa_bits for exponent in range(1, 10)]
    maxima = [0, 1, 2, 63, 127, 128, (1 << mantissa_bits) - 1, *smallest_normals,
              0x3C00, 0x3F80, 0x7BFF, 0x7FFF, *rng.integers(0, 0x8000, 12)]
    quantised = np.arange(256, dtype=np.uint8)
    for maximum in map(int, maxima):
        got = speckv.dequantise(quantised[None], np.array([maximum], np.uint16), dtype)[0]
        for byte in range(256):
            magnitude = abs(byte - (byte & 0x80) * 2) % 128
            want = nearest(fraction(maximum, dtype) * magnitude / 127, dtype)
            assert got[byte] == want | (byte & 0x80) << 8, (maximum, byte)


def test_no_drift(rng, dtype):
    pages = all_pages(rng, dtype)
    stored, lines, fits = codec.encode_pages(Codec.SPECKV, dtype, pages)
    decoded = codec.decode_pages(Codec.SPECKV, dtype, stored, lines)
    again = codec.encode_pages(Codec.SPECKV, dtype, decoded)
    assert fits.all() and again[2].all()
    assert np.array_equal(again[1], lines)
    assert np.array_equal(again[0], stored)


def test_error_is_at_most_half_a_step(dtype):
    pages = as_pages(real_rows(dtype))
    stored, lines, fits = codec.encode_pages(Codec.SPECKV, dtype, pages)
    assert fits.all()
    decoded = codec.decode_pages(Codec.SPECKV, dtype, stored, lines)
    before, after = (one.view(np.uint16).astype(np.uint32) << 16 for one in (pages, decoded))
    if dtype == Dtype.FP16:
        before, after = pages.view(np.float16), decoded.view(np.float16)
    else:
        before, after = before.view(np.float32), after.view(np.float32)
    before, after = (one.astype(np.float64).reshape(-1, ROW_VALUES) for one in (before, after))
    maxima = abs(before).max(axis=1, keepdims=True)
    rounding = 2.0 ** -(11 if dtype == Dtype.FP16 else 8)
    assert (abs(after - before) <= maxima / 254 + abs(after) * rounding + 1e-12).all()


def test_real_pages_take_33_lines(dtype):
    _, lines, _ = codec.encode_pages(Codec.SPECKV, dtype, as_pages(real_rows(dtype)))
    assert (lines == 33).all()


@pytest.mark.parametrize("runs", [1, 2, 62, 63, 64, 65])
def test_row_of_pairs_only_where_shorter(dtype, runs):
    row = runs_row(runs, dtype)
    stored, _, _ = codec.encode_pages(Codec.SPECKV, dtype, as_pages(row[None]))
    assert stored[0, 0, 32:48].tolist() == [min(runs, speckv.INT8)] * PAGE_ROWS


@pytest.mark.parametrize("raw_rows", range(PAGE_ROWS + 1))
def test_page_fits_below_64_lines(rng, dtype, raw_rows):
    rows = real_rows(dtype)[:PAGE_ROWS].copy()
    rows[rng.permutation(PAGE_ROWS)[:raw_rows], rng.integers(ROW_VALUES)] = 0x7FFF
    page = as_pages(rows)[0]
    stored, lines, fits = codec.encode_pages(Codec.SPECKV, dtype, page[None])
    assert lines[0] == 1 + 2 * PAGE_ROWS + 2 * raw_rows
    assert fits[0] == (lines[0] < PAGE_LINES)
    assert stored[0].any() == fits[0]
    one = codec.encode(Codec.SPECKV, dtype, page)
    assert (one is None) == (not fits[0])
    if fits[0]:
        raw = (rows & 0x7FFF).max(axis=1) == 0x7FFF
        decoded = codec.decode(Codec.SPECKV, dtype, one).view(np.uint16).reshape(rows.shape)
        assert np.array_equal(decoded[raw], rows[raw])


def test_rows_with_infinity_or_nan_keep_their_bits(rng, dtype):
    infinity = 0x7C00 if dtype == Dtype.FP16 else 0x7F80
    for special in (infinity, infinity | 0x8000, infinity + 1, 0xFFFF):
        rows = real_rows(dtype)[:PAGE_ROWS].copy()
        rows[5, rng.integers(ROW_VALUES)] = special
        decoded = codec.decode(Codec.SPECKV, dtype, codec.encode(Codec.SPECKV, dtype, as_pages(rows)[0]))
        assert np.array_equal(decoded.view(np.uint16).reshape(rows.shape)[5], rows[5])


def test_negative_zero_decodes_as_zero(dtype):
    page = np.full(PAGE_BYTES // 2, 0x8000, dtype=np.uint16).view(np.uint8)
    stored = codec.encode(Codec.SPECKV, dtype, page)
    assert len(stored) == 2 * LINE_BYTES
    assert not codec.decode(Codec.SPECKV, dtype, stored).any()


def test_any_stored_bytes_decode(rng, dtype):
    stored = rng.integers(0, 256, (64, PAGE_LINES, LINE_BYTES), dtype=np.uint8)
    lines = rng.integers(0, PAGE_LINES + 1, 64)
    batch = codec.decode_pages(Codec.SPECKV, dtype, stored, lines)
    for page in range(len(stored)):
        one = codec.decode(Codec.SPECKV, dtype, stored[page, :lines[page]].reshape(-1))
        assert np.array_equal(one, batch[page])


def test_illegal_length_codes_mean_int8(rng, dtype):
    stored = codec.encode(Codec.SPECKV, dtype, as_pages(real_rows(dtype)[:PAGE_ROWS])[0])
    want = codec.decode(Codec.SPECKV, dtype, stored)
    for code in (0, 66, 127, 128, 255):
        stored[32 + rng.integers(PAGE_ROWS)] = code
        assert np.array_equal(codec.decode(Codec.SPECKV, dtype, stored), want)


def test_pairs_that_do_not_fill_the_row(dtype):
    one = 0x3C00 if dtype == Dtype.FP16 else 0x3F80

    def row(*pairs):
        stored = np.zeros(2 * LINE_BYTES, dtype=np.uint8)
        stored[:2] = np.array([one], "<u2").view(np.uint8)
        stored[32] = len(pairs)
        stored[LINE_BYTES:LINE_BYTES + 2 * len(pairs)] = np.array(pairs, np.uint8).reshape(-1)
        return codec.decode(Codec.SPECKV, dtype, stored).view(np.uint16)[:ROW_VALUES].tolist()

    assert row((127, 0), (0, 3)) == [one] * 128
    assert row((127, 0x80), (0, 3)) == [one] * 128
    assert row((127, 0), (0, 127), (5, 5)) == [one] * 128
    assert row((127, 0), (0, 62), (129, 0), (0, 63)) == [one] * 64 + [0] * 64


def test_raw_is_the_page_itself(rng, dtype):
    pages = mixed_pages(rng, dtype, 3)
    stored, lines, fits = codec.encode_pages(Codec.RAW, dtype, pages)
    assert fits.all() and (lines == PAGE_LINES).all()
    assert np.array_equal(stored.reshape(pages.shape), pages)
    assert np.array_equal(codec.decode_pages(Codec.RAW, dtype, stored), pages)
    part = codec.decode(Codec.RAW, dtype, stored[0, :5].reshape(-1))
    assert np.array_equal(part[:320], pages[0, :320]) and not part[320:].any()


def test_errors_are_said(dtype):
    page = np.zeros(PAGE_BYTES, dtype=np.uint8)
    with pytest.raises(ValueError, match="codec must be one of RAW, SPECKV, LOSSLESS, FIXED, VARIABLE, not 7"):
        codec.encode(7, dtype, page)
    with pytest.raises(ValueError, match="pages must be a uint8 array"):
        codec.encode(Codec.RAW, dtype, page.view(np.uint16))
    with pytest.raises(ValueError, match="stored must be fewer than 128 whole lines"):
        codec.decode(Codec.RAW, dtype, page[:65])
    with pytest.raises(ValueError, match="stored must be a uint8 array"):
        codec.decode_pages(Codec.RAW, dtype, page[None])
