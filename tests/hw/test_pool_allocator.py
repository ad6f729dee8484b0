"""The pool allocator's RTL: the golden model's placements, and the clocks it promises."""

import random

import pytest
from amaranth.hdl import ResetInserter, Signal
from streams import SEED, receive, send, simulate

from speckv_hw.config import DeviceConfig
from speckv_hw.pool.pool_allocator import PoolAllocator
from speckv_hw.stream import transfer
from speckv_model.pool.pool_allocator import PoolAllocator as Model

CONFIG = DeviceConfig.small(pool_bytes=1 << 18)


class Monitor:
    """Replays in the model, in order, what the allocator accepts; checks the answers, notes the clocks."""

    def __init__(self, dut):
        self.dut = dut
        self.model = Model(CONFIG)
        self.answers = []
        """Expected and not yet given: (sector or None, sectors, clock of the request)."""
        self.held = []
        """Allocated and not yet freed: (sector, sectors)."""
        self.refused = self.bad = self.least_free = 0
        self.slowest_answer = self.slowest_request = 0
        self.all_sent = False

    async def run(self, ctx):
        dut = self.dut
        clock = accepted = bad = overtaken = 0
        waiting = False
        self.least_free = CONFIG.pool_sectors
        sampled = ctx.tick().sample(
            transfer(dut.allocate), dut.allocate.payload,
            dut.free.valid, transfer(dut.free), dut.free.payload,
            dut.allocated.valid, dut.allocated.ready, dut.allocated.payload, dut.bad_free)
        async for _, _, *values in sampled:
            allocate, wanted, free_waits, free, freed, offered, taken, answer, bad_free = values
            clock += 1
            bad += bad_free
            if offered:
                sector, sectors, since = self.answers[0]
                if since is not None:
                    self.slowest_answer = max(self.slowest_answer, clock - since)
                    self.answers[0] = sector, sectors, None
                assert answer.ok == (sector is not None)
                if answer.ok:
                    assert answer.sector == sector
                if taken:
                    self.answers.pop(0)
                    if answer.ok:
                        self.held.append((sector, sectors))
            if allocate or free:
                assert bad == self.bad
                if waiting:
                    self.slowest_request = max(self.slowest_request, clock - accepted)
                accepted = clock
            waiting = free_waits
            if allocate:
                sectors = wanted.sectors
                sector = self.model.allocate(sectors, wanted.context) if 1 <= sectors <= 33 else None
                self.refused += sector is None
                self.answers.append((sector, sectors, clock))
                overtaken += free_waits
                assert overtaken <= 1, "allocations pass a waiting free"
            if free:
                overtaken = 0
                self.bad += not self.model.free(freed.sector, freed.sectors)
            self.least_free = min(self.least_free, self.model.free_sectors)


def wants(sizes, context=lambda: 0):
    return [{"sectors": sectors, "context": context()} for sectors in sizes]


async def drain(ctx, dut):
    """Waits until every request is done."""
    await ctx.tick().repeat(dut.busy_clocks + dut.flush_clocks)
    await ctx.tick().until(~dut.allocated.valid)


