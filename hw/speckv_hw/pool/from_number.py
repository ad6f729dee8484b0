"""Masks of all bits from a number on, without a comparator for each."""

from amaranth.hdl import Cat, Value

__all__ = ["from_number"]

LOW_BITS = 4


def from_number(number, width):
    """A value of `width` bits in which bit n is 1 where n >= `number`, which may be `width` or more.

    The number's upper bits choose a group of 16 bits, its lower ones a place there, so that each bit is one gate
    behind some that all groups share.
    """
    number = Value.cast(number)
    low, high = number[:LOW_BITS], number[LOW_BITS:]
    in_group = [low <= n for n in range(1 << LOW_BITS)]
    groups = -(-width // len(in_group))
    above = [high < group for group in range(groups)]
    here = [high == group for group in range(groups)]
    return Cat(above[n >> LOW_BITS] | (here[n >> LOW_BITS] & in_group[n & (1 << LOW_BITS) - 1]) for n in range(width))
