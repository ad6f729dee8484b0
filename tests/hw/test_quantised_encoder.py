"""The encoder of `fixed` and `variable` pages against the model: real, special and random pages and such that do not
fit, all settings and lane counts, idle and back-pressure."""

import itertools

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from codec_pages import SEED, as_pages, mixed_pages, random_rows, real_rows, special_rows, to_lines
from streams import receive, send, simulate

from speckv_hw.codec.factor_selector import edges
from speckv_hw.codec.quantised_encoder import QuantisedEncoder
from speckv_model import codec as model
from speckv_model.codec import fixed, variable
from speckv_model.codec.fixed import CODES, FRACTIONS, GROUP_VALUES, Rate
from speckv_model.codec.float16 import bias, mantissa_bits
from speckv_model.constants import PAGE_LINES, ROW_VALUES, Codec, Dtype

STEPS = [0, 100, 118, 123, 128, 135, 140, 255]
"""Settings of `variable`, some with which real pages do not fit."""


def page_lines(codec, dtype, setting, page, by_row=False):
    return [dict(data=line, codec=int(codec), dtype=int(dtype), setting=setting, by_row=int(by_row))
            for line in to_lines(page)]


def encode(dut, jobs, *, idle=0.0, blocked=0, clocks=60_000):
    """Encodes `jobs` (codec, dtype, setting, page and, if it is so, `by_row`) and compares with the model. Returns the
    clock of each result.

    For the first `blocked` clocks no stored line is accepted.
    """
    ends = []
    order = []
    clock = 0

    async def lines(ctx):
        await send(ctx, dut.lines, [line for job in jobs for line in page_lines(*job)], idle=idle)

    async def stored(ctx):
        await ctx.tick().repeat(blocked + 1)
        while True:
            order.extend(await receive(ctx, dut.stored, 1, stall=idle, seed=SEED + len(ends) + 65 * len(order)))

    async def results(ctx):
        for number, (codec, dtype, setting, page, *by_row) in enumerate(jobs):
            result, = await receive(ctx, dut.result, 1, stall=idle, seed=SEED + number)
            ends.append(clock)
            want, want_lines, fits = model.encode_pages(codec, dtype, page[None], setting, *by_row)
            where = f"page {number}: {codec.name} {setting} {dtype.name} {by_row}"
            assert result.fits == fits[0], where
            assert result.first == 0
            if fits[0]:
                assert result.lines == want_lines[0], where
                assert [line.index for line in order] == [*range(1, result.lines), 0], where
                for line in order:
                    assert line.data == int.from_bytes(want[0, line.index].tobytes(), "little"), (where, line.index)
            order.clear()

    async def count(ctx):
        nonlocal clock
        async for _ in ctx.tick():
            clock += 1

    async def nothing_left(ctx):
        while len(ends) < len(jobs):
            await ctx.tick()
        await ctx.tick().repeat(40)
        assert not ctx.get(dut.stored.valid) and not ctx.get(dut.result.valid) and not order

    simulate(dut, lines, results, nothing_left, background=[stored, count], watched=[dut.stored, dut.result],
             clocks=clocks)
    return ends


def real_pages(rng, dtype, count):
    pages = as_pages(real_rows(dtype))
    return pages[rng.integers(len(pages), size=count)]


def every_setting(rng, dtype):
    """Real pages, one for each setting of `fixed` and some of `variable`; some `by_row`."""
    kinds = [*((Codec.FIXED, setting) for setting in fixed.SETTINGS), *((Codec.VARIABLE, step) for step in STEPS)]
    return [(codec, dtype, setting, page, rng.random() < 0.5)
            for (codec, setting), page in zip(kinds, real_pages(rng, dtype, len(kinds)))]


def odd_pages(rng, dtype):
    """Pages that mix rows of all kinds, of zeros, and of random bits."""
    pages = [*mixed_pages(rng, dtype, 2), np.zeros(4096, np.uint8), *as_pages(random_rows(rng, 16, finite=dtype))]
    kinds = [(Codec.FIXED, 7, True), (Codec.FIXED, 12, False), (Codec.FIXED, 8, True), (Codec.VARIABLE, 128, False),
             (Codec.VARIABLE, 220, True)]
    return [(codec, dtype, setting, page, by_row) for page in pages for codec, setting, by_row in kinds]


