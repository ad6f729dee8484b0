"""The encoder of `fixed` and `variable` pages against the model: settings, dtypes, lane counts, special and real pages,
idle and back-pressure."""

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from codec_pages import SEED, as_pages, mixed_pages, real_rows, special_rows, to_dtype, to_lines
from streams import receive, send, simulate

from speckv_hw.codec.quantised_encoder import QuantisedEncoder
from speckv_model import codec as model
from speckv_model.constants import PAGE_LINES, Codec, Dtype

FIXED, VARIABLE = Codec.FIXED, Codec.VARIABLE


def line(codec, dtype, setting, data):
    return dict(data=data, dtype=int(dtype), setting=int(setting), codec=int(codec))


def encode(dut, jobs, *, idle=0.0, stall=None, blocked=0, clocks=60_000):
    """Encodes `jobs` (codec, dtype, setting, page) and compares with the model. Returns the clock of each result.

    For the first `blocked` clocks no stored line is accepted.
    """
    stall = idle if stall is None else stall
    ends, pages, clock = [], [{}], 0

    async def lines(ctx):
        await send(ctx, dut.lines, [line(*how, data) for *how, page in jobs for data in to_lines(page)], idle=idle)

    async def stored(ctx):
        await ctx.tick().repeat(blocked + 1)
        while True:
            got, = await receive(ctx, dut.stored, 1, stall=stall, seed=SEED + len(ends) + 65 * len(pages[-1]))
            assert got.index not in pages[-1]
            pages[-1][got.index] = got.data

    async def results(ctx):
        for number, (codec, dtype, setting, page) in enumerate(jobs):
            result, = await receive(ctx, dut.result, 1, stall=stall, seed=SEED + number)
            ends.append(clock)
            where = f"page {number}, {codec.name} {setting} {dtype.name}"
            want, want_lines, fits = model.encode_pages(codec, dtype, page[None], setting)
            assert result.fits == fits[0], where
            assert result.first == 0
            if fits[0]:
                assert result.lines == want_lines[0], where
                want = dict(enumerate(to_lines(want[0])[:result.lines]))
                assert pages[-1].keys() == want.keys(), where
                for index in want:
                    assert pages[-1][index] == want[index], f"{where}, line {index}"
            pages.append({})
        await ctx.tick().repeat(20)
        assert not ctx.get(dut.stored.valid) and not ctx.get(dut.result.valid) and not pages[-1]

    async def count(ctx):
        nonlocal clock
        async for _ in ctx.tick():
            clock += 1

    simulate(dut, lines, results, background=[stored, count], watched=[dut.stored, dut.result], clocks=clocks)
    return ends


def random_setting(rng, codec, dtype):
    if codec == FIXED:
        return int(rng.integers(7, 17))
    return int(rng.choice([rng.integers(256), rng.integers(96, 176)]))


