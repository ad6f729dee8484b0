"""Packing fragments of words into the lines of pages and reading these, with idle and back-pressure."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from streams import SEED, receive, simulate

from speckv_hw.codec.quantised_page_writer import QuantisedPageWriter
from speckv_hw.codec.quantised_payloads import (
    FRAGMENT_WORDS,
    LINE_ADDRESS_BITS,
    LINE_WORDS,
    WIDTHS_WORDS,
    WORD_BITS,
    Fragment,
)
from speckv_hw.codec.word_packer import WordPacker
from speckv_hw.stream import chain
from speckv_hw.types import EncodeResult, StoredLine

PAGES = 40


class Packing(wiring.Component):
    """A packer and what reads its lines."""

    i: In(stream.Signature(Fragment, always_ready=True))
    check: In(32)
    used: Out(LINE_ADDRESS_BITS)
    stored: Out(stream.Signature(StoredLine))
    result: Out(stream.Signature(EncodeResult))

    def elaborate(self, platform):
        m = Module()
        m.submodules.packer = packer = WordPacker()
        m.submodules.writer = writer = QuantisedPageWriter()
        chain(m, packer.ends, writer.ends)
        chain(m, writer.stored, self.stored)
        chain(m, writer.result, self.result)
        m.d.comb += [
            packer.i.payload.eq(self.i.payload),
            packer.i.valid.eq(self.i.valid),
            packer.check.eq(self.check),
            writer.done.eq(packer.done),
            packer.address.eq(writer.address),
            packer.enable.eq(writer.enable),
            writer.data.eq(packer.data),
            self.used.eq(packer.line - writer.begin),
        ]
        return m


def value_of(words):
    return sum(word << WORD_BITS * n for n, word in enumerate(words))


def random_words(rng, count):
    return [rng.getrandbits(WORD_BITS) for _ in range(count)]


def piece(rng, words, at, **more):
    """A fragment with `words` somewhere in it."""
    begin = rng.randint(0, FRAGMENT_WORDS - len(words))
    around = random_words(rng, begin), random_words(rng, FRAGMENT_WORDS - begin - len(words))
    return dict(data=value_of([*around[0], *words, *around[1]]), count=len(words), at=at,
                turn=(at - begin) % LINE_WORDS, **more)


def variable_page(rng):
    """Fragments, the header as the last one, and words."""
    counts = [rng.choice([0, rng.randint(0, 12), 12]) for _ in range(rng.choice([8, 20, 64]))]
    if rng.random() < 0.2:
        counts = [0] * len(counts)
    bad = rng.random() < 0.2
    fragments, words = [], []
    for n, count in enumerate(counts):
        own = random_words(rng, count)
        words += own
        fragments.append(piece(rng, own, 0, length=count, variable=1, last=n == len(counts) - 1,
                               bad=bad and n == len(counts) // 2))
    setting, widths = rng.randrange(256), random_words(rng, WIDTHS_WORDS)
    fragments.append(dict(data=value_of(widths), count=WIDTHS_WORDS, at=1, turn=1, header=1, setting=setting))
    return fragments, [setting, *widths, *words], bad


def fixed_page(rng):
    """Each row in pieces out of order, the last of which moves on."""
    count = 2 * rng.randint(7, 16)
    bad = rng.random() < 0.2
    fragments, words = [], []
    for row in range(16):
        own = random_words(rng, count)
        words += own
        cuts = [0, count // 3, 2 * count // 3, count]
        pieces = [(own[begin:end], begin) for begin, end in zip(cuts, cuts[1:])]
        rng.shuffle(pieces)
        for n, (part, at) in enumerate(pieces):
            final = n == len(pieces) - 1
            fragments.append(piece(rng, part, at, length=count if final else 0, last=final and row == 15,
                                   bad=final and bad and row == 7))
    return fragments, words, bad


@pytest.mark.parametrize("idle, stall", [(0.0, 0.0), (0.3, 0.0), (0.0, 0.8)])
def test_pages(idle, stall):
    rng = random.Random(SEED)
    pages = [rng.choice([variable_page, fixed_page])(rng) for _ in range(PAGES)]
    pages.insert(0, variable_page(rng))
    sent = []
    header = []
    for fragments, _, _ in pages:
        is_variable = "header" in fragments[-1]
        if header:
            # The header of the page before comes when a few fragments of this one have.
            place = rng.randint(0, min(4, len(fragments) - 1 - is_variable))
            fragments = [*fragments[:place], *header, *fragments[place:]]
        sent += fragments[:-1] if is_variable else fragments
        header = fragments[-1:] if is_variable else []
    sent += header
    dut = Packing()

    async def drive(ctx):
        for one in sent:
            while rng.random() < idle or ctx.get(dut.used) >= 1 << LINE_ADDRESS_BITS - 1:
                await ctx.tick()
            ctx.set(dut.i.payload, one)
            ctx.set(dut.i.valid, 1)
            await ctx.tick()
            ctx.set(dut.i.valid, 0)

    async def collect(ctx):
        for number, (_, words, bad) in enumerate(pages):
            lines = [value_of(words[n:n + LINE_WORDS]) for n in range(0, len(words), LINE_WORDS)]
            got = await receive(ctx, dut.stored, len(lines), stall=stall, seed=SEED + number)
            assert [(one.index, one.data) for one in got] == [(n % len(lines), lines[n % len(lines)])
                                                              for n in range(1, len(lines) + 1)], number
            result, = await receive(ctx, dut.result, 1)
            assert (result.lines, result.fits) == (len(lines), not bad)
        await ctx.tick().repeat(20)
        assert not ctx.get(dut.stored.valid) and not ctx.get(dut.result.valid)

    simulate(dut, drive, collect, watched=[dut.stored, dut.result])


def test_check():
    """It is ORed into word 1 of a fragment wherever that goes."""
    dut = Packing()
    words = [0x11223344, *range(1, 12)]

    async def drive(ctx):
        for n in range(3):
            ctx.set(dut.i.payload, dict(data=value_of(words), count=12, length=12, last=n == 2))
            ctx.set(dut.i.valid, 1)
            ctx.set(dut.check, 0xA500 if n else 0)
            await ctx.tick()
        ctx.set(dut.i.valid, 0)

    async def collect(ctx):
        got = {line.index: line.data for line in await receive(ctx, dut.stored, 3)}
        checked = [words[0], words[1] | 0xA500, *words[2:]]
        assert got[0] | got[1] << 512 | got[2] << 1024 == value_of([*words, *checked, *checked])

    simulate(dut, drive, collect)
