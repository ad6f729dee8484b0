"""The parts of the `lossless` codec one by one, with idle and back-pressure where they have handshakes."""

import random

import numpy as np
import pytest
from codec_pages import SEED, random_rows, real_rows, special_rows
from streams import receive, send, simulate

from speckv_hw.codec.line_cutter import LineCutter
from speckv_hw.codec.piece_maker import PieceMaker
from speckv_hw.codec.piece_reader import PieceReader
from speckv_hw.codec.regear import Regear
from speckv_hw.codec.row_centre import RowCentreFinder
from speckv_hw.codec.tier_packer import TierPacker
from speckv_hw.codec.tier_unpacker import TierUnpacker
from speckv_model.codec import lossless
from speckv_model.codec.float16 import exponent_field, exponent_ones
from speckv_model.constants import ROW_VALUES, Dtype

IDLE = [0.0, 0.4]
SIZES = [(8, 2), (16, 2), (32, 2), (32, 4)]


def transform(dut, sent, count, idle):
    """What `dut` makes of `sent`."""
    got = []

    async def drive(ctx):
        await send(ctx, dut.i, sent, idle=idle)

    async def collect(ctx):
        got.extend(await receive(ctx, dut.o, count, stall=idle))
        await ctx.tick().repeat(20)
        assert not ctx.get(dut.o.valid)

    simulate(dut, drive, collect, watched=[dut.o])
    return got


def latency(dut, *sent):
    """Clocks from payloads, (port, payload), that are accepted in the first clock, to the first output."""
    found = []

    def driver(port, payload):
        async def drive(ctx):
            await send(ctx, port, [payload])
        return drive

    async def watch(ctx):
        ctx.set(dut.o.ready, 1)
        clocks = 0
        while not ctx.get(dut.o.valid):
            await ctx.tick()
            clocks += 1
        found.append(clocks)

    simulate(dut, *(driver(*one) for one in sent), watch, clocks=50)
    return found[0]


def joined(units, width):
    return sum(unit << width * n for n, unit in enumerate(units))