@pytest.mark.parametrize("lanes, idle, pages", [(32, 0.0, 8), (32, 0.4, 6), (16, 0.3, 6), (8, 0.0, 8), (8, 0.4, 6)])
def test_against_model(lanes, idle, pages):
    """Real and mixed pages, codecs, dtypes and settings in random order."""
    rng = np.random.default_rng([SEED, lanes, int(10 * idle)])
    jobs = []
    for dtype in Dtype:
        real = as_pages(real_rows(dtype)[rng.integers(1536, size=8 * pages)])
        for page in [*real, *mixed_pages(rng, dtype, pages // 2)]:
            codec = FIXED if rng.random() < 0.5 else VARIABLE
            jobs.append((codec, dtype, random_setting(rng, codec, dtype), page))
    encode(QuantisedEncoder(lanes), [jobs[n] for n in rng.permutation(len(jobs))], idle=idle)


@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("codec", [FIXED, VARIABLE])
def test_every_special_row(codec, dtype):
    """Row by row, so that one which is not held does not hide the others."""
    rng = np.random.default_rng(SEED)
    held = [row for row in special_rows(rng, dtype)
            if model.encode_pages(codec, dtype, as_pages(row[None]))[2][0]]
    assert len(held) > 10
    encode(QuantisedEncoder(16), [(codec, dtype, model.CODECS[codec].DEFAULT_SETTING, page)
                                  for page in as_pages(np.array(held))])


def test_every_fixed_setting():
    rng = np.random.default_rng(SEED)
    pages = as_pages(real_rows(Dtype.BF16)[rng.integers(1536, size=160)])
    encode(QuantisedEncoder(32), [(FIXED, Dtype.BF16, 7 + n, page) for n, page in enumerate(pages)])


def test_pages_that_do_not_fit():
    """One bad value among good ones spoils its own page only."""
    good = as_pages(real_rows(Dtype.FP16)[:16])[0]
    jobs = []
    large = to_dtype(1000, Dtype.FP16)
    for codec, value in [(FIXED, 0x7C00), (VARIABLE, 0xFC00), (VARIABLE, 0x7FFF), (VARIABLE, large)]:
        for place in (0, 2047):
            page = good.view(np.uint16).copy()
            page[place] = value
            jobs += [(codec, Dtype.FP16, 128 if codec == VARIABLE else 9, one) for one in (page.view(np.uint8), good)]
    tiny = np.tile(np.uint16([1]), 2048).view(np.uint8)
    jobs += [(FIXED, Dtype.FP16, 8, tiny), (FIXED, Dtype.FP16, 8, good), (FIXED, Dtype.BF16, 8, good)]
    encode(QuantisedEncoder(16), jobs)


@pytest.mark.parametrize("lanes", [8, 32])
def test_one_beat_a_clock(lanes):
    """Pages of one codec come one after the other without a gap, whatever their settings."""
    pages = as_pages(real_rows(Dtype.BF16)[:96])
    for codec, settings in ((FIXED, (16, 7, 15, 8, 16, 13)), (VARIABLE, (128, 120, 112, 128, 104, 96))):
        ends = encode(QuantisedEncoder(lanes), [(codec, Dtype.BF16, setting, page)
                                                for setting, page in zip(settings, pages)])
        assert (ends[-1] - ends[0]) / (len(ends) - 1) <= 1.02 * PAGE_LINES * 32 / lanes


def test_short_pages_queue_up_behind_a_blocked_output():
    zeros = np.zeros(4096, np.uint8)
    page = as_pages(real_rows(Dtype.FP16)[:16])[0]
    jobs = [(VARIABLE, Dtype.FP16, 128, one) for one in (zeros, zeros, zeros, page, zeros)]
    encode(QuantisedEncoder(32), [*jobs, (FIXED, Dtype.FP16, 7, zeros), *jobs], blocked=600)


def test_reset_empties_it():
    rng = np.random.default_rng(SEED)
    before, after = as_pages(real_rows(Dtype.FP16)[rng.integers(1536, size=32)])
    reset = Signal()
    dut = QuantisedEncoder(16)
    how = VARIABLE, Dtype.FP16, 128

    async def drive(ctx):
        await send(ctx, dut.lines, [line(*how, data) for data in to_lines(before)[:50]])
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        await send(ctx, dut.lines, [line(*how, data) for data in to_lines(after)])

    async def check(ctx):
        await ctx.posedge(reset)
        await ctx.tick()
        codec, dtype, setting = how
        want, lines, _ = model.encode_pages(codec, dtype, after[None], setting)
        got = await receive(ctx, dut.stored, lines[0])
        assert {one.index: one.data for one in got} == dict(enumerate(to_lines(want[0])[:lines[0]]))
        await receive(ctx, dut.result, 1)

    simulate(ResetInserter(reset)(dut), drive, check, clocks=2000)


def test_lanes_are_checked():
    with pytest.raises(ValueError, match="lanes must be 8, 16 or 32, not 4"):
        QuantisedEncoder(4)
