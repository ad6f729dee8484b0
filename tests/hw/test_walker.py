"""The walker, alone: its algorithm step by step, with the test in place of TLB, memory and other walkers."""

import random

import pytest
from streams import SEED, receive, send, simulate

from speckv_hw.config import DeviceConfig
from speckv_hw.table.tlb import TlbOp
from speckv_hw.table.walker import POSTED, Walker
from speckv_hw.types import Entry, TableFault, TableOp, TableRequest
from speckv_model.table import entry as model

PAGE = 4 * 1000 + 2
POISONED = int.from_bytes(model.POISONED.pack(), "little")


def packed(entry):
    return int.from_bytes(entry.pack(), "little")


def random_entry(rng):
    fields = {name: rng.getrandbits(width) for name, width in model.FIELDS.items()}
    return model.Entry(**fields | {"state": rng.randrange(1, 4)})


ENTRY = random_entry(random.Random(SEED)).sealed()
LINE = packed(ENTRY) << 256 | 3
"""A table line with ENTRY in the third quarter, that of PAGE."""


class Steps:
    """What the outside sees of a walker and does to it, one step after the other."""

    def __init__(self, ctx, dut):
        self.ctx = ctx
        self.dut = dut

    async def request(self, op, page=PAGE, entry=0, count=0):
        await send(self.ctx, self.dut.request, [
            TableRequest.const({"op": op, "page": page, "count": count, "entry": Entry.from_bits(entry)})])

    async def tlb(self, op, hit=0, entry=0, page=PAGE):
        """The walker asks the TLB for `op`, and for nothing of anybody else; it gets the result."""
        self.only("tlb_request", "walk_data")
        asked, = await receive(self.ctx, self.dut.tlb_request, 1)
        assert asked.op == op
        if op != TlbOp.FLUSH:
            assert asked.page == page
        await send(self.ctx, self.dut.tlb_result, [{"hit": hit, "entry": Entry.from_bits(entry)}])
        return asked

    async def walk(self, line=LINE, error=0, partial=0):
        """The walker reads the line of PAGE; a line that is good goes to the TLB, unless only a part of it is."""
        self.only("walk_request")
        asked, = await receive(self.ctx, self.dut.walk_request, 1)
        assert asked.line << 2 | asked.quarter == PAGE
        entry = Entry.from_bits(line >> 128 * (PAGE % 4) & (1 << 128) - 1)
        self.ctx.set(self.dut.walk_data.payload, {"entry": entry, "data": line, "error": error, "partial": partial})
        self.ctx.set(self.dut.walk_data.valid, 1)
        if error or partial:
            await self.ctx.tick()
        else:
            assert (await self.tlb(TlbOp.FILL)).line == line
        self.ctx.set(self.dut.walk_data.valid, 0)

    async def write(self, line, count, enable, entry, error=0, ends=True):
        """The walker writes; it learns the end of that where it `ends`."""
        while not self.ctx.get(self.dut.write_job.valid):
            self.only("write_job")
            await self.ctx.tick()
        job, = await receive(self.ctx, self.dut.write_job, 1)
        assert (job.line, job.count, job.enable, job.entry.as_bits()) == (line, count, enable, entry)
        if not ends:
            return
        for _ in range(5):
            await self.ctx.tick()
            self.only()
        await send(self.ctx, self.dut.write_done, [{"line": line, "error": error, "kept": 0}])

    async def dropped(self, page, kept=0):
        """The line of `page` could not be written: it leaves the TLB before that is taken."""
        ctx, dut = self.ctx, self.dut
        ctx.set(dut.write_done.payload, {"line": page // 4, "error": 1, "kept": kept})
        ctx.set(dut.write_done.valid, 1)
        asked, = await receive(ctx, dut.tlb_request, 1)
        assert (asked.op, asked.page // 4) == (TlbOp.DROP, page // 4)
        assert not ctx.get(dut.write_done.ready)
        ctx.set(dut.tlb_result.valid, 1)
        await ctx.tick().until(dut.tlb_result.ready)
        ctx.set(dut.tlb_result.valid, 0)
        ctx.set(dut.write_done.valid, 0)

    async def response(self, entry, fault=TableFault.NONE):
        got, = await receive(self.ctx, self.dut.response, 1)
        assert got.entry.as_bits() == entry
        assert got.fault == fault
        assert not self.ctx.get(self.dut.claim.held)

    def only(self, *names):
        """Nothing but the streams `names` is offered by the walker."""
        for name in {"response", "tlb_request", "walk_request", "write_job"}.difference(names):
            assert not self.ctx.get(getattr(self.dut, name).valid), name


def walk_through(steps):
    """Simulates a walker with the testbench `steps`, and counts its pulses."""
    dut = Walker(DeviceConfig.small())
    pulses = []

    async def bench(ctx):
        await steps(Steps(ctx, dut))

    async def count(ctx):
        async for _, _, hit, miss in ctx.tick().sample(dut.hit, dut.miss):
            pulses.extend(["hit"] * hit + ["miss"] * miss)

    simulate(dut, bench, background=[count],
             watched=[dut.response, dut.tlb_request, dut.walk_request, dut.write_job])
    return pulses


def test_lookup_that_hits():
    async def steps(step):
        await step.request(TableOp.LOOKUP)
        assert step.ctx.get(step.dut.claim.line) == PAGE // 4
        await step.tlb(TlbOp.LOOKUP, hit=1, entry=packed(ENTRY))
        await step.response(packed(ENTRY))

    assert walk_through(steps) == ["hit"]


def test_lookup_that_misses():
    async def steps(step):
        await step.request(TableOp.LOOKUP)
        await step.tlb(TlbOp.LOOKUP)
        assert step.ctx.get(step.dut.claim.held)
        await step.walk()
        await step.response(packed(ENTRY))

    assert walk_through(steps) == ["miss"]


def test_empty_entry_that_is_not_all_zeros_is_corrupt():
    async def steps(step):
        await step.request(TableOp.LOOKUP)
        await step.tlb(TlbOp.LOOKUP, hit=1, entry=packed(model.Entry(lines=3).sealed()))
        await step.response(POISONED, TableFault.CORRUPT)

    walk_through(steps)


def test_walk_that_is_right_in_part_is_not_cached():
    async def steps(step):
        await step.request(TableOp.LOOKUP)
        await step.tlb(TlbOp.LOOKUP)
        await step.walk(partial=1)
        await step.response(packed(ENTRY))

    assert walk_through(steps) == ["miss"]


def test_walk_that_ends_in_an_error_is_not_cached():
    async def steps(step):
        await step.request(TableOp.LOOKUP)
        await step.tlb(TlbOp.LOOKUP)
        await step.walk(error=1)
        await step.response(POISONED, TableFault.MEMORY)
        await step.request(TableOp.LOOKUP)
        await step.tlb(TlbOp.LOOKUP)
        await step.walk()
        await step.response(packed(ENTRY))

    walk_through(steps)


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
            await step.request(TableOp.LOOKUP)
            if way == "tlb":
                await step.tlb(TlbOp.LOOKUP, hit=1, entry=wrong)
            else:
                await step.tlb(TlbOp.LOOKUP)
                await step.walk(LINE ^ flip << 256)
            await step.response(POISONED, TableFault.CORRUPT)

    walk_through(steps)


def test_check_bits_of_random_entries():
    rng = random.Random(f"check {SEED}")

    async def steps(step):
        for _ in range(100):
            entry = random_entry(rng).sealed()
            await step.request(TableOp.LOOKUP)
            await step.tlb(TlbOp.LOOKUP, hit=1, entry=packed(entry))
            await step.response(packed(entry))

    walk_through(steps)


def test_update_brings_the_tlb_up_to_date_then_writes():
    async def steps(step):
        for quarter in range(4):
            page = PAGE & ~3 | quarter
            await step.request(TableOp.UPDATE, page, packed(ENTRY) ^ 0xff << 120)
            assert (await step.tlb(TlbOp.UPDATE, page=page)).entry.as_bits() == packed(ENTRY)
            assert step.ctx.get(step.dut.claim.held)
            await step.write(PAGE // 4, 1, 1 << quarter, packed(ENTRY))
            await step.response(0)

    assert walk_through(steps) == []


def test_update_that_fails_is_forgotten():
    async def steps(step):
        await step.request(TableOp.UPDATE, entry=packed(ENTRY))
        await step.tlb(TlbOp.UPDATE)
        await step.write(PAGE // 4, 1, 1 << 2, packed(ENTRY), ends=False)
        await step.dropped(PAGE)
        await step.response(POISONED, TableFault.MEMORY)

    walk_through(steps)


def test_updates_are_taken_while_dram_writes_others():
    """As many as are allowed, and no lookup; they are answered in turn, whatever becomes of each."""
    errors = [n % 5 == 3 for n in range(POSTED)]

    async def steps(step):
        dut, ctx = step.dut, step.ctx
        for n in range(POSTED):
            await step.request(TableOp.UPDATE, page=PAGE + 4 * n, entry=packed(ENTRY))
            await step.tlb(TlbOp.UPDATE, page=PAGE + 4 * n)
            await step.write(PAGE // 4 + n, 1, 1 << 2, packed(ENTRY), ends=False)
            assert not ctx.get(dut.claim.held)
        for op in (TableOp.UPDATE, TableOp.LOOKUP):
            ctx.set(dut.request.payload, TableRequest.const({"op": op}))
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
        await step.request(TableOp.LOOKUP)
        await step.tlb(TlbOp.LOOKUP, hit=1, entry=packed(ENTRY))
        await step.response(packed(ENTRY))

    walk_through(steps)


def test_failed_write_is_dropped_while_the_next_update_waits_for_its_claim():
    """Who has the claim may wait for the end of that write."""
    async def steps(step):
        await step.request(TableOp.UPDATE, entry=packed(ENTRY))
        await step.tlb(TlbOp.UPDATE)
        await step.write(PAGE // 4, 1, 1 << 2, packed(ENTRY), ends=False)
        step.ctx.set(step.dut.claim.blocked, 1)
        await step.request(TableOp.UPDATE, entry=packed(ENTRY))
        await step.ctx.tick().repeat(5)
        await step.dropped(PAGE)
        await step.response(POISONED, TableFault.MEMORY)
        step.ctx.set(step.dut.claim.blocked, 0)
        await step.tlb(TlbOp.UPDATE)
        await step.write(PAGE // 4, 1, 1 << 2, packed(ENTRY))
        await step.response(0)

    walk_through(steps)


@pytest.mark.parametrize("errors", [(), (0,), (3,)])
def test_clear_writes_bursts_then_flushes(errors):
    async def steps(step):
        await step.request(TableOp.CLEAR, page=4 * 60, count=4 * 200, entry=packed(ENTRY))
        for n, (line, count) in enumerate([(60, 4), (64, 64), (128, 64), (192, 64), (256, 4)]):
            assert not step.ctx.get(step.dut.claim.held), "lookups must be able to go on"
            await step.write(line, count, 0xf, 0, error=n in errors)
        await step.tlb(TlbOp.FLUSH)
        await step.response(POISONED if errors else 0, TableFault.MEMORY if errors else TableFault.NONE)

    walk_through(steps)


def test_clear_of_nothing():
    async def steps(step):
        await step.request(TableOp.CLEAR, page=PAGE & ~3, count=0)
        await step.tlb(TlbOp.FLUSH)
        await step.response(0)

    walk_through(steps)


@pytest.mark.parametrize("op", list(TableOp))
def test_blocked_walker_waits(op):
    async def steps(step):
        step.ctx.set(step.dut.claim.blocked, 1)
        await step.request(op, page=PAGE & ~3)
        for _ in range(20):
            await step.ctx.tick()
            step.only()
        assert step.ctx.get(step.dut.claim.waiting) and not step.ctx.get(step.dut.claim.held)
        assert step.ctx.get(step.dut.claim.alone) == (op == TableOp.CLEAR)
        step.ctx.set(step.dut.claim.blocked, 0)
        await step.ctx.tick()
        assert step.ctx.get(step.dut.claim.held)

    walk_through(steps)
