"""The `speckv` page format: per row a maximum, INT8 values, and run-length pairs of their deltas where those
are shorter.

Algorithm 2 of the paper (arXiv 2512.11920) in exact integer arithmetic; bit by bit in ``docs/format.md``.
Storing the maximum itself, and not a rounded scale, makes the format free of drift: encoding a decoded page
again gives the same stored bytes.
"""

import numpy as np

from ..constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_BYTES, ROW_VALUES
from .float16 import exponent_mantissa, mantissa_bits, max_finite

SETTINGS = range(1)
DEFAULT_SETTING = 0
FULL_SCALE = 127
"""The quantised magnitude that stands for the row's maximum."""
INT8 = 64
"""Row-length code of a row of 128 quantised bytes; 1 to 63 count the pairs of a run-length row."""
RAW = 65
"""Row-length code of a row kept as its 256 bytes."""
CODES_AT = 2 * PAGE_ROWS
"""Where the row-length codes begin in the header; the rows' maxima are before them."""
_FARTHEST = 10
"""Exponent distance from which every value quantises to zero: 254 * x / m < 508 / 2^10 < 1/2."""


def quantise(rows, maxima, dtype):
    """``RNE(127 * x / m)`` of every value.

    Parameters
    ----------
    rows : uint16 (..., 128)
        Finite values, as their bits.
    maxima : uint16 (...)
        Largest magnitude of each row, as its 15 bits.
    dtype : Dtype

    Returns
    -------
    int8 (..., 128), from -127 to 127
    """
    exponent, mantissa = exponent_mantissa(rows, dtype)
    row_exponent, row_mantissa = exponent_mantissa(maxima, dtype)
    distance = np.minimum(row_exponent[..., None] - exponent, _FARTHEST)
    denominator = np.maximum(row_mantissa, 1)[..., None] << distance
    halves, remainder = np.divmod(2 * FULL_SCALE * mantissa, denominator)
    magnitude = halves >> 1
    magnitude += halves & 1 & ((remainder != 0) | magnitude)
    return np.where(rows & 0x8000, -magnitude, magnitude).astype(np.int8)


def dequantise(quantised, maxima, dtype):
    """``RNE(q * m / 127)`` in `dtype`, subnormals included.

    The magnitude of -128, which no encoder writes, counts as zero; a maximum with an exponent of all ones,
    which no encoder writes either, counts as an ordinary number.

    Parameters
    ----------
    quantised : uint8 (..., 128)
        Two's complement.
    maxima : uint16 (...)
        Largest magnitude of each row, as its 15 bits.
    dtype : Dtype

    Returns
    -------
    uint16 (..., 128), bits of the values
    """
    bits = mantissa_bits(dtype)
    exponent, mantissa = (part[..., None] for part in exponent_mantissa(maxima & 0x7FFF, dtype))
    quantised = quantised.astype(np.int32)
    magnitude = np.where(quantised & 0x80, -quantised, quantised) & 0x7F
    # Move the quantised value up as far as its seven bits or the exponent allow; at exponent 1 the result has
    # the spacing of subnormals and needs no leading one.
    room = np.minimum(_LEADING_ZEROS[magnitude], exponent - 1)
    exponent = exponent - room
    quarters = 4 * (magnitude << room) * mantissa // FULL_SCALE
    short = (quarters < 4 << bits) & (exponent > 1)
    exponent = exponent - short
    # There are no ties: 127 is prime, so a product divided by it is either whole or no multiple of one half.
    value = (np.where(short, quarters, quarters >> 1) + 1) >> 1
    value += (exponent - 1) << bits
    value[magnitude == 0] = 0
    return (value | (quantised & 0x80) << 8).astype(np.uint16)


_LEADING_ZEROS = np.array([7 - int(value).bit_length() for value in range(128)], dtype=np.int32)


def deltas(quantised):
    """Differences along each row modulo 256, the first from zero. uint8 (..., 128) to uint8 (..., 128)."""
    return np.diff(quantised, axis=-1, prepend=np.uint8(0))


def run_starts(steps):
    """Where a run of equal deltas begins. uint8 (..., 128) to bool (..., 128)."""
    starts = np.ones(steps.shape, dtype=bool)
    starts[..., 1:] = steps[..., 1:] != steps[..., :-1]
    return starts


