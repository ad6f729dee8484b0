"""The `lossless` codec of the model: every bit pattern comes back, what fits, what real pages take."""

import numpy as np
import pytest
from codec_pages import SEED, all_kinds, as_pages, mixed_pages, outlier_rows, random_rows, real_rows

from speckv_model import codec
from speckv_model.codec import lossless
from speckv_model.codec.float16 import exponent_field, mantissa_bits, max_finite
from speckv_model.constants import LINE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_VALUES, Codec, Dtype

pytestmark = pytest.mark.parametrize("dtype", list(Dtype))
OTHER_LINES = {Dtype.FP16: 52, Dtype.BF16: 40}
"""Lines of all sections but the middle one."""


@pytest.fixture
def rng(dtype):
    print(f"SPECKV_SEED={SEED}")
    return np.random.default_rng([SEED, int(dtype)])


def round_trip(dtype, pages):
    """Whether each page fits; those that do come back bit for bit."""
    stored, lines, fits = codec.encode_pages(Codec.LOSSLESS, dtype, pages)
    assert np.array_equal(codec.decode_pages(Codec.LOSSLESS, dtype, stored[fits], lines[fits]), pages[fits])
    return fits


def test_every_pattern_comes_back(rng, dtype):
    patterns = np.arange(1 << 16, dtype=np.uint16)
    # Four rows of patterns of all kinds in a page of real rows, neighbours mixed: all of these fit.
    rows = real_rows(dtype)[rng.integers(1536, size=PAGE_ROWS * 128)].reshape(128, PAGE_ROWS, ROW_VALUES)
    for page in rows:
        page[rng.permutation(PAGE_ROWS)[:4]] = 0
    rows[~rows.any(axis=2)] = rng.permutation(patterns).reshape(512, ROW_VALUES)
    assert round_trip(dtype, as_pages(rows.reshape(-1, ROW_VALUES))).all()
    # Patterns in order: neighbours in a row have like exponents, neighbouring rows have others.
    ordered = patterns.reshape(PAGE_ROWS, 32, ROW_VALUES).swapaxes(0, 1)
    assert round_trip(dtype, as_pages(ordered.reshape(-1, ROW_VALUES))).all()
    # One of any kind in each of four real rows.
    single = real_rows(dtype)[rng.integers(1536, size=512 * PAGE_ROWS)].reshape(-1, 4, ROW_VALUES)
    single[:, 0, 77] = rng.permutation(patterns)[:len(single)]
    assert round_trip(dtype, as_pages(single.reshape(-1, ROW_VALUES))).all()


def test_one_outlier_a_row(rng, dtype):
    """A row with an outlier has third codes or is verbatim: FP16 pages of nothing else need not fit."""
    pages = as_pages(outlier_rows(rng, dtype, 40 * PAGE_ROWS))
    fits = round_trip(dtype, pages)
    _, lines, _ = codec.encode_pages(Codec.LOSSLESS, dtype, pages)
    print(f"{dtype.name}: {fits.mean():.2f} of the pages fit, on average {lines.mean():.1f} lines")
    assert fits.any()


def test_pages_of_all_kinds_come_back(rng, dtype):
    rows = all_kinds(rng, dtype)
    # In FP16 a page of nothing but infinities and NaNs does not fit, as most random ones.
    fits = round_trip(dtype, np.concatenate([as_pages(np.repeat(rows, PAGE_ROWS, axis=0)), as_pages(rows),
                                             mixed_pages(rng, dtype, 100), as_pages(random_rows(rng, 160))]))
    assert 0.5 < fits.mean() < 1


def test_real_pages_take_no_more_than_measured(dtype):
    pages = as_pages(real_rows(dtype))
    assert round_trip(dtype, pages).all()
    _, lines, _ = codec.encode_pages(Codec.LOSSLESS, dtype, pages)
    total, most = {Dtype.FP16: (5364, 57), Dtype.BF16: (4224, 45)}[dtype]
    print(f"{dtype.name}: {lines.sum()} lines, {lines.min()} to {lines.max()}")
    assert lines.sum() <= total and lines.max() <= most


def test_fits_below_64_lines(rng, dtype):
    """Verbatim rows make a page longer, up to where it does not fit."""
    bits = mantissa_bits(dtype)
    seen = set()
    for verbatim in range(PAGE_ROWS + 1):
        rows = real_rows(dtype)[rng.integers(1536, size=PAGE_ROWS)]
        chosen = rng.permutation(PAGE_ROWS)[:verbatim]
        # Of the others, none.
        exponents = exponent_field(rows, dtype)
        centre = lossless.centres(exponents, dtype)[:, None]
        rows[centre - exponents > 13] &= 0x8000
        rows[chosen] = 25 << bits
        rows[chosen, rng.integers(ROW_VALUES)] = 5 << bits
        stored, lines, fits = codec.encode_pages(Codec.LOSSLESS, dtype, as_pages(rows))
        exponents = np.delete(exponent_field(rows, dtype), chosen, axis=0)
        below = np.delete(centre, chosen, axis=0) - exponents
        second = (below < 0) | (below > 2)
        third = second & ~np.isin(below, lossless.SECOND_TIER)
        chunks = -(-(second.sum() + ROW_VALUES * verbatim) // 32)
        middle = 24 + 8 * chunks + -(-(third.sum() + ROW_VALUES * verbatim) // 2)
        assert lines[0] == OTHER_LINES[dtype] + -(-middle // LINE_BYTES)
        assert fits[0] == (lines[0] < PAGE_LINES) and stored.any() == fits[0]
        if fits[0]:
            assert (stored[0].reshape(-1)[middle_start(dtype):][:PAGE_ROWS] == 0).sum() == verbatim
        seen.add(bool(fits[0]))
    assert seen == {False, True}


def middle_start(dtype):
    return (OTHER_LINES[dtype] - 32) * LINE_BYTES


def test_centres(dtype):
    bits = mantissa_bits(dtype)

    def centre(fields):
        rows = np.zeros((PAGE_ROWS, ROW_VALUES), dtype=np.uint16)
        rows[0] = np.array(fields, dtype=np.uint16) << bits
        return codec.encode(Codec.LOSSLESS, dtype, as_pages(rows)[0])[middle_start(dtype)]

    ones = 31 if dtype == Dtype.FP16 else 255
    assert centre([0] * 128) == 1
    assert centre([20] * 25 + [15] * 103) == 20
    assert centre([20] * 24 + [15] * 104) == 15
    assert centre([20] * 24 + [13] * 104) == 14
    assert centre([3] + [0] * 127) == 1
    assert centre([ones] * 100 + [12] * 28) == 12
    assert centre([ones] * 104 + [12] * 24) == 6
    assert centre([ones] * 128) == 1
    assert centre([20] * 127 + [7]) == 20
    assert centre([20] * 127 + [6]) == lossless.VERBATIM
    assert centre([20] * 127 + [0]) == 20


def test_special_values_do_not_make_a_row_verbatim(rng, dtype):
    infinity = max_finite(dtype) + 1
    for value in (0, 0x8000, 1, 0x8001, infinity, infinity | 0x8000, 0x7FFF, 0xFFFF):
        rows = real_rows(dtype)[:PAGE_ROWS].copy()
        rows[:, rng.integers(ROW_VALUES)] = value
        before, after = (codec.encode(Codec.LOSSLESS, dtype, as_pages(one)[0])[middle_start(dtype):][:PAGE_ROWS]
                         for one in (real_rows(dtype)[:PAGE_ROWS], rows))
        assert np.array_equal(before == 0, after == 0)
        assert round_trip(dtype, as_pages(rows)).all()
