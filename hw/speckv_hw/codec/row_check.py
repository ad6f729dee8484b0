"""The check byte of `fixed` rows of any length."""

import functools

import numpy as np
from amaranth.hdl import Cat, Mux, Value

from speckv_model.codec import fixed

__all__ = ["ROW_BITS", "row_syndrome", "check_syndrome", "syndrome_check"]

ROW_BITS = 8 * fixed.UNIT_BYTES * fixed.SETTINGS[-1]
"""Of the longest row."""


@functools.cache
def _masks():
    """For each bit of the check of the longest row, the mask of the row's bits that it is the parity of."""
    units = np.zeros((ROW_BITS, ROW_BITS // 8), dtype=np.uint8)
    bits = np.arange(ROW_BITS)
    units[bits, bits // 8] = 1 << (bits % 8)
    columns = fixed.row_check(units)
    return tuple(sum(int(column >> bit & 1) << n for n, column in enumerate(columns)) for bit in range(8))


def row_syndrome(row):
    """What the check of `row` would be if it were a row of the longest kind: eight parities. Zeros follow it."""
    row = Value.cast(row)
    return Cat((row & mask).xor() for mask in _masks())


def check_syndrome(check, setting):
    """What `row_syndrome` is of a row of `setting` units that has the right `check`.

    The check is linear, so the zeros that are missing from the row change it by a matrix.
    """
    return _by_setting(check, setting, lambda missing: missing)


def syndrome_check(syndrome, setting):
    """The check of a row of `setting` units whose `row_syndrome` is `syndrome`."""
    # Zeros that follow go round in circles: so many more undo them.
    return _by_setting(syndrome, setting, lambda missing: -missing % _PERIOD)


def _by_setting(value, setting, zeros):
    """`value` with as many bytes of zeros behind it as `zeros` makes of the bytes by which a row is not the longest."""
    result = 0
    for units in fixed.SETTINGS:
        count = zeros(fixed.UNIT_BYTES * (fixed.SETTINGS[-1] - units))
        images = [_append_zeros(1 << bit, count) for bit in range(8)]
        bits = Cat((value & sum((image >> bit & 1) << n for n, image in enumerate(images))).xor() for bit in range(8))
        result = Mux(setting == units, bits, result)
    return result


def _append_zeros(check, count):
    """The check of a message that has `check` once `count` bytes of zeros follow."""
    for _ in range(8 * count):
        check = (check << 1) ^ (0x11D if check & 0x80 else 0)
    return check & 0xFF


_PERIOD = next(count for count in range(1, 256) if all(_append_zeros(1 << bit, count) == 1 << bit for bit in range(8)))
