"""Pages for the tests of the codecs: real KV, random bits, and rows that are special in some way."""

import os
from pathlib import Path

import numpy as np

from speckv_model.codec import encode
from speckv_model.codec.lossless import FIRST_LINES, VERBATIM, high_lines
from speckv_model.codec.speckv import INT8
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_ROWS, ROW_VALUES, Codec, Dtype

SEED = int(os.environ.get("SPECKV_SEED", "1"))
SAMPLES = Path(__file__).parents[1] / "sim" / "data" / "kv_samples.npz"


def to_dtype(values, dtype):
    """Bits of float `values` in `dtype`, rounded to nearest even. Finite values only. Returns uint16."""
    if dtype == Dtype.FP16:
        return np.asarray(values, dtype=np.float16).view(np.uint16)
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def to_float(rows, dtype):
    """The values of bits in `dtype`. uint16 array to float64 array of the same shape."""
    rows = np.asarray(rows, dtype=np.uint16)
    if dtype == Dtype.FP16:
        return rows.view(np.float16).astype(np.float64)
    return (rows.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def scaled_to(rows, dtype, exponent):
    """Finite rows times powers of two, so that the largest magnitude of each has `exponent`; rounded to `dtype`, below
    2^(`exponent` + 1). Rows of zeros stay so. uint16 (n, 128) to uint16 (n, 128)."""
    values = to_float(rows, dtype)
    up = exponent + 1 - np.frexp(abs(values).max(axis=-1, keepdims=True))[1]
    values = np.ldexp(values, up)
    below = 2.0 ** (exponent + 1) * (1 - 2.0 ** -(11 if dtype == Dtype.FP16 else 8))
    return to_dtype(np.clip(values, -below, below), dtype)


def real_rows(dtype):
    """Rows of real post-RoPE keys and values. uint16 (1536, 128)."""
    with np.load(SAMPLES) as samples:
        values = np.stack([samples["k"], samples["v"]]).view(np.float16)
    return to_dtype(values.reshape(-1, ROW_VALUES), dtype)


def random_rows(rng, count, *, spread=0x7FFF, finite=None):
    """Rows of random bit patterns with magnitudes up to `spread`; of `finite`, a dtype, no infinities and
    NaNs."""
    rows = rng.integers(0, spread + 1, (count, ROW_VALUES)) | rng.integers(0, 2, (count, ROW_VALUES)) << 15
    if finite is not None:
        top = 0x7C00 if finite == Dtype.FP16 else 0x7F80
        rows = np.where(rows & top == top, rows & 0x83FF, rows)
    return rows.astype(np.uint16)


def runs_row(runs, dtype, step=3):
    """A row whose INT8 form has `runs` runs of equal deltas: runs of one value each, then one to the end."""
    quantised = np.zeros(ROW_VALUES, dtype=np.int64)
    quantised[:runs] = 127 - (step * np.arange(runs) ** 2) % 200
    quantised[0] = 127
    quantised[runs - 1:] = quantised[runs - 2] if runs > 1 else 0
    return to_dtype(quantised / 127 * 2.0, dtype)


def special_rows(rng, dtype):
    """One row of each kind that an encoder could get wrong. uint16 (n, 128)."""
    infinity = 0x7C00 if dtype == Dtype.FP16 else 0x7F80
    zeros = np.zeros(ROW_VALUES, dtype=np.uint16)
    one = to_dtype(1.0, dtype)
    rows = [zeros, zeros | 0x8000, np.where(np.arange(ROW_VALUES) % 2, zeros, 0x8000)]
    for place in (0, 31, 32, 127):
        for value in (1, 0x8001, infinity - 1, infinity, infinity | 0x8000, infinity + 1, 0x7FFF, one):
            row = zeros.copy()
            row[place] = value
            rows.append(row)
    for value in (1, one, one | 0x8000, infinity - 1, 0x8000):
        rows.append(np.full(ROW_VALUES, value, dtype=np.uint16))
    rows.append(np.tile(np.array([one, one | 0x8000], np.uint16), 64))
    rows.append(np.repeat(to_dtype([1, -2, 3, 0.5], dtype), 32))
    rows += [to_dtype(np.arange(ROW_VALUES) - offset, dtype) for offset in (0, 1, 64, 127)]
    rows += [np.arange(ROW_VALUES, dtype=np.uint16) + base for base in (0, 100, 960, 0x8000)]
    rows += [runs_row(runs, dtype) for runs in (1, 2, 3, INT8 - 2, INT8 - 1, INT8, INT8 + 1)]
    rows += [*random_rows(rng, 4, spread=0x0003), *random_rows(rng, 4, spread=0x07FF), *random_rows(rng, 4)]
    spike = random_rows(rng, 4, spread=0x3FF)
    spike[:, 77] = infinity - 1
    return np.array([*rows, *spike], dtype=np.uint16)


def as_pages(rows):
    """Pages of 16 `rows` each, the last one filled up with its last row. uint16 (n, 128) to uint8 (pages,
    4096)."""
    missing = -len(rows) % PAGE_ROWS
    rows = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
    return np.ascontiguousarray(rows).view(np.uint8).reshape(-1, PAGE_BYTES)


def mixed_pages(rng, dtype, count):
    """`count` pages that mix rows of all kinds; from one page to the next each kind comes in another
    amount."""
    sources = [real_rows(dtype), special_rows(rng, dtype),
               random_rows(rng, 64, finite=dtype), random_rows(rng, 64)]
    pages = []
    for _ in range(count):
        weights = rng.dirichlet([1, 1, 0.5, 0.3])
        kinds = rng.choice(len(sources), PAGE_ROWS, p=weights)
        pages.append(np.stack([sources[kind][rng.integers(len(sources[kind]))] for kind in kinds]))
    return as_pages(np.concatenate(pages))


def outlier_rows(rng, dtype, count):
    """Real rows with one value 4 to 4096 times as large as the largest. uint16 (count, 128)."""
    rows = real_rows(dtype)[rng.integers(1536, size=count)]
    large = abs(to_float(rows, dtype)).max(axis=1) * 2.0 ** rng.uniform(2, 12, count)
    rows[np.arange(count), rng.integers(ROW_VALUES, size=count)] = to_dtype(np.minimum(large, 65000), dtype)
    return rows


def all_kinds(rng, dtype):
    """Some rows of every kind: real, special, random, of every scale that `fixed` holds, with one outlier. uint16 (n,
    128)."""
    scaled = [scaled_to(real_rows(dtype)[rng.integers(1536, size=6)], dtype, exponent) for exponent in range(-14, 16)]
    return np.concatenate([
        real_rows(dtype)[rng.integers(1536, size=64)], special_rows(rng, dtype), *scaled, outlier_rows(rng, dtype, 64),
        random_rows(rng, 64, finite=dtype), random_rows(rng, 64), random_rows(rng, 32, spread=0x7FF),
        scaled_to(random_rows(rng, 64, finite=dtype), dtype, 7)])


def real_pages_of(head_dim, dtype):
    """Real keys and values as if the heads had `head_dim` values, laid out as the driver does: tokens one after the
    other. Heads of 64 are halves of the captured ones, heads of 256 are two of them. uint8 (n, 4096)."""
    # Kind, layer, head, token, value.
    rows = real_rows(dtype).reshape(2, -1, 2, 64, ROW_VALUES)
    if head_dim == 64:
        rows = np.moveaxis(rows.reshape(2, -1, 2, 64, 2, 64), 4, 3)
    elif head_dim == 256:
        rows = np.moveaxis(rows, 2, 3)
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8).reshape(-1, PAGE_BYTES)


