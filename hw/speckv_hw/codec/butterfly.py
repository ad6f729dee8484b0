"""The butterfly network that brings scattered units together, and its inverse, as expressions.

Units of the lanes that a mask selects go, in their order, to consecutive places from `offset` on, modulo the number of
lanes. Level k of the network exchanges lanes 2^k apart in blocks of 2^(k+1); with levels in ascending order units are
gathered, and in descending order, by the same exchanges, scattered to where they came from. No two units ever want one
place: those of a block of 2^k lanes are fewer than that, and their places are consecutive.

Which lanes a block exchanges depends only on the place of the first unit of its upper half (Hilewitz and Lee, "Fast Bit
Compression and Expansion with Parallel Extract and Parallel Deposit Instructions", 2006).
"""

from amaranth.hdl import Cat, Mux

__all__ = ["GROUP", "group_counts", "half_counts", "exchanges", "exchange"]

GROUP = 4
"""Lanes whose selected units are counted in a first step."""


def group_counts(mask):
    """Number of selected lanes in each `GROUP`."""
    return [sum(mask[first + 1:first + GROUP], mask[first])[:3] for first in range(0, len(mask), GROUP)]


def half_counts(mask, groups):
    """Number of selected lanes below the upper half of each block: a list for each level, modulo the block's size.
    And the number of all."""
    levels = len(mask).bit_length() - 1
    # Selected lanes inside each block, by the binary logarithm of its size.
    inside = {0: list(mask), 1: [a + b for a, b in zip(mask[0::2], mask[1::2])], 2: groups}
    for level in range(3, levels + 1):
        inside[level] = [a + b for a, b in zip(inside[level - 1][0::2], inside[level - 1][1::2])]
    before = [0]
    halves = []
    for level in reversed(range(levels)):
        middle = [(start + lower)[:level + 1] for start, lower in zip(before, inside[level][0::2])]
        halves.insert(0, middle)
        before = [start for pair in zip(before, middle) for start in pair]
    return halves, inside[levels][0][:levels + 1]


def exchanges(start):
    """For the pairs of lanes of a block whether they change places; the first unit of its upper half goes to `start`,
    modulo the block's size."""
    level = len(start) - 1
    return Cat(~start[level] ^ (place < start[:level] if level else 0) for place in range(1 << level))


def exchange(units, pairs, level):
    """`units` after one level of the network."""
    half = 1 << level
    moved = list(units)
    for pair in range(len(units) // 2):
        low = pair // half * 2 * half + pair % half
        high = low + half
        moved[low] = Mux(pairs[pair], units[high], units[low])
        moved[high] = Mux(pairs[pair], units[low], units[high])
    return moved