def random_masks(rng, lanes):
    """Pages of masks, each page sparse, dense, or without any unit."""
    return [[sum((rng.random() < density) << lane for lane in range(lanes)) for _ in range(rng.randint(2, 12))]
            for density in (rng.choice([0, 0.05, 0.3, 0.9, 1]) for _ in range(30))]


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("lanes, width", SIZES)
def test_tier_packer(lanes, width, idle):
    rng = random.Random(SEED)
    sent, want = [], []
    for page in random_masks(rng, lanes):
        waiting = []
        for n, mask in enumerate(page):
            last = n == len(page) - 1
            units = [rng.getrandbits(width) for _ in range(lanes)]
            sent.append(dict(units=units, mask=mask, last=last))
            waiting += [unit for lane, unit in enumerate(units) if mask >> lane & 1]
            if len(waiting) >= lanes:
                want.append((joined(waiting[:lanes], width), lanes, last and len(waiting) == lanes))
                waiting = waiting[lanes:]
                if want[-1][2]:
                    break
            if last:
                want.append((joined(waiting, width), len(waiting), True))
    got = transform(TierPacker(lanes, width), sent, len(want), idle)
    assert [(one.data, one.count, one.last) for one in got] == want


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("lanes, width", SIZES)
def test_tier_unpacker(lanes, width, idle):
    """Pages with as many chunks as they need, more, more than fit into the queue, or too few."""
    rng = random.Random(SEED)
    chunks, requests, want = [], [], []
    for page in random_masks(rng, lanes):
        total = sum(mask.bit_count() for mask in page)
        needed = max(-(-total // lanes), 1)
        stored = rng.choice([needed, needed, needed, needed + 3, needed + 40, max(needed // 2, 1)])
        units = [rng.getrandbits(width) for _ in range(stored * lanes)]
        chunks += [dict(data=joined(units[n * lanes:(n + 1) * lanes], width), last=n == stored - 1)
                   for n in range(stored)]
        units += [0] * total
        place = 0
        for n, mask in enumerate(page):
            requests.append(dict(mask=mask, tag=len(want) % 256, last=n == len(page) - 1))
            beat = {}
            for lane in range(lanes):
                if mask >> lane & 1:
                    beat[lane] = units[place]
                    place += 1
            want.append(beat)

    dut = TierUnpacker(lanes, width, 8)

    async def ask(ctx):
        await send(ctx, dut.requests, requests, idle=idle, seed=SEED + 1)

    async def feed(ctx):
        await send(ctx, dut.i, chunks, idle=idle)

    async def collect(ctx):
        for n, beat in enumerate(want):
            got, = await receive(ctx, dut.o, 1, stall=idle, seed=SEED + n)
            assert got.tag == n % 256
            assert {lane: got.units[lane] for lane in beat} == beat

    simulate(dut, ask, feed, collect, watched=[dut.o])


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("lanes, width", [(8, 2), (8, 4), (16, 4), (32, 4)])
def test_piece_maker(lanes, width, idle):
    rng = random.Random(SEED)
    sent, want = [], []
    for _ in range(40):
        units = [rng.randrange(1, 1 << width) for _ in range(rng.choice([0, 1, lanes, rng.randint(1, 6 * lanes)]))]
        chunks = [units[n:n + lanes] for n in range(0, len(units), lanes)] or [[]]
        sent += [dict(data=joined(chunk, width), count=len(chunk), last=n == len(chunks) - 1)
                 for n, chunk in enumerate(chunks)]
        size = 64 // width
        pieces = [units[n:n + size] for n in range(0, len(units), size)] or [[]]
        want += [(joined(piece, width), n == len(pieces) - 1, not piece) for n, piece in enumerate(pieces)]
    got = transform(PieceMaker(lanes, width), sent, len(want), idle)
    assert [(one.data, one.last, one.empty) for one in got] == want


@pytest.mark.parametrize("idle", IDLE)
def test_piece_reader(idle):
    rng = random.Random(SEED)
    pages, lines, want = [], [], []
    for _ in range(40):
        start, pieces = rng.randrange(8), rng.choice([0, 1, 8, rng.randint(1, 40)])
        pages.append(dict(pieces=pieces, start=start))
        data = [rng.getrandbits(512) for _ in range(-(-(start + pieces) // 8) if pieces else 0)]
        lines += data
        found = [data[n // 8] >> 64 * (n % 8) & (1 << 64) - 1 for n in range(start, start + pieces)] or [0]
        want += [(piece, n == len(found) - 1) for n, piece in enumerate(found)]
    dut = PieceReader()

    async def ask(ctx):
        await send(ctx, dut.pages, pages, idle=idle, seed=SEED + 1)

    async def feed(ctx):
        await send(ctx, dut.lines, lines, idle=idle)

    async def collect(ctx):
        got = await receive(ctx, dut.o, len(want), stall=idle)
        assert [(one.data, one.last) for one in got] == want

    simulate(dut, ask, feed, collect, watched=[dut.o])


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("taken, given", [(3, 4), (4, 3)])
def test_regear(taken, given, idle):
    rng = random.Random(SEED)
    units = [rng.getrandbits(8) for _ in range(12 * 20)]
    sent = [joined(units[n:n + taken], 8) for n in range(0, len(units), taken)]
    want = [joined(units[n:n + given], 8) for n in range(0, len(units), given)]
    assert transform(Regear(8, taken, given), sent, len(want), idle) == want


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("width", [16, 64, 256, 512])
def test_line_cutter(width, idle):
    rng = random.Random(SEED)
    lines = [rng.getrandbits(512) for _ in range(20)]
    want = [line >> n & (1 << width) - 1 for line in lines for n in range(0, 512, width)]
    assert transform(LineCutter(width), lines, len(want), idle) == want


@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("lanes", [8, 32])
def test_row_centre(lanes, dtype):
    rng = np.random.default_rng([SEED, lanes])
    # Rows whose largest exponent grows from beat to beat, by more and by less than the counts reach
    growing = np.sort(random_rows(rng, 12) & 0x7FFF, axis=1)
    rows = np.concatenate([real_rows(dtype)[rng.integers(1536, size=20)], special_rows(rng, dtype),
                           random_rows(rng, 8), growing])
    exponents = exponent_field(rows, dtype)
    ones = exponents == exponent_ones(dtype)
    centres = lossless.centres(exponents, dtype)
    below = centres[:, None] - exponents
    known = (below <= max(lossless.THIRD_TIER)) & (below >= min(lossless.THIRD_TIER))
    centres = np.where((known | ones | (exponents == 0)).all(axis=1), centres, lossless.VERBATIM)
    assert (centres == lossless.VERBATIM).any() and (centres > 1).any()

    dut = RowCentreFinder(lanes)
    got, due = [], []
    clock = 0

    async def drive(ctx):
        for n, (beat, marked) in enumerate(zip(exponents.reshape(-1, lanes), ones.reshape(-1, lanes))):
            while rng.random() < 0.1:
                await step(ctx)
            last = n % (ROW_VALUES // lanes) == ROW_VALUES // lanes - 1
            mask = sum(int(one) << lane for lane, one in enumerate(marked))
            ctx.set(dut.i.payload, dict(exponents=beat.tolist(), ones=mask, last=last))
            ctx.set(dut.i.valid, 1)
            if last:
                due.append(clock + dut.latency)
            await step(ctx)
            ctx.set(dut.i.valid, 0)
        for _ in range(dut.latency):
            await step(ctx)

    async def step(ctx):
        """A clock with `advance`, after some without."""
        nonlocal clock
        ctx.set(dut.advance, 0)
        while rng.random() < 0.1:
            await ctx.tick()
        ctx.set(dut.advance, 1)
        await ctx.tick()
        clock += 1
        if ctx.get(dut.o.valid):
            got.append((clock, ctx.get(dut.o.payload)))

    simulate(dut, drive, clocks=20_000)
    assert got == list(zip(due, centres.tolist()))


@pytest.mark.parametrize("lanes", [8, 16, 32])
def test_latencies(lanes):
    full = (1 << lanes) - 1
    packer = TierPacker(lanes, 2)
    assert latency(packer, (packer.i, dict(mask=full))) == packer.latency
    unpacker = TierUnpacker(lanes, 2, 1)
    # Without a unit to wait for
    assert latency(unpacker, (unpacker.requests, dict(mask=0))) == unpacker.latency
    cutter = LineCutter(2 * lanes)
    assert latency(cutter, (cutter.i, 1)) == cutter.latency == 1


def test_line_cutter_width_is_checked():
    with pytest.raises(ValueError, match="width must divide 512, not 96"):
        LineCutter(96)
