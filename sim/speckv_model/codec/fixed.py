"""The `fixed` page format: every row takes the same number of bytes, so that a row can be read alone.

Bit by bit in ``docs/format.md``. A row has a scale that bounds its magnitudes, every group of eight values one of some
fractions of it, and every value a sign and the number of the cell that its magnitude lies in, of `half_levels` equal
ones. The setting is the number of 128-byte sectors of a page and the row's length in units of 8 bytes. Where it is
even, a value has 3 * 2^k cells, and what exceeds whole bits is kept as base-3 digits, so that no bit of a row is
wasted. Rows that are read alone have a check of their own, and fewer fractions for it.

A decoded value is the middle of its cell, but not below what the row's largest magnitude must be where it may be
that one. So decoded pages encode to the same stored bytes.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from ..check import crc16
from ..constants import LINE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_VALUES, SECTOR_LINES
from .float16 import bias, exponent_mantissa, mantissa_bits, max_finite, round_magnitude

SETTINGS = range(7, 17)
DEFAULT_SETTING = 8
UNIT_BYTES = 8
"""Row bytes that one step of the setting stands for."""
GROUP_VALUES = 8
GROUPS = ROW_VALUES // GROUP_VALUES
FRACTIONS = {True: (*(Fraction(5, 6) ** n for n in range(8)), Fraction(25, 54), Fraction(2, 3)),
             False: tuple(Fraction(3, 4) ** n for n in range(8))}
"""What a group's scale can be of its row's, with and without base-3 digits."""
CODES = {(True, 3): range(8), (True, 2): (0, 1, 2, 8), (True, 1): (0, 9), (False, 3): range(8), (False, 2): range(4)}
"""Indices into `FRACTIONS`, largest first, that the codes of a width stand for, with and without base-3 digits."""
LOWEST_EXPONENT = -14
"""Rows whose largest magnitude is neither zero nor at least 2^-14 are not held: below, FP16 has subnormals only."""
LARGEST_CODE = 240
"""Scale code of the magnitudes below 2^16, the largest that are held; 0 stands for a row of zeros."""
SCALE_AT, GROUPS_AT, DIGITS_AT = 0, 1, 6
"""Bytes of a row where its scale, its groups' codes and its base-3 digits, if any, begin."""
CHECK_BYTES = 2
GROUP_DIGIT_BITS = 13
PLANES_AT = {False: 8, True: 32}
"""Byte of a row where its bit planes begin, without and with base-3 digits."""
PLANE_BYTES = ROW_VALUES // 8
STEP_BITS, INVERSE_BITS, PLACE_BITS = 14, 14, 4
"""Fraction bits of the tables of cell widths and of their inverses, and of a place within a cell."""


