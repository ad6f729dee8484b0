"""The `lossless` page format: exponents as short codes around a centre of their row, sign and mantissa as they are.

Bit by bit in ``docs/format.md``. An exponent takes 2 bits if it is the row's centre or one or two below it, 4 bits if
it is three or four below or one above, and 8 bits otherwise: 2.7 bits on real keys and values. Codes of one tier lie
together, so that a decoder knows from the codes of one tier, and from nothing else, which values have a code in the
next.
"""

import numpy as np

from ..constants import LINE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_VALUES, Dtype
from .float16 import exponent_field, exponent_ones, mantissa_bits

SETTINGS = range(1)
DEFAULT_SETTING = 0
CENTRE_RANK = 25
"""So many values of a row have at least the centre's exponent, if that is not too far below the largest."""
CENTRE_REACH = 6
"""The centre is at most so far below the row's largest finite exponent."""
VERBATIM = 0
"""Centre of a row whose exponents are kept as they are, eight bits each."""
ESCAPE = 3
"""Code of the first and second tier that sends a value to the next."""
ZERO_EXPONENT, ONES_EXPONENT = 14, 15
"""Codes of the third tier for zeros and subnormals, and for infinities and NaNs, however far from the row's centre."""
FIRST_TIER, SECOND_TIER = (0, 1, 2), (3, -1, 4)
THIRD_TIER = (5, 6, 7, 8, 9, 10, 11, 12, 13, -2, -3, -4, -5, -6)
"""What a code of each tier says: by how much the exponent is below the row's centre."""
PAGE_VALUES = PAGE_ROWS * ROW_VALUES
FIRST_LINES = 2 * PAGE_VALUES // 8 // LINE_BYTES
LOW_LINES = 8 * PAGE_VALUES // 8 // LINE_BYTES
HEADER_BYTES = 24
"""Before the codes of the second tier: the centres, and how many chunks the codes of the second and third tier take."""
CHUNK_BYTES = 8
MOST_CHUNKS = 2 * PAGE_VALUES // 8 // CHUNK_BYTES
"""Chunks of the second tier if every value has a code there; a larger number counts as this one."""


def high_lines(dtype):
    """Lines of what a value has besides exponent and eight low bits: sign and two mantissa bits of FP16."""
    return _high_bits(dtype) * PAGE_VALUES // 8 // LINE_BYTES


def centres(exponents, dtype):
    """Centre of each row: the largest exponent that at least `CENTRE_RANK` values reach, no more than `CENTRE_REACH`
    below the row's largest, infinities and NaNs left out, and at least 1.

    int32 (..., 128) to int32 (...).
    """
    finite = np.where(exponents == exponent_ones(dtype), 0, exponents)
    largest = finite.max(axis=-1)
    reached = np.sort(finite, axis=-1)[..., -CENTRE_RANK]
    return np.maximum(np.maximum(reached, largest - CENTRE_REACH), 1)