def encode_pages(pages, dtype, setting=0):
    """Encodes pages.

    Parameters
    ----------
    pages : uint16 (n, 16, 128)
        Rows of values, as their bits.
    dtype : Dtype
    setting : int
        Does not matter.

    Returns
    -------
    stored : uint8 (n, 64, 64)
        Encoded lines, zero beyond `lines`; all zero for a page that does not fit.
    lines : int64 (n,)
        Lines that the encoded page takes, up to 65: also of a page that does not fit.
    fits : bool (n,)
        Whether the encoded page takes fewer lines than the page itself.
    """
    count = len(pages)
    rows = np.ascontiguousarray(pages, dtype="<u2").reshape(count * PAGE_ROWS, ROW_VALUES)
    maxima = (rows & 0x7FFF).max(axis=1)
    raw = maxima > max_finite(dtype)
    maxima[raw] = 0
    quantised = quantise(np.where(raw[:, None], 0, rows), maxima, dtype).view(np.uint8)
    steps = deltas(quantised)
    starts = run_starts(steps)
    codes = np.where(raw, RAW, np.minimum(starts.sum(axis=1), INT8)).astype(np.uint8)

    bodies = np.zeros((len(rows), ROW_BYTES), dtype=np.uint8)
    bodies[:, :ROW_VALUES] = quantised
    bodies[raw] = rows[raw].view(np.uint8)
    as_pairs = codes < INT8
    bodies[as_pairs, :_PAIR_BYTES] = _pairs(steps[as_pairs], starts[as_pairs])

    offsets, ends = _layout(codes.reshape(count, PAGE_ROWS))
    lines = -(-ends[:, -1] // LINE_BYTES)
    fits = lines < PAGE_LINES
    stored = np.zeros((count, _MOST_BYTES), dtype=np.uint8)
    stored[:, :CODES_AT] = maxima.astype("<u2").view(np.uint8).reshape(count, CODES_AT)
    stored[:, CODES_AT:CODES_AT + PAGE_ROWS] = codes.reshape(count, PAGE_ROWS)
    page, row, byte = np.nonzero(np.arange(ROW_BYTES) < (ends - offsets)[..., None])
    stored[page, offsets[page, row] + byte] = bodies.reshape(count, PAGE_ROWS, ROW_BYTES)[page, row, byte]
    stored[~fits] = 0
    return stored[:, :PAGE_BYTES].reshape(count, PAGE_LINES, LINE_BYTES), lines, fits


def decode_pages(stored, lines, dtype):
    """Decodes pages; any bytes decode to something, the same in every decoder.

    Parameters
    ----------
    stored : uint8 (n, width, 64)
        Stored lines.
    lines : int (n,)
        How many lines of each page count; the rest, and all that lies beyond `width`, reads as zero.
    dtype : Dtype

    Returns
    -------
    uint16 (n, 16, 128), bits of the values
    """
    count = len(stored)
    kept = np.where(np.arange(stored.shape[1])[:, None] < np.reshape(lines, (-1, 1, 1)), stored, 0)
    kept = kept.astype(np.uint8).reshape(count, stored.shape[1] * LINE_BYTES)[:, :_MOST_BYTES]
    data = np.zeros((count, _MOST_BYTES), dtype=np.uint8)
    data[:, :kept.shape[1]] = kept
    maxima = data[:, :CODES_AT].copy().view("<u2").reshape(-1)
    codes = data[:, CODES_AT:CODES_AT + PAGE_ROWS]
    codes = np.where((codes == 0) | (codes > RAW), INT8, codes)
    offsets, _ = _layout(codes)
    bodies = data[np.arange(count)[:, None, None], offsets[..., None] + np.arange(ROW_BYTES)]
    bodies = bodies.reshape(count * PAGE_ROWS, ROW_BYTES)
    codes = codes.reshape(-1)

    quantised = bodies[:, :ROW_VALUES].copy()
    as_pairs = codes < INT8
    quantised[as_pairs] = _expand(bodies[as_pairs, :_PAIR_BYTES], codes[as_pairs])
    rows = dequantise(quantised, maxima, dtype)
    rows[codes == RAW] = bodies[codes == RAW].view("<u2")
    return rows.reshape(count, PAGE_ROWS, ROW_VALUES)


_PAIR_BYTES = 2 * (INT8 - 1)
_MOST_BYTES = LINE_BYTES + PAGE_BYTES


def _layout(codes):
    """First byte of every row body in the stored page and the byte after its last. (n, 16) to twice int64 (n,
    16)."""
    lengths = np.select([codes < INT8, codes == INT8], [2 * codes.astype(np.int64), ROW_VALUES], ROW_BYTES)
    ends = LINE_BYTES + np.cumsum(lengths, axis=1)
    return ends - lengths, ends


def _pairs(steps, starts):
    """Pairs (delta, run length - 1) of rows that have at most 63 runs. uint8 and bool (n, 128) to uint8 (n,
    126)."""
    row, place = np.nonzero(starts)
    flat = row * ROW_VALUES + place
    lengths = np.diff(flat, append=starts.size)
    order = np.cumsum(starts, axis=1)[row, place] - 1
    pairs = np.zeros((len(steps), INT8 - 1, 2), dtype=np.uint8)
    pairs[row, order, 0] = steps[row, place]
    pairs[row, order, 1] = lengths - 1
    return pairs.reshape(len(steps), _PAIR_BYTES)


def _expand(bodies, counts):
    """Undoes `_pairs` and the deltas: the last of `counts` pairs lasts to the end of the row, surplus pairs
    are ignored, the top bit of a count byte too. uint8 (n, 126), (n,) to uint8 (n, 128)."""
    pairs = bodies.reshape(len(bodies), INT8 - 1, 2)
    ends = np.cumsum((pairs[..., 1] & 0x7F).astype(np.int64) + 1, axis=1)
    ends[np.arange(INT8 - 1) >= counts[:, None] - 1] = ROW_VALUES
    # The run that value i belongs to is the number of runs that end at or before i.
    run = (ends[:, None, :] <= np.arange(ROW_VALUES)[:, None]).sum(axis=2)
    return np.cumsum(np.take_along_axis(pairs[..., 0], run, axis=1), axis=1, dtype=np.uint8)
