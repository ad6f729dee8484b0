"""Check byte of `fixed` rows."""

import functools
import operator

import numpy as np
from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.check import crc8
from speckv_model.codec.fixed import DIGITS_BIT, PLANE_BYTES, PLANES_AT

from .pipeline import delay
from .quantised_payloads import WORD_BITS

__all__ = ["RowChecker", "HEAD_BITS", "SLOTS"]

SLOTS = 6
HEAD_BITS = 8 * PLANES_AT[True]
_SHORT_HEAD_BITS = DIGITS_BIT
"""What a row without base-3 digits has of a head."""
_WORD_BYTES = WORD_BITS // 8
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


class RowChecker(wiring.Component):
    """CRC-8 of a `fixed` row (``docs/format.md``), a unit of 32 values a clock.

    The CRC is linear, so bit planes count as soon as their words come, with the places that they would have in a row
    of all planes, and what is missing behind them is taken back at the end. `latency` clocks after `head`; no
    back-pressure. Nothing here needs a reset.

    Members
    -------
    valid, last : In
        A unit comes; it is the row's last one.
    signs : In(32)
        Of a row without base-3 digits, the signs; zero otherwise.
    slots : In
        The unit's words of the other bit planes.
    count : In
        Of them in this row.
    head : In(256)
        What comes before the bit planes, with the scale at byte 1; 3 clocks after the last unit, as `ternary` and
        `tail`, which is `count`.
    check : Out(8)
    """

    latency = 2
    head_delay = 3

    valid: In(1)
    last: In(1)
    signs: In(WORD_BITS)
    slots: In(data.ArrayLayout(WORD_BITS, SLOTS))
    count: In(3)
    head: In(HEAD_BITS)
    ternary: In(1)
    tail: In(3)
    check: Out(8)

    def elaborate(self, platform):
        m = Module()

        # 1: the unit's words
        words = [self.signs, *(self.slots[n] for n in range(SLOTS))]
        parts = [Signal(8, name=f"part{n}") for n in range(len(words))]
        for n, (word, part) in enumerate(zip(words, parts)):
            after = PLANE_BYTES * (SLOTS - n)
            crc = _crc(word, [after + place for place in reversed(range(_WORD_BYTES))])
            m.d.sync += part.eq(crc if n <= 2 else Mux(self.count >= n, crc, 0))
        valid1 = delay(m, self.valid, 1)
        last1 = delay(m, self.last & self.valid, 1)

        # 2: with those before
        planes = Signal(8)
        first = Signal(init=1)
        before = Mux(first, 0, _move(planes, 8 * _WORD_BYTES))
        with m.If(valid1):
            m.d.sync += [planes.eq(functools.reduce(operator.xor, parts, before)), first.eq(last1)]

        # 3: the head
        after = PLANE_BYTES * SLOTS
        long_places = [after + place for place in reversed(range(HEAD_BITS // 8))]
        short_places = [after + PLANE_BYTES + PLANES_AT[False] - 1 - byte for byte in range(_SHORT_HEAD_BITS // 8)]
        short = self.head[:_SHORT_HEAD_BITS]
        start = Mux(self.ternary, _crc(short, long_places[:_SHORT_HEAD_BITS // 8]), _crc(short, short_places))
        digits = _crc(self.head[_SHORT_HEAD_BITS:], long_places[_SHORT_HEAD_BITS // 8:])
        head = Signal(8)
        m.d.sync += head.eq(start ^ Mux(self.ternary, digits, 0))

        # 4: what the missing planes would have moved
        total = head ^ delay(m, planes, self.head_delay - 1)
        moved = [_move(total, -8 * PLANE_BYTES * (SLOTS - count)) for count in range(2, SLOTS + 1)]
        m.d.sync += self.check.eq(Array(moved)[delay(m, self.tail, 1) - 2])
        return m
