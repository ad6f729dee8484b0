"""Cutting lines into fragments of words, with idle and back-pressure."""

import random

import pytest
from streams import SEED, receive, send, simulate

from speckv_hw.codec.word_unpacker import LINE_WORDS, WORD_BITS, WordUnpacker

IDLE = [0.0, 0.4]
PAGES = 60


def value_of(words):
    return sum(word << WORD_BITS * n for n, word in enumerate(words))


def lines_of(words):
    return [value_of(words[n:n + LINE_WORDS]) for n in range(0, len(words), LINE_WORDS)]


def random_counts(rng, most=LINE_WORDS):
    """Words of a page's fragments: of all sizes, of one size, or many without any."""
    sizes = rng.choice([range(most + 1), [most], [rng.randint(1, most)], [0, 0, 0, 1, most]])
    counts = [rng.choice(sizes) for _ in range(rng.choice([1, 2, rng.randint(1, 12)]))]
    return rng.choice([[], [], [0], [0, 0, 0]]) + counts


def random_words(rng, count):
    return [rng.getrandbits(WORD_BITS) for _ in range(count)]


def page_requests(rng, skip, counts, body, most):
    """Requests of a page, each with a place for its words among `most`."""
    requests = []
    if skip + counts[0] > LINE_WORDS:
        requests.append(dict(first=1, skip=skip, body=body, empty=1))
    for n, count in enumerate(counts):
        first = not requests
        requests.append(dict(count=count, place=rng.randint(0, most - max(count, 1)), tag=rng.randrange(256),
                             first=first, last=n == len(counts) - 1,
                             skip=skip if first else rng.randrange(LINE_WORDS), body=body if first else 0))
    return requests


@pytest.mark.parametrize("idle, most", [*((idle, LINE_WORDS) for idle in IDLE), (0.4, 12), (0.4, 4)])
def test_word_unpacker(idle, most):
    """Pages with as many lines as they need, some more, too few, or none."""
    rng = random.Random(SEED)
    chunks, requests, want = [], [], []
    for _ in range(PAGES):
        counts = random_counts(rng, most)
        skip = rng.choice([0, 9, rng.randrange(LINE_WORDS)])
        needed = -(-(skip + sum(counts)) // LINE_WORDS)
        stored = rng.choice([needed, needed, needed + 3, needed // 2])
        words = random_words(rng, LINE_WORDS * stored)
        lines = lines_of(words)
        chunks += [dict(data=line, last=n == len(lines) - 1) for n, line in enumerate(lines)]
        words += [0] * (skip + sum(counts))
        asked = page_requests(rng, skip, counts, int(stored > 0), most)
        requests += asked
        at = skip
        for request in asked:
            if not request.get("empty"):
                placed = [0] * request["place"] + words[at:at + request["count"]]
                want.append((request["tag"], len(placed), value_of(placed)))
                at += request["count"]
    dut = WordUnpacker(8, most)

    async def ask(ctx):
        await send(ctx, dut.requests, requests, idle=idle, seed=SEED + 1)

    async def feed(ctx):
        await send(ctx, dut.i, chunks, idle=idle)

    async def collect(ctx):
        got = await receive(ctx, dut.o, len(want), stall=idle)
        for one, (tag, count, value) in zip(got, want):
            assert (one.tag, one.data & (1 << WORD_BITS * count) - 1) == (tag, value)
        await ctx.tick().repeat(10)
        assert not ctx.get(dut.o.valid)

    simulate(dut, ask, feed, collect, watched=[dut.o])


def clocks_until_valid(dut, *drivers):
    """Clocks from the first one to the first output."""
    found = []

    async def watch(ctx):
        ctx.set(dut.o.ready, 1)
        clocks = 0
        while not ctx.get(dut.o.valid):
            await ctx.tick()
            clocks += 1
        found.append(clocks)

    simulate(dut, watch, *drivers, clocks=50)
    return found[0]


def test_latency():
    dut = WordUnpacker(1)

    async def ask(ctx):
        await send(ctx, dut.requests, [dict(count=1, first=1, last=1)])

    assert clocks_until_valid(dut, ask) == WordUnpacker.latency == 3
