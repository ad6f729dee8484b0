"""The `variable` page format: values as multiples of a step, every 32 of them in as many bits as they need.

Bit by bit in ``docs/format.md``. The step bounds the error: half a step, or what the dtype can show where that is more.
"""

import numpy as np

from ..constants import LINE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_VALUES
from .float16 import bias, exponent_mantissa, mantissa_bits, max_finite, round_magnitude

SETTINGS = range(256)
DEFAULT_SETTING = 128
"""A step of 1/16."""
LOWEST_EXPONENT = -20
UNIT_VALUES = 32
"""Values that share a width."""
UNITS = PAGE_ROWS * ROW_VALUES // UNIT_VALUES
SETTING_AT, WIDTHS_AT, BODY_AT = 0, 4, 4 + UNITS // 2
"""Bytes of the header."""
MOST_BITS = 12
"""Values that need more, sign included, are not held."""
PLANE_BYTES = UNIT_VALUES // 8


def step(setting):
    """The step that a setting stands for, a float: (8 + setting mod 8) / 8 * 2^(setting div 8 - 20)."""
    return (8 + setting % 8) / 8 * 2.0 ** (setting // 8 + LOWEST_EXPONENT)


def quantise(values, setting, dtype):
    """``RNE(x / step)`` of finite values, ties to even.

    Parameters
    ----------
    values : uint16 array
        The values' bits.
    setting : int
    dtype : Dtype

    Returns
    -------
    int64 array of the shape of `values`
        Magnitudes are exact up to 2^12; larger ones are at least 2^12.
    """
    exponent, mantissa = exponent_mantissa(values, dtype)
    # x / step = mantissa * 8 / (8 + setting % 8) * 2^up
    up = exponent - bias(dtype) - mantissa_bits(dtype) - (setting // 8 + LOWEST_EXPONENT)
    numerator = mantissa.astype(np.int64) * 8 << np.clip(up, 0, 16)
    denominator = np.int64(8 + setting % 8) << np.clip(-up, 0, 24)
    halves, remainder = np.divmod(2 * numerator, denominator)
    magnitude = halves >> 1
    magnitude += halves & 1 & ((remainder != 0) | magnitude)
    return np.where(values & 0x8000, -magnitude, magnitude)


def encode_pages(pages, dtype, setting=DEFAULT_SETTING):
    """Encodes pages. Arrays as in `speckv.encode_pages`; `setting` is one of `SETTINGS`.

    A page does not fit if it has an infinity or NaN, or a value that needs more than `MOST_BITS`. One that fits takes
    at most 49 lines.
    """
    count = len(pages)
    values = np.ascontiguousarray(pages, dtype="<u2").reshape(count, UNITS, UNIT_VALUES)
    held = ((values & 0x7FFF) <= max_finite(dtype)).all(axis=(1, 2))
    quantised = quantise(np.where(held[:, None, None], values, 0), setting, dtype)
    # As two's complement: one bit more than the larger of q and ~q takes.
    folded = np.where(quantised < 0, ~quantised, quantised).max(axis=2)
    widths = np.where((quantised == 0).all(axis=2), 0, np.frexp(folded.astype(np.float64))[1] + 1)
    held &= (widths <= MOST_BITS).all(axis=1)
    lines = -(-(BODY_AT + PLANE_BYTES * widths.sum(axis=1)) // LINE_BYTES)
    fits = held & (lines < PAGE_LINES)
    planes = _planes(quantised)
    stored = np.zeros((count, PAGE_LINES * LINE_BYTES), dtype=np.uint8)
    for page in np.flatnonzero(fits):
        stored[page, SETTING_AT] = setting
        stored[page, WIDTHS_AT:BODY_AT] = widths[page, 0::2] | widths[page, 1::2] << 4
        body = planes[page][np.arange(MOST_BITS) < widths[page, :, None]].reshape(-1)
        stored[page, BODY_AT:BODY_AT + len(body)] = body
    return stored.reshape(count, PAGE_LINES, LINE_BYTES), lines, fits


def decode_pages(stored, lines, dtype):
    """Decodes pages; any bytes decode to something. Arrays as in `speckv.decode_pages`."""
    count = len(stored)
    kept = np.where(np.arange(stored.shape[1])[:, None] < np.reshape(lines, (-1, 1, 1)), stored, 0)
    kept = kept.reshape(count, stored.shape[1] * LINE_BYTES)
    data = np.zeros((count, BODY_AT + UNITS * MOST_BITS * PLANE_BYTES + LINE_BYTES), dtype=np.uint8)
    width = min(data.shape[1], kept.shape[1])
    data[:, :width] = kept[:, :width]
    setting = data[:, SETTING_AT].astype(np.int64)
    nibbles = data[:, WIDTHS_AT:BODY_AT]
    widths = np.stack([nibbles & 15, nibbles >> 4], axis=-1).reshape(count, UNITS)
    widths = np.minimum(widths, MOST_BITS).astype(np.int64)
    starts = BODY_AT + PLANE_BYTES * (np.cumsum(widths, axis=1) - widths)
    at = starts[..., None] + np.arange(MOST_BITS * PLANE_BYTES)
    planes = data[np.arange(count)[:, None, None], at].reshape(count, UNITS, MOST_BITS, PLANE_BYTES)
    bits = np.unpackbits(planes, axis=-1, bitorder="little").astype(np.int64)
    # Planes from the width on repeat the sign; without any all values are zero.
    place = np.arange(MOST_BITS)
    source = np.minimum(place, np.maximum(widths - 1, 0)[..., None])
    bits = np.take_along_axis(bits, source[..., None], axis=2) * (widths > 0)[..., None, None]
    weights = np.where(place == MOST_BITS - 1, -(1 << place), 1 << place)
    quantised = np.einsum("nubv,b->nuv", bits, weights)
    exponent = (setting >> 3) + LOWEST_EXPONENT - 3
    magnitude = round_magnitude(np.abs(quantised) * (8 + (setting & 7))[:, None, None], exponent[:, None, None], dtype)
    values = (quantised < 0).astype(np.uint16) << 15 | magnitude
    return values.astype(np.uint16).reshape(count, PAGE_ROWS, ROW_VALUES)


def _planes(quantised):
    """Bit planes of each unit, low bits first. int64 (n, 64, 32) to uint8 (n, 64, 12, 4)."""
    bits = (quantised[:, :, None, :] >> np.arange(MOST_BITS)[:, None] & 1).astype(np.uint8)
    return np.packbits(bits, axis=-1, bitorder="little")
