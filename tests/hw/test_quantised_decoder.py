"""The decoder of `fixed` and `variable` pages and of single rows against the model: real, special, random and broken
pages, all settings and lane counts, idle and back-pressure."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from codec_pages import (
    SEED,
    as_pages,
    mixed_pages,
    random_rows,
    real_rows,
    scaled_to,
    special_rows,
    to_dtype,
    to_float,
    to_lines,
)
from streams import receive, send, simulate

from speckv_hw.codec.quantised_decoder import QuantisedDecoder
from speckv_model import codec as model
from speckv_model.codec import fixed
from speckv_model.codec.fixed import FRACTIONS, Rate
from speckv_model.constants import LINE_BYTES, PAGE_LINES, PAGE_ROWS, Codec, Dtype

STEPS = [0, 100, 118, 128, 135, 140, 255]
"""Settings of `variable`; with the first real pages do not fit."""


def page_job(codec, dtype, stored, by_row=False):
    """What the decoder is to be given, and the lines and the `bad_row` that it must give."""
    start = dict(codec=int(codec), dtype=int(dtype), by_row=int(by_row), lines=len(stored) // LINE_BYTES)
    return start, to_lines(stored), to_lines(model.decode(codec, dtype, stored, by_row)), 0


def row_job(dtype, setting, stored, row, *, flipped=()):
    """As `page_job`, for a row alone, with some bits of it flipped."""
    rate = Rate(setting, True)
    at = row * rate.row_bytes
    stored = stored.copy()
    for bit in flipped:
        stored[at + bit // 8] ^= 1 << bit % 8
    first, end = at // LINE_BYTES, -(-(at + rate.row_bytes) // LINE_BYTES)
    start = dict(codec=int(Codec.FIXED), dtype=int(dtype), by_row=1, lines=end - first, single=1, rate=setting,
                 skip=at % LINE_BYTES // fixed.UNIT_BYTES)
    values = fixed.decode_rows(stored[at:at + rate.row_bytes], rate, dtype)
    return (start, to_lines(stored[first * LINE_BYTES:end * LINE_BYTES]), to_lines(values.view(np.uint8)),
            int(len(flipped) != 0))


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
    """Real pages, one for each setting, some of them `by_row`."""
    pages = as_pages(real_rows(dtype))
    kinds = [*((Codec.FIXED, setting) for setting in settings), *((Codec.VARIABLE, step) for step in steps)]
    return fitting_jobs(dtype, ((*kind, rng.random() < 0.5, pages[rng.integers(len(pages))]) for kind in kinds))


def fitting_jobs(dtype, kinds):
    """Jobs for those of `kinds`, (codec, setting, by_row, page), that fit."""
    encoded = [(codec, model.encode(codec, dtype, page, setting, by_row), by_row)
               for codec, setting, by_row, page in kinds]
    return [page_job(codec, dtype, stored, by_row) for codec, stored, by_row in encoded if stored is not None]


def special_pages(rng, dtype):
    """Pages of special rows that fit."""
    pages = [*as_pages(special_rows(rng, dtype)), *mixed_pages(rng, dtype, 2), np.zeros(4096, np.uint8)]
    kinds = (Codec.FIXED, 9, False), (Codec.FIXED, 14, True), (Codec.FIXED, 7, True), (Codec.VARIABLE, 128, False)
    return fitting_jobs(dtype, ((*kind, page) for page in pages for kind in kinds))


def small_fractions(rng, dtype):
    """Pages of the smallest scales, whose groups have all fractions that there are."""
    kinds = []
    for setting, by_row in itertools.product((7, 15, 16), (False, True)):
        values = to_float(random_rows(rng, PAGE_ROWS, spread=to_dtype(1.0, dtype)), dtype)
        values[:, 8:] *= np.repeat(rng.choice([float(one) for one in FRACTIONS[Rate(setting).ternary]], (16, 15)), 8, 1)
        rows = np.concatenate([scaled_to(to_dtype(values[n:n + 8], dtype), dtype, exponent)
                               for n, exponent in ((0, fixed.LOWEST_EXPONENT), (8, fixed.LOWEST_EXPONENT + 1))])
        kinds.append((Codec.FIXED, setting, by_row, as_pages(rows)[0]))
    return fitting_jobs(dtype, kinds)


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
    """Random bytes of each of the `lengths` in lines, for either codec and layout; some of small widths or without
    scales."""
    jobs = []
    for lines in lengths:
        stored = rng.integers(0, 256, lines * LINE_BYTES, dtype=np.uint8)
        codec = Codec.FIXED if rng.random() < 0.5 else Codec.VARIABLE
        if codec == Codec.VARIABLE:
            stored[4:36] &= np.uint8(rng.choice([0x00, 0x11, 0x77, 0x0F, 0xFF]))
        elif rng.random() < 0.3:
            stored[::fixed.rate_of(lines).row_bytes] = rng.choice([0, 1, 8, 240, 241, 255])
        jobs.append(page_job(codec, rng.choice(Dtype), stored, bool(rng.integers(2))))
    return jobs


def cut_pages(rng, dtype):
    """Valid pages cut off or lengthened by random lines."""
    page = as_pages(real_rows(dtype))[rng.integers(96)]
    jobs = []
    for codec, setting, by_row in ((Codec.FIXED, 8, False), (Codec.FIXED, 13, True), (Codec.VARIABLE, 123, False)):
        stored = model.encode(codec, dtype, page, setting, by_row)
        for lines in (0, 1, 2, len(stored) // LINE_BYTES - 1):
            jobs.append(page_job(codec, dtype, stored[:lines * LINE_BYTES], by_row))
        more = rng.integers(0, 256, int(rng.integers(1, 5)) * LINE_BYTES, dtype=np.uint8)
        jobs.append(page_job(codec, dtype, np.concatenate([stored, more]), by_row))
    return jobs


def single_rows(rng, dtype, settings, rows):
    """Each of the `rows` of a page of each of the `settings`, right and with a bit flipped."""
    jobs = []
    for setting in settings:
        stored = model.encode(Codec.FIXED, dtype, as_pages(real_rows(dtype))[rng.integers(96)], setting, True)
        for row in rows:
            jobs.append(row_job(dtype, setting, stored, row))
            jobs.append(row_job(dtype, setting, stored, row, flipped=some_bits(rng, 64 * setting)))
    return jobs


def some_bits(rng, count):
    """A burst of up to 16 of `count` bits in the order in which the CRC takes them, or two or three bits anywhere.
    (No more: a check of 16 bits misses one of 65,536 greater errors.)"""
    if rng.random() < 0.5:
        return rng.choice(count, int(rng.integers(1, 4)), replace=False).tolist()
    length = int(rng.integers(1, 17))
    first = int(rng.integers(count - length + 1))
    inner = rng.integers(0, 2, max(length - 2, 0)).astype(bool)
    burst = np.arange(first, first + length)[np.concatenate([[True], inner, [True]])[:length]]
    # Bytes begin with their top bit there.
    return (burst ^ 7).tolist()


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
                                      + small_fractions(rng, dtype) + pages_that_begin_with_zeros(rng, dtype)))


def test_any_stored_bytes_give_64_lines():
    """Any number of lines that a start can name."""
    rng = np.random.default_rng(SEED)
    jobs = broken_pages(rng, [0, 1, 2, 63, 64, 65, 126, 127, *(int(lines) for lines in rng.integers(0, 128, 16))])
    decode(QuantisedDecoder(32), mixed(rng, [*jobs, *cut_pages(rng, Dtype.FP16)]))


@pytest.mark.parametrize("lanes, dtype", [(32, Dtype.FP16), (32, Dtype.BF16), (8, Dtype.FP16)])
def test_single_rows(lanes, dtype):
    """Every row at every setting; among them a page, whose checks do not count."""
    rng = np.random.default_rng(SEED)
    jobs = single_rows(rng, dtype, fixed.SETTINGS, range(PAGE_ROWS) if lanes == 32 else (0, 7, 15))
    stored = model.encode(Codec.FIXED, dtype, as_pages(real_rows(dtype))[0], 9, True)
    stored[Rate(9, True).check_at::Rate(9).row_bytes] ^= 0x55
    decode(QuantisedDecoder(lanes), mixed(rng, [*jobs, page_job(Codec.FIXED, dtype, stored, True)]))


def test_flipped_bits_are_found():
    rng = np.random.default_rng(SEED)
    jobs = []
    for setting in (7, 8):
        stored = model.encode(Codec.FIXED, Dtype.FP16, as_pages(real_rows(Dtype.FP16))[rng.integers(96)], setting, True)
        jobs += [row_job(Dtype.FP16, setting, stored, int(rng.integers(PAGE_ROWS)), flipped=[bit])
                 for bit in range(int(rng.integers(3)), 64 * setting, 3)]
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
