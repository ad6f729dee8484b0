"""Constant tables."""

from amaranth.hdl import Cat, Const

__all__ = ["rom"]


def rom(values, index):
    """The number in `values` (Python integers, not negative) that the signal `index` names, zero beyond their end.

    Bit by bit, so that it maps to few LUTs.
    """
    depth = 1 << len(index)
    return Cat(Const(sum((value >> bit & 1) << n for n, value in enumerate(values)), depth).bit_select(index, 1)
               for bit in range(max(max(values).bit_length(), 1)))