@pytest.mark.parametrize("lanes, idle", [(32, 0.0), (32, 0.3), (16, 0.3), (8, 0.3)])
def test_against_model(lanes, idle):
    """Codecs, dtypes and settings change from page to page."""
    rng = np.random.default_rng(SEED + lanes)
    # Without idle clocks every setting with each dtype, else with one of them.
    jobs = [job for dtype in Dtype for job in every_setting(rng, dtype)[int(dtype) if idle else 0::2 if idle else 1]]
    odd = [job for dtype in Dtype for job in odd_pages(rng, dtype)]
    jobs += [odd[n] for n in rng.permutation(len(odd))[:len(odd) if lanes == 32 and not idle else 8]]
    encode(QuantisedEncoder(lanes), [jobs[n] for n in rng.permutation(len(jobs))], idle=idle)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_every_special_row(dtype):
    """Each among zeros, so that pages of the others fit."""
    rng = np.random.default_rng(SEED)
    rows = special_rows(rng, dtype)
    held = rows[(rows & 0x7FFF).max(axis=1) <= 0x7FFF - (1 << mantissa_bits(dtype))]
    pages = [*as_pages(held[rng.permutation(len(held))]), *as_pages(rows)[:2]]
    kinds = [(Codec.FIXED, 9, False), (Codec.FIXED, 15, True), (Codec.FIXED, 10, True), (Codec.FIXED, 16, False),
             (Codec.VARIABLE, 128, False)]
    encode(QuantisedEncoder(32), [(codec, dtype, setting, page, by_row)
                                  for page in pages for codec, setting, by_row in kinds])


def edge_page(rng, dtype, rate, near):
    """Rows with a largest magnitude at either end of a scale and groups whose peaks lie around the fractions' edges."""
    bits = mantissa_bits(dtype)
    magnitudes = np.zeros((16, 16, GROUP_VALUES), np.int64)
    for row in magnitudes:
        mantissa, exponent = rng.integers(8), int(rng.integers(-14, 16))
        top = (bias(dtype) + exponent << bits) + (int(mantissa) << bits - 3) + rng.integers(0, 1 << bits - 3)
        row[0, 0] = top
        largest = (9 + mantissa) / 8 * 2.0 ** exponent
        for group in row[1:]:
            edge = largest * float(rng.choice(FRACTIONS[rate.ternary][1:]))
            low = np.float64(max(edge, 2.0 ** -14))
            field = int(np.floor(np.log2(low)))
            peak = (field + bias(dtype) << bits) + int(round((low / 2.0 ** field - 1) * (1 << bits)))
            group[rng.integers(GROUP_VALUES)] = np.clip(peak + rng.integers(-near, near + 1), 0, top)
            group += rng.integers(0, group.max() + 1, GROUP_VALUES) * (group == 0)
    signs = rng.integers(0, 2, (16, ROW_VALUES)) << 15
    return as_pages((magnitudes.reshape(16, ROW_VALUES) | signs).astype(np.uint16))[0]


@pytest.mark.parametrize("dtype", list(Dtype))
def test_peaks_at_the_edges_of_fractions(dtype):
    rng = np.random.default_rng(SEED)
    encode(QuantisedEncoder(32), [
        (Codec.FIXED, dtype, setting, edge_page(rng, dtype, Rate(setting), int(rng.choice([1, 3]))), by_row)
        for setting in fixed.SETTINGS for by_row in (False, True)])


def test_largest_multiples():
    """Values of which the multiple is held only just, or just not."""
    rng = np.random.default_rng(SEED)
    jobs = []
    for setting in range(120, 128):
        for limit in (2046.4, 2047.6, -2048.4, -2048.6):
            page = np.zeros((16, ROW_VALUES), np.float16)
            page[rng.integers(16), rng.integers(ROW_VALUES)] = limit * variable.step(setting)
            jobs.append((Codec.VARIABLE, Dtype.FP16, setting, as_pages(page.view(np.uint16))[0]))
    encode(QuantisedEncoder(32), jobs)


@pytest.mark.parametrize("codec, setting", [(Codec.FIXED, 8), (Codec.FIXED, 10), (Codec.FIXED, 16),
                                            (Codec.VARIABLE, 118), (Codec.VARIABLE, 128), (Codec.VARIABLE, 135)])
def test_one_line_a_clock(codec, setting):
    pages = as_pages(real_rows(Dtype.BF16))[8:16]
    ends = encode(QuantisedEncoder(32), [(codec, Dtype.BF16, setting, page) for page in pages])
    clocks = (ends[-1] - ends[0]) / (PAGE_LINES * (len(pages) - 1))
    print(f"{codec.name} {setting}: {clocks:.3f} clocks a line")
    assert clocks <= 1.02


