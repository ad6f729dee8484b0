import functools

import numpy as np
from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec import fixed

from .crc import CHECK_BITS, ORDER, power_of_x
from .pipeline import delay
from .quantised_lane import CELL_PLANES

__all__ = ["RowChecker", "CHECKED_PLANES"]

CHECKED_PLANES = 3 + CELL_PLANES
"""The head as two planes, signs, and cells' numbers."""
PLANE_BITS = 8 * fixed.PLANE_BYTES


def _sum(values, powers):
    """Sum of `values`, polynomials of some bits each, times x to the `powers`, modulo that of the CRC."""
    rows = [[] for _ in range(CHECK_BITS)]
    for value, power in zip(values, powers):
        for bit, factor in enumerate(value):
            image = power_of_x(power + bit)
            for row in range(CHECK_BITS):
                if image >> row & 1:
                    rows[row].append(factor)
    return Cat(Cat(row).xor() for row in rows)


@functools.cache
def _turn():
    """The power of x with which bytes of all planes, moved on by it, take the fewest XORs."""
    weights = np.array([power_of_x(n).bit_count() for n in range(ORDER)])
    byte = sum(np.roll(weights, -bit) for bit in range(8))
    return int(np.argmin(sum(np.roll(byte, -PLANE_BITS * n) for n in range(CHECKED_PLANES + 1))))


class RowChecker(wiring.Component):
    """Looks at the checks of `fixed` rows, beat by beat: with its check at its end a row's CRC is zero.

    All that a row has but the check comes as planes of 128 bits, with zeros before and behind. A beat takes as many
    bits of each as it has values. What is made of them is the CRC times a power of x, which is zero where the CRC is.

    `latency` clocks, a beat a clock. Nothing here needs a reset.

    Parameters
    ----------
    lanes : int
        Values of a beat.

    Members
    -------
    planes : In(ArrayLayout(lanes, 9))
        The beat's part of each plane: the head in two, signs, cells' numbers.
    check : In
        The beat's part of the check, high byte first, as of a plane that begins with it.
    check_at : In(6)
        One-hot: which of the cells' planes is the row's last one; the check is put right behind.
    first, valid : In
        The beat is a row's first one; it is one at all.
    bad : Out
        The beats from the row's first to this one are not a row with its check.
    """

    latency = 3

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "planes": In(data.ArrayLayout(lanes, CHECKED_PLANES)),
            "check": In(min(lanes, CHECK_BITS)),
            "check_at": In(CELL_PLANES),
            "first": In(1),
            "valid": In(1),
            "bad": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # 1: planes together, byte by byte
        sums, places = [], []
        at = [PLANE_BITS * n + _turn() for n in range(CHECKED_PLANES, -1, -1)]
        for byte in range(self._lanes // 8):
            column = [self.planes[n].word_select(byte, 8) for n in range(CHECKED_PLANES)] + [Const(0, 8)]
            if 8 * byte < len(self.check):
                for n in range(CELL_PLANES):
                    column[4 + n] |= self.check.word_select(byte, 8) & self.check_at[n].replicate(8)
            own = Signal(CHECK_BITS, name=f"sum{byte}")
            m.d.sync += own.eq(_sum(column, at))
            sums.append(own)
            places.append(self._lanes - 8 * (byte + 1))

        # 2: bytes together, with the beats before
        first1 = delay(m, self.first, 1)
        crc = Signal(CHECK_BITS)
        with m.If(delay(m, self.valid, 1)):
            m.d.sync += crc.eq(_sum([Mux(first1, 0, crc)[:CHECK_BITS], *sums], [self._lanes, *places]))

        # 3
        m.d.sync += self.bad.eq(crc != 0)
        return m
