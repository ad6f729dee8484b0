"""The search for runs of free sectors against the golden model."""

import random

import pytest
from streams import SEED, receive, send, simulate

from speckv_hw.pool.run_finder import RunFinder
from speckv_model.pool.pool_allocator import first_run, longest_run


def random_map(rng):
    """Runs of both kinds and all lengths, short ones more often."""
    text = ""
    while len(text) < 256:
        text += rng.choice("01") * rng.choice([1, 2, 3, rng.randint(1, 40), rng.randint(1, 256)])
    return int(text[:256], 2)


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_random_maps(stall):
    dut = RunFinder()
    rng = random.Random(f"maps {SEED}")
    maps = [0, (1 << 256) - 1, 1, 1 << 255] + [random_map(rng) for _ in range(150)]
    queries = []
    for free in maps:
        longest = longest_run(free)
        queries.append((free, True, 0))
        if longest:
            queries += [(free, False, longest), (free, False, rng.randint(1, longest))]

    async def ask(ctx):
        payloads = [{"free": free, "longest": longest, "wanted": wanted} for free, longest, wanted in queries]
        await send(ctx, dut.i, payloads, idle=stall)

    async def check(ctx):
        for free, longest, wanted in queries:
            [answer] = await receive(ctx, dut.o, 1, stall=stall, seed=f"{SEED} {free}")
            length = longest_run(free) if longest else wanted
            assert answer.length == length
            if not longest:
                assert answer.position == first_run(free, length)

    simulate(dut, ask, check, watched=[dut.o])


@pytest.mark.parametrize("longest", [False, True])
def test_clocks(longest):
    """`answer_clocks` is what the worst of lengths takes, exactly."""
    dut = RunFinder()
    clocks = []

    async def measure(ctx):
        for length in range(34):
            free = ((1 << length) - 1) << 100
            ctx.set(dut.i.payload, {"free": free, "longest": longest, "wanted": max(1, length)})
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
            ctx.set(dut.i.valid, 0)
            clocks.append(1)
            while not ctx.get(dut.o.valid):
                await ctx.tick()
                clocks[-1] += 1
            ctx.set(dut.o.ready, 1)
            await ctx.tick()
            ctx.set(dut.o.ready, 0)

    simulate(dut, measure)
    assert max(clocks) == dut.answer_clocks
