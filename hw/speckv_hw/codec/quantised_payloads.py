"""Payloads inside the encoder of `fixed` and `variable` pages."""

from amaranth.lib import data

from speckv_model.codec.fixed import GROUP_VALUES
from speckv_model.codec.variable import BODY_AT, MOST_BITS, UNIT_VALUES, WIDTHS_AT
from speckv_model.constants import PAGE_LINES

from ..types import Dtype
from .float16 import EXPONENT_BITS

__all__ = ["FACTOR_BITS", "CODE_BITS", "LANE_BITS", "WORD_BITS", "FRAGMENT_WORDS", "LINE_WORDS", "HEADER_WORDS",
           "WIDTHS_WORDS", "SLOTS", "DIGIT_AT", "LINE_ADDRESS_BITS", "RowPeak", "RowRate", "Unit", "Fragment",
           "PageEnd", "value_beat", "peak_beat"]

FACTOR_BITS = 18
"""Of what mantissas are multiplied by."""
CODE_BITS = 3
"""Of a group's code, at most."""
LANE_BITS = MOST_BITS
"""Of a quantised value, in either format."""
WORD_BITS = 32
"""One bit plane of a unit of 32 values: what packed pages are made of."""
FRAGMENT_WORDS = MOST_BITS
LINE_WORDS = 16
HEADER_WORDS = BODY_AT * 8 // WORD_BITS
"""Words before the body of a `variable` page."""
WIDTHS_WORDS = (BODY_AT - WIDTHS_AT) * 8 // WORD_BITS
SLOTS = 6
"""Bit planes of the values of a `fixed` row, at most."""
DIGIT_AT = SLOTS
"""Bit of a quantised value where the base-3 digit begins."""
LINE_ADDRESS_BITS = 8
"""Of lines that wait to be sent: the largest pages several times."""


class RowPeak(data.Struct):
    """The largest magnitude of a row and what is known of its page."""
    magnitude: 15
    dtype: Dtype
    setting: 8
    by_row: 1
    variable: 1
    """The page is to be `variable`, not `fixed`."""


class RowRate(data.Struct):
    """What must be known of a row while it is quantised."""
    variable: 1
    dtype: Dtype
    by_row: 1
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
    """Bit planes of a `fixed` row, but for that of the signs in a row without base-3 digits: 2 to 6. They are the top
    ones of the six that values have."""


class Unit(data.Struct):
    """32 quantised values."""
    bits: data.ArrayLayout(LANE_BITS, UNIT_VALUES)
    signs: UNIT_VALUES
    exceeds: 1
    """A value of a `variable` page needs more than 12 bits."""
    group_codes: data.ArrayLayout(CODE_BITS, UNIT_VALUES // GROUP_VALUES)
    rate: RowRate
    last: 1
    """Of the row."""


class Fragment(data.Struct):
    """Words of a page, of which `count` count, and where they belong."""
    data: WORD_BITS * FRAGMENT_WORDS
    count: range(FRAGMENT_WORDS + 1)
    at: range(32)
    """Words from the place where the next ones of the page belong to the first that counts."""
    turn: range(LINE_WORDS)
    """The same to the fragment's first word, modulo a line's words."""
    length: range(64)
    """Words by which that place moves on afterwards."""
    variable: 1
    last: 1
    """Only the header may come after it."""
    bad: 1
    """The page does not fit."""
    header: 1
    """The widths of the `variable` page that ended last; with the setting before them."""
    setting: 8


class PageEnd(data.Struct):
    """What is known of a page when all of it is packed."""
    lines: range(PAGE_LINES)
    words: range(LINE_WORDS)
    """That count in its last line; 0 means all."""
    fits: 1


def value_beat(lanes):
    """Values of a row that is to be encoded."""
    return data.StructLayout({"values": data.ArrayLayout(16, lanes), "last": 1})


def peak_beat(lanes):
    """The largest magnitudes of the groups of eight in a beat."""
    return data.ArrayLayout(15, lanes // GROUP_VALUES)
