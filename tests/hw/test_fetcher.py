"""The fetcher: what it brings of pages in every state, and what it makes of pages, entries and lines that are bad.

The pages of a list go through one simulation, so each is also behind and before others; each has a test of its own.
"""

from dataclasses import dataclass, field

import numpy as np
import pytest
from codec_pages import SEED, as_pages, mixed_pages, real_rows
from mover_bench import Surroundings, line_value, mask_of
from streams import receive, simulate

from speckv_hw.config import DeviceConfig
from speckv_hw.mover.fetcher import Fetcher
from speckv_hw.types import ErrorKind, FetchJob, TableFault
from speckv_model.codec import codec as codecs
from speckv_model.constants import LINE_BYTES, OPEN_SECTORS, PAGE_LINES, Codec, Dtype, PageState
from speckv_model.mover.messages import pack_header

CONTEXT = 3
NO_LINES = np.zeros(PAGE_LINES, bool)


@dataclass
class Page:
    """A page as it is stored, and what shall come of it."""
    entry: dict
    stored: np.ndarray = field(default_factory=lambda: np.zeros((0, LINE_BYTES), np.uint8))
    state: PageState = PageState.EMPTY
    lines: np.ndarray | None = None
    """Content, uint8 (lines, 64); None where it does not matter."""
    written: int | None = 0
    """Lines that are said to be there; None where it does not matter."""
    base: int = 0
    poison: int | None = 0
    error: ErrorKind | None = None
    fault: TableFault = TableFault.NONE
    bad_lines: tuple = ()
    dtype: Dtype = Dtype.FP16
    by_row: int = 0
    reads: int = 1
    """DRAM bursts that it takes."""


ALL_LINES = (1 << PAGE_LINES) - 1


def random_lines(count, seed):
    return np.random.default_rng([SEED, seed]).integers(0, 256, (count, LINE_BYTES), np.uint8)


def sealed(stored, **changes):
    """A `raw` page of which `stored` lines are kept."""
    content = np.zeros((PAGE_LINES, LINE_BYTES), np.uint8)
    content[:len(stored)] = stored[:PAGE_LINES]
    return Page(**{"entry": {"state": PageState.SEALED, "codec": Codec.RAW}, "stored": stored, "lines": content,
                   "state": PageState.SEALED, "written": ALL_LINES} | changes)


def spilled(seed, *, last=PAGE_LINES - 1, base=False, **changes):
    """An OPEN page with content up to line `last`."""
    rng = np.random.default_rng([SEED, seed])
    written, poison = rng.random(PAGE_LINES) < 0.5, rng.random(PAGE_LINES) < 0.1
    written[last + 1:] = poison[last + 1:] = False
    lines = random_lines(last + 1, seed)
    return Page(**{"entry": {"state": PageState.OPEN}, "state": PageState.OPEN, "lines": lines,
                   "stored": np.concatenate([pack_header(written, base, poison)[None], lines]),
                   "written": mask_of(written), "base": int(base), "poison": mask_of(poison)} | changes)


def lost(page, error, *, reads=1, **changes):
    """`page` with `changes`, of which nothing can be used."""
    for name, value in changes.items():
        setattr(page, name, value)
    page.state, page.error, page.lines, page.poison, page.reads = PageState.POISONED, error, None, None, reads
    page.written = page.base = None
    return page


def with_entry(page, **changes):
    page.entry |= changes
    return page


