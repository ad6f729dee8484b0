"""Check byte of `fixed` rows."""

import functools
import operator

import numpy as np
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.check import crc8
from speckv_model.codec.fixed import DIGITS_BIT, GROUP_DIGIT_BITS, GROUPS, PLANE_BYTES, PLANES_AT
from speckv_model.codec.variable import UNIT_VALUES
from speckv_model.constants import ROW_VALUES

from .pipeline import delay
from .quantised_payloads import SLOTS, WORD_BITS

__all__ = ["RowCheckMaker", "UNITS", "UNIT_DIGIT_BITS"]

UNITS = ROW_VALUES // UNIT_VALUES
UNIT_DIGIT_BITS = GROUP_DIGIT_BITS * GROUPS // UNITS
_ORDER = 255
"""The polynomial is primitive: moving a message by so many bits changes nothing."""


@functools.cache
def _masks(places):
    """For each bit of the CRC the mask of the message bits that it is the parity of.

    `places` has, for each byte of the message, the bytes that follow it.
    """
    messages = np.zeros((8 * len(places), max(places) + 1), dtype=np.uint8)
    for byte, place in enumerate(places):
        messages[8 * byte + np.arange(8), -1 - place] = 1 << np.arange(8)
    images = crc8(messages)
    return [sum(int(image >> bit & 1) << n for n, image in enumerate(images)) for bit in range(8)]


def _crc(message, places):
    return Cat((message & mask).xor() for mask in _masks(tuple(places)))


@functools.cache
def _move_masks(places):
    """As `_masks`, for a CRC that is moved on by `places` bits, which may be negative."""
    columns = []
    for bit in range(8):
        crc = 1 << bit
        for _ in range(places % _ORDER):
            crc = crc << 1 ^ (0x11D if crc & 0x80 else 0)
        columns.append(crc)
    return [sum((column >> bit & 1) << n for n, column in enumerate(columns)) for bit in range(8)]


def _move(crc, places):
    return Cat((crc & mask).xor() for mask in _move_masks(places))


class RowCheckMaker(wiring.Component):
    """CRC-8 of a `fixed` row (``docs/format.md``), a unit of 32 values a clock.

    The CRC is linear, so everything counts as soon as it comes, by its distance from the end of the row or from that
    of what is before the bit planes; how far these are apart counts at the end. No back-pressure. Nothing here needs a
    reset.

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
    start : In(40)
        Scale and codes of the groups, 3 clocks after the last unit.
    ternary, slots_after : In
        4 clocks after the last unit, and the `count` of then.
    check : Out(8)
        5 clocks after the last unit, for one clock; zero otherwise.
    """

    latency = 5

    valid: In(1)
    last: In(1)
    signs: In(WORD_BITS)
    slots: In(data.ArrayLayout(WORD_BITS, SLOTS))
    count: In(3)
    digits: In(2 * UNIT_DIGIT_BITS)
    start: In(8 + 2 * GROUPS)
    ternary: In(1)
    slots_after: In(3)
    check: Out(8)

    def elaborate(self, platform):
        m = Module()
        word_places = list(reversed(range(WORD_BITS // 8)))

        # 1: the unit's words
        parts = []
        for n in range(SLOTS):
            crc = _crc(self.slots[n], [PLANE_BYTES * (SLOTS - 1 - n) + place for place in word_places])
            part = Signal(8, name=f"part{n}")
            m.d.sync += part.eq(Mux(self.count >= SLOTS - n, crc, 0))
            parts.append(part)
        sign_part = delay(m, _crc(self.signs, word_places), 1)
        valid = [self.valid, *(delay(m, self.valid, clocks) for clocks in range(1, 4))]

        # 2: with those before
        planes, signs = Signal(8), Signal(8)
        first, last1 = Signal(init=1), delay(m, self.last, 1)
        with m.If(valid[1]):
            m.d.sync += [
                planes.eq(_together(*parts, Mux(first, 0, _move(planes, WORD_BITS)))),
                signs.eq(sign_part ^ Mux(first, 0, _move(signs, WORD_BITS))),
                first.eq(last1),
            ]

        # 4: digits, two units at once; what is before them
        before = PLANES_AT[True] - 1
        digit_bits = range(DIGITS_BIT, DIGITS_BIT + UNITS * UNIT_DIGIT_BITS)
        pair = _crc(self.digits, [before - bit // 8 for bit in digit_bits[-2 * UNIT_DIGIT_BITS::8]])
        digits = Signal(8)
        second, done = Signal(2), delay(m, self.last, 3)
        with m.If(valid[3]):
            m.d.sync += second.eq(Mux(done, 0, second + 1))
            with m.If(second[0]):
                m.d.sync += digits.eq(pair ^ Mux(second[1], _move(digits, 2 * UNIT_DIGIT_BITS), 0))
        # The check byte does not count, so the byte before it is as far from the end as that one is.
        start = delay(m, _crc(self.start, [before - 1 - byte for byte in range(len(self.start) // 8)]), 1)

        # 5: all
        heads = [Signal(8, name=f"head{n}") for n in range(4)]
        m.d.comb += heads[0].eq(Mux(
            self.ternary, start ^ digits,
            _move(start, 8 * (PLANES_AT[False] + PLANE_BYTES - PLANES_AT[True])) ^ delay(m, signs, 2)))
        for bit, (near, far) in enumerate(zip(heads, heads[1:])):
            m.d.comb += far.eq(Mux(self.slots_after[bit], _move(near, 8 * PLANE_BYTES << bit), near))
        m.d.sync += self.check.eq(Mux(delay(m, self.valid & self.last, 4), heads[-1] ^ delay(m, planes, 2), 0))
        return m


def _together(*crcs):
    return functools.reduce(operator.xor, crcs)
