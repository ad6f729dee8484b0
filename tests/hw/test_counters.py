"""Counters against their model: exact under random and under full load, with clears and reads in between."""

import random

import pytest
from amaranth.hdl import ResetInserter, Signal
from streams import SEED, simulate

from speckv_hw.csr.counters import COUNTER_NUMBERS, Counters, Events
from speckv_model.csr import counters as model
from speckv_model.csr.registers import COUNTERS, EVENTS, LATENCY_BUCKETS


class Load:
    """Drives events clock by clock, keeps the model in step, and checks every count that is read."""

    def __init__(self, dut, rng, busy):
        self.dut = dut
        self.rng = rng
        self.busy = busy
        self.model = model.Counters()
        self.expected = None
        self.reads = 0

    def happen(self, ctx):
        """Chooses the events of this clock: dictionary by counter name, and the latency or None."""
        happened = {register.name: self.rng.getrandbits(register.increment) if self.busy < 1
                    else (1 << register.increment) - 1
                    for register in EVENTS if self.rng.random() < self.busy}
        latency = self.rng.getrandbits(self.rng.randint(1, 16)) if self.rng.random() < self.busy else None
        ctx.set(self.dut.events, {name.lower(): count for name, count in happened.items()}
                | {"latency": {"valid": latency is not None, "clocks": latency or 0}})
        return happened, latency

    async def clock(self, ctx, clear=False):
        """One clock with events."""
        dut = self.dut
        happened, latency = self.happen(ctx)
        ctx.set(dut.clear, clear)
        accepted = ctx.get(dut.read.valid) and ctx.get(dut.read.ready)
        if accepted:
            self.expected = self.model[COUNTERS[ctx.get(dut.read.payload)].name]
        if ctx.get(dut.value.valid) and ctx.get(dut.value.ready):
            assert ctx.get(dut.value.payload) == self.expected
            self.reads += 1
        await ctx.tick()
        if accepted:
            ctx.set(dut.read.valid, 0)
        if clear:
            self.model.clear()
        self.model.add("CLOCKS")
        for name, count in happened.items():
            self.model.add(name, count)
        if latency is not None:
            self.model.add_latencies(latency)

    async def read(self, ctx, name):
        """Reads a counter while events go on."""
        reads = self.reads
        ctx.set(self.dut.read.payload, COUNTER_NUMBERS[name])
        ctx.set(self.dut.read.valid, 1)
        clocks = 0
        while self.reads == reads:
            ctx.set(self.dut.value.ready, self.rng.random() < 0.5)
            clocks += not ctx.get(self.dut.value.valid)
            await self.clock(ctx)
        assert clocks <= self.dut.latency


@pytest.mark.parametrize("busy", [0.3, 1.0])
def test_counts_are_exact(busy):
    dut = Counters()
    rng = random.Random(SEED)
    load = Load(dut, rng, busy)

    async def testbench(ctx):
        for _ in range(40):
            for _ in range(rng.randint(0, 60)):
                await load.clock(ctx, clear=rng.random() < 0.01)
            await load.read(ctx, rng.choice(COUNTERS).name)
        load.busy = 0
        for register in COUNTERS:
            await load.read(ctx, register.name)

    simulate(dut, testbench, watched=[dut.value])


@pytest.mark.parametrize("pause", range(0, 2 * len(COUNTERS), 7))
def test_clear_reaches_every_counter(pause):
    """Wherever the sweep is."""
    dut = Counters()
    load = Load(dut, random.Random(SEED), 1.0)

    async def testbench(ctx):
        for _ in range(100 + pause):
            await load.clock(ctx)
        await load.clock(ctx, clear=True)
        load.busy = 0
        for register in COUNTERS:
            await load.read(ctx, register.name)

    simulate(dut, testbench)


def test_reset_clears():
    dut = Counters()
    reset = Signal()
    load = Load(dut, random.Random(SEED), 1.0)

    async def testbench(ctx):
        for _ in range(150):
            await load.clock(ctx)
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        load.model.clear()
        load.busy = 0
        for register in COUNTERS:
            await load.read(ctx, register.name)

    simulate(ResetInserter(reset)(dut), testbench)


def test_names():
    assert len(COUNTER_NUMBERS) == len(COUNTERS)
    assert sum(name.startswith("LATENCY_") for name in COUNTER_NUMBERS) == LATENCY_BUCKETS
    assert set(Events.members) == {register.name.lower() for register in EVENTS} | {"latency"}