RAW_PAGES = {
    "empty": Page({}, reads=0),
    "raw": sealed(random_lines(64, 1)),
    "poisoned": Page({"state": PageState.POISONED}, state=PageState.POISONED, poison=None, reads=0),
    "raw with fewer lines": sealed(random_lines(10, 2)),
    "open": spilled(3, last=40),
    "open with base": spilled(4, base=True),
    "open with one line": spilled(5, last=0),
    "open without lines": spilled(6, last=-1),
    "raw with bad lines": sealed(random_lines(64, 7), bad_lines=(0, 5, 63), error=ErrorKind.MEMORY_READ,
                                 poison=1 | 1 << 5 | 1 << 63),
    "raw after bad lines": sealed(random_lines(64, 8)),
    "raw with a wrong CRC": lost(sealed(random_lines(64, 9)), ErrorKind.PAGE_CORRUPT, entry={
        "state": PageState.SEALED, "crc": 0x12345678}),
    "open with a wrong CRC": lost(spilled(10, last=7), ErrorKind.PAGE_CORRUPT, entry={
        "state": PageState.OPEN, "crc": 0}),
    "raw with a bad line and a wrong CRC": sealed(
        random_lines(64, 11), entry={"state": PageState.SEALED, "crc": 1}, bad_lines=(63,),
        error=ErrorKind.MEMORY_READ, poison=1 << 63),
    "open with a bad header": lost(spilled(12, last=20), ErrorKind.MEMORY_READ, bad_lines=(0,)),
    "open after a bad header": spilled(13, last=21),
    "corrupt entry": lost(sealed(random_lines(64, 14)), ErrorKind.ENTRY_CORRUPT, fault=TableFault.CORRUPT, reads=0),
    "unreadable entry": lost(sealed(random_lines(64, 15)), ErrorKind.MEMORY_READ, fault=TableFault.MEMORY, reads=0),
    "foreign sealed page": lost(with_entry(sealed(random_lines(64, 16)), context=CONTEXT + 1),
                                ErrorKind.ENTRY_CORRUPT, reads=0),
    "foreign open page": lost(with_entry(spilled(17), context=0), ErrorKind.ENTRY_CORRUPT, reads=0),
    "open, never spilled": lost(with_entry(spilled(18), lines=0), ErrorKind.ENTRY_CORRUPT, reads=0),
    "sealed without lines": lost(sealed(random_lines(0, 19)), ErrorKind.ENTRY_CORRUPT, reads=0),
    "open with too many lines": lost(with_entry(spilled(20), lines=66), ErrorKind.ENTRY_CORRUPT, reads=0),
    "sealed with too many lines": lost(with_entry(sealed(random_lines(64, 21)), lines=66),
                                       ErrorKind.ENTRY_CORRUPT, reads=0),
    "raw with a surplus line": sealed(random_lines(65, 23)),
    "raw with a surplus line that is bad": sealed(random_lines(65, 24), bad_lines=(64,), error=ErrorKind.MEMORY_READ),
    "poisoned with the remains of an entry": Page({"state": PageState.POISONED, "context": 9, "lines": 99},
                                                  state=PageState.POISONED, poison=None, reads=0),
    "raw at the end": sealed(random_lines(64, 22)),
}
OPEN_WITH_BAD_LINES = spilled(30, last=50)
OPEN_WITH_BAD_LINES.bad_lines, OPEN_WITH_BAD_LINES.error = (1, 18, 51), ErrorKind.MEMORY_READ
OPEN_WITH_BAD_LINES.poison |= 1 | 1 << 17 | 1 << 50
RAW_PAGES["open with bad lines"] = OPEN_WITH_BAD_LINES


def encoded(codec, page, dtype, by_row=0, **changes):
    stored = codecs.encode(codec, dtype, page, by_row=by_row)
    return Page(**{"entry": {"state": PageState.SEALED, "codec": codec}, "state": PageState.SEALED,
                   "written": ALL_LINES,
                   "stored": stored.reshape(-1, LINE_BYTES), "dtype": dtype, "by_row": by_row,
                   "lines": codecs.decode(codec, dtype, stored, by_row).reshape(-1, LINE_BYTES)} | changes)


def speckv(page, dtype=Dtype.FP16, **changes):
    return encoded(Codec.SPECKV, page, dtype, **changes)


def speckv_pages():
    rng = np.random.default_rng(SEED)
    fp16, bf16 = (as_pages(real_rows(dtype)[rng.integers(1536, size=16)])[0] for dtype in Dtype)
    mixed = next(page for page in mixed_pages(rng, Dtype.FP16, 20)
                 if codecs.encode(Codec.SPECKV, Dtype.FP16, page) is not None)
    return {
        "keys and values": speckv(fp16),
        "keys and values, BF16": speckv(bf16, Dtype.BF16),
        "raw between": sealed(random_lines(64, 40)),
        "zeros": speckv(np.zeros(4096, np.uint8)),
        "rows of all kinds": speckv(mixed),
        "bad line": speckv(fp16, bad_lines=(3,), error=ErrorKind.MEMORY_READ, poison=2**64 - 1, lines=None),
        "wrong CRC": lost(speckv(bf16), ErrorKind.PAGE_CORRUPT, entry={
            "state": PageState.SEALED, "codec": Codec.SPECKV, "crc": 5}),
        "open between": spilled(41, last=5),
        "keys and values at the end": speckv(fp16),
    }


@dataclass
class Outcome:
    done: object
    fills: list
    errors: list
    reads: list
    sure: bool = False
    """The fetcher was sure of it before the end."""


