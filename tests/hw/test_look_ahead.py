"""The look-ups ahead: which table lines are asked for when pages are looked up, by whom, and how many at once."""

import random

import pytest
from streams import SEED, simulate

from speckv_hw.mover.look_ahead import CLIENTS, LINES, LookAhead
from speckv_hw.types import TableOp


def asked_for(pages, *, gap, latency, sealed=True, stall=0.0, rest=400):
    """Plays look-ups of `pages`, every `gap` clocks, with answers after `latency` clocks. Returns the pages that were
    asked for, in order, and the most requests under way."""
    dut = LookAhead()
    asked, under_way, most = [], [0], [0]
    rng = random.Random(f"ahead {SEED}")

    async def look(ctx):
        for page in pages:
            ctx.set(dut.page, page)
            for name, wanted in (("looked_up", True), ("sealed", sealed)):
                ctx.set(getattr(dut, name), wanted)
                await ctx.tick()
                ctx.set(getattr(dut, name), 0)
            ctx.set(dut.page, 0)
            if gap > 2:
                await ctx.tick().repeat(gap - 2)
        await ctx.tick().repeat(rest)

    async def answer(ctx, n):
        request, response = getattr(dut, f"request{n}"), getattr(dut, f"response{n}")
        while True:
            while rng.random() < stall:
                await ctx.tick()
            ctx.set(request.ready, 1)
            payload, = await ctx.tick().sample(request.payload).until(request.valid)
            ctx.set(request.ready, 0)
            assert payload.op == TableOp.LOOKUP
            asked.append(payload.page)
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
            for _ in range(latency):
                assert not ctx.get(request.valid), "one at a time"
                await ctx.tick()
            ctx.set(response.valid, 1)
            await ctx.tick().until(response.ready)
            ctx.set(response.valid, 0)
            under_way[0] -= 1

    simulate(dut, look, background=[lambda ctx, n=n: answer(ctx, n) for n in range(CLIENTS)],
             watched=[getattr(dut, f"request{n}") for n in range(CLIENTS)])
    return asked, most[0]


def lines_after(pages, distance=2):
    """First pages of the next lines, once each: those of a sequence were all asked for just before."""
    return list(dict.fromkeys(page + 4 * (step + 1) for page in pages if page % 4 == 0 for step in range(distance)))


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("sealed", [False, True])
def test_next_lines_of_a_sequence_are_asked_for(stall, sealed):
    pages = range(400, 440)
    asked, _ = asked_for(pages, gap=20, latency=6, sealed=sealed, stall=stall)
    assert asked == lines_after(pages, 2 if sealed else 1)


def test_many_streams_by_turns():
    """More of them than are remembered: then lines are asked for again, which does no harm."""
    pages = [1000 * stream + page for page in (0, 4, 8) for stream in range(10)]
    asked, _ = asked_for(pages, gap=30, latency=6)
    assert set(asked) == set(lines_after(pages)) and len(asked) == 2 * len(pages)


def test_only_the_first_page_of_a_line_counts():
    assert asked_for([401, 402, 403, 7], gap=3, latency=6) == ([], 0)
    assert asked_for([404], gap=3, latency=6)[0] == [408, 412]


def test_slow_walks_overlap():
    """At a line in 256 clocks, 500 clocks away: each has been answered when its pages are asked for."""
    asked, most = asked_for(range(0, 160, 4), gap=256, latency=500, rest=1500)
    assert most == CLIENTS and asked == lines_after(range(0, 160, 4))


def test_what_does_not_fit_is_left_out():
    """And all that is taken is asked for, when there is time."""
    pages = range(0, 4 * 3 * 3 * LINES, 12)
    asked, _ = asked_for(pages, gap=2, latency=50, rest=50 * 2 * LINES)
    assert LINES <= len(asked) < LINES + 20
    assert set(asked) <= set(lines_after(pages))
