"""The decoder of `fixed` and `variable` pages and of single rows against the model: real, special, random and broken
pages, all settings and lane counts, idle and back-pressure."""

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from codec_pages import SEED, as_pages, mixed_pages, real_rows, special_rows, to_lines
from streams import receive, send, simulate

from speckv_hw.codec.quantised_decoder import QuantisedDecoder
from speckv_model import codec as model
from speckv_model.codec import fixed
from speckv_model.codec.fixed import Rate
from speckv_model.constants import LINE_BYTES, PAGE_LINES, PAGE_ROWS, Codec, Dtype

STEPS = [0, 100, 118, 128, 135, 140, 255]
"""Settings of `variable`; with the first real pages do not fit."""


def page_job(codec, dtype, stored):
    """What the decoder is to be given, and the lines and the `bad_row` that it must give."""
    start = dict(codec=int(codec), dtype=int(dtype), lines=len(stored) // LINE_BYTES)
    return start, to_lines(stored), to_lines(model.decode(codec, dtype, stored)), 0


def row_job(dtype, setting, stored, row, *, flipped=None):
    """As `page_job`, for a row alone, with a bit of it flipped if asked for."""
    rate = Rate(setting)
    at = row * rate.row_bytes
    stored = stored.copy()
    if flipped is not None:
        stored[at + flipped // 8] ^= 1 << flipped % 8
    first, end = at // LINE_BYTES, -(-(at + rate.row_bytes) // LINE_BYTES)
    start = dict(codec=int(Codec.FIXED), dtype=int(dtype), lines=end - first, single=1, rate=setting,
                 skip=at % LINE_BYTES // fixed.UNIT_BYTES)
    values = fixed.decode_rows(stored[at:at + rate.row_bytes], rate, dtype)
    return (start, to_lines(stored[first * LINE_BYTES:end * LINE_BYTES]), to_lines(values.view(np.uint8)),
            int(flipped is not None))


def decode(dut, jobs, *, idle=0.0, clocks=60_000):
    """Decodes `jobs` and checks what comes. Returns the clock of each job's last line."""
    ends = []
    clock = 0

    async def count(ctx):
        nonlocal clock
        async for _ in ctx.tick():
            clock += 1

    async def starts(ctx):
        await send(ctx, dut.start, [start for start, *_ in jobs], idle=idle)

    async def stored(ctx):
        await send(ctx, dut.stored, [line for _, lines, *_ in jobs for line in lines], idle=idle, seed=SEED + 1)

    async def check(ctx):
        for number, (start, _, want, bad) in enumerate(jobs):
            got = await receive(ctx, dut.lines, len(want), stall=idle, seed=SEED + number)
            ends.append(clock)
            assert ctx.get(dut.bad_row) == bad, f"job {number}: {start}"
            for index, line in enumerate(want):
                assert got[index] == line, f"job {number}: {start}, line {index}"
        await ctx.tick().repeat(40)
        assert not ctx.get(dut.lines.valid)

    simulate(dut, starts, stored, check, background=[count], watched=[dut.lines], clocks=clocks)
    return ends


def every_setting(rng, dtype, settings=fixed.SETTINGS, steps=STEPS):
    """Real pages, one for each setting."""
    pages = as_pages(real_rows(dtype))
    kinds = [*((Codec.FIXED, setting) for setting in settings), *((Codec.VARIABLE, step) for step in steps)]
    encoded = [(codec, model.encode(codec, dtype, pages[rng.integers(len(pages))], setting))
               for codec, setting in kinds]
    return [page_job(codec, dtype, stored) for codec, stored in encoded if stored is not None]


def special_pages(rng, dtype):
    """Pages of special rows that fit."""
    pages = [*as_pages(special_rows(rng, dtype)), *mixed_pages(rng, dtype, 2), np.zeros(4096, np.uint8)]
    encoded = [(codec, model.encode(codec, dtype, page, setting)) for page in pages
               for codec, setting in ((Codec.FIXED, 9), (Codec.FIXED, 14), (Codec.VARIABLE, 128))]
    return [page_job(codec, dtype, stored) for codec, stored in encoded if stored is not None]


def pages_that_begin_with_zeros(rng, dtype):
    """`variable` pages of which the first units take no words, and the first one that does takes many or few."""
    jobs = []
    for units in (1, 2, 63, 64):
        for setting in (118, 123, 140):
            page = as_pages(real_rows(dtype))[rng.integers(96)].copy()
            page[:64 * units] = 0
            jobs.append(page_job(Codec.VARIABLE, dtype, model.encode(Codec.VARIABLE, dtype, page, setting)))
    return jobs


def broken_pages(rng, lengths):
    """Random bytes of each of the `lengths` in lines, for either codec; some of small widths or without scales."""
    jobs = []
    for lines in lengths:
        stored = rng.integers(0, 256, lines * LINE_BYTES, dtype=np.uint8)
        codec = Codec.FIXED if rng.random() < 0.5 else Codec.VARIABLE
        if codec == Codec.VARIABLE:
            stored[4:36] &= np.uint8(rng.choice([0x00, 0x11, 0x77, 0x0F, 0xFF]))
        elif rng.random() < 0.3:
            stored[::fixed.rate_of(lines).row_bytes] = rng.choice([0, 1, 8, 240, 241, 255])
        jobs.append(page_job(codec, rng.choice(Dtype), stored))
    return jobs


def cut_pages(rng, dtype):
    """Valid pages cut off or lengthened by random lines."""
    page = as_pages(real_rows(dtype))[rng.integers(96)]
    jobs = []
    for codec, setting in ((Codec.FIXED, 8), (Codec.FIXED, 13), (Codec.VARIABLE, 123)):
        stored = model.encode(codec, dtype, page, setting)
        for lines in (0, 1, 2, len(stored) // LINE_BYTES - 1):
            jobs.append(page_job(codec, dtype, stored[:lines * LINE_BYTES]))
        more = rng.integers(0, 256, int(rng.integers(1, 5)) * LINE_BYTES, dtype=np.uint8)
        jobs.append(page_job(codec, dtype, np.concatenate([stored, more])))
    return jobs


def single_rows(rng, dtype, settings, rows):
    """Each of the `rows` of a page of each of the `settings`, right and with a bit flipped."""
    jobs = []
    for setting in settings:
        stored = model.encode(Codec.FIXED, dtype, as_pages(real_rows(dtype))[rng.integers(96)], setting)
        for row in rows:
            jobs.append(row_job(dtype, setting, stored, row))
            jobs.append(row_job(dtype, setting, stored, row, flipped=int(rng.integers(64 * setting))))
    return jobs


def mixed(rng, jobs):
    return [jobs[n] for n in rng.permutation(len(jobs))]


@pytest.mark.parametrize("lanes, idle", [(32, 0.0), (32, 0.3), (16, 0.3), (8, 0.3)])
def test_against_model(lanes, idle):
    """Pages and single rows; codecs, dtypes and settings change from one to the next."""
    rng = np.random.default_rng(SEED + lanes)
    jobs = broken_pages(rng, [int(lines) for lines in rng.integers(0, 128, 4)])
    for number, dtype in enumerate(Dtype):
        jobs += every_setting(rng, dtype, fixed.SETTINGS[number::2], STEPS[number::2])
        jobs += single_rows(rng, dtype, fixed.SETTINGS, rng.permutation(PAGE_ROWS)[:2])
    jobs += cut_pages(rng, Dtype.BF16)
    decode(QuantisedDecoder(lanes), mixed(rng, jobs), idle=idle)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_every_setting_and_special_row(dtype):
    rng = np.random.default_rng([SEED, int(dtype)])
    decode(QuantisedDecoder(32), mixed(rng, every_setting(rng, dtype) + special_pages(rng, dtype)
                                      + pages_that_begin_with_zeros(rng, dtype)))


def test_any_stored_bytes_give_64_lines():
    """Any number of lines that a start can name."""
    rng = np.random.default_rng(SEED)
    jobs = broken_pages(rng, [0, 1, 2, 63, 64, 65, 126, 127, *(int(lines) for lines in rng.integers(0, 128, 16))])
    decode(QuantisedDecoder(32), mixed(rng, [*jobs, *cut_pages(rng, Dtype.FP16)]))


@pytest.mark.parametrize("lanes, dtype", [(32, Dtype.FP16), (32, Dtype.BF16), (8, Dtype.FP16)])
def test_single_rows(lanes, dtype):
    """Every row at every setting; among them a page, whose check does not count."""
    rng = np.random.default_rng(SEED)
    jobs = single_rows(rng, dtype, fixed.SETTINGS, range(PAGE_ROWS) if lanes == 32 else (0, 7, 15))
    stored = model.encode(Codec.FIXED, dtype, as_pages(real_rows(dtype))[0], 9)
    stored[fixed.CHECK_AT::Rate(9).row_bytes] ^= 0x55
    decode(QuantisedDecoder(lanes), mixed(rng, [*jobs, page_job(Codec.FIXED, dtype, stored)]))


def test_flipped_bits_are_found():
    rng = np.random.default_rng(SEED)
    setting = 7
    stored = model.encode(Codec.FIXED, Dtype.FP16, as_pages(real_rows(Dtype.FP16))[rng.integers(96)], setting)
    jobs = [row_job(Dtype.FP16, setting, stored, int(rng.integers(PAGE_ROWS)), flipped=bit)
            for bit in range(int(rng.integers(2)), 64 * setting, 2)]
    decode(QuantisedDecoder(32), mixed(rng, jobs))


@pytest.mark.parametrize("codec, setting", [(Codec.FIXED, 8), (Codec.FIXED, 10), (Codec.FIXED, 16),
                                            (Codec.VARIABLE, 118), (Codec.VARIABLE, 128), (Codec.VARIABLE, 135)])
def test_one_line_a_clock(codec, setting):
    pages = as_pages(real_rows(Dtype.BF16))[8:16]
    jobs = [page_job(codec, Dtype.BF16, model.encode(codec, Dtype.BF16, page, setting)) for page in pages]
    ends = decode(QuantisedDecoder(32), jobs)
    clocks = (ends[-1] - ends[0]) / (PAGE_LINES * (len(pages) - 1))
    print(f"{codec.name} {setting}: {clocks:.3f} clocks a line")
    assert clocks <= 1.02


def test_reset_empties_it():
    pages = as_pages(real_rows(Dtype.FP16))
    before = page_job(Codec.VARIABLE, Dtype.FP16, model.encode(Codec.VARIABLE, Dtype.FP16, pages[0], 123))
    after = page_job(Codec.FIXED, Dtype.FP16, model.encode(Codec.FIXED, Dtype.FP16, pages[1], 12))
    reset = Signal()
    dut = QuantisedDecoder(16)

    async def drive(ctx):
        await send(ctx, dut.start, before[:1])
        await send(ctx, dut.stored, before[1][:12])
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        await send(ctx, dut.start, after[:1])
        await send(ctx, dut.stored, after[1])

    async def check(ctx):
        ctx.set(dut.lines.ready, 1)
        await ctx.posedge(reset)
        await ctx.tick()
        assert await receive(ctx, dut.lines, PAGE_LINES) == after[2]

    simulate(ResetInserter(reset)(dut), drive, check, clocks=2000)


def test_lanes():
    with pytest.raises(ValueError, match="lanes"):
        QuantisedDecoder(64)
