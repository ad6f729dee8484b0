"""The parts of the `lossless` codec one by one, with idle and back-pressure where they have handshakes."""

import random

import numpy as np
import pytest
from amaranth.hdl import Const, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.sim import Simulator
from codec_pages import SEED, random_rows, real_rows, special_rows
from streams import receive, send, simulate

from speckv_hw.codec.exponent_form import from_form, to_form
from speckv_hw.codec.piece_fetcher import PieceFetcher
from speckv_hw.codec.piece_maker import PieceMaker
from speckv_hw.codec.regear import Regear
from speckv_hw.codec.row_centre import RowCentre
from speckv_hw.codec.section_fetcher import SectionFetcher
from speckv_hw.codec.tier_decoder import TierDecoder
from speckv_hw.codec.tier_packer import TierPacker
from speckv_hw.codec.tier_unpacker import TierUnpacker
from speckv_model.codec import lossless
from speckv_model.codec.float16 import exponent_field, exponent_ones
from speckv_model.constants import ROW_VALUES, Dtype

IDLE = [0.0, 0.4]
SIZES = [(8, 8, 2), (16, 16, 2), (32, 16, 2), (32, 8, 4), (32, 16, 4)]


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


def form(bits, dtype):
    """What `exponent_form` makes of a value's bits."""
    if dtype == Dtype.BF16:
        return bits & 0x7F | bits >> 15 << 7 | (bits >> 7 & 0xFF) << 8
    return bits & 0xFF | (bits >> 10 & 0x1F) << 8 | (bits >> 8 & 3) << 13 | bits >> 15 << 15


def simulate_logic(m, check):
    """Runs `check` on logic without a clock."""
    sim = Simulator(m)
    sim.add_testbench(check)
    sim.run()


