"""The page table over a memory with latency and errors: against the model, and with two clients at once."""

import random

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from clients_table import ClientsTable
from streams import SEED, receive, send, simulate
from table_memory import TableMemory
from table_steps import random_entry

from speckv_hw.config import DeviceConfig
from speckv_hw.types import Entry, ErrorKind, TableOp, TableRequest
from speckv_model.table import page_table as model
from speckv_model.table.entry import Entry as ModelEntry

SHAPES = [(4, 1), (16, 2)]
"""tlb_entries and tlb_ways: all far too small for the pages in use, so that lines come and go."""


def config_of(shape):
    return DeviceConfig.small(tlb_entries=shape[0], tlb_ways=shape[1])


def request(op, page, entry=None, count=0):
    bits = 0 if entry is None else int.from_bytes(entry.pack(), "little")
    return TableRequest.const({"op": op, "page": page, "count": count, "entry": Entry.from_bits(bits)})


def answer(response):
    """A response as (packed entry, fault)."""
    return response.entry.as_bits().to_bytes(16, "little"), response.fault.value


async def ask(ctx, dut, client, payload, rng=None, idle=0.0, stall=0.0):
    rng = rng or random.Random(0)
    request, response = getattr(dut, f"request{client}"), getattr(dut, f"response{client}")
    await send(ctx, request, [payload], idle=idle, seed=rng.random())
    got, = await receive(ctx, response, 1, stall=stall, seed=rng.random())
    return answer(got)


def ports(dut):
    return [dut.read_request, dut.write_request, dut.write_data, dut.response0, dut.response1]