@dataclass(frozen=True)
class Rate:
    """What a setting means.

    Parameters
    ----------
    setting : int
        One of `SETTINGS`.
    by_row : bool
        Whether the rows are read alone and have a check.
    """

    setting: int
    by_row: bool = False

    @property
    def row_bytes(self):
        return UNIT_BYTES * self.setting

    @property
    def lines(self):
        """Lines of a stored page."""
        return self.setting * SECTOR_LINES

    @property
    def ternary(self):
        """Whether values have a base-3 digit."""
        return self.setting % 2 == 0

    @property
    def planes(self):
        """Bit planes: that of the signs and those of the cell numbers' low bits."""
        return (self.row_bytes - PLANES_AT[self.ternary]) // PLANE_BYTES

    @property
    def half_levels(self):
        """Cells from zero to a group's scale."""
        return (3 if self.ternary else 1) << self.planes - 1

    @property
    def code_widths(self):
        """Bits of the codes of the first half of the groups and of the other half."""
        if self.ternary:
            return (2, 1) if self.by_row else (3, 2)
        return (3, 2) if self.by_row else (3, 3)

    @property
    def code_bytes(self):
        """Bytes of all groups' codes."""
        return sum(self.code_widths) * GROUPS // 2 // 8

    @property
    def check_at(self):
        """Byte of a row where its check begins, None if it has none."""
        return GROUPS_AT + self.code_bytes if self.by_row else None

    @property
    def fractions(self):
        """Index into `FRACTIONS` by group and code; codes that a group does not have repeat its last one. int64 (16,
        8)."""
        codes = [CODES[self.ternary, width] for width in self.code_widths]
        return np.array([[own[min(code, len(own) - 1)] for code in range(8)] for own in codes]).repeat(GROUPS // 2, 0)

    @property
    def edges(self):
        """Cell with which the next smaller fraction would end, by group and code: the larger fraction is taken from
        there on, and the last one in any case. int64 (16, 8)."""
        fractions = FRACTIONS[self.ternary]
        return np.array([[int(self.half_levels * fractions[small] / fractions[large]) if small != large else 0
                          for large, small in zip(row, [*row[1:], row[-1]])] for row in self.fractions])


@cache
def _tables(ternary):
    """Cell widths and their inverses by scale mantissa and fraction: twice int64 (8, len(FRACTIONS[ternary])).

    A cell of a rate with one plane is ``step * 2**(exponent - STEP_BITS)`` wide.
    """
    thirds = 3 if ternary else 1
    widths = [[Fraction(9 + mantissa, 8) * fraction / thirds for fraction in FRACTIONS[ternary]]
              for mantissa in range(8)]
    return (np.array([[round(width * 2 ** STEP_BITS) for width in row] for row in widths]),
            np.array([[round(2 ** INVERSE_BITS / width) for width in row] for row in widths]))


def steps(ternary):
    """Width of a cell where there is one plane, in units of 2^-`STEP_BITS` of the scale's power of two, by the scale
    code's low bits and the index of the group's fraction. int64 (8, len(FRACTIONS[ternary]))."""
    return _tables(ternary)[0]


def inverses(ternary):
    """Cells in that power of two where there is one plane, in units of 2^-`INVERSE_BITS`. Shape as `steps`."""
    return _tables(ternary)[1]


@cache
def places(rate):
    """Where a decoded magnitude lies, in sixteenths of a cell, by scale mantissa, fraction and cell. int64 (8,
    len(FRACTIONS[ternary]), `half_levels`)."""
    cells = np.arange(rate.half_levels)
    table = np.broadcast_to(16 * cells + 8, (8, len(FRACTIONS[rate.ternary]), rate.half_levels)).copy()
    for mantissa in range(8):
        # The largest magnitude of the row is at least (8 + mantissa) / (9 + mantissa) of its scale.
        bound, unit = 16 * rate.half_levels * (8 + mantissa), 9 + mantissa
        cell = bound // (16 * unit)
        table[mantissa, 0, cell] = max(16 * cell + 8, -(-bound // unit))
    return table


def cells_of(values, mantissa, exponent, fractions, rate, dtype):
    """Numbers of the cells that magnitudes lie in.

    Parameters
    ----------
    values : uint16 (..., 128)
        Finite values, as their bits.
    mantissa, exponent : int (...)
        Of the row's scale, which is (9 + mantissa) / 8 * 2^exponent.
    fractions : int (..., 16)
        Index into `FRACTIONS` of what each group has of the scale.
    rate : Rate
    dtype : Dtype

    Returns
    -------
    int64 (..., 128)
    """
    field, whole = exponent_mantissa(values, dtype)
    # As an eleven-bit mantissa with the leading one, if any, in bit 10.
    whole = whole.astype(np.int64) << 10 - mantissa_bits(dtype)
    inverse = inverses(rate.ternary)[mantissa[..., None], fractions].repeat(GROUP_VALUES, axis=-1)
    distance = np.asarray(exponent)[..., None] - (field - bias(dtype))
    shift = 10 + INVERSE_BITS - (rate.planes - 1) + distance
    return np.minimum(whole * inverse >> np.clip(shift, 0, 62), rate.half_levels - 1)


def rate_of(lines, by_row=False):
    """The `Rate` of a page of so many stored lines: half of them is the setting, or the next one of `SETTINGS`."""
    return Rate(int(np.clip(lines // SECTOR_LINES, SETTINGS[0], SETTINGS[-1])), by_row)


def encode_pages(pages, dtype, setting=DEFAULT_SETTING, by_row=False):
    """Encodes pages. Arrays as in `speckv.encode_pages`; `setting` and `by_row` as of a `Rate`.

    A page does not fit if it has an infinity or NaN, or a row whose magnitudes are not all zero but below 2^-14.
    """
    rate = Rate(setting, by_row)
    count = len(pages)
    rows = np.ascontiguousarray(pages, dtype="<u2").reshape(count * PAGE_ROWS, ROW_VALUES)
    magnitude = rows & 0x7FFF
    largest = magnitude.max(axis=1).astype(np.int64)
    bits = mantissa_bits(dtype)
    exponent = (largest >> bits) - bias(dtype)
    held = (largest == 0) | ((largest <= max_finite(dtype)) & (exponent >= LOWEST_EXPONENT) & (exponent < 16))
    usable = held & (largest != 0)
    mantissa = largest >> bits - 3 & 7
    scale = np.where(usable, 1 + (exponent - LOWEST_EXPONENT << 3) + mantissa, 0)
    safe = np.where(usable[:, None], rows, 0)

    group_codes = np.zeros((len(rows), GROUPS), dtype=np.int64)
    peaks = (safe & 0x7FFF).reshape(len(rows), GROUPS, GROUP_VALUES).max(axis=2).astype(np.uint16)
    peaks = np.repeat(peaks, GROUP_VALUES, axis=1)
    smaller = np.ones(group_codes.shape, dtype=bool)
    for fractions, edges in zip(rate.fractions.T[:-1], rate.edges.T):
        fractions = np.broadcast_to(fractions, group_codes.shape)
        smaller &= cells_of(peaks, mantissa, exponent, fractions, rate, dtype)[:, ::GROUP_VALUES] < edges
        group_codes += smaller
    fractions = rate.fractions[np.arange(GROUPS), group_codes]
    cell = cells_of(safe, mantissa, exponent, fractions, rate, dtype)
    cell[~usable], group_codes[~usable] = 0, 0
    signs = np.where(usable[:, None], rows >> 15, 0)

    body = np.zeros((len(rows), rate.row_bytes), dtype=np.uint8)
    body[:, SCALE_AT] = scale
    body[:, GROUPS_AT:GROUPS_AT + rate.code_bytes] = np.concatenate(
        [_pack_bits(codes, width) for codes, width in zip(np.split(group_codes, 2, axis=1), rate.code_widths)], axis=1)
    low = cell & (1 << rate.planes - 1) - 1
    for plane in range(rate.planes):
        at = PLANES_AT[rate.ternary] + plane * PLANE_BYTES
        body[:, at:at + PLANE_BYTES] = _pack_bits(signs if plane == 0 else low >> plane - 1 & 1, 1)
    if rate.ternary:
        digits = (cell >> rate.planes - 1).reshape(len(rows), GROUPS, GROUP_VALUES)
        packed = digits[..., :5] @ _POWERS + (digits[..., 5:] @ _POWERS[:3] << 8)
        body[:, DIGITS_AT:PLANES_AT[True]] = _pack_bits(packed, GROUP_DIGIT_BITS)
    if by_row:
        body[:, rate.check_at:rate.check_at + CHECK_BYTES] = row_check(body, rate)

    fits = held.reshape(count, PAGE_ROWS).all(axis=1)
    stored = np.zeros((count, PAGE_LINES * LINE_BYTES), dtype=np.uint8)
    used = PAGE_ROWS * rate.row_bytes
    stored[:, :used] = np.where(fits[:, None], body.reshape(count, used), 0)
    return stored.reshape(count, PAGE_LINES, LINE_BYTES), np.full(count, rate.lines), fits


def decode_pages(stored, lines, dtype, by_row=False):
    """Decodes pages; any bytes decode to something.

    Arrays as in `speckv.decode_pages`; the rate is `rate_of(lines, by_row)`.
    """
    lines = np.reshape(lines, -1)
    rates = np.array([rate_of(count, by_row) for count in lines], dtype=object)
    values = np.zeros((len(stored), PAGE_ROWS, ROW_VALUES), dtype=np.uint16)
    for rate in set(rates):
        chosen = np.flatnonzero(rates == rate)
        data = np.zeros((len(chosen), rate.lines, LINE_BYTES), dtype=np.uint8)
        width = min(rate.lines, stored.shape[1])
        present = np.arange(width)[:, None] < lines[chosen, None, None]
        data[:, :width] = np.where(present, stored[chosen, :width], 0)
        values[chosen] = decode_rows(data.reshape(len(chosen), PAGE_ROWS, rate.row_bytes), rate, dtype)
    return values


def decode_rows(body, rate, dtype):
    """Decodes stored rows, each by itself; the row check is not looked at.

    Parameters
    ----------
    body : uint8 (..., row_bytes)
    rate : Rate
    dtype : Dtype

    Returns
    -------
    uint16 (..., 128), bits of the values
    """
    scale = np.minimum(body[..., SCALE_AT].astype(np.int64), LARGEST_CODE)
    mantissa = scale - 1 & 7
    exponent = (scale - 1 >> 3) + LOWEST_EXPONENT
    first = GROUPS_AT + GROUPS // 2 * rate.code_widths[0] // 8
    halves = body[..., GROUPS_AT:first], body[..., first:GROUPS_AT + rate.code_bytes]
    group_codes = np.concatenate([_unpack_bits(*half) for half in zip(halves, rate.code_widths)], axis=-1)
    fractions = np.repeat(rate.fractions[np.arange(GROUPS), group_codes], GROUP_VALUES, axis=-1)
    planes = [_unpack_bits(body[..., at:at + PLANE_BYTES], 1)
              for at in range(PLANES_AT[rate.ternary], rate.row_bytes, PLANE_BYTES)]
    signs, cell = planes[0], sum(plane << n for n, plane in enumerate(planes[1:]))
    if rate.ternary:
        packed = _unpack_bits(body[..., DIGITS_AT:PLANES_AT[True]], GROUP_DIGIT_BITS)[..., :GROUPS]
        five, three = (packed & 0xFF) % 3 ** 5, (packed >> 8) % 3 ** 3
        digits = np.concatenate([five[..., None] // _POWERS % 3, three[..., None] // _POWERS[:3] % 3], axis=-1)
        cell = cell + (digits.reshape(signs.shape) << rate.planes - 1)
    place = places(rate)[mantissa[..., None], fractions, cell]
    step = steps(rate.ternary)[mantissa[..., None], fractions]
    magnitude = round_magnitude(place * step, exponent[..., None] - (STEP_BITS + PLACE_BITS + rate.planes - 1), dtype)
    return np.where(scale[..., None] == 0, 0, signs << 15 | magnitude).astype(np.uint16)


def row_check(body, rate):
    """The two check bytes of rows that are read alone: CRC-16 over all other bytes. uint8 (..., row_bytes) to uint8
    (..., 2)."""
    check = crc16(np.delete(body, [rate.check_at, rate.check_at + 1], axis=-1))
    return np.stack([check & 0xFF, check >> 8], axis=-1).astype(np.uint8)


_POWERS = 3 ** np.arange(5)


def _pack_bits(codes, width):
    """Codes of `width` bits along the last axis, low bits first. uint8 (..., codes * width / 8)."""
    codes = np.asarray(codes)
    bits = (codes[..., None] >> np.arange(width) & 1).astype(np.uint8)
    return np.packbits(bits.reshape(*codes.shape[:-1], codes.shape[-1] * width), axis=-1, bitorder="little")


def _unpack_bits(data, width):
    """Undoes `_pack_bits`. int64."""
    bits = np.unpackbits(np.ascontiguousarray(data), axis=-1, bitorder="little")
    return bits.reshape(*bits.shape[:-1], bits.shape[-1] // width, width) @ (1 << np.arange(width, dtype=np.int64))