def to_lines(page):
    """The 512-bit integers of a page or of stored lines. uint8 (n * 64,) to a list of n."""
    return [int.from_bytes(line.tobytes(), "little") for line in page.reshape(-1, 64)]


def broken_lossless(rng, count):
    """Stored `lossless` pages as no encoder makes them: random bytes of random length with counts of chunks of all
    kinds, pages that take as many codes as can be, and pages that are cut off or have wrong bits. A list of (dtype,
    uint8 (n * 64,))."""
    jobs = []
    for number in range(count):
        dtype = rng.choice(Dtype)
        stored = rng.integers(0, 256, int(rng.integers(0, 128)) * LINE_BYTES, dtype=np.uint8)
        if number % 3 == 0:
            stored[:] = 0xFF
        middle = LINE_BYTES * (FIRST_LINES + high_lines(dtype))
        centres = stored[middle:middle + PAGE_ROWS]
        centres[rng.random(len(centres)) < rng.choice([0, 0.5, 1])] = VERBATIM
        counts = stored[middle + PAGE_ROWS:middle + PAGE_ROWS + 2]
        counts[:] = rng.choice([0, 1, 4, 5, 12, 13, 60, 64, 65, 127, 128, 129, 255], len(counts))
        jobs.append((dtype, stored))

        rows = real_rows(dtype)
        encoded = encode(Codec.LOSSLESS, dtype, as_pages(rows[rng.integers(len(rows), size=PAGE_ROWS)])[0])
        if number % 2:
            jobs.append((dtype, encoded[:LINE_BYTES * int(rng.integers(0, len(encoded) // LINE_BYTES))]))
        else:
            bits = rng.integers(0, 8 * LINE_BYTES * (FIRST_LINES + high_lines(dtype) + 1), 20)
            np.bitwise_xor.at(encoded, bits // 8, (1 << bits % 8).astype(np.uint8))
            jobs.append((dtype, encoded))
    return jobs
