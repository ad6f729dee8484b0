"""The page decoder against the model: real, special and broken pages, all lane counts, idle and
back-pressure."""

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from codec_pages import SEED, as_pages, mixed_pages, real_rows, special_rows, to_lines
from streams import receive, send, simulate

from speckv_hw.codec.page_decoder import PageDecoder
from speckv_model import codec as model
from speckv_model.config import DeviceConfig
from speckv_model.constants import LINE_BYTES, PAGE_LINES, Codec, Dtype

ILLEGAL_AND_LEGAL_CODES = [0, 1, 2, 5, 20, 63, 64, 65, 66, 128, 255]


def decode(dut, jobs, *, idle=0.0, clocks=60_000):
    """Decodes `jobs` (codec, dtype, stored, and `by_row` if it is so) and compares with the model. Returns the clock
    of each page's last line."""
    ends = []
    clock = 0

    async def count(ctx):
        nonlocal clock
        async for _ in ctx.tick():
            clock += 1

    async def starts(ctx):
        await send(ctx, dut.start, [dict(codec=int(codec), dtype=int(dtype), by_row=int(any(by_row)),
                                         lines=len(stored) // LINE_BYTES)
                                    for codec, dtype, stored, *by_row in jobs], idle=idle)

    async def lines(ctx):
        await send(ctx, dut.stored, [line for _, _, stored, *_ in jobs for line in to_lines(stored)],
                   idle=idle, seed=SEED + 1)

    async def check(ctx):
        for number, (codec, dtype, stored, *by_row) in enumerate(jobs):
            got = await receive(ctx, dut.lines, PAGE_LINES, stall=idle, seed=SEED + number)
            ends.append(clock)
            for index, line in enumerate(to_lines(model.decode(codec, dtype, stored, *by_row))):
                assert got[index] == line, f"page {number}, line {index}"

    simulate(dut, starts, lines, check, background=[count], watched=[dut.lines], clocks=clocks)
    return ends


def stored_pages(dtype, pages):
    """Those of `pages` that fit, encoded."""
    encoded = [model.encode(Codec.SPECKV, dtype, page) for page in pages]
    return [(Codec.SPECKV, dtype, stored) for stored in encoded if stored is not None]


def broken_pages(rng, count):
    """Random bytes of random length with length codes of all kinds, and valid pages that are cut off."""
    jobs = []
    for _ in range(count):
        stored = rng.integers(0, 256, int(rng.integers(0, 68)) * LINE_BYTES, dtype=np.uint8)
        stored[32:48] = rng.choice(ILLEGAL_AND_LEGAL_CODES, len(stored[32:48]))
        jobs.append((rng.choice([Codec.RAW, Codec.SPECKV, Codec.SPECKV]), rng.choice(Dtype), stored))
    (codec, dtype, stored), = stored_pages(Dtype.FP16, as_pages(real_rows(Dtype.FP16)[:16]))
    return [*jobs, (codec, dtype, stored[:LINE_BYTES]), (codec, dtype, stored[:10 * LINE_BYTES])]


@pytest.mark.parametrize("lanes, idle", [(32, 0.0), (32, 0.3), (16, 0.3), (8, 0.0), (8, 0.3)])
def test_against_model(lanes, idle):
    rng = np.random.default_rng(SEED)
    jobs = broken_pages(rng, 3)
    for dtype in Dtype:
        pages = [*as_pages(real_rows(dtype)[rng.integers(1536, size=16)]), *mixed_pages(rng, dtype, 2)]
        jobs += stored_pages(dtype, pages)
        jobs += [(Codec.RAW, dtype, page) for page in mixed_pages(rng, dtype, 1)]
    decode(PageDecoder(DeviceConfig(lanes=lanes)), [jobs[n] for n in rng.permutation(len(jobs))], idle=idle)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_every_special_row(dtype):
    rng = np.random.default_rng(SEED)
    decode(PageDecoder(DeviceConfig(lanes=16)), stored_pages(dtype, as_pages(special_rows(rng, dtype))))


@pytest.mark.parametrize("lanes", [8, 32])
def test_any_stored_bytes_give_64_lines(lanes):
    rng = np.random.default_rng(SEED + lanes)
    decode(PageDecoder(DeviceConfig(lanes=lanes)), broken_pages(rng, 12 if lanes == 8 else 8))


def test_both_layouts_of_fixed():
    """Pages of either one after the other."""
    dtype = Dtype.FP16
    pages = as_pages(real_rows(dtype)[:16 * 5])
    decode(PageDecoder(DeviceConfig(codecs=("raw", "fixed"))), [
        (Codec.FIXED, dtype, model.encode(Codec.FIXED, dtype, page, 8 + n % 2, by_row), by_row)
        for n, (page, by_row) in enumerate(zip(pages, (True, False, False, True, True)))])


def test_one_line_a_clock():
    dtype = Dtype.BF16
    ends = decode(PageDecoder(DeviceConfig()), stored_pages(dtype, as_pages(real_rows(dtype)[:64])))
    assert max(np.diff(ends)) <= PAGE_LINES + 1


def test_reset_empties_it():
    dtype = Dtype.FP16
    before, after = (stored for *_, stored in stored_pages(dtype, as_pages(real_rows(dtype)[:32])))
    reset = Signal()
    dut = PageDecoder(DeviceConfig(lanes=16))

    async def drive(ctx):
        for stored, lines in ((before, 20), (after, len(after) // LINE_BYTES)):
            start = dict(codec=int(Codec.SPECKV), dtype=int(dtype), lines=len(stored) // LINE_BYTES)
            await send(ctx, dut.start, [start])
            await send(ctx, dut.stored, to_lines(stored)[:lines])
            if stored is before:
                ctx.set(reset, 1)
                await ctx.tick()
                ctx.set(reset, 0)

    async def drain(ctx):
        ctx.set(dut.lines.ready, 1)
        await ctx.posedge(reset)
        await ctx.tick()
        assert await receive(ctx, dut.lines, PAGE_LINES) == to_lines(model.decode(Codec.SPECKV, dtype, after))

    simulate(ResetInserter(reset)(dut), drive, drain, clocks=2000)


def test_unknown_codec_means_raw():
    dut = PageDecoder(DeviceConfig(codecs=("raw",)))
    page, = as_pages(real_rows(Dtype.FP16)[:16])

    async def drive(ctx):
        await send(ctx, dut.start, [dict(codec=int(Codec.SPECKV), dtype=0, lines=PAGE_LINES)])
        await send(ctx, dut.stored, to_lines(page))

    async def check(ctx):
        assert await receive(ctx, dut.lines, PAGE_LINES) == to_lines(page)

    simulate(dut, drive, check, clocks=500)