@pytest.mark.parametrize("codec, settings", [(Codec.FIXED, (16, 7, 15, 8)), (Codec.VARIABLE, (128, 120, 112, 128))])
def test_one_beat_a_clock(codec, settings):
    """With fewer lanes too, whatever the settings."""
    pages = as_pages(real_rows(Dtype.BF16))
    ends = encode(QuantisedEncoder(8), [(codec, Dtype.BF16, setting, page) for setting, page in zip(settings, pages)])
    assert (ends[-1] - ends[0]) / (len(ends) - 1) <= 1.02 * PAGE_LINES * 4


def test_pages_that_do_not_fit():
    """One bad value among good ones spoils its own page only."""
    good = as_pages(real_rows(Dtype.FP16)[:16])[0]
    jobs = []
    large = int(np.float16(1000).view(np.uint16))
    for codec, value in [(Codec.FIXED, 0x7C00), (Codec.VARIABLE, 0xFC00), (Codec.VARIABLE, large)]:
        for place in (0, 2047):
            page = good.view(np.uint16).copy()
            page[place] = value
            jobs += [(codec, Dtype.FP16, 128 if codec == Codec.VARIABLE else 9, one)
                     for one in (page.view(np.uint8), good)]
    tiny = np.tile(np.uint16([1]), 2048).view(np.uint8)
    jobs += [(Codec.FIXED, Dtype.FP16, 8, tiny), (Codec.FIXED, Dtype.FP16, 8, good)]
    encode(QuantisedEncoder(32), jobs)


@pytest.mark.parametrize("lanes", [8, 16, 32])
def test_pages_queue_up_behind_a_blocked_output(lanes):
    rng = np.random.default_rng(SEED)
    zeros = np.zeros(4096, np.uint8)
    real, = real_pages(rng, Dtype.FP16, 1)
    jobs = [(Codec.VARIABLE, Dtype.FP16, 128, page) for page in (real, zeros, zeros, real, zeros)]
    encode(QuantisedEncoder(lanes), [*jobs, (Codec.FIXED, Dtype.FP16, 16, real), *jobs], blocked=900)


def test_reset_empties_it():
    rng = np.random.default_rng(SEED)
    before, after = real_pages(rng, Dtype.FP16, 2)
    reset = Signal()
    dut = QuantisedEncoder(16)

    async def drive(ctx):
        await send(ctx, dut.lines, page_lines(Codec.VARIABLE, Dtype.FP16, 128, before)[:50])
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        await send(ctx, dut.lines, page_lines(Codec.FIXED, Dtype.FP16, 8, after))

    async def check(ctx):
        await ctx.posedge(reset)
        await ctx.tick()
        want = to_lines(model.encode(Codec.FIXED, Dtype.FP16, after, 8))
        got = await receive(ctx, dut.stored, len(want))
        assert {line.index: line.data for line in got} == dict(enumerate(want))
        result, = await receive(ctx, dut.result, 1)
        assert (result.lines, result.fits) == (len(want), 1)

    simulate(ResetInserter(reset)(dut), drive, check, clocks=2000)


@pytest.mark.parametrize("ternary, width", list(CODES))
def test_edges(ternary, width):
    """For every peak at or below the scale, with each rate that they serve."""
    mantissas = np.arange(0x400, 0x800)
    for setting in fixed.SETTINGS:
        rate = Rate(setting)
        if rate.ternary != ternary:
            continue
        for mantissa in range(8):
            for distance in range(12):
                # Of exponents from the scale's down.
                values = (mantissas - 0x400 + (25 - distance << 10)).astype(np.uint16)
                rows = values.reshape(-1, ROW_VALUES)
                for code, (large, small) in enumerate(itertools.pairwise(CODES[ternary, width])):
                    codes = np.full((len(rows), 16), large)
                    limit = rate.half_levels * FRACTIONS[ternary][small] / FRACTIONS[ternary][large]
                    scale = np.full(len(rows), mantissa), np.full(len(rows), 25 - bias(Dtype.FP16))
                    cells = fixed.cells_of(rows, *scale, codes, rate, Dtype.FP16).reshape(-1)
                    # An edge is a mantissa at three exponents below the scale's.
                    smaller = mantissas << 3 < edges(ternary, width, mantissa)[code] << distance
                    assert limit.denominator == 1
                    assert (smaller == (cells < limit)).all(), (setting, mantissa, distance, code)


def test_lanes():
    with pytest.raises(ValueError, match="lanes"):
        QuantisedEncoder(4)
