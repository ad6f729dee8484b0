"""The updater of page table entries, alone: its algorithm step by step."""

from streams import send
from table_steps import ENTRY, PAGE, POISONED, blocked, packed, walk_through

from speckv_hw.table.entry_updater import POSTED, EntryUpdater
from speckv_hw.table.tlb import TlbOp
from speckv_hw.types import TableFault


def test_update_brings_the_tlb_up_to_date_then_writes():
    async def steps(step):
        for quarter in range(4):
            page = PAGE & ~3 | quarter
            await step.request(page, packed(ENTRY) ^ 0xff << 120)
            assert (await step.tlb(TlbOp.UPDATE, page=page)).entry.as_bits() == packed(ENTRY)
            assert step.ctx.get(step.dut.claim.held)
            await step.write(PAGE // 4, 1, 1 << quarter, packed(ENTRY))
            await step.response(0)

    assert walk_through(EntryUpdater, steps) == []


def test_update_that_fails_is_forgotten():
    async def steps(step):
        await step.request(entry=packed(ENTRY))
        await step.tlb(TlbOp.UPDATE)
        await step.write(PAGE // 4, 1, 1 << 2, packed(ENTRY), ends=False)
        await step.dropped(PAGE)
        await step.response(POISONED, TableFault.MEMORY)

    walk_through(EntryUpdater, steps)


def test_updates_are_taken_while_dram_writes_others():
    """As many as are allowed; they are answered in turn, whatever becomes of each."""
    errors = [n % 5 == 3 for n in range(POSTED)]

    async def steps(step):
        dut, ctx = step.dut, step.ctx
        for n in range(POSTED):
            await step.request(page=PAGE + 4 * n, entry=packed(ENTRY))
            await step.tlb(TlbOp.UPDATE, page=PAGE + 4 * n)
            await step.write(PAGE // 4 + n, 1, 1 << 2, packed(ENTRY), ends=False)
            assert not ctx.get(dut.claim.held)
        ctx.set(dut.request.valid, 1)
        await ctx.tick().repeat(5)
        assert not ctx.get(dut.request.ready)
        ctx.set(dut.request.valid, 0)
        for n, error in enumerate(errors):
            if error:
                await step.dropped(PAGE + 4 * n)
            else:
                await send(ctx, dut.write_done, [{"line": PAGE // 4 + n, "error": 0, "kept": 0}])
        for error in errors:
            await step.response(POISONED if error else 0, TableFault.MEMORY if error else TableFault.NONE)
        await step.request(entry=packed(ENTRY))
        await step.tlb(TlbOp.UPDATE)
        await step.write(PAGE // 4, 1, 1 << 2, packed(ENTRY))
        await step.response(0)

    walk_through(EntryUpdater, steps)


def test_failed_write_is_dropped_while_the_next_update_waits_for_its_claim():
    """Who has the claim may wait for the end of that write."""
    async def steps(step):
        await step.request(entry=packed(ENTRY))
        await step.tlb(TlbOp.UPDATE)
        await step.write(PAGE // 4, 1, 1 << 2, packed(ENTRY), ends=False)
        step.ctx.set(step.dut.claim.blocked, 1)
        await step.request(entry=packed(ENTRY))
        await step.ctx.tick().repeat(5)
        await step.dropped(PAGE)
        await step.response(POISONED, TableFault.MEMORY)
        step.ctx.set(step.dut.claim.blocked, 0)
        await step.tlb(TlbOp.UPDATE)
        await step.write(PAGE // 4, 1, 1 << 2, packed(ENTRY))
        await step.response(0)

    walk_through(EntryUpdater, steps)


def test_blocked_updater_waits():
    async def steps(step):
        await blocked(step, changes=True)

    walk_through(EntryUpdater, steps)
