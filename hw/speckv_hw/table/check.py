"""Check bits of a page table entry."""

import functools

import numpy as np
from amaranth.hdl import Cat, Value

from speckv_hw.types import Entry
from speckv_model.table.entry import CHECKED_BYTES, check

__all__ = ["check_bits"]

CHECKED_BITS = 8 * CHECKED_BYTES


@functools.cache
def _masks():
    """For each check bit the mask of the entry bits that it is the parity of: the CRC is linear."""
    units = np.zeros((CHECKED_BITS, CHECKED_BYTES), dtype=np.uint8)
    bits = np.arange(CHECKED_BITS)
    units[bits, bits // 8] = 1 << (bits % 8)
    columns = check(units)
    return tuple(sum(int(column >> bit & 1) << n for n, column in enumerate(columns))
                 for bit in range(Entry.as_shape()["check"].width))


def check_bits(entry):
    """The check bits that belong to `entry` (a view of `Entry`): eight parities, about 60 inputs each."""
    checked = Value.cast(entry)[:CHECKED_BITS]
    return Cat((checked & mask).xor() for mask in _masks())
