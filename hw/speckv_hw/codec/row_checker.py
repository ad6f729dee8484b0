from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec import fixed

from .pipeline import delay
from .quantised_lane import CELL_PLANES

__all__ = ["RowChecker", "CHECKED_PLANES"]

CHECKED_PLANES = 3 + CELL_PLANES
"""The head as two planes, signs, and cells' numbers."""
PLANE_BITS = 8 * fixed.PLANE_BYTES
PERIOD = 255
"""x^255 is 1."""


def _sum(values, powers):
    """Sum of `values`, eight bits of a CRC each, times x to the `powers`."""
    rows = [[] for _ in range(8)]
    for value, power in zip(values, powers):
        for bit in range(8):
            image = 1 << bit
            for _ in range(power % PERIOD):
                image = image << 1 ^ (0x11D if image & 0x80 else 0)
            for row in range(8):
                if image >> row & 1:
                    rows[row].append(value[bit])
    return Cat(Cat(row).xor() for row in rows)


class RowChecker(wiring.Component):
    """Looks at the checks of `fixed` rows, beat by beat: with its check at its end a row's CRC is zero.

    All that a row has but the check comes as planes of 128 bits, with zeros before and behind. A beat takes as many
    bits of each as it has values.

    `latency` clocks, a beat a clock. Nothing here needs a reset.

    Parameters
    ----------
    lanes : int
        Values of a beat.

    Members
    -------
    planes : In(ArrayLayout(lanes, 9))
        The beat's part of each plane: the head in two, signs, cells' numbers.
    check : In(8)
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
            "check": In(8),
            "check_at": In(CELL_PLANES),
            "first": In(1),
            "valid": In(1),
            "bad": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        # 1: planes together, byte by byte. x^128 is the root of x, so every other plane takes one x more.
        sums, powers = [], []
        at = range(CHECKED_PLANES, -1, -1)
        for byte in range(self._lanes // 8):
            column = [self.planes[n].word_select(byte, 8) for n in range(CHECKED_PLANES)] + [Const(0, 8)]
            if byte == 0:
                for n in range(CELL_PLANES):
                    column[4 + n] |= self.check & (self.first & self.check_at[n]).replicate(8)
            for odd in range(2):
                own = Signal(8, name=f"sum{byte}_{odd}")
                behind = at[1 - odd::2]
                m.d.sync += own.eq(_sum(column[1 - odd::2], [PLANE_BITS * (places - odd) for places in behind]))
                sums.append(own)
                powers.append(PLANE_BITS * odd + self._lanes - 8 * (byte + 1))

        # 2: bytes together, with the beats before
        first1 = delay(m, self.first, 1)
        crc = Signal(8)
        with m.If(delay(m, self.valid, 1)):
            m.d.sync += crc.eq(_sum([Mux(first1, 0, crc)[:8], *sums], [self._lanes, *powers]))

        # 3
        m.d.sync += self.bad.eq(crc != 0)
        return m
