"""The page encoder against the model: real and special pages, both dtypes, all lane counts, idle and
back-pressure."""

import numpy as np
import pytest
from amaranth.hdl import Cat, ResetInserter, Signal
from codec_pages import SEED, as_pages, mixed_pages, real_rows, special_rows, to_lines
from streams import receive, send, simulate

from speckv_hw.codec.page_encoder import PageEncoder
from speckv_hw.codec.raw_encoder import RawEncoder
from speckv_hw.stream import transfer
from speckv_model import codec as model
from speckv_model.codec import fixed
from speckv_model.config import DeviceConfig
from speckv_model.constants import PAGE_LINES, Codec, Dtype


def encode(dut, jobs, *, idle=0.0, blocked=0, clocks=60_000, background=()):
    """Encodes `jobs` (codec, dtype, page, and `by_row` if it is so) and compares with the model; of `fixed` with the
    default setting. Returns the clock of each result.

    For the first `blocked` clocks no stored line is accepted.
    """
    ends = []
    collected = {}
    pages = [collected]

    async def starts(ctx):
        await send(ctx, dut.start, [dict(codec=int(codec), dtype=int(dtype), setting=fixed.DEFAULT_SETTING,
                                         by_row=int(any(by_row))) for codec, dtype, _, *by_row in jobs], idle=idle)

    async def lines(ctx):
        await send(ctx, dut.lines, [line for _, _, page, *_ in jobs for line in to_lines(page)],
                   idle=idle, seed=SEED + 1)

    async def stored(ctx):
        await ctx.tick().repeat(blocked + 1)
        while True:
            line, = await receive(ctx, dut.stored, 1, stall=idle, seed=SEED + len(ends) + 65 * len(pages[-1]))
            assert line.index not in pages[-1]
            pages[-1][line.index] = line.data

    async def results(ctx):
        for number, (codec, dtype, page, *by_row) in enumerate(jobs):
            result, = await receive(ctx, dut.result, 1, stall=idle, seed=SEED + number)
            ends.append(clock)
            want, want_lines, fits = model.encode_pages(codec, dtype, page[None], None, *by_row)
            assert result.fits == fits[0]
            if fits[0]:
                assert result.lines == want_lines[0]
                want = to_lines(want[0])[:result.lines]
                assert sorted(pages[-1]) == list(range(result.lines))
                for index, line in enumerate(want):
                    assert pages[-1][(result.first + index) % result.lines] == line, f"page {number}, line {index}"
            pages.append({})

    clock = 0

    async def count(ctx):
        nonlocal clock
        async for _ in ctx.tick():
            clock += 1

    simulate(dut, starts, lines, results, background=[stored, count, *background], watched=[dut.stored, dut.result],
             clocks=clocks)
    return ends


@pytest.mark.parametrize("lanes, idle", [(32, 0.0), (32, 0.3), (16, 0.3), (8, 0.0), (8, 0.3)])
def test_against_model(lanes, idle):
    rng = np.random.default_rng(SEED)
    jobs = []
    for dtype in Dtype:
        pages = [*as_pages(real_rows(dtype)[rng.integers(1536, size=16)]), *mixed_pages(rng, dtype, 2)]
        jobs += [(Codec.SPECKV, dtype, page) for page in pages]
        jobs += [(Codec.RAW, dtype, page) for page in mixed_pages(rng, dtype, 1)]
    full = np.full(2048, 0x7FFF, np.uint16).view(np.uint8)
    jobs.append((Codec.SPECKV, Dtype.FP16, full))
    encode(PageEncoder(DeviceConfig(lanes=lanes)), [jobs[n] for n in rng.permutation(len(jobs))], idle=idle)


@pytest.mark.parametrize("dtype", list(Dtype))
def test_every_special_row(dtype):
    rng = np.random.default_rng(SEED)
    encode(PageEncoder(DeviceConfig(lanes=16)),
           [(Codec.SPECKV, dtype, page) for page in as_pages(special_rows(rng, dtype))])


def test_both_layouts_of_fixed():
    """Pages of either one after the other, others between them."""
    pages = as_pages(real_rows(Dtype.BF16)[:16 * 6])
    kinds = [(Codec.FIXED, True), (Codec.FIXED, False), (Codec.SPECKV, True), (Codec.FIXED, True), (Codec.FIXED, True),
             (Codec.FIXED, False)]
    encode(PageEncoder(DeviceConfig(codecs=("raw", "speckv", "fixed"))),
           [(codec, Dtype.BF16, page, by_row) for (codec, by_row), page in zip(kinds, pages)])


