"""What the outside sees of the page table's walker, updater and clearer, alone, and does to it, step by step."""

import random

from streams import SEED, receive, send, simulate

from speckv_hw.config import DeviceConfig
from speckv_hw.table.tlb import TlbOp
from speckv_hw.types import Entry, TableFault, TableRequest
from speckv_model.table import entry as model

PAGE = 4 * 1000 + 2
POISONED = int.from_bytes(model.POISONED.pack(), "little")
STREAMS = "response", "tlb_request", "walk_request", "write_job"


def packed(entry):
    return int.from_bytes(entry.pack(), "little")


def random_entry(rng):
    fields = {name: rng.getrandbits(width) for name, width in model.FIELDS.items()}
    return model.Entry(**fields | {"state": rng.randrange(1, 4)})


ENTRY = random_entry(random.Random(SEED)).sealed()
LINE = packed(ENTRY) << 256 | 3
"""A table line with ENTRY in the third quarter, that of PAGE."""


class Steps:
    """The test in place of TLB, memory and other walkers, one step after the other."""

    def __init__(self, ctx, dut):
        self.ctx = ctx
        self.dut = dut

    async def request(self, page=PAGE, entry=0, count=0):
        await send(self.ctx, self.dut.request, [
            TableRequest.const({"page": page, "count": count, "entry": Entry.from_bits(entry)})])

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
        for name in set(STREAMS).difference(names):
            assert not hasattr(self.dut, name) or not self.ctx.get(getattr(self.dut, name).valid), name


async def blocked(step, *, alone=False, changes=False):
    """Whoever is blocked offers nothing until it is not."""
    ctx, claim = step.ctx, step.dut.claim
    ctx.set(claim.blocked, 1)
    await step.request(page=PAGE & ~3)
    for _ in range(20):
        await ctx.tick()
        step.only()
    assert ctx.get(claim.waiting) and not ctx.get(claim.held)
    assert (ctx.get(claim.alone), ctx.get(claim.changes)) == (alone, changes)
    ctx.set(claim.blocked, 0)
    await ctx.tick()
    assert ctx.get(claim.held)


def walk_through(component, steps):
    """Simulates `component`, a class, with the testbench `steps`, and counts its pulses."""
    dut = component(DeviceConfig.small())
    pulses = []

    async def bench(ctx):
        await steps(Steps(ctx, dut))

    async def count(ctx):
        async for _, _, hit, miss in ctx.tick().sample(dut.hit, dut.miss):
            pulses.extend(["hit"] * hit + ["miss"] * miss)

    simulate(dut, bench, background=[count] if hasattr(dut, "hit") else [],
             watched=[getattr(dut, name) for name in STREAMS if hasattr(dut, name)])
    return pulses
