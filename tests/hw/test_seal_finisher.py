"""The end of spills and seals: what waits for what, and what becomes of entry, sectors and answer."""

import random

import pytest
from streams import SEED, receive, send, simulate

from speckv_hw.mover.seal_finisher import SealFinisher, SealOutcome
from speckv_hw.types import ErrorKind, SealKind, TableFault, TableOp, TableResponse, WriteDone
from speckv_model.constants import OPEN_SECTORS, PageState

RESERVED, PLACE, LINES = 100, 700, 33
SECTORS = 17
OPEN, SEALED, POISONED = PageState.OPEN, PageState.SEALED, PageState.POISONED


def spilled(page):
    return {"kind": SealKind.SPILL, "slot": page % 7, "page": page, "reserved": RESERVED, "is_written": 1,
            "entry": {"state": OPEN, "context": 3, "place": RESERVED, "lines": 20, "crc": page}}


def sealed(page, stays=0):
    return {"kind": SealKind.SEAL, "slot": page % 7, "page": page, "reserved": RESERVED, "is_written": 1,
            "stays": stays, "entry": {"state": SEALED, "codec": 1, "context": 3, "place": RESERVED if stays else PLACE,
                                      "lines": LINES, "crc": page}}


def poisoned(page):
    return {"kind": SealKind.SEAL, "slot": page % 7, "page": page, "reserved": RESERVED,
            "entry": {"state": POISONED, "context": 3}}


def failed(page, kind=SealKind.SEAL, error=ErrorKind.ENTRY_CORRUPT):
    return {"kind": kind, "slot": page % 7, "page": page, "failed": error, "entry": {"state": POISONED}}


WHOLE = (RESERVED, OPEN_SECTORS)
REST = (RESERVED + SECTORS, OPEN_SECTORS - SECTORS)
NEW = (PLACE, SECTORS)
WRITE = ErrorKind.MEMORY_WRITE
CASES = {
    "spilled": (spilled, 0, 0, OPEN, [], None),
    "spilled, refused": (spilled, 1, 0, POISONED, [WHOLE], WRITE),
    "spilled, entry refused": (spilled, 0, 1, POISONED, [], WRITE),
    "spilled, both refused": (spilled, 1, 1, POISONED, [], WRITE),
    "sealed": (sealed, 0, 0, SEALED, [WHOLE], None),
    "sealed, refused": (sealed, 1, 0, POISONED, [WHOLE, NEW], WRITE),
    "sealed, entry refused": (sealed, 0, 1, POISONED, [], WRITE),
    "sealed, both refused": (sealed, 1, 1, POISONED, [], WRITE),
    "sealed in place": (lambda page: sealed(page, 1), 0, 0, SEALED, [REST], None),
    "sealed in place, refused": (lambda page: sealed(page, 1), 1, 0, POISONED, [WHOLE], WRITE),
    "sealed in place, entry refused": (lambda page: sealed(page, 1), 0, 1, POISONED, [], WRITE),
    "poisoned": (poisoned, 0, 0, POISONED, [WHOLE], None),
    "poisoned, entry refused": (poisoned, 0, 1, POISONED, [], WRITE),
    "no entry to seal": (failed, 0, 0, POISONED, [], ErrorKind.ENTRY_CORRUPT),
    "no entry to spill": (lambda page: failed(page, SealKind.SPILL, ErrorKind.MEMORY_READ), 0, 0, POISONED, [],
                          ErrorKind.MEMORY_READ),
}
"""Outcome, whether DRAM refuses its lines and its entry, then its state, what is freed and what is logged."""


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("order", ["in turn", "mixed"])
def test_what_becomes_of_a_page(order, stall):
    names = list(CASES)
    if order == "mixed":
        names = random.Random(f"cases {SEED}").choices(names, k=60)
    dut = SealFinisher()
    cases = [CASES[name] for name in names]
    outcomes = [make(page) for page, (make, *_) in enumerate(cases)]
    finished, updated, log = [], set(), []

    async def give(ctx):
        await send(ctx, dut.outcome, [SealOutcome.const(outcome) for outcome in outcomes], idle=stall)

    async def write(ctx):
        await send(ctx, dut.write_done, [WriteDone.const({"error": case[1]}) for case, outcome in zip(cases, outcomes)
                                         if outcome.get("is_written")], idle=stall)

    async def table(ctx):
        pages = [page for page, outcome in enumerate(outcomes) if "failed" not in outcome]
        for page in pages:
            request, = await receive(ctx, dut.table_request, 1, stall=stall, seed=SEED + page)
            refused = cases[page][1]
            entry = outcomes[page]["entry"]
            assert (request.op, request.page) == (TableOp.UPDATE, page)
            assert request.entry.state.value == (POISONED if refused else entry["state"])
            assert (request.entry.place, request.entry.lines, request.entry.crc, request.entry.context) == (
                entry.get("place", 0), entry.get("lines", 0), entry.get("crc", 0), 3)
            updated.add(page)
            await send(ctx, dut.table_response, [TableResponse.const({
                "fault": TableFault.MEMORY if cases[page][2] else TableFault.NONE})], idle=stall, seed=SEED + page)

    async def frees(ctx):
        while True:
            free, = await receive(ctx, dut.free, 1, stall=stall, seed=SEED + len(log))
            log.append((free.sector, free.sectors))

    async def errors(ctx):
        while True:
            error, = await receive(ctx, dut.error, 1, stall=stall, seed=SEED + len(log))
            log.append((error.kind, error.address))

    async def take(ctx):
        for page, (_, _, _, state, freed, error) in enumerate(cases):
            answer, = await receive(ctx, dut.done, 1, stall=stall, seed=SEED + page)
            finished.append(page)
            assert (answer.kind, answer.slot, answer.state.value) == (
                outcomes[page]["kind"], outcomes[page]["slot"], state), names[page]
            assert (page in updated) == ("failed" not in outcomes[page])
            assert log == freed + ([] if error is None else [(error, page << 12)]), names[page]
            log.clear()
        await ctx.tick().repeat(30)
        assert not log

    simulate(dut, give, write, table, take, background=[frees, errors],
             watched=[dut.done, dut.table_request, dut.free, dut.error])
    assert finished == list(range(len(cases)))


