"""The prefetcher: hints are dropped rather than kept waiting, commands wait, and both keep their order."""

import random

import pytest
from streams import SEED, receive, send, simulate

from speckv_hw.cache.messages import PrefetchProposal
from speckv_hw.config import DeviceConfig
from speckv_hw.prefetch.prefetcher import Prefetcher

CONFIG = DeviceConfig.small()
QUEUE = 2 * CONFIG.fetches_in_flight


def proposals(first, count):
    return [PrefetchProposal.const({"page": first + number, "stream": {"context": number % 13, "codec": 1, "dtype": 1}})
            for number in range(count)]


async def count_dropped(ctx, dut, dropped):
    async for _, _, pulse, hint in ctx.tick().sample(dut.dropped, dut.hint.p.page):
        if pulse:
            dropped.append(hint)


@pytest.mark.parametrize("idle, stall", [(0.0, 0.0), (0.3, 0.0), (0.0, 0.7), (0.8, 0.5)])
def test_what_is_not_dropped_comes_out_in_order(idle, stall):
    dut = Prefetcher(CONFIG)
    hints, commands = proposals(0, 150), proposals(1000, 80)
    dropped, got = [], []

    async def hint(ctx):
        ctx.set(dut.enable, 1)
        rng = random.Random(f"hints {SEED}")
        for payload in hints:
            while rng.random() < idle:
                await ctx.tick()
            ctx.set(dut.hint.payload, payload)
            ctx.set(dut.hint.valid, 1)
            _, _, ready = await ctx.tick().sample(dut.hint.ready)
            assert ready, "a hint had to wait"
            ctx.set(dut.hint.valid, 0)

    async def command(ctx):
        await send(ctx, dut.command, commands, idle=idle)

    async def take(ctx):
        rng = random.Random(f"proposals {SEED}")
        quiet = 0
        while quiet < 50:
            ready = rng.random() >= stall
            ctx.set(dut.proposal.ready, ready)
            _, _, valid, payload = await ctx.tick().sample(dut.proposal.valid, dut.proposal.payload)
            if valid and ready:
                got.append(payload)
            quiet = 0 if valid else quiet + 1

    simulate(dut, hint, command, take, background=[lambda ctx: count_dropped(ctx, dut, dropped)],
             watched=[dut.proposal])
    assert [payload for payload in got if payload.page >= 1000] == commands
    assert [payload for payload in got if payload.page < 1000] == [
        payload for payload in hints if payload.page not in dropped]
    if stall:
        assert bool(dropped) == (idle == 0.0)


def test_a_full_queue_drops_hints_and_holds_commands():
    dut = Prefetcher(CONFIG)
    dropped = []

    async def play(ctx):
        ctx.set(dut.enable, 1)
        ctx.set(dut.command.payload, proposals(1000, 1)[0])
        ctx.set(dut.command.valid, 1)
        await ctx.tick().repeat(10)
        # One or two commands wait in the register stage; those behind are not taken.
        assert not ctx.get(dut.command.ready)
        ctx.set(dut.command.valid, 0)
        await send(ctx, dut.hint, proposals(0, QUEUE + 5))
        await ctx.tick().repeat(5)
        assert dropped == list(range(QUEUE, QUEUE + 5))
        waiting = [payload.page for payload in await receive(ctx, dut.proposal, QUEUE + 2)]
        assert waiting == [1000, 1000, *range(QUEUE)]
        await ctx.tick()
        assert not ctx.get(dut.proposal.valid)

    simulate(dut, play, background=[lambda ctx: count_dropped(ctx, dut, dropped)])


def test_disabled_it_drops_hints_and_passes_commands():
    dut = Prefetcher(CONFIG)
    dropped = []

    async def play(ctx):
        await send(ctx, dut.hint, proposals(0, 3))
        await send(ctx, dut.command, proposals(1000, 1))
        command, = await receive(ctx, dut.proposal, 1)
        assert (command.page, dropped) == (1000, [0, 1, 2])
        await ctx.tick().repeat(5)
        assert not ctx.get(dut.proposal.valid)

    simulate(dut, play, background=[lambda ctx: count_dropped(ctx, dut, dropped)])


def test_hints_and_commands_take_turns():
    dut = Prefetcher(CONFIG)

    async def hint(ctx):
        ctx.set(dut.enable, 1)
        await send(ctx, dut.hint, proposals(0, QUEUE))

    async def command(ctx):
        await ctx.tick().repeat(2 * QUEUE)
        await send(ctx, dut.command, proposals(1000, 6))

    async def take(ctx):
        await ctx.tick().repeat(3 * QUEUE)
        pages = [payload.page for payload in await receive(ctx, dut.proposal, QUEUE + 6)]
        kinds = "".join("c" if page >= 1000 else "h" for page in pages)
        assert "chchch" in kinds

    simulate(dut, hint, command, take)