@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_life(seed):
    dut = PoolAllocator(CONFIG)
    monitor = Monitor(dut)
    steps = 500

    async def allocate(ctx):
        rng = random.Random(f"allocate {seed}")
        sizes = [rng.choice([0, 1, 8, 9, 16, 17, 33, 33, rng.randrange(64)]) for _ in range(steps)]
        await send(ctx, dut.allocate, wants(sizes, lambda: rng.randrange(1 << 12)), idle=0.02, seed=seed)
        monitor.all_sent = True

    async def take(ctx):
        rng = random.Random(f"take {seed}")
        while True:
            await ctx.tick().repeat(rng.choice([1, 2, 5, 60]))
            ctx.set(dut.allocated.ready, 1)
            await ctx.tick()
            ctx.set(dut.allocated.ready, 0)

    async def free(ctx):
        rng = random.Random(f"free {seed}")
        for step in range(steps):
            patience = 15 if step % 300 < 150 else 60
            await ctx.tick().repeat(1 + rng.randrange(patience))
            if rng.random() < 0.08:
                place = 256 * rng.randrange(CONFIG.pool_sectors // 256)
                request = rng.choice([
                    {"sector": place + 5, "sectors": 0},
                    {"sector": place + 223, "sectors": 34},
                    {"sector": CONFIG.pool_sectors + place, "sectors": 1},
                ])
            elif monitor.held:
                sector, sectors = monitor.held.pop(rng.randrange(len(monitor.held)))
                if sectors > 1 and rng.random() < 0.2:
                    keep = rng.randrange(1, sectors)
                    monitor.held.append((sector, keep))
                    sector, sectors = sector + keep, sectors - keep
                request = {"sector": sector, "sectors": sectors}
            else:
                continue
            await send(ctx, dut.free, [request])

    async def free_and_finish(ctx):
        await free(ctx)
        while not monitor.all_sent:
            await ctx.tick()
        await drain(ctx, dut)
        for sector, sectors in monitor.held:
            await send(ctx, dut.free, [{"sector": sector, "sectors": sectors}])
        await drain(ctx, dut)
        assert ctx.get(dut.free_sectors) == CONFIG.pool_sectors == monitor.model.free_sectors
        refused = monitor.refused
        await send(ctx, dut.allocate, wants([33] * (CONFIG.pool_sectors // 256 * 7 + 1)))
        await drain(ctx, dut)
        # Frames were given out again first, in superblocks of other groups: these open only while there is much room.
        assert 1 <= monitor.refused - refused <= 1 + CONFIG.pool_sectors // 16 // 33
        assert not monitor.answers

    simulate(dut, allocate, free_and_finish, background=[monitor.run, take], watched=[dut.allocated])
    print(f"seed {seed}: refused {monitor.refused}, bad {monitor.bad}, least free {monitor.least_free}, "
          f"clocks {monitor.slowest_answer} {monitor.slowest_request}")
    assert monitor.refused > 50 and monitor.bad > 20 and monitor.least_free < 0.1 * CONFIG.pool_sectors
    assert monitor.slowest_answer in range(dut.answer_clocks, dut.answer_clocks + dut.flush_clocks + 1)
    assert monitor.slowest_request in range(dut.busy_clocks, dut.busy_clocks + dut.flush_clocks + 1)


def test_bad_frees_change_nothing():
    dut = PoolAllocator(CONFIG)
    monitor = Monitor(dut)

    async def requests(ctx):
        ctx.set(dut.allocated.ready, 1)
        await send(ctx, dut.allocate, wants([33, 31, 10, 20]))
        await drain(ctx, dut)
        bad = [(64, 31), (73, 22), (94, 1), (64, 0), (250, 9), (255, 2), (256, 1), (CONFIG.pool_sectors, 1)]
        for sector, sectors in bad:
            await send(ctx, dut.free, [{"sector": sector, "sectors": sectors}])
        await drain(ctx, dut)
        assert monitor.bad == len(bad)
        assert ctx.get(dut.free_sectors) == CONFIG.pool_sectors - 94
        for _ in range(2):
            await send(ctx, dut.free, [{"sector": 64, "sectors": 10}])
        await send(ctx, dut.allocate, wants([33, 10, 0]))
        await drain(ctx, dut)
        assert monitor.bad == len(bad) + 1

    simulate(dut, requests, background=[monitor.run], watched=[dut.allocated])


def test_frames_are_kept_whole():
    """Rooms of OPEN pages that come back are given out again at once, the last one first; twice is a bad free; where
    nothing else is left they go back to their superblocks."""
    dut = PoolAllocator(CONFIG)
    monitor = Monitor(dut)
    superblocks = CONFIG.pool_sectors // 256

    async def requests(ctx):
        ctx.set(dut.allocated.ready, 1)
        await send(ctx, dut.allocate, wants(([33] * 7 + [25]) * superblocks))
        await drain(ctx, dut)
        assert ctx.get(dut.free_sectors) == 0 == monitor.refused
        frames = [33 * n for n in range(5)]
        for sector in frames:
            await send(ctx, dut.free, [{"sector": sector, "sectors": 33}])
        for sector, sectors in [(0, 33), (132, 33), (99, 1), (131, 2), (98, 2), (30, 33)]:
            await send(ctx, dut.free, [{"sector": sector, "sectors": sectors}])
        await drain(ctx, dut)
        assert monitor.bad == 6 and ctx.get(dut.free_sectors) == 5 * 33
        await send(ctx, dut.allocate, wants([33]))
        await drain(ctx, dut)
        assert monitor.held[-1] == (99, 33)
        await send(ctx, dut.free, [{"sector": 99, "sectors": 33}])
        await drain(ctx, dut)
        # The fifth went to its superblock at once, where only it has room now. It is another group's, but much is free.
        await send(ctx, dut.allocate, wants([32, 30], lambda: 1))
        await drain(ctx, dut)
        assert [sector for sector, _ in monitor.held[-2:]] == [132, 0]
        assert monitor.refused == 0

    simulate(dut, requests, background=[monitor.run], watched=[dut.allocated])
    assert monitor.slowest_answer == dut.answer_clocks + dut.flush_clocks


def test_groups_have_superblocks_of_their_own():
    """Groups do not mix while there is another way; then they do as long as a sixteenth of the pool is free."""
    dut = PoolAllocator(CONFIG)
    monitor = Monitor(dut)
    superblocks = CONFIG.pool_sectors // 256

    async def requests(ctx):
        ctx.set(dut.allocated.ready, 1)
        await send(ctx, dut.allocate, [{"sectors": 32, "context": n % 2} for n in range(8)])
        await drain(ctx, dut)
        assert [sector for sector, _ in monitor.held] == [256 * (n % 2) + 32 * (n // 2) for n in range(8)]
        # Group 0 takes all superblocks but that of group 1, in which 128 sectors are free.
        await send(ctx, dut.allocate, wants([32] * (8 * (superblocks - 1) - 4)))
        await drain(ctx, dut)
        assert ctx.get(dut.free_sectors) == 128 == CONFIG.pool_sectors // 16
        await send(ctx, dut.allocate, wants([16]))
        await drain(ctx, dut)
        assert monitor.held[-1] == (256 + 128, 16) and monitor.refused == 0
        await send(ctx, dut.allocate, wants([1]))
        await drain(ctx, dut)
        assert monitor.refused == 1
        await send(ctx, dut.allocate, wants([1], lambda: 1))
        await drain(ctx, dut)
        assert monitor.held[-1] == (256 + 144, 1) and monitor.refused == 1
        # A superblock in which nothing is taken any more may be anybody's.
        for n in range(8):
            await send(ctx, dut.free, [{"sector": 512 + 32 * n, "sectors": 32}])
        await drain(ctx, dut)
        await send(ctx, dut.allocate, wants([33, 30, 33], lambda: 1))
        await drain(ctx, dut)
        assert [sector for sector, _ in monitor.held[-3:]] == [256 + 145, 256 + 178, 256 + 208]

    simulate(dut, requests, background=[monitor.run], watched=[dut.allocated])


def test_reset_in_mid_traffic():
    dut = PoolAllocator(CONFIG)
    reset = Signal()

    async def requests(ctx):
        for clocks in range(0, dut.busy_clocks + 4, 3):
            ctx.set(reset, 0)
            ctx.set(dut.allocated.ready, 1)
            await send(ctx, dut.allocate, wants([33, 20, 33]))
            await send(ctx, dut.free, [{"sector": 0, "sectors": 33}])
            await ctx.tick().repeat(1 + clocks)
            ctx.set(dut.allocated.ready, 0)
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)
            assert ctx.get(dut.free_sectors) == CONFIG.pool_sectors
            for expected in (0, 31, 62):
                await send(ctx, dut.allocate, wants([31]))
                [answer] = await receive(ctx, dut.allocated, 1)
                assert answer.ok and answer.sector == expected
            ctx.set(reset, 1)
            await ctx.tick()

    simulate(ResetInserter(reset)(dut), requests)
