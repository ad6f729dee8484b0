"""The free list of the address window."""

import random

import pytest

from speckv.errors import WindowFull
from speckv.placement import Placement


def test_ranges_are_rounded_to_granules_and_follow_each_other():
    placement = Placement(8, 16)
    assert placement.allocate(1) == (0, 16)
    assert placement.allocate(17) == (16, 32)
    assert placement.free_pages == 5 * 16


def test_a_freed_range_is_reused_and_merged():
    placement = Placement(8, 16)
    ranges = [placement.allocate(32) for _ in range(4)]
    placement.free(*ranges[1])
    assert placement.allocate(16) == (32, 16)
    placement.free(*ranges[0])
    placement.free(32, 16)
    assert placement.allocate(64) == (0, 64)


def test_a_full_window_says_what_was_asked_and_what_is_left():
    placement = Placement(8, 16)
    placement.allocate(16)
    held = placement.allocate(32)
    placement.allocate(16)
    placement.free(*held)
    with pytest.raises(WindowFull, match="80 pages.*64") as caught:
        placement.allocate(65)
    assert (caught.value.asked, caught.value.available) == (80, 64)
    assert placement.free_pages == 96
    assert placement.allocate(64) == (64, 64)


def test_random_ranges_never_overlap_and_all_come_back():
    rng = random.Random(1)
    placement, held = Placement(64, 4), []
    for _ in range(2000):
        if held and rng.random() < 0.5:
            placement.free(*held.pop(rng.randrange(len(held))))
        else:
            try:
                held.append(placement.allocate(rng.randrange(1, 60)))
            except WindowFull:
                pass
        ordered = sorted(held)
        assert all(first + count <= after for (first, count), (after, _) in zip(ordered, ordered[1:]))
        assert placement.free_pages == 256 - sum(count for _, count in held)
    for taken in held:
        placement.free(*taken)
    assert placement.allocate(256) == (0, 256)
