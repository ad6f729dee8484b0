"""The `lossless` decoder against the model; more pages go through it in tests/cocotb/test_codec.py."""

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from codec_pages import SEED, as_pages, broken_lossless, mixed_pages, real_rows, special_rows, to_lines
from streams import receive, send, simulate

from speckv_hw.codec.lossless_decoder import LosslessDecoder
from speckv_model import codec as model
from speckv_model.constants import LINE_BYTES, PAGE_LINES, Codec, Dtype


def decoded(dtype, stored):
    """Lines of a page as integers."""
    lines = len(stored) // LINE_BYTES
    return to_lines(model.decode_pages(Codec.LOSSLESS, dtype, stored.reshape(1, lines, LINE_BYTES))[0])


def decode(dut, jobs, *, idle=0.0, clocks=60_000):
    """Decodes `jobs` (dtype, stored bytes) and compares with the model. Returns the clock of each page's last line."""
    ends = []
    clock = 0

    async def count(ctx):
        nonlocal clock
        async for _ in ctx.tick():
            clock += 1

    async def starts(ctx):
        await send(ctx, dut.start, [dict(dtype=int(dtype), lines=len(stored) // LINE_BYTES) for dtype, stored in jobs],
                   idle=idle)

    async def lines(ctx):
        await send(ctx, dut.stored, [line for _, stored in jobs for line in to_lines(stored)],
                   idle=idle, seed=SEED + 1)

    async def check(ctx):
        for number, (dtype, stored) in enumerate(jobs):
            got = await receive(ctx, dut.lines, PAGE_LINES, stall=idle, seed=SEED + number)
            ends.append(clock)
            for index, line in enumerate(decoded(dtype, stored)):
                assert got[index] == line, f"page {number}, line {index}"
        await ctx.tick().repeat(20)
        assert not ctx.get(dut.lines.valid)

    simulate(dut, starts, lines, check, background=[count], watched=[dut.lines], clocks=clocks)
    return ends


def stored_pages(dtype, pages):
    """Those of `pages` that fit, encoded."""
    encoded = [model.encode(Codec.LOSSLESS, dtype, page) for page in pages]
    return [(dtype, stored) for stored in encoded if stored is not None]


@pytest.mark.parametrize("lanes, idle", [(32, 0.0), (32, 0.3), (16, 0.3), (8, 0.0), (8, 0.3)])
def test_against_model(lanes, idle):
    rng = np.random.default_rng(SEED)
    jobs = broken_lossless(rng, 4)
    for dtype in Dtype:
        jobs += stored_pages(dtype, [*as_pages(real_rows(dtype)[rng.integers(1536, size=16)]),
                                     *mixed_pages(rng, dtype, 1)])
    decode(LosslessDecoder(lanes), [jobs[n] for n in rng.permutation(len(jobs))], idle=idle)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_every_special_row(dtype):
    rng = np.random.default_rng(SEED)
    decode(LosslessDecoder(16), stored_pages(dtype, as_pages(special_rows(rng, dtype))))


@pytest.mark.parametrize("lanes", [8, 32])
def test_any_stored_bytes_give_64_lines(lanes):
    rng = np.random.default_rng(SEED + lanes)
    decode(LosslessDecoder(lanes), broken_lossless(rng, 8))


@pytest.mark.parametrize("dtype", list(Dtype))
def test_one_line_a_clock(dtype):
    ends = decode(LosslessDecoder(32), stored_pages(dtype, as_pages(real_rows(dtype)[:256])))
    assert (ends[-1] - ends[0]) / (len(ends) - 1) <= 1.02 * PAGE_LINES


def test_reset_empties_it():
    dtype = Dtype.FP16
    before, after = (stored for _, stored in stored_pages(dtype, as_pages(real_rows(dtype)[:32])))
    reset = Signal()
    dut = LosslessDecoder(16)

    async def drive(ctx):
        for stored, lines in ((before, 30), (after, len(after) // LINE_BYTES)):
            await send(ctx, dut.start, [dict(dtype=int(dtype), lines=len(stored) // LINE_BYTES)])
            await send(ctx, dut.stored, to_lines(stored)[:lines])
            if stored is before:
                ctx.set(reset, 1)
                await ctx.tick()
                ctx.set(reset, 0)

    async def drain(ctx):
        ctx.set(dut.lines.ready, 1)
        await ctx.posedge(reset)
        await ctx.tick()
        assert await receive(ctx, dut.lines, PAGE_LINES) == decoded(dtype, after)

    simulate(ResetInserter(reset)(dut), drive, drain, clocks=2000)


def test_lanes_are_checked():
    with pytest.raises(ValueError, match="lanes must be 8, 16 or 32, not 4"):
        LosslessDecoder(4)
