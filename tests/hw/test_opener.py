"""The opener: entries, answers, errors and the pool after each kind of job on pages in every state."""

import pytest
from mover_bench import Surroundings
from streams import SEED, receive, send, simulate

from speckv_hw.config import DeviceConfig
from speckv_hw.mover.opener import Opener
from speckv_hw.types import (
    AllocateResponse,
    ErrorKind,
    OpenJob,
    OpenKind,
    TableFault,
    TableOp,
    TableResponse,
)
from speckv_model.constants import OPEN_SECTORS, Codec, Dtype, PageState

CONFIG = DeviceConfig.small(lanes=8, codecs=("raw",))
STREAM = {"context": 3, "codec": Codec.SPECKV, "dtype": Dtype.FP16}
PAGE = 77
OPEN, FREE, POISON = OpenKind.OPEN, OpenKind.FREE, OpenKind.POISON
STATES = list(PageState)


def held(entry):
    """Sectors of the pool that a page with this `entry` holds."""
    return {PageState.OPEN: OPEN_SECTORS, PageState.SEALED: -(-entry.get("lines", 0) // 2)}.get(entry.get("state"), 0)


def run(kinds, around, *, errors=0, stall=0.3, pages=(PAGE,)):
    """Runs a job of each of `kinds` on each of `pages`; returns answers and errors."""
    dut = Opener(CONFIG)
    answers, logged = [], []
    jobs = [(kind, page) for kind in kinds for page in pages]
    around.stall = stall

    async def give(ctx):
        await around.give(ctx, dut.job, [OpenJob.const({
            "kind": kind, "slot": number % 11, "page": page, "stream": STREAM})
            for number, (kind, page) in enumerate(jobs)])

    async def take(ctx):
        answers.extend(await around.take(ctx, dut.done, len(jobs)))
        await ctx.tick().repeat(100)

    simulate(dut, give, take,
             background=[lambda ctx, serve=serve: serve(ctx, dut) for serve in (
                 around.table, around.updates, around.allocations, around.frees)] + [
                     lambda ctx: around.collect(ctx, dut.error, logged)],
             watched=[dut.done, dut.table_request, dut.update_request, dut.allocate, dut.free, dut.error])
    assert [(answer.kind, answer.slot) for answer in answers] == [
        (kind, number % 11) for number, (kind, _) in enumerate(jobs)]
    assert all(error.address == PAGE << 12 for error in logged) or len(pages) > 1
    return answers, [error.kind for error in logged]


def surroundings(state, *, room=True):
    """One page in `state`, and a pool with some room or none."""
    around = Surroundings(CONFIG, SEED)
    lines = {PageState.OPEN: 0, PageState.SEALED: 11}.get(state, 0)
    entry = {"state": state, "codec": Codec.SPECKV, "context": STREAM["context"], "lines": lines, "crc": 9}
    if sectors := held(entry):
        around.pool.allocate(5)
        entry["place"] = around.pool.allocate(sectors)
    around.entries[PAGE] = entry
    while not room and around.pool.allocate(1) is not None:
        pass
    return around


def check_pool(around, before, *, lost=0):
    """Sectors are those of the entries, those that were taken `before`, and those that are `lost`."""
    taken = before + sum(held(entry) for entry in around.entries.values()) + lost
    assert around.pool.free_sectors == CONFIG.pool_sectors - taken


def taken_by_others(around):
    return CONFIG.pool_sectors - around.pool.free_sectors - sum(held(entry) for entry in around.entries.values())


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("state", [PageState.EMPTY, PageState.SEALED, PageState.OPEN])
def test_open(state, stall):
    around = surroundings(state)
    others = taken_by_others(around)
    (answer,), errors = run([OPEN], around, stall=stall)
    assert (answer.state.value, answer.refused, errors) == (PageState.OPEN, 0, [])
    entry = around.entries[PAGE]
    assert entry | {"place": 0} == {"state": PageState.OPEN, "codec": Codec.SPECKV, "context": STREAM["context"],
                                    "place": 0, "lines": 0, "crc": 0}
    check_pool(around, others)


@pytest.mark.parametrize("state", [PageState.EMPTY, PageState.SEALED])
def test_open_without_room(state):
    around = surroundings(state, room=False)
    before, others = dict(around.entries[PAGE]), taken_by_others(around)
    (answer,), errors = run([OPEN], around)
    after = around.entries[PAGE]
    if state == PageState.EMPTY:
        assert (after["state"], after["context"]) == (PageState.POISONED, STREAM["context"])
    else:
        assert after == before
    assert (answer.state.value, answer.refused, errors) == (after["state"], 1, [])
    check_pool(around, others)


@pytest.mark.parametrize("kind, result", [(FREE, PageState.EMPTY), (POISON, PageState.POISONED)])
@pytest.mark.parametrize("state", STATES)
def test_free_and_poison(state, kind, result):
    around = surroundings(state)
    others = taken_by_others(around)
    (answer,), errors = run([kind], around)
    assert (answer.state.value, errors) == (result, [])
    assert around.entries[PAGE] == {"state": result, "codec": 0, "place": 0, "lines": 0, "crc": 0,
                                    "context": STREAM["context"] if kind == POISON else 0}
    check_pool(around, others)


@pytest.mark.parametrize("trouble, error", [(TableFault.CORRUPT, ErrorKind.ENTRY_CORRUPT),
                                            (TableFault.MEMORY, ErrorKind.MEMORY_READ),
                                            ("foreign", ErrorKind.ENTRY_CORRUPT)])
@pytest.mark.parametrize("kind", list(OpenKind))
def test_an_entry_that_cannot_be_used(kind, trouble, error):
    """What the page held stays lost; FREE and POISON set the entry right."""
    around = surroundings(PageState.SEALED)
    sectors = held(around.entries[PAGE])
    if trouble == "foreign":
        around.entries[PAGE]["context"] += 1
    else:
        around.faults[PAGE] = trouble
    before, others = dict(around.entries[PAGE]), taken_by_others(around)
    (answer,), errors = run([kind], around)
    assert (answer.refused, errors) == (0, [error])
    if kind == OPEN:
        assert (answer.state.value, around.entries[PAGE]) == (PageState.POISONED, before)
        check_pool(around, others)
    else:
        state = PageState.EMPTY if kind == FREE else PageState.POISONED
        assert answer.state.value == around.entries[PAGE]["state"] == state
        check_pool(around, others, lost=sectors)


@pytest.mark.parametrize("state", [PageState.EMPTY, PageState.SEALED])
@pytest.mark.parametrize("kind", list(OpenKind))
def test_an_entry_that_cannot_be_written(kind, state):
    """The old place and the new one stay lost, since either may be what DRAM names."""
    around = surroundings(state)
    around.update_faults[PAGE] = TableFault.MEMORY
    before, others = dict(around.entries[PAGE]), taken_by_others(around)
    (answer,), errors = run([kind], around)
    assert errors == [ErrorKind.MEMORY_WRITE] and around.entries[PAGE] == before
    assert answer.state.value == (PageState.OPEN if kind == OPEN else PageState.POISONED)
    check_pool(around, others, lost=OPEN_SECTORS if kind == OPEN else 0)


def test_pages_are_opened_before_dram_has_the_entries_of_others():
    """The answers do not wait for the updates; what a page held does, and so does a FREE."""
    dut = Opener(CONFIG)

    async def play(ctx):
        for page in range(PAGE, PAGE + 4):
            ctx.set(dut.job.payload, OpenJob.const({"kind": OPEN, "slot": 4, "page": page, "stream": STREAM}))
            ctx.set(dut.job.valid, 1)
            await receive(ctx, dut.table_request, 1)
            await send(ctx, dut.table_response, [TableResponse.const({"entry": {
                "state": PageState.SEALED, "context": STREAM["context"], "place": page, "lines": 7}})])
            [wanted] = await receive(ctx, dut.allocate, 1)
            assert wanted.sectors == OPEN_SECTORS
            await send(ctx, dut.allocated, [AllocateResponse.const({"ok": 1, "sector": 500 + page})])
            request, = await receive(ctx, dut.update_request, 1)
            assert (request.op, request.page, request.entry.place) == (TableOp.UPDATE, page, 500 + page)
            answer, = await receive(ctx, dut.done, 1)
            assert (answer.slot, answer.state.value) == (4, PageState.OPEN)
        ctx.set(dut.job.payload, OpenJob.const({"kind": FREE, "page": 9, "stream": STREAM}))
        await receive(ctx, dut.table_request, 1)
        await send(ctx, dut.table_response, [TableResponse.const({})])
        await receive(ctx, dut.update_request, 1)
        for page in range(PAGE, PAGE + 4):
            for _ in range(30):
                _, _, freed, answered = await ctx.tick().sample(dut.free.valid, dut.done.valid)
                assert not freed and not answered
            ctx.set(dut.update_response.valid, 1)
            free, = await receive(ctx, dut.free, 1)
            ctx.set(dut.update_response.valid, 0)
            assert (free.sector, free.sectors) == (page, 4)
        await send(ctx, dut.update_response, [TableResponse.const({})])
        answer, = await receive(ctx, dut.done, 1)
        assert (answer.kind, answer.state.value) == (FREE, PageState.EMPTY)

    simulate(dut, play, watched=[dut.done, dut.table_request, dut.update_request, dut.free, dut.allocate])


class Entries(dict):
    """Entries of pages, none of which may name a sector that another one names."""

    def __setitem__(self, page, entry):
        super().__setitem__(page, entry)
        taken = [entry["place"] + n for entry in self.values() for n in range(held(entry))]
        assert len(taken) == len(set(taken))


def test_nothing_is_handed_out_twice():
    """Random jobs on more pages than the pool has room for: places never overlap, and FREE gives everything back."""
    around = Surroundings(CONFIG, SEED)
    around.entries = Entries()
    while around.pool.free_sectors > 64 * 6:
        around.pool.allocate(32)
    others = taken_by_others(around)
    pages = range(200, 216)
    answers, errors = run(around.rng.choices([OPEN, FREE, POISON], [5, 2, 1], k=12), around, stall=0.1, pages=pages)
    assert errors == [] and any(answer.refused for answer in answers)
    check_pool(around, others)
    run([FREE], around, stall=0.1, pages=pages)
    assert CONFIG.pool_sectors - around.pool.free_sectors == others