def test_entries_are_written_while_dram_takes_those_of_others():
    """The answers wait for it."""
    dut = SealFinisher()
    pages, taken = range(6), []

    async def play(ctx):
        await send(ctx, dut.write_done, [WriteDone.const({})] * len(pages))

    async def give(ctx):
        await send(ctx, dut.outcome, [SealOutcome.const(sealed(page)) for page in pages])

    async def table(ctx):
        requests = await receive(ctx, dut.table_request, len(pages))
        assert [request.page for request in requests] == list(pages)
        assert not ctx.get(dut.done.valid)
        ctx.set(dut.free.ready, 1)
        # Nobody takes an answer before these are all taken.
        await send(ctx, dut.table_response, [TableResponse.const({})] * len(pages))
        taken.append(True)

    async def take(ctx):
        while not taken:
            await ctx.tick()
        answers = await receive(ctx, dut.done, len(pages))
        assert [answer.slot for answer in answers] == [page % 7 for page in pages]

    simulate(dut, play, give, table, take)


def test_the_entry_waits_for_the_lines_and_the_sectors_for_the_entry():
    dut = SealFinisher()

    async def nothing_on(ctx, *ports):
        for _ in range(20):
            _, _, *valid = await ctx.tick().sample(*(port.valid for port in ports))
            assert not any(valid)

    async def play(ctx):
        ctx.set(dut.outcome.payload, SealOutcome.const(sealed(8)))
        ctx.set(dut.outcome.valid, 1)
        ctx.set(dut.free.ready, 0)
        await nothing_on(ctx, dut.table_request, dut.free, dut.done)
        await send(ctx, dut.write_done, [WriteDone.const({})])
        await receive(ctx, dut.table_request, 1)
        await nothing_on(ctx, dut.table_request, dut.free, dut.done)
        await send(ctx, dut.table_response, [TableResponse.const({})])
        free, = await receive(ctx, dut.free, 1)
        assert (free.sector, free.sectors) == WHOLE
        answer, = await receive(ctx, dut.done, 1)
        assert answer.state.value == SEALED

    simulate(dut, play)