async def log_errors(ctx, dut, pages):
    """Takes error records; their pages go to `pages`."""
    ctx.set(dut.error.ready, 1)
    async for _, _, valid, record in ctx.tick().sample(dut.error.valid, dut.error.payload):
        if valid:
            assert record.kind == ErrorKind.MEMORY_WRITE and record.address % 4096 == 0
            pages.append(record.address // 4096)


async def count_pulses(ctx, dut, counts):
    async for _, _, hit, miss in ctx.tick().sample(dut.hit, dut.miss):
        counts["hits"] += hit
        counts["misses"] += miss


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_one_client_matches_model(shape, stall):
    config = config_of(shape)
    rng = random.Random(f"{SEED} {shape} {stall}")
    lines = rng.sample(range(config.table_lines), 12)
    memory = TableMemory(config.table_lines, bad=lines[:2], doubtful=lines[2:4], stall=stall, seed=SEED)
    twin = TableMemory(config.table_lines, bad=lines[:2], doubtful=lines[2:4])
    kept, logged = [], []
    table = model.PageTable(config, twin, kept.append)
    dut = ClientsTable(config)
    counts = {"hits": 0, "misses": 0}
    faults = []

    async def bench(ctx):
        for _ in range(250):
            page = 4 * rng.choice(lines) + rng.randrange(4)
            kind = rng.choices(["lookup", "update", "clear", "corrupt"], [60, 30, 2, 15])[0]
            if kind == "corrupt":
                # Not of those that are written again, the model at other times than the hardware.
                line, byte, bit = rng.choice(lines[4:]), rng.randrange(64), 1 << rng.randrange(8)
                memory.data[line, byte] ^= bit
                twin.data[line, byte] ^= bit
                continue
            entry, count = random_entry(rng), 4 * rng.randrange(100)
            if kind == "clear":
                page = min(page & ~3, config.window_pages - count)
                payload, expected = request(TableOp.CLEAR, page, entry, count), table.clear(page, count)
                expected = (model.POISONED if expected else ModelEntry(), expected)
            elif kind == "update":
                payload, expected = request(TableOp.UPDATE, page, entry), table.update(page, entry)
                expected = (model.POISONED if expected else ModelEntry(), expected)
            else:
                payload, expected = request(TableOp.LOOKUP, page, entry), table.lookup(page)
            faults.append(expected[1])
            got = await ask(ctx, dut, 0, payload, rng, idle=stall, stall=stall)
            assert got == (expected[0].pack(), expected[1]), f"{kind} of page {page}"
            assert counts == {"hits": table.hits, "misses": table.misses}

    simulate(dut, bench, watched=ports(dut), background=[
        lambda ctx: memory.serve_reads(ctx, dut), lambda ctx: memory.serve_writes(ctx, dut),
        lambda ctx: count_pulses(ctx, dut, counts), lambda ctx: log_errors(ctx, dut, logged)])
    assert logged == kept and len(kept) > 3
    np.testing.assert_array_equal(memory.data, twin.data)
    assert all(faults.count(fault) > 3 for fault in model.TableFault)
    assert counts["hits"] > 3 and counts["misses"] > 20


class History:
    """Requests of several clients on one page, and whether some order of them explains all answers."""

    def __init__(self, first):
        self._spans = {first: [(-1, -1)]}
        self._written = {first: -1}

    def write(self, value, start, end):
        assert value not in self._written, "values must be written once"
        self._written[value] = start
        self._spans.setdefault(value, []).append((start, end))

    def read(self, value, start, end):
        self._spans.setdefault(value, []).append((start, end))

    def assert_atomic(self):
        """The test of Gibbons and Korach, "Testing shared memories", 1997: every value is written once."""
        forward, backward = [], []
        for value, spans in self._spans.items():
            assert value in self._written, f"{value.hex()} was never written"
            first_end, last_start = min(end for _, end in spans), max(start for start, _ in spans)
            assert self._written[value] <= first_end, f"{value.hex()} was read before it was written"
            zone = min(first_end, last_start), max(first_end, last_start)
            (forward if first_end < last_start else backward).append(zone)
        forward.sort()
        for (_, end), (start, _) in zip(forward, forward[1:]):
            assert end < start, "an old entry was seen after a newer one"
        for start, end in backward:
            inside = any(low < start and end < high for low, high in forward)
            assert not inside, "a write was lost or seen late"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("clients", [2, 3])
@pytest.mark.parametrize("reads, writes", [((1, 2), (1, 20)), ((30, 60), (1, 2))],
                         ids=["slow_writes", "slow_reads"])
def test_clients_never_see_stale_entries(shape, clients, reads, writes):
    """All clients look up and update the same lines; one clears each line, once, as values must differ."""
    config = config_of(shape)
    rng = random.Random(f"{SEED} {shape} {clients} {reads}")
    first_line = 61
    pages = range(4 * first_line, 4 * first_line + 24)
    memory = TableMemory(config.table_lines, reads=reads, writes=writes, seed=SEED)
    histories = {}
    for page in pages:
        value = random_entry(rng).sealed().pack()
        memory.data[page // 4, page % 4 * 16:][:16] = np.frombuffer(value, dtype=np.uint8)
        histories[page] = History(value)
    dut = ClientsTable(config, clients=clients)
    time = iter(range(1 << 30))
    ranges = [(pages[0], 16), (pages[16], 4), (pages[20], 4)]

    async def client(ctx, number, count):
        rng = random.Random(f"client {SEED} {shape} {clients} {reads} {number}")
        for n in range(count):
            page, entry = rng.choice(pages), random_entry(rng)
            start = next(time)
            if number == 0 and n % 30 == 15 and ranges:
                first, length = ranges.pop()
                got = await ask(ctx, dut, 0, request(TableOp.CLEAR, first, count=length), rng)
                assert got == (bytes(16), 0)
                for page in range(first, first + length):
                    histories[page].write(bytes(16), start, next(time))
            elif rng.random() < 0.4:
                got = await ask(ctx, dut, number, request(TableOp.UPDATE, page, entry), rng, stall=0.2)
                assert got == (bytes(16), 0)
                histories[page].write(entry.sealed().pack(), start, next(time))
            else:
                got, fault = await ask(ctx, dut, number, request(TableOp.LOOKUP, page), rng, stall=0.2)
                assert fault == 0
                histories[page].read(got, start, next(time))

    simulate(dut, *[lambda ctx, n=n: client(ctx, n, 90) for n in range(clients)], watched=ports(dut),
             background=[lambda ctx: memory.serve_reads(ctx, dut), lambda ctx: memory.serve_writes(ctx, dut)])
    assert not ranges
    for page, history in histories.items():
        final = memory.data[page // 4, page % 4 * 16:][:16].tobytes()
        history.read(final, next(time), next(time))
        history.assert_atomic()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("refusals", [False, True])
@pytest.mark.parametrize("reads, writes", [((1, 2), (40, 60)), ((30, 60), (1, 2))], ids=["slow_writes", "slow_reads"])
def test_updates_on_their_way_are_seen(shape, refusals, reads, writes):
    """One client changes pages of a few lines without waiting for DRAM while two others look them up; DRAM may carry a
    read out before a write that came first. With `refusals` it refuses writes of some lines now and then."""
    config = config_of(shape)
    rng = random.Random(f"{SEED} {shape} {refusals} {reads}")
    pages = range(4 * 61, 4 * 61 + 24)
    memory = TableMemory(config.table_lines, reads=reads, writes=writes, stall=0.1, seed=SEED)
    histories = {page: History(bytes(16)) for page in pages}
    dut = ClientsTable(config, clients=3, retry_clocks=32)
    time = iter(range(1 << 30))
    changes = [(rng.choice(pages), random_entry(rng)) for _ in range(150)]
    starts, most, logged = [], [0], []

    async def change(ctx):
        for page, entry in changes:
            if refusals:
                memory.refusing = {line for line in range(61, 67) if rng.random() < 0.2}
            starts.append(next(time))
            await send(ctx, dut.request0, [request(TableOp.UPDATE, page, entry)])

    async def take(ctx):
        for n, (page, entry) in enumerate(changes):
            got, = await receive(ctx, dut.response0, 1)
            most[0] = max(most[0], len(starts) - n)
            assert answer(got) == (bytes(16), 0)
            histories[page].write(entry.sealed().pack(), starts[n], next(time))
        # What is kept goes to DRAM in the end, a slow write and what is left of `retry_clocks` for each.
        memory.refusing = set()
        await ctx.tick().repeat(128 * model.KEPT)

    async def look(ctx, number):
        rng = random.Random(f"client {SEED} {shape} {reads} {number}")
        while len(starts) < len(changes):
            page = rng.choice(pages)
            start = next(time)
            got, fault = await ask(ctx, dut, number, request(TableOp.LOOKUP, page), rng, stall=0.2)
            assert fault == 0
            seen.append((page, got, start, next(time)))

    seen = []
    simulate(dut, change, take, *[lambda ctx, n=n: look(ctx, n) for n in (1, 2)], watched=ports(dut),
             background=[lambda ctx: memory.serve_reads(ctx, dut), lambda ctx: memory.serve_writes(ctx, dut),
                         lambda ctx: log_errors(ctx, dut, logged)])
    for page, *read in seen:
        histories[page].read(*read)
    for page, history in histories.items():
        history.read(memory.data[page // 4, page % 4 * 16:][:16].tobytes(), next(time), next(time))
        history.assert_atomic()
    assert len(seen) > 30 and (most[0] > 4 or refusals or writes == (1, 2))
    assert bool(logged) == refusals and (len(memory.writes) > len(changes) if refusals else not logged)


def test_refused_entries_are_kept_and_written_again():
    config = config_of((4, 1))
    memory = TableMemory(config.table_lines, seed=SEED)
    twin = TableMemory(config.table_lines)
    kept, logged = [], []
    table = model.PageTable(config, twin, kept.append)
    dut = ClientsTable(config, retry_clocks=64)
    rng = random.Random(f"kept {SEED}")
    pages = rng.sample(range(0, 400), model.KEPT)
    entries = {page: random_entry(rng).sealed() for page in pages}

    async def both(ctx, op, page, entry=None):
        expected = (ModelEntry(), table.update(page, entry)) if op == TableOp.UPDATE else table.lookup(page)
        got = await ask(ctx, dut, 0, request(op, page, entry), rng)
        assert got == (expected[0].pack(), expected[1]), f"{op} of page {page}"

    async def bench(ctx):
        for line in (memory, twin):
            line.refusing = set(range(100))
        for page, entry in entries.items():
            await both(ctx, TableOp.UPDATE, page, random_entry(rng))
            await both(ctx, TableOp.UPDATE, page, entry)
        neighbours = {page ^ 1 for page in pages} - set(pages)
        for page in [*pages, *neighbours]:
            await both(ctx, TableOp.LOOKUP, page)
        assert not memory.data.any() and logged == kept == pages
        for line in (memory, twin):
            line.refusing = set()
        await ctx.tick().repeat(64 * 3 * model.KEPT)
        for page, entry in entries.items():
            assert memory.data[page // 4, page % 4 * 16:][:16].tobytes() == entry.pack()
        writes = len(memory.writes)
        await ctx.tick().repeat(64 * 3)
        assert len(memory.writes) == writes, "nothing is kept any more"
        for page in [*pages, *neighbours]:
            await both(ctx, TableOp.LOOKUP, page)

    simulate(dut, bench, watched=ports(dut), background=[
        lambda ctx: memory.serve_reads(ctx, dut), lambda ctx: memory.serve_writes(ctx, dut),
        lambda ctx: log_errors(ctx, dut, logged)])


def test_more_refused_entries_than_can_be_kept():
    """Then no entry of DRAM's is trusted, until a reset."""
    config = config_of((4, 1))
    reset = Signal()
    memory = TableMemory(config.table_lines, seed=SEED, reset=reset)
    twin = TableMemory(config.table_lines)
    table = model.PageTable(config, twin)
    dut = ClientsTable(config)
    refused = (model.POISONED.pack(), model.TableFault.MEMORY)

    async def bench(ctx):
        for line in (memory, twin):
            line.refusing = set(range(100))
        for page in range(2 * model.KEPT):
            expected = table.update(page, ModelEntry(state=1, lines=1))
            got = await ask(ctx, dut, 0, request(TableOp.UPDATE, page, ModelEntry(state=1, lines=1)))
            assert got == ((bytes(16), 0) if page < model.KEPT else refused) and got[1] == expected
        for page in (0, model.KEPT, 1000):
            assert table.lookup(page)[1] == model.TableFault.MEMORY
            assert await ask(ctx, dut, 1, request(TableOp.LOOKUP, page)) == refused
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        assert await ask(ctx, dut, 1, request(TableOp.LOOKUP, 0)) == (bytes(16), 0)

    simulate(ResetInserter(reset)(dut), bench, background=[
        lambda ctx: memory.serve_reads(ctx, dut), lambda ctx: memory.serve_writes(ctx, dut),
        lambda ctx: log_errors(ctx, dut, [])])


def test_lookup_after_an_update_was_taken_sees_it():
    """Also where both have to wait for a walk that began before."""
    config = config_of((4, 1))
    memory = TableMemory(config.table_lines, reads=(40, 40), writes=(1, 1), stall=0, seed=SEED)
    dut = ClientsTable(config, clients=3)
    entry = ModelEntry(state=1, lines=7)

    async def bench(ctx):
        for page in range(0, 80, 4):
            await send(ctx, dut.request0, [request(TableOp.LOOKUP, page + 1)])
            await send(ctx, dut.request2, [request(TableOp.UPDATE, page, entry)])
            await send(ctx, dut.request1, [request(TableOp.LOOKUP, page)])
            await receive(ctx, dut.response0, 1)
            got, = await receive(ctx, dut.response1, 1)
            assert answer(got) == (entry.sealed().pack(), 0)
            await receive(ctx, dut.response2, 1)

    simulate(dut, bench, background=[
        lambda ctx: memory.serve_reads(ctx, dut), lambda ctx: memory.serve_writes(ctx, dut)])


def test_walk_that_outlasts_a_clear_leaves_nothing_stale():
    config = DeviceConfig.small()
    memory = TableMemory(config.table_lines, reads=(60, 60), writes=(1, 1), stall=0, seed=SEED)
    dut = ClientsTable(config)
    entry = ModelEntry(state=1, lines=7)

    async def bench(ctx):
        for page in range(0, 40, 4):
            await ask(ctx, dut, 0, request(TableOp.UPDATE, page, entry))
            await send(ctx, dut.request1, [request(TableOp.LOOKUP, page)])
            await ctx.tick().repeat(10)
            await ask(ctx, dut, 0, request(TableOp.CLEAR, page, count=4))
            overlapping, = await receive(ctx, dut.response1, 1)
            assert answer(overlapping) in ((entry.sealed().pack(), 0), (bytes(16), 0))
            assert await ask(ctx, dut, 1, request(TableOp.LOOKUP, page)) == (bytes(16), 0)

    simulate(dut, bench, background=[
        lambda ctx: memory.serve_reads(ctx, dut), lambda ctx: memory.serve_writes(ctx, dut)])


def test_latency_of_a_hit():
    config = DeviceConfig.small()
    memory = TableMemory(config.table_lines, stall=0, reads=(5, 5), writes=(5, 5))
    dut = ClientsTable(config)

    async def bench(ctx):
        await ask(ctx, dut, 0, request(TableOp.LOOKUP, 9))
        ctx.set(dut.response0.ready, 1)
        for page in (8, 9, 10, 11):
            await send(ctx, dut.request0, [request(TableOp.LOOKUP, page)])
            clocks = 1
            while not ctx.get(dut.response0.valid):
                await ctx.tick()
                clocks += 1
            assert clocks == dut.latency <= 6
            await ctx.tick()

    simulate(dut, bench, background=[lambda ctx: memory.serve_reads(ctx, dut)])
    assert memory.reads == [2], "one walk brings four entries"


def test_clients_do_not_wait_for_each_other():
    """Neither a long CLEAR nor a response that is not taken delays the other client."""
    config = DeviceConfig.small()
    memory = TableMemory(config.table_lines, stall=0, reads=(5, 5), writes=(5, 5))
    dut = ClientsTable(config)

    async def bench(ctx):
        await send(ctx, dut.request0, [request(TableOp.CLEAR, 0, count=4096)])
        for page in range(0, 120, 4):
            assert await ask(ctx, dut, 1, request(TableOp.LOOKUP, page)) == (bytes(16), 0)
        assert not ctx.get(dut.response0.valid), "the clear must be under way all the time"
        for _ in range(2):
            while not ctx.get(dut.response0.valid):
                await ctx.tick()
            await ask(ctx, dut, 1, request(TableOp.UPDATE, 4, ModelEntry(state=1, lines=3)))
            await ask(ctx, dut, 1, request(TableOp.CLEAR, 4, count=4))
            assert ctx.get(dut.response0.valid)
            await receive(ctx, dut.response0, 1)
            await send(ctx, dut.request0, [request(TableOp.LOOKUP, 0)])

    simulate(dut, bench, background=[
        lambda ctx: memory.serve_reads(ctx, dut), lambda ctx: memory.serve_writes(ctx, dut)])
    cleared = {line for first, count in memory.writes for line in range(first, first + count)}
    assert cleared == set(range(1024))


def test_clear_longer_than_the_table_stays_inside():
    """TableMemory refuses writes outside of the table."""
    config = DeviceConfig.small()
    memory = TableMemory(config.table_lines, stall=0)
    dut = ClientsTable(config)

    async def bench(ctx):
        await ask(ctx, dut, 0, request(TableOp.CLEAR, config.window_pages - 8, count=400))

    simulate(dut, bench, background=[lambda ctx: memory.serve_writes(ctx, dut)])
    assert memory.writes[0] == (config.table_lines - 2, 2)


def test_reset_in_mid_traffic():
    config = config_of((16, 2))
    rng = random.Random(f"reset {SEED}")
    reset = Signal()
    memory = TableMemory(config.table_lines, seed=SEED, reset=reset)
    dut = ClientsTable(config)
    pages = range(16)

    def random_request():
        op = rng.choice([TableOp.LOOKUP, TableOp.UPDATE, TableOp.CLEAR])
        page = rng.choice(pages)
        return request(op, page & ~3 if op == TableOp.CLEAR else page, random_entry(rng), count=4)

    async def bench(ctx):
        for _ in range(15):
            ctx.set(dut.response0.ready, 1)
            for _ in range(rng.randrange(20, 60)):
                for port in (dut.request0, dut.request1):
                    if not ctx.get(port.valid) or ctx.get(port.ready):
                        ctx.set(port.payload, random_request())
                        ctx.set(port.valid, rng.random() < 0.7)
                ctx.set(dut.response1.ready, rng.random() < 0.5)
                await ctx.tick()
            ctx.set(reset, 1)
            await ctx.tick()
            for port in (dut.request0.valid, dut.request1.valid, dut.response0.ready, dut.response1.ready):
                ctx.set(port, 0)
            ctx.set(reset, 0)
            await ctx.tick()
            assert not any(ctx.get(port.valid) for port in ports(dut))
            memory.reads.clear()
            for page in pages:
                stored = memory.data[page // 4, page % 4 * 16:][:16].tobytes()
                assert await ask(ctx, dut, page % 2, request(TableOp.LOOKUP, page)) == (stored, 0)
            assert memory.reads == [0, 1, 2, 3], "nothing may be cached after a reset"

    simulate(ResetInserter(reset)(dut), bench, background=[
        lambda ctx: memory.serve_reads(ctx, dut), lambda ctx: memory.serve_writes(ctx, dut)])
