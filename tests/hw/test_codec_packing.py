"""Gearboxes, packer, unpacker and run-length pieces of the codec, with idle and back-pressure."""

import random

import pytest
from streams import SEED, receive, send, simulate

from speckv_hw.codec.narrow import Narrow
from speckv_hw.codec.packer import Packer
from speckv_hw.codec.payloads import RowForm
from speckv_hw.codec.run_expander import RunExpander
from speckv_hw.codec.run_splitter import RunSplitter
from speckv_hw.codec.unpacker import Unpacker
from speckv_hw.codec.widen import Widen
from speckv_model.constants import ROW_VALUES

IDLE = [0.0, 0.4]


def transform(dut, sent, count, idle):
    """What `dut` makes of `sent`."""
    got = []

    async def drive(ctx):
        await send(ctx, dut.i, sent, idle=idle)

    async def collect(ctx):
        got.extend(await receive(ctx, dut.o, count, stall=idle))
        await ctx.tick().repeat(10)
        assert not ctx.get(dut.o.valid)

    simulate(dut, drive, collect, watched=[dut.o])
    return got


def latency(dut, payload, port=None):
    """Clocks from a payload that is accepted to the first output."""
    found = []

    async def drive(ctx):
        ctx.set(dut.o.ready, 1)
        await send(ctx, dut.i if port is None else port, [payload])

    async def watch(ctx):
        clocks = 0
        while not ctx.get(dut.o.valid):
            await ctx.tick()
            clocks += 1
        found.append(clocks)

    simulate(dut, drive, watch, clocks=50)
    return found[0]


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("parts", [1, 2, 8])
def test_narrow(parts, idle):
    rng = random.Random(SEED)
    chunks = [dict(data=rng.getrandbits(16 * parts), last=rng.random() < 0.3) for _ in range(60)]
    got = transform(Narrow(16 * parts, 16), chunks, 60 * parts, idle)
    want = [(chunk["data"] >> 16 * part & 0xFFFF, chunk["last"] and part == parts - 1)
            for chunk in chunks for part in range(parts)]
    assert [(one.data, one.last) for one in got] == want


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("parts", [1, 2, 8])
def test_widen(parts, idle):
    rng = random.Random(SEED)
    pieces = [[rng.getrandbits(16) for _ in range(rng.randint(1, 20))] for _ in range(20)]
    sent = [dict(data=one, last=n == len(piece) - 1) for piece in pieces for n, one in enumerate(piece)]
    want = [(value_of(piece[first:first + parts]), first + parts >= len(piece))
            for piece in pieces for first in range(0, len(piece), parts)]
    got = transform(Widen(16, 16 * parts), sent, len(want), idle)
    assert [(one.data, one.last) for one in got] == want


def random_pieces(rng, size):
    """Lists of fragments (lists of 16-bit units), many of one unit."""
    return [[[rng.getrandbits(16) for _ in range(rng.choice([1, size, rng.randint(1, size)]))]
             for _ in range(rng.randint(1, 12))] for _ in range(40)]


