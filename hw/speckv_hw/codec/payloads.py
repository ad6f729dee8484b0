"""Payloads between the parts of the codec. Layouts that depend on `lanes` are functions of it.

A *beat* is what the data path moves in a clock: `lanes` 16-bit values, or `lanes` bytes once they are
quantised.
"""

from amaranth.lib import data, enum

from speckv_model.constants import PAGE_ROWS, ROW_BYTES, ROW_VALUES

from ..types import LINE_BITS, SETTING_WIDTH, Codec, Dtype
from .float16 import EXPONENT_BITS

RECIPROCAL_BITS = 20

__all__ = ["RECIPROCAL_BITS", "PageLine", "RowForm", "RowMaximum", "RowScale", "RowSummary", "PageHeader",
           "RowTag", "value_beat", "byte_beat", "chunk", "fragment", "row_beats"]


class PageLine(data.Struct):
    """A line of a page that is to be encoded; every page has 64."""
    data: LINE_BITS
    codec: Codec
    dtype: Dtype
    by_row: 1
    setting: SETTING_WIDTH
    """What the codec is told."""


class RowForm(enum.Enum, shape=2):
    """How a row is kept in a `speckv` page."""
    INT8 = 0
    PAIRS = 1
    RAW = 2


class RowMaximum(data.Struct):
    magnitude: 15
    dtype: Dtype


class RowScale(data.Struct):
    """What the quantiser must know of a row."""
    maximum: 15
    raw: 1
    """The row has NaN or infinity and is not quantised."""
    dtype: Dtype
    exponent: EXPONENT_BITS
    shift: 4
    """Places by which mantissas move up so that the maximum's has its leading one in bit 10."""
    reciprocal: RECIPROCAL_BITS
    """254 / maximum's mantissa, moved up, in units of 2^-22, rounded up."""


class RowSummary(data.Struct):
    """What the page header says of a row."""
    maximum: 15
    code: 7


class PageHeader(data.Struct):
    """Line 0 of a stored `speckv` page, from bit 0 on."""
    maxima: data.ArrayLayout(16, PAGE_ROWS)
    codes: data.ArrayLayout(8, PAGE_ROWS)


class RowTag(data.Struct):
    """Travels with the bytes of a row through the decoder."""
    form: RowForm
    maximum: 15
    dtype: Dtype
    last: 1
    """These are the row's last bytes (its last pair)."""


def value_beat(lanes):
    """Values of a row that is to be encoded."""
    return data.StructLayout({"values": data.ArrayLayout(16, lanes), "dtype": Dtype, "last": 1})


def byte_beat(lanes):
    """Bytes of a row body, with a mark where a run begins."""
    return data.StructLayout({"bytes": data.ArrayLayout(8, lanes), "marks": lanes, "last": 1})


def chunk(width):
    """`width` bits of a longer piece; `last` ends it."""
    return data.StructLayout({"data": width, "last": 1})


def fragment(halfwords):
    """The first `count` of up to `halfwords` 16-bit units."""
    return data.StructLayout({"data": 16 * halfwords, "count": range(halfwords + 1), "last": 1})


def row_beats(lanes, *, raw=False):
    """Beats of bytes that the body of an INT8 (or raw) row takes."""
    return (ROW_BYTES if raw else ROW_VALUES) // lanes
