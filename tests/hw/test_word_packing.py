"""Packing fragments of words into lines and cutting lines into fragments, with idle and back-pressure."""

import random

import pytest
from streams import SEED, receive, send, simulate

from speckv_hw.codec.word_packer import WordPacker
from speckv_hw.codec.word_unpacker import LINE_WORDS, WORD_BITS, WordUnpacker

IDLE = [0.0, 0.4]
PAGES = 60


def value_of(words):
    return sum(word << WORD_BITS * n for n, word in enumerate(words))


def lines_of(words):
    return [value_of(words[n:n + LINE_WORDS]) for n in range(0, len(words), LINE_WORDS)]


def random_counts(rng):
    """Words of a page's fragments: of all sizes, of one size, or many without any."""
    sizes = rng.choice([range(LINE_WORDS + 1), [LINE_WORDS], [rng.randint(1, LINE_WORDS)], [0, 0, 0, 1, LINE_WORDS]])
    counts = [rng.choice(sizes) for _ in range(rng.choice([1, 2, rng.randint(1, 12)]))]
    return rng.choice([[], [], [0], [0, 0, 0]]) + counts


def random_words(rng, count):
    return [rng.getrandbits(WORD_BITS) for _ in range(count)]


@pytest.mark.parametrize("idle", IDLE)
def test_word_packer(idle):
    rng = random.Random(SEED)
    sent, want = [], []
    for _ in range(PAGES):
        counts = random_counts(rng)
        skip = rng.choice([0, 9, rng.randrange(LINE_WORDS)])
        words = [0] * skip
        for n, count in enumerate(counts):
            words += random_words(rng, count)
            garbage = random_words(rng, LINE_WORDS - count)
            sent.append(dict(data=value_of(words[len(words) - count:] + garbage), count=count, first=n == 0,
                             skip=skip if n == 0 else rng.randrange(LINE_WORDS), last=n == len(counts) - 1))
        lines = lines_of(words)
        # A last fragment without words does not mark the line before it if that is full.
        marked = len(words) % LINE_WORDS != 0 or counts[-1] != 0
        want += [(line, marked and n == len(lines) - 1) for n, line in enumerate(lines)]
    dut = WordPacker()

    async def drive(ctx):
        await send(ctx, dut.i, sent, idle=idle)

    async def collect(ctx):
        got = await receive(ctx, dut.o, len(want), stall=idle)
        assert [(one.data, one.last) for one in got] == want
        await ctx.tick().repeat(10)
        assert not ctx.get(dut.o.valid)

    simulate(dut, drive, collect, watched=[dut.o])


def page_requests(rng, skip, counts, body):
    """Requests of a page; only `data`'s first `count` words will mean something."""
    requests = []
    if skip + counts[0] > LINE_WORDS:
        requests.append(dict(first=1, skip=skip, body=body, empty=1))
    for n, count in enumerate(counts):
        first = not requests
        requests.append(dict(count=count, tag=rng.randrange(256), first=first, last=n == len(counts) - 1,
                             skip=skip if first else rng.randrange(LINE_WORDS), body=body if first else 0))
    return requests


@pytest.mark.parametrize("idle", IDLE)
def test_word_unpacker(idle):
    """Pages with as many lines as they need, some more, too few, or none."""
    rng = random.Random(SEED)
    chunks, requests, want = [], [], []
    for _ in range(PAGES):
        counts = random_counts(rng)
        skip = rng.choice([0, 9, rng.randrange(LINE_WORDS)])
        needed = -(-(skip + sum(counts)) // LINE_WORDS)
        stored = rng.choice([needed, needed, needed + 3, needed // 2])
        words = random_words(rng, LINE_WORDS * stored)
        lines = lines_of(words)
        chunks += [dict(data=line, last=n == len(lines) - 1) for n, line in enumerate(lines)]
        words += [0] * (skip + sum(counts))
        asked = page_requests(rng, skip, counts, int(stored > 0))
        requests += asked
        at = skip
        for request in asked:
            if not request.get("empty"):
                want.append((request["tag"], request["count"], value_of(words[at:at + request["count"]])))
                at += request["count"]
    dut = WordUnpacker(8)

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


def test_latencies():
    packer, unpacker = WordPacker(), WordUnpacker(1)

    async def pack(ctx):
        await send(ctx, packer.i, [dict(data=1, count=LINE_WORDS, first=1)])

    async def ask(ctx):
        await send(ctx, unpacker.requests, [dict(count=1, first=1, last=1)])

    assert clocks_until_valid(packer, pack) == WordPacker.latency == 3
    assert clocks_until_valid(unpacker, ask) == WordUnpacker.latency == 3


def test_packer_takes_a_fragment_a_clock():
    count, size = 64, 11
    dut = WordPacker()
    clocks = []

    async def drive(ctx):
        for n in range(count):
            ctx.set(dut.i.payload, dict(data=n, count=size, first=n == 0, last=n == count - 1))
            ctx.set(dut.i.valid, 1)
            await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)

    async def watch(ctx):
        ctx.set(dut.o.ready, 1)
        async for _, _, valid, payload in ctx.tick().sample(dut.o.valid, dut.o.payload):
            clocks.append(valid)
            if valid and payload.last:
                return

    simulate(dut, drive, watch, clocks=200)
    assert len(clocks) <= count + WordPacker.latency + 2
    assert sum(clocks) == count * size // LINE_WORDS