def test_one_line_a_clock():
    pages = as_pages(real_rows(Dtype.BF16)[:64])
    ends = encode(PageEncoder(DeviceConfig()), [(Codec.SPECKV, Dtype.BF16, page) for page in pages])
    assert max(np.diff(ends)) <= PAGE_LINES + 1


def test_no_line_goes_ahead_of_a_page_of_another_codec():
    pages = as_pages(real_rows(Dtype.BF16)[:16 * 6])
    codecs = [Codec.LOSSLESS, Codec.SPECKV] * 3
    dut = PageEncoder(DeviceConfig(codecs=("raw", "speckv", "lossless")))

    async def check_order(ctx):
        async for *_, valid, payload in ctx.tick().sample(dut.stored.valid, dut.stored.payload):
            assert not (valid and payload.ahead)

    encode(dut, [(codec, Dtype.BF16, page) for codec, page in zip(codecs, pages)], blocked=400,
           background=[check_order])


def test_short_pages_queue_up_behind_a_blocked_output():
    zeros = np.zeros(4096, np.uint8)
    ones = as_pages(np.tile(real_rows(Dtype.FP16)[:1, :1], (16, 128)))[0]
    jobs = [(Codec.SPECKV, Dtype.FP16, page) for page in (ones, zeros, zeros, ones)]
    encode(PageEncoder(DeviceConfig()), jobs, blocked=600)


def test_reset_empties_it():
    rng = np.random.default_rng(SEED)
    before, after = mixed_pages(rng, Dtype.FP16, 2)
    reset = Signal()
    dut = PageEncoder(DeviceConfig(lanes=16))

    async def drive(ctx):
        await send(ctx, dut.start, [dict(codec=int(Codec.SPECKV), dtype=0)])
        await send(ctx, dut.lines, to_lines(before)[:50])
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        await send(ctx, dut.start, [dict(codec=int(Codec.SPECKV), dtype=0)])
        await send(ctx, dut.lines, to_lines(after))

    async def check(ctx):
        await ctx.posedge(reset)
        await ctx.tick()
        want, lines, _ = model.encode_pages(Codec.SPECKV, Dtype.FP16, after[None])
        got = await receive(ctx, dut.stored, lines[0])
        assert {line.index: line.data for line in got} == dict(enumerate(to_lines(want[0])[:lines[0]]))
        await receive(ctx, dut.result, 1)

    simulate(ResetInserter(reset)(dut), drive, check, clocks=2000)


def test_the_setting_goes_with_the_lines(monkeypatch):
    """An encoder that returns of a page's last line the setting, and on top of it `by_row`, as `first`."""
    class Echo(RawEncoder):
        def elaborate(self, platform):
            m = super().elaborate(platform)
            with m.If(transfer(self.lines)):
                m.d.sync += self.result.p.first.eq(Cat(self.lines.p.setting[:5], self.lines.p.by_row))
            return m

    monkeypatch.setattr("speckv_hw.codec.page_encoder.RawEncoder", Echo)
    dut = PageEncoder(DeviceConfig(codecs=("raw",)))
    page = to_lines(np.zeros(4096, np.uint8))
    settings = [3, 0, 63, 35, 3]

    async def drive(ctx):
        await send(ctx, dut.start, [dict(setting=setting & 31, by_row=setting >> 5) for setting in settings])

    async def give(ctx):
        await send(ctx, dut.lines, page * len(settings), idle=0.1)

    async def check(ctx):
        assert [result.first for result in await receive(ctx, dut.result, len(settings))] == settings

    async def drain(ctx):
        await receive(ctx, dut.stored, len(settings) * PAGE_LINES)

    simulate(dut, drive, give, check, drain, clocks=2000)


def test_unknown_codec_means_raw():
    page, = as_pages(real_rows(Dtype.FP16)[:16])
    dut = PageEncoder(DeviceConfig(codecs=("raw",)))

    async def drive(ctx):
        await send(ctx, dut.start, [dict(codec=int(Codec.SPECKV), dtype=0)])
        await send(ctx, dut.lines, to_lines(page))

    async def check(ctx):
        lines = await receive(ctx, dut.stored, PAGE_LINES)
        assert [(line.index, line.data) for line in lines] == list(enumerate(to_lines(page)))
        result, = await receive(ctx, dut.result, 1)
        assert (result.lines, result.fits) == (PAGE_LINES, 1)

    simulate(dut, drive, check, clocks=500)