def value_of(units):
    return sum(unit << 16 * n for n, unit in enumerate(units))


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("size", [4, 8, 16])
def test_packer(size, idle):
    rng = random.Random(SEED)
    sent, want = [], []
    for piece in random_pieces(rng, size):
        for n, units in enumerate(piece):
            garbage = rng.getrandbits(16 * size) >> 16 * len(units) << 16 * len(units)
            sent.append(dict(data=value_of(units) | garbage, count=len(units), last=n == len(piece) - 1))
        units = [unit for fragment in piece for unit in fragment]
        want += [(value_of(units[first:first + size]), first + size >= len(units))
                 for first in range(0, len(units), size)]
    got = transform(Packer(size), sent, len(want), idle)
    assert [(one.data, one.last) for one in got] == want


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("size", [4, 8, 16])
def test_unpacker(size, idle):
    """Pieces with as many chunks as they need, some more, too few, or none."""
    rng = random.Random(SEED)
    chunks, requests, want = [], [], []
    for piece in random_pieces(rng, size):
        units = [unit for fragment in piece for unit in fragment]
        needed = -(-len(units) // size)
        stored = rng.choice([needed, needed, needed + 3, needed // 2])
        present = units[:stored * size]
        present += [0] * (stored * size - len(present))
        chunks += [dict(data=value_of(present[n * size:(n + 1) * size]), last=n == stored - 1)
                   for n in range(stored)]
        offset = 0
        for n, fragment in enumerate(piece):
            requests.append(dict(count=len(fragment), tag=len(want) % 256, last=n == len(piece) - 1,
                                 body=stored > 0))
            want.append((len(fragment), value_of(present[offset:offset + len(fragment)])))
            offset += len(fragment)

    dut = Unpacker(size, 8)

    async def ask(ctx):
        await send(ctx, dut.requests, requests, idle=idle, seed=SEED + 1)

    async def feed(ctx):
        await send(ctx, dut.i, chunks, idle=idle)

    async def collect(ctx):
        for n, (count, value) in enumerate(want):
            got, = await receive(ctx, dut.o, 1, stall=idle, seed=SEED + n)
            assert (got.tag, got.data & (1 << 16 * count) - 1) == (n % 256, value)

    simulate(dut, ask, feed, collect, watched=[dut.o])


def run_lengths(rng):
    """Lengths of a row's runs: many short ones or few long ones."""
    lengths = []
    while sum(lengths) < ROW_VALUES:
        longest = ROW_VALUES - sum(lengths)
        lengths.append(min(rng.choice([1, 1, 2, 31, 32, 33, rng.randint(1, ROW_VALUES)]), longest))
    return lengths


def row_of(pairs):
    """Bytes of a row and where its runs begin, from pairs of delta and length."""
    values, starts, latest = [], [], 0
    for delta, length in pairs:
        starts.append(len(values))
        for _ in range(length):
            latest = (latest + delta) % 256
            values.append(latest)
    return values, starts


def random_rows(rng):
    return [[(rng.randrange(256), length) for length in run_lengths(rng)] for _ in range(12)]


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("lanes", [8, 32])
def test_run_splitter(lanes, idle):
    sent, want = [], []
    for pairs in random_rows(random.Random(SEED)):
        values, starts = row_of(pairs)
        for first in range(0, ROW_VALUES, lanes):
            marks = sum(1 << start - first for start in starts if first <= start < first + lanes)
            last = first + lanes == ROW_VALUES
            sent.append(dict(bytes=values[first:first + lanes], marks=marks, last=last))
        want += [(delta | length - 1 << 8, n == len(pairs) - 1) for n, (delta, length) in enumerate(pairs)]
    got = transform(RunSplitter(lanes), sent, len(want), idle)
    assert [(one.data, one.last) for one in got] == want
    assert all(one.count == 1 for one in got)


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("lanes", [8, 32])
def test_run_expander(lanes, idle):
    """Rows of pairs, some of whose last lengths are wrong, among beats that only go through."""
    rng = random.Random(SEED)
    sent, want = [], []
    for pairs in random_rows(rng):
        values, _ = row_of(pairs)
        beyond = [(rng.randrange(256), 1)] if rng.random() < 0.3 else []
        for n, (delta, length) in enumerate(pairs + beyond):
            last = n == len(pairs + beyond) - 1
            count = rng.randrange(128) if last and not beyond else length - 1
            sent.append(dict(data=delta | (count | rng.randrange(2) << 7) << 8,
                             tag=dict(form=int(RowForm.PAIRS.value), last=last)))
        want += [int.from_bytes(bytes(values[first:first + lanes]), "little")
                 for first in range(0, ROW_VALUES, lanes)]
        through = rng.getrandbits(8 * lanes)
        sent.append(dict(data=through, tag=dict(form=int(RowForm.INT8.value), last=1)))
        want.append(through)
    got = transform(RunExpander(lanes), sent, len(want), idle)
    assert [one.data for one in got] == want


def test_latencies():
    assert latency(Narrow(64, 16), dict(data=1)) == Narrow.latency == 1
    assert latency(Widen(16, 16), dict(data=1)) == Widen.latency == 1
    assert latency(Packer(8), dict(data=1, count=8)) == Packer.latency == 3
    assert latency(RunExpander(8), dict(data=1, tag=dict(form=0))) == RunExpander.latency == 3
    unpacker = Unpacker(8, 1)
    request = dict(count=1, tag=0, last=1, body=0)
    assert latency(unpacker, request, unpacker.requests) == Unpacker.latency == 3