def random_masks(rng, lanes):
    """Pages of masks, each page sparse, dense, or without any unit."""
    return [[sum((rng.random() < density) << lane for lane in range(lanes)) for _ in range(rng.randint(2, 12))]
            for density in (rng.choice([0, 0.05, 0.3, 0.9, 1]) for _ in range(30))]


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("lanes, places, width", SIZES)
def test_tier_packer(lanes, places, width, idle):
    rng = random.Random(SEED)
    sent, want = [], []
    for page in random_masks(rng, lanes):
        packed = []
        for n, mask in enumerate(page):
            units = [rng.getrandbits(width) for _ in range(lanes)]
            sent.append(dict(units=joined(units, width), mask=mask, last=n == len(page) - 1))
            packed += [unit for lane, unit in enumerate(units) if mask >> lane & 1]
        chunks = [packed[n:n + places] for n in range(0, len(packed), places)] or [[]]
        # Without units the last chunk is empty, and so it is where the last beat has none and the one before is full.
        if packed and not len(packed) % places and not page[-1]:
            chunks.append([])
        want += [(joined(chunk, width), not chunk, n == len(chunks) - 1) for n, chunk in enumerate(chunks)]
    got = transform(TierPacker(lanes, places, width), sent, len(want), idle)
    assert [(one.data, one.empty, one.last) for one in got] == want


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_tier_packer_takes_full_beats_apart(blocks):
    beats = 20
    clocks = []

    async def drive(ctx):
        ctx.set(dut.o.ready, 1)
        await send(ctx, dut.i, [dict(mask=0xFFFFFFFF, last=n % 10 == 9) for n in range(beats)])
        clocks.append(clock)

    async def count(ctx):
        nonlocal clock
        async for _ in ctx.tick():
            clock += 1

    clock = 0
    dut = TierPacker(32, 32 // blocks, 2)
    simulate(dut, drive, background=[count])
    assert clocks[0] == pytest.approx(blocks * beats, abs=3 * blocks)


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("lanes, places, width", SIZES)
def test_tier_unpacker(lanes, places, width, idle):
    """Pages with as many pieces as they need, more, more than fit into a queue, or too few."""
    rng = random.Random(SEED)
    pieces, requests, want = [], [], []
    size = 64 // width
    for page in random_masks(rng, lanes):
        total = sum(mask.bit_count() for mask in page)
        needed = max(-(-total // size), 1)
        stored = rng.choice([needed, needed, needed, needed + 3, needed + 40, max(needed // 2, 1)])
        units = [rng.getrandbits(width) for _ in range(stored * size)]
        pieces += [dict(data=joined(units[n * size:(n + 1) * size], width), last=n == stored - 1)
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

    dut = TierUnpacker(lanes, places, width, 8)

    async def ask(ctx):
        await send(ctx, dut.requests, requests, idle=idle, seed=SEED + 1)

    async def feed(ctx):
        await send(ctx, dut.i, pieces, idle=idle)

    async def collect(ctx):
        for n, beat in enumerate(want):
            got, = await receive(ctx, dut.o, 1, stall=idle, seed=SEED + n)
            assert got.tag == n % 256
            assert {lane: got.units >> width * lane & (1 << width) - 1 for lane in beat} == beat

    simulate(dut, ask, feed, collect, watched=[dut.o])


class Lines(wiring.Component):
    """A fetcher with the memory that it asks: line n is `lines`[n]."""

    def __init__(self, fetcher, lines):
        self.fetcher = fetcher
        self._lines = lines
        super().__init__({})

    def elaborate(self, platform):
        m = Module()
        m.submodules.fetcher = fetcher = self.fetcher
        m.submodules.memory = memory = Memory(shape=512, depth=len(self._lines), init=self._lines)
        read = memory.read_port()
        m.d.comb += [read.addr.eq(fetcher.request.payload), fetcher.line.eq(read.data), fetcher.request.ready.eq(1)]
        m.d.sync += fetcher.arrives.eq(fetcher.request.valid)
        return m


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("width", [16, 64, 256])
def test_section_fetcher(width, idle):
    rng = random.Random(SEED)
    lines = [rng.getrandbits(512) for _ in range(64)]
    pages, want = [], []
    for _ in range(8):
        line, present = rng.randrange(50), rng.choice([0, 3, 5, 5, 9])
        pages.append(dict(line=line, end=line + present, absent=not present))
        for n in range(5):
            data = lines[line + n] if n < present else 0
            want += [data >> at & (1 << width) - 1 for at in range(0, 512, width)]
    dut = SectionFetcher(5, width)

    async def ask(ctx):
        await send(ctx, dut.pages, pages, idle=idle)

    async def collect(ctx):
        assert await receive(ctx, dut.o, len(want), stall=idle) == want

    simulate(Lines(dut, lines), ask, collect, watched=[dut.o])


@pytest.mark.parametrize("idle", IDLE)
def test_piece_fetcher(idle):
    rng = random.Random(SEED)
    lines = [rng.getrandbits(512) for _ in range(64)]
    pages, want = {"second": [], "third": []}, {"second": [], "third": []}
    for name in pages:
        for _ in range(12):
            line, place, pieces = rng.randrange(40), rng.randrange(8), rng.choice([1, 8, rng.randint(1, 40)])
            absent = rng.random() < 0.2
            pages[name].append(dict(line=line, place=place, pieces=pieces, absent=absent))
            for n in range(place, place + pieces):
                piece = 0 if absent else lines[line + n // 8] >> 64 * (n % 8) & (1 << 64) - 1
                want[name].append((piece, n == place + pieces - 1))
    dut = PieceFetcher()

    def ask(name):
        async def drive(ctx):
            await send(ctx, getattr(dut, f"{name}_pages"), pages[name], idle=idle, seed=f"{SEED} {name}")
        return drive

    def collect(name):
        async def check(ctx):
            got = await receive(ctx, getattr(dut, name), len(want[name]), stall=idle, seed=f"{SEED} {name}")
            assert [(one.data, one.last) for one in got] == want[name]
        return check

    simulate(Lines(dut, lines), *map(ask, pages), *map(collect, pages), watched=[dut.second, dut.third])


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("places, width", [(8, 2), (16, 2), (8, 4)])
def test_piece_maker(places, width, idle):
    rng = random.Random(SEED)
    sent, want = [], []
    for _ in range(40):
        units = [rng.randrange(1, 1 << width) for _ in range(rng.choice([0, 1, places, rng.randint(1, 6 * places)]))]
        chunks = [units[n:n + places] for n in range(0, len(units), places)] or [[]]
        sent += [dict(data=joined(chunk, width), empty=not chunk, last=n == len(chunks) - 1)
                 for n, chunk in enumerate(chunks)]
        size = 64 // width
        pieces = [units[n:n + size] for n in range(0, len(units), size)] or [[]]
        want += [(joined(piece, width), n == len(pieces) - 1, not piece) for n, piece in enumerate(pieces)]
    got = transform(PieceMaker(places, width), sent, len(want), idle)
    assert [(one.data, one.last, one.empty) for one in got] == want


@pytest.mark.parametrize("idle", IDLE)
@pytest.mark.parametrize("taken, given", [(3, 4), (4, 3)])
def test_regear(taken, given, idle):
    rng = random.Random(SEED)
    units = [rng.getrandbits(8) for _ in range(12 * 20)]
    sent = [joined(units[n:n + taken], 8) for n in range(0, len(units), taken)]
    want = [joined(units[n:n + given], 8) for n in range(0, len(units), given)]
    assert transform(Regear(8, taken, given), sent, len(want), idle) == want


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

    dut = RowCentre(lanes)
    got, due = [], []
    clock = 0

    async def step(ctx):
        nonlocal clock
        await ctx.tick()
        clock += 1
        if ctx.get(dut.o.valid):
            got.append((clock, ctx.get(dut.o.payload)))

    async def drive(ctx):
        last_beat = ROW_VALUES // lanes - 1
        for row in rows.tolist():
            for n in range(last_beat + 1):
                while rng.random() < 0.1:
                    await step(ctx)
                forms = [form(value, dtype) for value in row[n * lanes:(n + 1) * lanes]]
                ctx.set(dut.i.payload, dict(forms=joined(forms, 16), dtype=int(dtype), last=n == last_beat))
                ctx.set(dut.i.valid, 1)
                if n == last_beat:
                    due.append(clock + dut.latency)
                await step(ctx)
                ctx.set(dut.i.valid, 0)
        for _ in range(dut.latency):
            await step(ctx)

    simulate(dut, drive, clocks=20_000)
    assert got == list(zip(due, centres.tolist()))


@pytest.mark.parametrize("dtype", list(Dtype))
def test_exponent_form(dtype):
    value = Signal(16)
    there, back = Signal(16), Signal(16)
    m = Module()
    m.d.comb += [there.eq(to_form(value, Const(dtype, 1))), back.eq(from_form(there, Const(dtype, 1)))]

    async def check(ctx):
        for bits in [0, 0xFFFF, *(1 << n for n in range(16)), *random.Random(SEED).choices(range(1 << 16), k=100)]:
            ctx.set(value, bits)
            await ctx.delay(1e-7)
            assert (ctx.get(there), ctx.get(back)) == (form(bits, dtype), bits)

    simulate_logic(m, check)


@pytest.mark.parametrize("lanes", [8, 16, 32])
def test_latencies(lanes):
    for packer in (TierPacker(lanes, min(lanes, 16), 2), TierPacker(lanes, 8, 4)):
            assert latency(packer, (packer.i, dict(mask=1, last=1))) == packer.latency
    for unpacker in (TierUnpacker(lanes, min(lanes, 16), 2, 1), TierUnpacker(lanes, 8, 4, 1)):
        # Without a unit to wait for
        assert latency(unpacker, (unpacker.requests, dict(mask=0))) == unpacker.latency
    decoder = TierDecoder(lanes)
    assert latency(decoder, (decoder.i, dict(centre=1))) == decoder.latency


def test_tier_packer_places_are_checked():
    with pytest.raises(ValueError, match="places must be lanes"):
        TierPacker(32, 4, 2)
    with pytest.raises(ValueError, match="places must be lanes"):
        TierUnpacker(32, 4, 2, 1)
