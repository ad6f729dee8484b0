"""Check of `fixed` rows that are read alone."""

import functools
import operator

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.check import crc16
from speckv_model.codec.fixed import DIGITS_AT, GROUP_DIGIT_BITS, GROUPS, PLANE_BYTES, PLANES_AT, Rate
from speckv_model.codec.variable import UNIT_VALUES
from speckv_model.constants import ROW_VALUES

from .crc import CHECK_BITS, power_of_x
from .pipeline import delay
from .quantised_payloads import SLOTS, WORD_BITS

__all__ = ["RowCheckMaker", "UNITS", "UNIT_DIGIT_BITS", "START_BYTES"]

UNITS = ROW_VALUES // UNIT_VALUES
UNIT_DIGIT_BITS = GROUP_DIGIT_BITS * GROUPS // UNITS
START_BYTES = {ternary: Rate(8 - (not ternary), True).check_at for ternary in (False, True)}
"""Scale and codes of a row, without and with base-3 digits."""
_FEWEST = 2
"""Bit planes of a row, at least."""


@functools.cache
def _masks(places):
    """For each bit of the CRC the mask of the message bits that it is the parity of.

    `places` has, for each byte of the message, the bytes that follow it.
    """
    messages = np.zeros((8 * len(places), max(places) + 1), dtype=np.uint8)
    for byte, place in enumerate(places):
        messages[8 * byte + np.arange(8), -1 - place] = 1 << np.arange(8)
    return _transposed(crc16(messages))


def _transposed(images):
    return [sum((int(image) >> bit & 1) << n for n, image in enumerate(images)) for bit in range(CHECK_BITS)]


def _crc(message, places):
    return Cat((message & mask).xor() for mask in _masks(tuple(places)))


@functools.cache
def _move_masks(places):
    """As `_masks`, for a CRC that is moved on by `places` bits."""
    return _transposed([power_of_x(places + bit) for bit in range(CHECK_BITS)])


def _move(crc, places):
    return Cat((crc & mask).xor() for mask in _move_masks(places))


class RowCheckMaker(wiring.Component):
    """CRC-16 of a `fixed` row that is read alone (``docs/format.md``), a unit of 32 values a clock.

    The CRC is linear, so everything counts as soon as it comes, by its distance from the end of the row or, as if the
    row had two bit planes, of what is before them; how many more there are counts at the end. No back-pressure.
    Nothing here needs a reset.

    Members
    -------
    valid, last : In
        A unit comes; it is the row's last one.
    signs : In(32)
    slots : In
        The unit's words of the bit planes.
    count : In
        How many of them, the top ones, are in this row.
    digits : In(104)
        Base-3 digits of the last two units, 3 clocks after them.
    start : In(48)
        Scale and codes of the groups, and zeros if these are shorter; 3 clocks after the last unit.
    ternary, by_row, slots_after : In
        3 clocks after the last unit, and the `count` of then.
    check : Out(32)
        6 clocks after the last unit, for one clock, and zero otherwise and if not `by_row`: in the lower half if the
        row has base-3 digits, else in the upper one.
    """

    latency = 6

    valid: In(1)
    last: In(1)
    signs: In(WORD_BITS)
    slots: In(data.ArrayLayout(WORD_BITS, SLOTS))
    count: In(3)
    digits: In(2 * UNIT_DIGIT_BITS)
    start: In(8 * START_BYTES[False])
    ternary: In(1)
    by_row: In(1)
    slots_after: In(3)
    check: Out(2 * CHECK_BITS)

    def elaborate(self, platform):
        m = Module()
        word_places = list(reversed(range(WORD_BITS // 8)))

        # 1: the unit's words
        parts = []
        for n in range(SLOTS):
            crc = _crc(self.slots[n], [PLANE_BYTES * (SLOTS - 1 - n) + place for place in word_places])
            part = Signal(CHECK_BITS, name=f"part{n}")
            m.d.sync += part.eq(Mux(self.count >= SLOTS - n, crc, 0))
            parts.append(part)
        before = PLANE_BYTES * _FEWEST
        sign_part = delay(m, _crc(self.signs, [before + place for place in word_places]), 1)
        valid = [self.valid, *(delay(m, self.valid, clocks) for clocks in range(1, 4))]

        # 2: with those before
        planes, signs = Signal(CHECK_BITS), Signal(CHECK_BITS)
        first, last1 = Signal(init=1), delay(m, self.last, 1)
        with m.If(valid[1]):
            m.d.sync += [
                planes.eq(_together(*parts, Mux(first, 0, _move(planes, WORD_BITS)))),
                signs.eq(sign_part ^ Mux(first, 0, _move(signs, WORD_BITS))),
                first.eq(last1),
            ]

        # 4: digits, two units at once; what is before them, or before the signs
        digit_bytes = PLANES_AT[True] - DIGITS_AT
        pair_places = [before + place for place in reversed(range(2 * UNIT_DIGIT_BITS // 8))]
        pair = _crc(self.digits, pair_places)
        digits = Signal(CHECK_BITS)
        second, done = Signal(2), delay(m, self.last, 3)
        with m.If(valid[3]):
            m.d.sync += second.eq(Mux(done, 0, second + 1))
            with m.If(second[0]):
                m.d.sync += digits.eq(pair ^ Mux(second[1], _move(digits, 2 * UNIT_DIGIT_BITS), 0))
        starts = {}
        for ternary, behind in ((False, PLANE_BYTES), (True, digit_bytes)):
            places = [before + behind + place for place in reversed(range(START_BYTES[ternary]))]
            starts[ternary] = _crc(self.start[:8 * START_BYTES[ternary]], places)
        start = Signal(CHECK_BITS)
        m.d.sync += start.eq(Mux(self.ternary, starts[True], starts[False] ^ delay(m, signs, 1)))

        # 5: all before the planes, with one more of them or not
        more = (self.slots_after - _FEWEST)[:3]
        head = start ^ Mux(delay(m, self.ternary, 1), digits, 0)
        head5 = Signal(CHECK_BITS)
        m.d.sync += head5.eq(Mux(delay(m, more[0], 1), _move(head, 8 * PLANE_BYTES), head))

        # 6: with two or four more, and the planes
        two, four = (delay(m, bit, 2) for bit in more[1:])
        moved = Mux(four, _move(head5, 8 * PLANE_BYTES * 4), Mux(two, _move(head5, 8 * PLANE_BYTES * 2), head5))
        whole = moved ^ delay(m, planes, 3)
        due = delay(m, delay(m, self.valid & self.last, 3) & self.by_row, 2)
        ternary = delay(m, self.ternary, 2)
        m.d.sync += [
            self.check[:CHECK_BITS].eq(Mux(due & ternary, whole, 0)),
            self.check[CHECK_BITS:].eq(Mux(due & ~ternary, whole, 0)),
        ]
        return m


def _together(*crcs):
    return functools.reduce(operator.xor, crcs)
