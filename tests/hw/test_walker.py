"""The walker, alone: its algorithm step by step."""

import random

import pytest
from streams import SEED
from table_steps import ENTRY, LINE, PAGE, POISONED, blocked, packed, random_entry, walk_through

from speckv_hw.table.tlb import TlbOp
from speckv_hw.table.walker import Walker
from speckv_hw.types import TableFault
from speckv_model.table import entry as model


def test_lookup_that_hits():
    async def steps(step):
        await step.request()
        assert step.ctx.get(step.dut.claim.line) == PAGE // 4
        await step.tlb(TlbOp.LOOKUP, hit=1, entry=packed(ENTRY))
        await step.response(packed(ENTRY))

    assert walk_through(Walker, steps) == ["hit"]


def test_lookup_that_misses():
    async def steps(step):
        await step.request()
        await step.tlb(TlbOp.LOOKUP)
        assert step.ctx.get(step.dut.claim.held)
        await step.walk()
        await step.response(packed(ENTRY))

    assert walk_through(Walker, steps) == ["miss"]


def test_empty_entry_that_is_not_all_zeros_is_corrupt():
    async def steps(step):
        await step.request()
        await step.tlb(TlbOp.LOOKUP, hit=1, entry=packed(model.Entry(lines=3).sealed()))
        await step.response(POISONED, TableFault.CORRUPT)

    walk_through(Walker, steps)


def test_walk_that_is_right_in_part_is_not_cached():
    async def steps(step):
        await step.request()
        await step.tlb(TlbOp.LOOKUP)
        await step.walk(partial=1)
        await step.response(packed(ENTRY))

    assert walk_through(Walker, steps) == ["miss"]


def test_walk_that_ends_in_an_error_is_not_cached():
    async def steps(step):
        await step.request()
        await step.tlb(TlbOp.LOOKUP)
        await step.walk(error=1)
        await step.response(POISONED, TableFault.MEMORY)
        await step.request()
        await step.tlb(TlbOp.LOOKUP)
        await step.walk()
        await step.response(packed(ENTRY))

    walk_through(Walker, steps)


@pytest.mark.parametrize("way", ["tlb", "walk"])
def test_every_flipped_bit_is_noticed(way):
    """All single bits, and pairs of bits at random."""
    rng = random.Random(f"flips {SEED}")
    flips = [1 << bit for bit in range(128)]
    while len(flips) < 200:
        pair = rng.sample(range(128), 2)
        if sorted(pair) != [7, 120]:  # The one pair that the CRC cannot tell.
            flips.append(1 << pair[0] | 1 << pair[1])

    async def steps(step):
        for flip in flips:
            wrong = packed(ENTRY) ^ flip
            await step.request()
            if way == "tlb":
                await step.tlb(TlbOp.LOOKUP, hit=1, entry=wrong)
            else:
                await step.tlb(TlbOp.LOOKUP)
                await step.walk(LINE ^ flip << 256)
            await step.response(POISONED, TableFault.CORRUPT)

    walk_through(Walker, steps)


def test_check_bits_of_random_entries():
    rng = random.Random(f"check {SEED}")

    async def steps(step):
        for _ in range(100):
            entry = random_entry(rng).sealed()
            await step.request()
            await step.tlb(TlbOp.LOOKUP, hit=1, entry=packed(entry))
            await step.response(packed(entry))

    walk_through(Walker, steps)


def test_blocked_walker_waits():
    async def steps(step):
        await blocked(step)

    walk_through(Walker, steps)
