"""What holds for every codec of the model: no drift, any bytes decode, pages are by themselves, errors say why."""

import numpy as np
import pytest
from codec_pages import SEED, all_kinds, as_pages, mixed_pages, random_rows, real_pages_of, real_rows

from speckv_model import codec
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, PAGE_ROWS, SECTOR_LINES, Codec, Dtype

SETTINGS = [(Codec.RAW, 0), (Codec.SPECKV, 0), (Codec.LOSSLESS, 0), *((Codec.FIXED, n) for n in range(7, 17)),
            *((Codec.VARIABLE, step) for step in (0, 7, 40, 64, 97, 110, 120, 128, 139, 160, 198, 255))]

pytestmark = pytest.mark.parametrize("dtype", list(Dtype))
each_setting = pytest.mark.parametrize("which, setting", SETTINGS,
                                       ids=lambda one: one.name if isinstance(one, Codec) else str(one))
each_codec = pytest.mark.parametrize("which", list(Codec), ids=lambda one: one.name)


@pytest.fixture
def rng(dtype):
    print(f"SPECKV_SEED={SEED}")
    return np.random.default_rng([SEED, int(dtype)])


def held_pages(rng, which, dtype, setting):
    """Pages that fit, of rows of every kind."""
    rows = all_kinds(rng, dtype)
    alike = codec.encode_pages(which, dtype, as_pages(np.repeat(rows, PAGE_ROWS, axis=0)), setting)[2]
    candidates = np.concatenate([
        as_pages(real_rows(dtype))[rng.permutation(96)[:24]], as_pages(rng.permutation(rows[alike])),
        as_pages(np.repeat(rng.permutation(rows[alike])[:60], PAGE_ROWS, axis=0)),
        mixed_pages(rng, dtype, 30), as_pages(rng.permutation(rows))])
    pages = candidates[codec.encode_pages(which, dtype, candidates, setting)[2]]
    assert len(pages) >= 10
    return pages


@each_setting
def test_no_drift(rng, dtype, which, setting):
    pages = held_pages(rng, which, dtype, setting)
    stored, lines, _ = codec.encode_pages(which, dtype, pages, setting)
    decoded = codec.decode_pages(which, dtype, stored, lines)
    again, lines_again, fits = codec.encode_pages(which, dtype, decoded, setting)
    assert fits.all() and np.array_equal(lines_again, lines)
    assert np.array_equal(again, stored)


@each_setting
def test_no_drift_of_any_decoded_page(rng, dtype, which, setting):
    """Pages that decode from random bytes are pages like others: they drift no more, if they fit."""
    stored = rng.integers(0, 256, (64, PAGE_LINES, LINE_BYTES), dtype=np.uint8)
    stored[rng.random(stored.shape) < 0.3] = 0
    lines = np.full(64, 2 * setting) if which == Codec.FIXED else rng.integers(0, PAGE_LINES + 1, 64)
    if which == Codec.VARIABLE:
        stored[:, 0, 0] = setting
    pages = codec.decode_pages(which, dtype, stored, lines)
    first, lines, fits = codec.encode_pages(which, dtype, pages, setting)
    again = codec.encode_pages(which, dtype, codec.decode_pages(which, dtype, first[fits], lines[fits]), setting)
    assert again[2].all() and np.array_equal(again[0], first[fits]) and np.array_equal(again[1], lines[fits])
    # Of `lossless` and `speckv`, random bytes rarely decode to pages that fit.
    assert fits.any() or which in (Codec.LOSSLESS, Codec.SPECKV)


@each_codec
def test_any_bytes_decode(rng, dtype, which):
    count = 256
    stored = rng.integers(0, 256, (count, 2 * PAGE_LINES - 1, LINE_BYTES), dtype=np.uint8)
    stored[rng.random(stored.shape) < rng.choice([0, 0.5, 0.95], (count, 1, 1))] = 0
    lines = np.concatenate([np.arange(128), rng.integers(0, 128, count - 128)])
    batch = codec.decode_pages(which, dtype, stored, lines)
    assert batch.shape == (count, PAGE_BYTES)
    assert np.array_equal(codec.decode_pages(which, dtype, stored, lines), batch)
    for page in range(count):
        one = codec.decode(which, dtype, stored[page, :lines[page]].reshape(-1))
        assert np.array_equal(one, batch[page])


