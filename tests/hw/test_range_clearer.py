"""What clears ranges of page table entries, alone: its algorithm step by step."""

import pytest
from table_steps import ENTRY, PAGE, POISONED, blocked, packed, walk_through

from speckv_hw.table.range_clearer import RangeClearer
from speckv_hw.table.tlb import TlbOp
from speckv_hw.types import TableFault


@pytest.mark.parametrize("errors", [(), (0,), (3,)])
def test_clear_writes_bursts_then_flushes(errors):
    async def steps(step):
        await step.request(page=4 * 60, count=4 * 200, entry=packed(ENTRY))
        for n, (line, count) in enumerate([(60, 4), (64, 64), (128, 64), (192, 64), (256, 4)]):
            assert not step.ctx.get(step.dut.claim.held), "lookups must be able to go on"
            await step.write(line, count, 0xf, 0, error=n in errors)
        await step.tlb(TlbOp.FLUSH)
        await step.response(POISONED if errors else 0, TableFault.MEMORY if errors else TableFault.NONE)

    walk_through(RangeClearer, steps)


def test_clear_of_nothing():
    async def steps(step):
        await step.request(page=PAGE & ~3, count=0)
        await step.tlb(TlbOp.FLUSH)
        await step.response(0)

    walk_through(RangeClearer, steps)


def test_blocked_clearer_waits():
    async def steps(step):
        await blocked(step, alone=True)

    walk_through(RangeClearer, steps)
