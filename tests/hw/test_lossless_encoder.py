"""The `lossless` encoder against the model; more pages go through it in tests/cocotb/test_codec.py."""

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from codec_pages import SEED, as_pages, mixed_pages, real_rows, special_rows, to_lines
from streams import receive, send, simulate

from speckv_hw.codec.lossless_encoder import LosslessEncoder
from speckv_model import codec as model
from speckv_model.codec import lossless
from speckv_model.constants import PAGE_BYTES, PAGE_LINES, Codec, Dtype


def expected(dtype, page):
    """Stored lines as integers, and whether they are usable."""
    stored, lines, fits = model.encode_pages(Codec.LOSSLESS, dtype, page[None])
    return to_lines(stored[0])[:lines[0]], int(lines[0]), bool(fits[0])


def in_order(collected, result):
    """The stored lines in the order in which they go to DRAM."""
    return [collected[index] for index in (*range(result.first, result.lines), *range(result.first))]


def encode(dut, jobs, *, idle=0.0, blocked=0, clocks=60_000):
    """Encodes `jobs` (dtype, page) and compares with the model. Returns the clock of each result.

    For the first `blocked` clocks no stored line is accepted.
    """
    ends = []
    clock = 0
    # Of the page whose result is next, and of the one after it
    collected, ahead = {}, {}

    async def lines(ctx):
        payloads = [dict(data=line, dtype=int(dtype)) for dtype, page in jobs for line in to_lines(page)]
        await send(ctx, dut.lines, payloads, idle=idle)

    async def stored(ctx):
        await ctx.tick().repeat(blocked + 1)
        number = 0
        while True:
            line, = await receive(ctx, dut.stored, 1, stall=idle, seed=SEED + number)
            number += 1
            into = ahead if line.ahead else collected
            assert line.index not in into
            into[line.index] = line.data

    async def results(ctx):
        for number, (dtype, page) in enumerate(jobs):
            result, = await receive(ctx, dut.result, 1, stall=idle, seed=SEED + number)
            ends.append(clock)
            want, lines, fits = expected(dtype, page)
            assert (result.lines, result.fits) == (lines, fits)
            if fits:
                assert result.first == lossless.LOW_LINES and sorted(collected) == list(range(lines))
                for index, (got, line) in enumerate(zip(in_order(collected, result), want)):
                    assert got == line, f"page {number}, line {index}"
            collected.clear()
            collected.update(ahead)
            ahead.clear()

    async def count(ctx):
        nonlocal clock
        async for _ in ctx.tick():
            clock += 1

    simulate(dut, lines, results, background=[stored, count], watched=[dut.stored, dut.result], clocks=clocks)
    assert not collected and not ahead
    return ends


def hard_pages(rng, dtype):
    """Pages whose middle is as long as it can be, or nearly so."""
    ones = 0x7C00 if dtype == Dtype.FP16 else 0x7F80
    far = np.where(np.arange(2048) % 4, 0x0001, 0x3C00).astype(np.uint16)
    return [page.view(np.uint8) for page in (
        rng.integers(0, 1 << 16, 2048).astype(np.uint16), np.full(2048, ones, np.uint16), far)]


@pytest.mark.parametrize("lanes, idle", [(32, 0.0), (32, 0.3), (16, 0.3), (8, 0.0), (8, 0.3)])
def test_against_model(lanes, idle):
    rng = np.random.default_rng(SEED)
    jobs = []
    for dtype in Dtype:
        pages = [*as_pages(real_rows(dtype)[rng.integers(1536, size=16)]), *mixed_pages(rng, dtype, 1),
                 *hard_pages(rng, dtype)[:2 if lanes > 8 else 1]]
        jobs += [(dtype, page) for page in pages]
    encode(LosslessEncoder(lanes), [jobs[n] for n in rng.permutation(len(jobs))], idle=idle)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_every_special_row(dtype):
    rng = np.random.default_rng(SEED)
    encode(LosslessEncoder(16), [(dtype, page) for page in as_pages(special_rows(rng, dtype))])


@pytest.mark.parametrize("dtype", list(Dtype))
def test_one_line_a_clock(dtype):
    ends = encode(LosslessEncoder(32), [(dtype, page) for page in as_pages(real_rows(dtype)[:320])])
    # How long a page's result takes after its last line depends on its codes.
    assert (ends[-1] - ends[0]) / (len(ends) - 1) <= 1.03 * PAGE_LINES


def test_pages_queue_up_behind_a_blocked_output():
    rng = np.random.default_rng(SEED)
    zeros = np.zeros(PAGE_BYTES, np.uint8)
    pages = [as_pages(real_rows(Dtype.FP16)[:16])[0], zeros, *hard_pages(rng, Dtype.FP16), zeros]
    encode(LosslessEncoder(32), [(Dtype.FP16, page) for page in pages], blocked=600)


def test_reset_empties_it():
    rng = np.random.default_rng(SEED)
    before, after = mixed_pages(rng, Dtype.BF16, 2)
    reset = Signal()
    dut = LosslessEncoder(16)

    async def drive(ctx):
        await send(ctx, dut.lines, [dict(data=line, dtype=0) for line in to_lines(before)[:50]])
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        await send(ctx, dut.lines, [dict(data=line, dtype=int(Dtype.BF16)) for line in to_lines(after)])

    async def check(ctx):
        ctx.set(dut.stored.ready, 1)
        await ctx.posedge(reset)
        await ctx.tick()
        want, lines, fits = expected(Dtype.BF16, after)
        got = await receive(ctx, dut.stored, min(lines, PAGE_LINES))
        result, = await receive(ctx, dut.result, 1)
        assert (result.lines, result.fits) == (lines, fits)
        if fits:
            assert in_order({line.index: line.data for line in got}, result) == want

    simulate(ResetInserter(reset)(dut), drive, check, clocks=2000)


def test_lanes_are_checked():
    with pytest.raises(ValueError, match="lanes must be 8, 16 or 32, not 64"):
        LosslessEncoder(64)
