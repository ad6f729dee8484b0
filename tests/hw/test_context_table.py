"""The context table against the model: edges of ranges, management in traffic, sweep after reset."""

import random

import pytest
from amaranth.hdl import ResetInserter, Signal
from amaranth.lib import data
from streams import SEED, receive, send, simulate

from speckv_hw.config import DeviceConfig
from speckv_hw.stream import transfer
from speckv_hw.table.context import ContextOp, ContextOpKind, ContextRecord
from speckv_hw.table.context_table import ContextTable
from speckv_model.constants import Codec, Dtype
from speckv_model.table import context as model

SIDEBAND = 16


def config():
    return DeviceConfig.small(window_slots=64, contexts=16)


def random_contexts(config, rng, count):
    """Pairs of number and record; the ranges do not overlap, there are gaps and unused tails."""
    granules = sorted(rng.sample(range(config.window_slots + 1), 2 * count))
    for number, first, end in zip(rng.sample(range(config.contexts), count), granules[::2], granules[1::2]):
        unused = rng.choice([0, 0, 1, rng.randrange(config.granule_pages)])
        yield number, model.ContextRecord(
            ld_id=rng.randrange(3), first_page=first * config.granule_pages,
            pages=(end - first) * config.granule_pages - unused,
            index_bits=rng.randrange(32), head_bits=rng.randrange(32), layer_bits=rng.randrange(32),
            dtype=rng.choice(list(Dtype)), codec=rng.choice(list(Codec)))


def record_bits(record):
    """Fields of the hardware's record; what the descriptor table keeps is not among them."""
    return {"valid": 0} if record is None else {"valid": 1} | {
        name: int(getattr(record, name)) for name, _ in data.Layout.cast(ContextRecord) if name != "valid"}


def question(config, records, rng):
    """A page near the edge of a range and mostly its owner; or any page, also outside the window."""
    if rng.random() < 0.7:
        record = rng.choice(records)
        page = rng.choice([record.first_page, record.end_page - 1]) + rng.choice([-1, 0, 0, 1])
        return max(page, 0), record.ld_id if rng.random() < 0.8 else rng.randrange(16)
    return rng.randrange(config.window_pages << (rng.random() < 0.2)), rng.randrange(3)


async def do(ctx, dut, kind, **fields):
    """One management operation; returns its reply."""
    await send(ctx, dut.manage, [ContextOp.const({"kind": kind} | fields)])
    reply, = await receive(ctx, dut.managed, 1)
    return reply