def fetch(pages, *, codecs=("raw",), stall=0.0, reads=Surroundings.reads):
    """Fetches `pages` in order, page n into slot n % 5, with `reads` as DRAM. Returns an `Outcome` for each."""
    config = DeviceConfig.small(lanes=8, codecs=codecs)
    dut = Fetcher(config)
    around = Surroundings(config, SEED, stall)
    first = 1000
    for number, page in enumerate(pages):
        around.store(first + number, {"context": CONTEXT, "place": OPEN_SECTORS * number} | page.entry, page.stored)
        around.faults[first + number] = page.fault
        around.bad_reads |= {config.sector_line(OPEN_SECTORS * number) + line for line in page.bad_lines}
    outcomes, fills, errors, requests, counted, sure = [], [], [], [], [0, 0], set()

    async def give(ctx):
        await around.give(ctx, dut.job, [FetchJob.const({
            "slot": number % 5, "page": first + number,
            "stream": {"context": CONTEXT, "codec": Codec.RAW, "dtype": page.dtype, "by_row": page.by_row}})
            for number, page in enumerate(pages)])

    async def take(ctx):
        for _ in pages:
            done, = await around.take(ctx, dut.done)
            # The next pages, in other slots, may have begun.
            outcomes.append(Outcome(done, [line for line in fills if line.slot == done.slot], [], [],
                                    done.slot in sure))
            sure.discard(done.slot)
            fills[:] = [line for line in fills if line.slot != done.slot]
        await ctx.tick().repeat(50)
        assert not fills

    async def count(ctx):
        async for _, _, line_in, line_out in ctx.tick().sample(dut.events.line_in, dut.events.line_out):
            counted[0] += line_in
            counted[1] += line_out

    async def note_sure(ctx):
        async for _, _, valid, slot in ctx.tick().sample(dut.sure.valid, dut.sure.slot):
            if valid:
                sure.add(slot)

    async def note_reads(ctx):
        async for _, _, go, request in ctx.tick().sample(
                dut.read_request.valid & dut.read_request.ready, dut.read_request.payload):
            if go:
                requests.append((request.line, request.count))

    simulate(dut, give, take,
             background=[lambda ctx: around.table(ctx, dut), lambda ctx: reads(around, ctx, dut),
                         lambda ctx: around.collect(ctx, dut.fill, fills),
                         lambda ctx: around.collect(ctx, dut.error, errors), count, note_reads, note_sure],
             watched=[dut.done, dut.fill, dut.table_request, dut.read_request, dut.error])
    for error in errors:
        outcomes[(error.address >> 12) - first].errors.append(error.kind)
        assert not error.address & 0xfff
    for line, lines in requests:
        number = (line - config.sector_line(0)) // (2 * OPEN_SECTORS)
        outcomes[number].reads.append((line - config.sector_line(OPEN_SECTORS * number), lines))
    assert counted == [sum(lines for _, lines in requests), sum(len(outcome.fills) for outcome in outcomes)]
    return outcomes


def check(page, number, outcome):
    done, entry_lines = outcome.done, page.entry.get("lines", len(page.stored))
    assert (done.slot, done.state.value) == (number % 5, page.state)
    assert outcome.errors == ([] if page.error is None else [page.error])
    assert outcome.reads == [(0, entry_lines)] * page.reads
    for name in ("written", "base", "poison"):
        if getattr(page, name) is not None and not (name == "written" and page.state == PageState.POISONED):
            assert getattr(done, name) == getattr(page, name), name
    assert all(line.slot == number % 5 for line in outcome.fills)
    assert [line.line for line in outcome.fills] == list(range(len(outcome.fills)))
    if page.lines is not None:
        assert [line.data for line in outcome.fills] == [line_value(line) for line in page.lines]
    if page.reads == 0:
        assert not outcome.fills
    if outcome.sure:
        assert (page.state, page.error, done.poison, done.single) == (PageState.SEALED, None, 0, 0)


@pytest.fixture(scope="module", params=[0.0, 0.3], ids=lambda stall: f"stall {stall}")
def raw_outcomes(request):
    return dict(zip(RAW_PAGES, fetch(list(RAW_PAGES.values()), stall=request.param)))


@pytest.mark.parametrize("name", RAW_PAGES)
def test_page(raw_outcomes, name):
    check(RAW_PAGES[name], list(RAW_PAGES).index(name), raw_outcomes[name])


def test_speckv_pages_are_what_the_model_decodes():
    pages = speckv_pages()
    outcomes = fetch(list(pages.values()), codecs=("raw", "speckv"), stall=0.2)
    for number, (page, outcome) in enumerate(zip(pages.values(), outcomes)):
        check(page, number, outcome)
    assert any(outcome.sure for outcome in outcomes)


def test_fixed_pages_are_laid_out_as_the_stream_says():
    page, = as_pages(real_rows(Dtype.BF16)[:16])
    pages = [encoded(Codec.FIXED, page, Dtype.BF16, by_row) for by_row in (1, 0, 1)]
    for number, (page, outcome) in enumerate(zip(pages, fetch(pages, codecs=("raw", "fixed")))):
        check(page, number, outcome)


def test_pages_are_asked_for_ahead_and_delivered_in_order():
    """While DRAM is silent: `fetches_in_flight` pages that are noted, and one that waits to be."""
    expected = DeviceConfig.small().fetches_in_flight + 1

    async def silent_reads(around, ctx, dut):
        asked = await receive(ctx, dut.read_request, expected)
        ctx.set(dut.read_request.ready, 1)
        for _ in range(100):
            _, _, more = await ctx.tick().sample(dut.read_request.valid)
            assert not more
        ctx.set(dut.read_request.ready, 0)
        for request in asked:
            await around.give(ctx, dut.read_data, around.burst(request))
        await around.reads(ctx, dut)

    pages = [sealed(random_lines(64, 50 + number)) for number in range(expected + 2)]
    for number, (page, outcome) in enumerate(zip(pages, fetch(pages, reads=silent_reads))):
        check(page, number, outcome)
