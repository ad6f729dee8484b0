"""Payloads inside the encoder of `fixed` and `variable` pages."""

from amaranth.lib import data

from speckv_model.codec.fixed import GROUP_VALUES
from speckv_model.codec.variable import BODY_AT, MOST_BITS, UNIT_VALUES, WIDTHS_AT

from ..types import Dtype
from .float16 import EXPONENT_BITS

__all__ = ["FACTOR_BITS", "LANE_BITS", "WORD_BITS", "FRAGMENT_WORDS", "LINE_WORDS", "HEADER_WORDS", "WIDTHS_BITS",
           "RowPeak", "RowRate", "CellBits", "Unit", "Item", "PageWidths", "PageEnd", "value_beat", "peak_beat",
           "word_fragment", "page_line"]

FACTOR_BITS = 18
"""Of what mantissas are multiplied by."""
LANE_BITS = MOST_BITS
"""Of a quantised value, in either format."""
WORD_BITS = 32
"""One bit plane of a unit of 32 values: what packed pages are made of."""
FRAGMENT_WORDS = MOST_BITS
LINE_WORDS = 16
HEADER_WORDS = BODY_AT * 8 // WORD_BITS
"""Words before the body of a `variable` page."""
WIDTHS_BITS = 8 * (BODY_AT - WIDTHS_AT)


class RowPeak(data.Struct):
    """The largest magnitude of a row and what is known of its page."""
    magnitude: 15
    dtype: Dtype
    setting: 8
    variable: 1
    """The page is to be `variable`, not `fixed`."""


class RowRate(data.Struct):
    """What must be known of a row while it is quantised."""
    variable: 1
    dtype: Dtype
    last: 1
    """It is the page's last row."""
    held: 1
    """The format can hold the row's largest magnitude."""
    code: 8
    """`fixed`: the row's scale code. `variable`: the page's setting."""
    field: EXPONENT_BITS
    """Exponent bits of the row's largest magnitude."""
    fine: 3
    """The mantissa of the factor: of the row's scale, or of the step."""
    base: 9
    """Exponent from which that of a value is taken to get the places its product moves down."""
    ternary: 1
    zero: 1
    """A row of zeros of a `fixed` page."""
    slots: 3
    """Bit planes of a `fixed` row, but for that of the signs in a row without base-3 digits: 2 to 6."""


class CellBits(data.Struct):
    """A quantised value of a `fixed` row."""
    slots: 6
    """Its bits in the bit planes, the first of which is that of the sign if there are base-3 digits."""
    sign: 1
    digit: 2
    unused: LANE_BITS - 9


class Unit(data.Struct):
    """32 quantised values."""
    bits: data.ArrayLayout(LANE_BITS, UNIT_VALUES)
    """Two's complement or `CellBits`."""
    exceeds: 1
    """A value of a `variable` page needs more than 12 bits."""
    group_codes: data.ArrayLayout(2, UNIT_VALUES // GROUP_VALUES)
    rate: RowRate
    last: 1
    """Of the row."""


class Item(data.Struct):
    """What the planes that wait belong to: a unit of a `variable` page or a row of a `fixed` one."""
    variable: 1
    size: 4
    """The unit's planes, or `RowRate.slots`."""
    ternary: 1
    check: 8
    """Check byte of the row."""
    setting: 8
    """Of a `variable` page."""
    bad: 1
    """The page does not fit."""
    last: 1
    """Of the page."""


class PageWidths(data.Struct):
    """Header of a `variable` page."""
    setting: 8
    widths: WIDTHS_BITS


class PageEnd(data.Struct):
    """Known of a page when its last fragment comes."""
    variable: 1
    bad: 1


def value_beat(lanes):
    """Values of a row that is to be encoded."""
    return data.StructLayout({"values": data.ArrayLayout(16, lanes), "last": 1})


def peak_beat(lanes):
    """The largest magnitudes of the groups of eight in a beat."""
    return data.ArrayLayout(15, lanes // GROUP_VALUES)


def word_fragment():
    """The first `count` of up to 12 words; the first fragment of a page goes to word `HEADER_WORDS` if it is
    `variable`; `bad` counts where `last` is set."""
    return data.StructLayout({"data": WORD_BITS * FRAGMENT_WORDS, "count": range(FRAGMENT_WORDS + 1),
                              "last": 1, "end": PageEnd})


def page_line():
    """A line of an encoded page."""
    return data.StructLayout({"data": WORD_BITS * LINE_WORDS, "last": 1, "end": PageEnd})