def encode_pages(pages, dtype, setting=0):
    """Encodes pages, bit-exactly for every bit pattern.

    Arrays as in `speckv.encode_pages`; `setting` does not matter.
    """
    count = len(pages)
    values = np.ascontiguousarray(pages, dtype="<u2").reshape(count, PAGE_ROWS, ROW_VALUES)
    exponents = exponent_field(values, dtype)
    centre = centres(exponents, dtype)
    code = _TIER_CODES[np.clip(centre[..., None] - exponents - _LOWEST, 0, len(_TIER_CODES) - 1)]
    far = (code == _NO_CODE) | (code & _third(0) == _third(0))
    code = np.where(far & (exponents == 0), _third(ZERO_EXPONENT), code)
    code = np.where(far & (exponents == exponent_ones(dtype)), _third(ONES_EXPONENT), code)
    verbatim = (code == _NO_CODE).any(axis=-1)
    centre = np.where(verbatim, VERBATIM, centre)
    code = np.where(verbatim[..., None], exponents, code).reshape(count, PAGE_VALUES)
    everywhere = np.repeat(verbatim, ROW_VALUES, axis=-1)
    second = everywhere | (code & 3 == ESCAPE)
    third = everywhere | (second & (code >> 2 & 3 == ESCAPE))

    rest = values.reshape(count, PAGE_VALUES)
    bits = mantissa_bits(dtype)
    mantissa = rest & (1 << bits) - 1
    signed = (rest >> 15 << bits | mantissa).astype(np.int64)
    chunks = -(-second.sum(axis=1) * 2 // (8 * CHUNK_BYTES))
    middle = HEADER_BYTES + CHUNK_BYTES * chunks + -(-third.sum(axis=1) // 2)
    middle_lines = -(-middle // LINE_BYTES)
    lines = FIRST_LINES + high_lines(dtype) + middle_lines + LOW_LINES
    fits = lines < PAGE_LINES
    stored = np.zeros((count, PAGE_LINES, LINE_BYTES), dtype=np.uint8)
    for page in np.flatnonzero(fits):
        header = np.zeros(HEADER_BYTES, dtype=np.uint8)
        header[:PAGE_ROWS], header[PAGE_ROWS] = centre[page], chunks[page]
        header[PAGE_ROWS + 1] = -(-third[page].sum() * 4 // (8 * CHUNK_BYTES))
        variable = np.zeros(middle_lines[page] * LINE_BYTES, dtype=np.uint8)
        start = HEADER_BYTES
        for codes, width in ((code[page, second[page]] >> 2 & 3, 2), (code[page, third[page]] >> 4, 4)):
            packed = _pack(codes, width)
            variable[start:start + len(packed)] = packed
            start += CHUNK_BYTES * chunks[page]
        variable[:HEADER_BYTES] = header
        stored[page, :lines[page]] = np.concatenate([
            _pack(code[page] & 3, 2), _pack(signed[page] >> 8, _high_bits(dtype)), variable,
            _pack(signed[page] & 0xFF, 8)]).reshape(-1, LINE_BYTES)
    return stored, lines, fits


def decode_pages(stored, lines, dtype):
    """Decodes pages; any bytes decode to something. Arrays as in `speckv.decode_pages`."""
    count = len(stored)
    ones = exponent_ones(dtype)
    bits = mantissa_bits(dtype)
    rows = np.zeros((count, PAGE_VALUES), dtype=np.uint16)
    for page in range(count):
        kept = np.clip(int(np.reshape(lines, -1)[page]), 0, stored.shape[1])
        data = np.zeros((2 * PAGE_LINES, LINE_BYTES), dtype=np.uint8)
        data[:kept] = stored[page, :kept]
        # The sections of fixed length are complete; what is between them takes the other lines.
        middle_at = FIRST_LINES + high_lines(dtype)
        middle_lines = max(int(np.reshape(lines, -1)[page]) - middle_at - LOW_LINES, 0)
        first = _unpack(data[:FIRST_LINES], 2)
        high = _unpack(data[FIRST_LINES:middle_at], _high_bits(dtype))
        variable = np.zeros(HEADER_BYTES + 3 * PAGE_VALUES, dtype=np.uint8)
        middle = data[middle_at:middle_at + middle_lines].reshape(-1)
        variable[:len(middle)] = middle
        low = _unpack(data[middle_at + middle_lines:][:LOW_LINES], 8)

        centre = np.repeat(variable[:PAGE_ROWS].astype(np.int64), ROW_VALUES)
        verbatim = centre == VERBATIM
        second_at = verbatim | (first == ESCAPE)
        third_start = HEADER_BYTES + CHUNK_BYTES * min(int(variable[PAGE_ROWS]), MOST_CHUNKS)
        third_end = third_start + CHUNK_BYTES * int(variable[PAGE_ROWS + 1])
        second = np.zeros(PAGE_VALUES, dtype=np.int64)
        second[second_at] = _tier(variable[HEADER_BYTES:third_start], 2, second_at.sum())
        third_at = verbatim | (second_at & (second == ESCAPE))
        third = np.zeros(PAGE_VALUES, dtype=np.int64)
        third[third_at] = _tier(variable[third_start:third_end], 4, third_at.sum())

        below = np.where(third_at, _THIRD_TABLE[third], np.where(second_at, _SECOND_TABLE[second], _FIRST_TABLE[first]))
        exponent = (centre - below) & ones
        exponent = np.where(third_at & (third == ZERO_EXPONENT), 0, exponent)
        exponent = np.where(third_at & (third == ONES_EXPONENT), ones, exponent)
        exponent = np.where(verbatim, (first | second << 2 | third << 4) & ones, exponent)
        signed = low | high << 8
        rows[page] = signed >> bits << 15 | exponent << bits | signed & (1 << bits) - 1
    return rows.reshape(count, PAGE_ROWS, ROW_VALUES)


def _high_bits(dtype):
    return 3 if dtype == Dtype.FP16 else 0


def _third(code):
    return ESCAPE | ESCAPE << 2 | code << 4


_NO_CODE = 256
_LOWEST = min(THIRD_TIER) - 1
_TIER_CODES = np.full(max(THIRD_TIER) - _LOWEST + 2, _NO_CODE)
"""Codes of all tiers, first tier in the low bits, by the distance below the centre less `_LOWEST`."""
for _code, _below in enumerate(FIRST_TIER):
    _TIER_CODES[_below - _LOWEST] = _code
for _code, _below in enumerate(SECOND_TIER):
    _TIER_CODES[_below - _LOWEST] = ESCAPE | _code << 2
for _code, _below in enumerate(THIRD_TIER):
    _TIER_CODES[_below - _LOWEST] = _third(_code)
_FIRST_TABLE = np.array([*FIRST_TIER, 0])
_SECOND_TABLE = np.array([*SECOND_TIER, 0])
_THIRD_TABLE = np.array([*THIRD_TIER, 0, 0])


def _pack(codes, width):
    """Codes of `width` bits one after the other, low bits first, the last byte filled with zeros. uint8."""
    bits = (np.asarray(codes, dtype=np.int64)[:, None] >> np.arange(width) & 1).astype(np.uint8)
    return np.packbits(bits.reshape(-1), bitorder="little")


def _unpack(data, width):
    """Undoes `_pack` for the codes that fill `data` (any shape of bytes). int64; zeros for a page if `width` is 0."""
    if not width:
        return np.zeros(PAGE_VALUES, dtype=np.int64)
    bits = np.unpackbits(np.ascontiguousarray(data).reshape(-1), bitorder="little")
    return bits.reshape(-1, width) @ (1 << np.arange(width, dtype=np.int64))


def _tier(data, width, count):
    """The first `count` codes of a tier; those beyond its bytes are zero."""
    codes = np.zeros(count, dtype=np.int64)
    present = _unpack(data[:len(data) * 8 // width * width // 8], width)[:count]
    codes[:len(present)] = present
    return codes