@each_setting
def test_damaged_and_truncated_pages_decode(rng, dtype, which, setting):
    pages = held_pages(rng, which, dtype, setting)[:64]
    stored, lines, _ = codec.encode_pages(which, dtype, pages, setting)
    damaged = stored.copy()
    for page in damaged:
        page.reshape(-1)[rng.integers(0, 256, 4)] ^= rng.integers(1, 256, 4, dtype=np.uint8)
    cut = np.minimum(lines, rng.integers(0, PAGE_LINES + 1, len(lines)))
    for some, count in ((damaged, lines), (stored, cut)):
        batch = codec.decode_pages(which, dtype, some, count)
        # What is beyond the stored lines does not matter.
        other = some.copy()
        other[np.arange(PAGE_LINES) >= count[:, None]] = 0xA5
        assert np.array_equal(codec.decode_pages(which, dtype, other, count), batch)
        for page in range(0, len(some), 7):
            one = codec.decode(which, dtype, some[page, :count[page]].reshape(-1))
            assert np.array_equal(one, batch[page])


@each_setting
def test_pages_encode_by_themselves(rng, dtype, which, setting):
    pages = np.concatenate([held_pages(rng, which, dtype, setting)[:20], mixed_pages(rng, dtype, 20),
                            as_pages(random_rows(rng, 64))])
    before = pages.copy()
    stored, lines, fits = codec.encode_pages(which, dtype, pages, setting)
    assert np.array_equal(pages, before)
    assert stored.shape == (len(pages), PAGE_LINES, LINE_BYTES) and stored.dtype == np.uint8
    assert (lines[fits] >= 1).all() and ((lines[fits] < PAGE_LINES) | (which == Codec.RAW)).all()
    assert not stored[~fits].any() and not stored[np.arange(PAGE_LINES) >= lines[:, None]].any()
    for page in range(len(pages)):
        one = codec.encode(which, dtype, pages[page], setting)
        assert (one is not None) == fits[page]
        assert one is None or np.array_equal(one, stored[page, :lines[page]].reshape(-1))


@each_codec
def test_no_pages(dtype, which):
    stored, lines, fits = codec.encode_pages(which, dtype, np.zeros((0, PAGE_BYTES), np.uint8))
    assert stored.shape == (0, PAGE_LINES, LINE_BYTES) and len(lines) == len(fits) == 0
    assert codec.decode_pages(which, dtype, stored, lines).shape == (0, PAGE_BYTES)


@pytest.mark.parametrize("which, first, last", [(Codec.RAW, 0, 0), (Codec.SPECKV, 0, 0), (Codec.LOSSLESS, 0, 0),
                                                (Codec.FIXED, 7, 16), (Codec.VARIABLE, 0, 255)],
                         ids=lambda one: one.name if isinstance(one, Codec) else str(one))
def test_settings_that_do_not_exist(dtype, which, first, last):
    page = np.zeros(PAGE_BYTES, dtype=np.uint8)
    for setting in (first - 1, last + 1, 1000):
        assert not codec.is_setting(which, setting)
        with pytest.raises(ValueError, match=f"setting of {which.name} must be from {first} to {last}, not {setting}"):
            codec.encode(which, dtype, page, setting)
    for setting in (first, last):
        assert codec.is_setting(which, setting)
        assert codec.encode(which, dtype, page, setting) is not None


FLOORS = {
    (Codec.SPECKV, 0): {64: (1.88, 1.88), 128: (1.88, 1.88), 256: (1.88, 1.88)},
    (Codec.LOSSLESS, 0): {64: (1.14, 1.44), 128: (1.14, 1.44), 256: (1.14, 1.44)},
    (Codec.FIXED, 8): {64: (4, 4), 128: (4, 4), 256: (4, 4)},
    (Codec.VARIABLE, 128): {64: (2.43, 2.43), 128: (2.43, 2.43), 256: (2.43, 2.43)},
}
"""Least ratios in sectors by codec and setting, head dimension, dtype (FP16, BF16)."""


@pytest.mark.parametrize("which, setting", FLOORS, ids=lambda one: one.name if isinstance(one, Codec) else str(one))
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_ratio_on_real_pages_of_each_head_dimension(dtype, which, setting, head_dim):
    pages = real_pages_of(head_dim, dtype)
    assert len(pages) == 96
    _, lines, fits = codec.encode_pages(which, dtype, pages, setting)
    assert fits.all()
    ratio = 32 * len(pages) / (-(-lines // SECTOR_LINES)).sum()
    print(f"{which.name} {setting} {dtype.name}, head dimension {head_dim}: {ratio:.3f} in sectors, "
          f"{PAGE_LINES / lines.mean():.3f} in lines, {lines.min()} to {lines.max()} lines")
    assert ratio >= FLOORS[which, setting][head_dim][dtype]