async def put(ctx, dut, table, number, record):
    """Makes or, with None, takes away a context, slot by slot, in the hardware and in the model."""
    config = table._config
    old = table.record(number)
    whole = record or old
    slots = range(whole.first_page // config.granule_pages, -(-whole.end_page // config.granule_pages))
    if record is not None:
        await do(ctx, dut, ContextOpKind.PUT, context=number, record=record_bits(record))
        table.put(number, record)
    for slot in slots:
        await do(ctx, dut, ContextOpKind.PUT_SLOT, slot=slot, valid=record is not None, context=number)
        table.put_slot(slot, None if record is None else number)
    if record is None:
        await do(ctx, dut, ContextOpKind.PUT, context=number, record=record_bits(None))
        table.put(number, None)


def expected(table, page, ld_id):
    """(hit, context, codec, dtype) that a lookup must get."""
    context = int(table.find(page, ld_id))
    if context < 0:
        return 0, 0, 0, 0
    return 1, context, int(table.record(context).codec), int(table.record(context).dtype)


def outcome(result):
    stream = result.stream
    return result.hit, stream.context, stream.codec.value, stream.dtype.value


async def look_up(ctx, dut, questions, idle=0.0):
    payloads = [{"page": page, "ld_id": ld_id, "sideband": n} for n, (page, ld_id) in enumerate(questions)]
    await send(ctx, dut.lookup, payloads, idle=idle)


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_matches_model(stall, seed):
    rng = random.Random(f"{SEED} {stall} {seed}")
    table = model.ContextTable(config())
    dut = ContextTable(config(), SIDEBAND)
    contexts = dict(random_contexts(config(), rng, 8))
    records = list(contexts.values())
    questions = [question(config(), records, rng) for _ in range(500)]
    results = []
    built = Signal()

    async def sender(ctx):
        for number, record in contexts.items():
            await put(ctx, dut, table, number, record)
        for number in contexts:
            reply = await do(ctx, dut, ContextOpKind.GET, context=number)
            fields = {name: getattr(reply.record, name) for name in record_bits(contexts[number])}
            fields |= {name: fields[name].value for name in ("dtype", "codec")}
            assert fields == record_bits(contexts[number])
        for slot in range(config().window_slots):
            reply = await do(ctx, dut, ContextOpKind.GET_SLOT, slot=slot)
            assert (reply.context if reply.valid else None) == table.slot(slot)
        ctx.set(built, 1)
        await look_up(ctx, dut, questions, idle=stall)

    async def receiver(ctx):
        await ctx.tick().until(built)
        results.extend(await receive(ctx, dut.result, len(questions), stall=stall))

    simulate(dut, sender, receiver, watched=[dut.result, dut.managed])
    assert 50 < sum(result.hit for result in results) < 450
    for n, (result, (page, ld_id)) in enumerate(zip(results, questions, strict=True)):
        assert (result.page, result.sideband) == (page, n)
        assert outcome(result) == expected(table, page, ld_id), f"page {page}, owner {ld_id}"


def test_latency_and_throughput():
    dut = ContextTable(config(), SIDEBAND)
    count, times = 40, []

    async def sender(ctx):
        await ctx.tick().until(dut.lookup.ready)
        await look_up(ctx, dut, [(page, 0) for page in range(count)])

    async def receiver(ctx):
        ctx.set(dut.result.ready, 1)
        clock = 0
        accepted, offered = [], []
        async for _, _, taken, result in ctx.tick().sample(transfer(dut.lookup), dut.result.valid):
            clock += 1
            if taken:
                accepted.append(clock)
            if result:
                offered.append(clock)
                if len(offered) == count:
                    break
        times.extend(after - before for before, after in zip(accepted, offered, strict=True))
        assert accepted[-1] - accepted[0] == count - 1, "one lookup a clock"

    simulate(dut, sender, receiver)
    assert times == [dut.latency] * count and dut.latency <= 3


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_management_in_lookup_traffic(stall, seed):
    """A lookup answers what held when it was accepted; while a write is under way either is right."""
    rng = random.Random(f"{SEED} {stall} {seed}")
    table = model.ContextTable(config())
    dut = ContextTable(config(), SIDEBAND)
    contexts = dict(random_contexts(config(), rng, 6))
    records = list(contexts.values())
    waiting, checked = [], [0]
    finished = Signal()

    async def manager(ctx):
        for _ in range(25):
            number = rng.choice(list(contexts))
            await put(ctx, dut, table, number, None if table.record(number) else contexts[number])
        ctx.set(finished, 1)

    async def asker(ctx):
        while not ctx.get(finished):
            page, ld_id = question(config(), records, rng)
            waiting.append((page, ld_id, seen := set()))
            seen.add(expected(table, page, ld_id))
            await look_up(ctx, dut, [(page, ld_id)], idle=stall / 2)

    async def checker(ctx):
        checker_rng = random.Random(f"checker {SEED} {seed}")
        async for _, _, valid, ready, result in ctx.tick().sample(
                dut.result.valid, dut.result.ready, dut.result.payload):
            # The model changes between two clocks, at most one operation ahead of or behind the hardware.
            for page, ld_id, seen in waiting:
                seen.add(expected(table, page, ld_id))
            if valid and ready:
                page, ld_id, seen = waiting.pop(0)
                assert result.page == page
                assert outcome(result) in seen
                checked[0] += 1
            ctx.set(dut.result.ready, checker_rng.random() >= stall)

    simulate(dut, manager, asker, background=[checker], watched=[dut.result, dut.managed])
    assert checked[0] > 200


def test_write_holds_for_every_lookup_after_its_reply():
    """Back to back: a lookup is offered in the very clock in which the reply is."""
    dut = ContextTable(config(), SIDEBAND)
    record = model.ContextRecord(ld_id=1, first_page=0, pages=16, codec=Codec.SPECKV)

    async def bench(ctx):
        ctx.set(dut.result.ready, 1)
        await do(ctx, dut, ContextOpKind.PUT, context=3, record=record_bits(record))
        for valid in (1, 0, 1, 0):
            await send(ctx, dut.manage, [ContextOp.const({
                "kind": ContextOpKind.PUT_SLOT, "slot": 0, "valid": valid, "context": 3})])
            await ctx.tick().until(dut.managed.valid)
            ctx.set(dut.managed.ready, 1)
            await look_up(ctx, dut, [(5, 1)])
            ctx.set(dut.managed.ready, 0)
            result, = await ctx.tick().sample(dut.result.payload).until(dut.result.valid)
            assert outcome(result) == ((1, 3, Codec.SPECKV, 0) if valid else (0, 0, 0, 0))

    simulate(dut, bench)


def test_slot_that_names_no_valid_context():
    dut = ContextTable(config(), SIDEBAND)
    record = model.ContextRecord(ld_id=1, first_page=0, pages=16)

    async def bench(ctx):
        await do(ctx, dut, ContextOpKind.PUT_SLOT, slot=0, valid=1, context=3)
        for valid in (1, 0):
            await do(ctx, dut, ContextOpKind.PUT, context=3, record=record_bits(record) | {"valid": valid})
            await look_up(ctx, dut, [(5, 1)])
            result, = await receive(ctx, dut.result, 1)
            assert result.hit == valid

    simulate(dut, bench)


@pytest.mark.parametrize("slots, contexts", [(64, 16), (4, 16)])
def test_sweep_after_reset(slots, contexts):
    reset = Signal()
    small = DeviceConfig.small(window_slots=slots, contexts=contexts)
    dut = ContextTable(small, SIDEBAND)
    record = model.ContextRecord(ld_id=1, first_page=0, pages=small.window_pages)
    rng = random.Random(f"reset {SEED}")

    async def sweep(ctx):
        clocks = 0
        while not ctx.get(dut.lookup.ready) or not ctx.get(dut.manage.ready):
            assert not ctx.get(dut.lookup.ready) and not ctx.get(dut.manage.ready)
            assert not ctx.get(dut.result.valid) and not ctx.get(dut.managed.valid)
            await ctx.tick()
            clocks += 1
        assert clocks == max(slots, contexts)

    async def bench(ctx):
        await sweep(ctx)
        for _ in range(5):
            ctx.set(dut.result.ready, 1)
            for number in range(contexts):
                await do(ctx, dut, ContextOpKind.PUT, context=number, record=record_bits(record))
            for slot in range(slots):
                await do(ctx, dut, ContextOpKind.PUT_SLOT, slot=slot, valid=1, context=slot % contexts)
            ctx.set(dut.result.ready, rng.random() < 0.5)
            ctx.set(dut.lookup.payload, {"page": rng.randrange(small.window_pages), "ld_id": 1})
            ctx.set(dut.lookup.valid, 1)
            await ctx.tick().repeat(rng.randrange(1, 6))
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(dut.lookup.valid, 0)
            ctx.set(reset, 0)
            await sweep(ctx)
            for number in range(contexts):
                assert not (await do(ctx, dut, ContextOpKind.GET, context=number)).record.valid
            for slot in range(slots):
                assert not (await do(ctx, dut, ContextOpKind.GET_SLOT, slot=slot)).valid
            ctx.set(dut.result.ready, 0)
            await look_up(ctx, dut, [(0, 1)])
            result, = await receive(ctx, dut.result, 1)
            assert not result.hit

    simulate(ResetInserter(reset)(dut), bench)


def test_reply_that_is_not_taken_delays_no_lookup():
    dut = ContextTable(config(), SIDEBAND)

    async def bench(ctx):
        await send(ctx, dut.manage, [ContextOp.const({"kind": ContextOpKind.GET, "context": 1})])
        ctx.set(dut.result.ready, 1)
        await look_up(ctx, dut, [(page, 0) for page in range(20)])
        assert ctx.get(dut.managed.valid)
        assert not ctx.get(dut.manage.ready)

    simulate(dut, bench, clocks=200)
