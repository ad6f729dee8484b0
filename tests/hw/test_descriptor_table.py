"""The descriptor table against the model: rules and descriptors, traffic of both kinds, sweep after reset."""

import random

import pytest
from amaranth.hdl import ResetInserter, Signal
from streams import SEED, receive, send, simulate

from speckv_hw.config import DeviceConfig
from speckv_hw.stream import transfer
from speckv_hw.table.descriptor import DescriptorOp, DescriptorOpKind, EncodingRequest
from speckv_hw.table.descriptor_table import DescriptorTable
from speckv_model.constants import Codec, Dtype
from speckv_model.mover.messages import StreamInfo
from speckv_model.table import descriptor as model
from speckv_model.table.context import ContextRecord, ContextTable

CONFIGS = [DeviceConfig.small(), DeviceConfig.small(descriptors=1),
           DeviceConfig(window_bits=40, pool_bytes=1 << 38, window_slots=1 << 16, descriptors=4096),
           DeviceConfig.small(window_slots=2, contexts=2)]


def random_encoding(rng):
    return model.Encoding(rng.choice(list(Codec)), rng.randrange(256))


def random_record(rng, config):
    first = rng.randrange(config.window_slots)
    pages = rng.randrange(1, config.window_slots - first + 1) * config.granule_pages
    return ContextRecord(
        first_page=first * config.granule_pages, pages=pages, index_bits=rng.randrange(pages.bit_length()),
        codec=rng.choice(list(Codec)), setting=rng.randrange(256), per_stream=rng.random() < 0.7,
        descriptor_base=rng.randrange(config.descriptors))


def rule_of(record):
    return {"per_stream": int(record.per_stream), "setting": record.setting, "first_page": record.first_page,
            "index_bits": record.index_bits, "base": record.descriptor_base}


def load(number, encoding):
    return DescriptorOp.const({"kind": DescriptorOpKind.LOAD, "number": number, "encoding": encoding._asdict()})


def request(page, stream):
    return EncodingRequest.const({"page": page, "stream": {"context": stream.context, "codec": int(stream.codec),
                                                           "dtype": int(stream.dtype)}})


class Pair:
    """A table and its model, to which the same is done."""

    def __init__(self, config):
        self.dut = DescriptorTable(config)
        self.contexts = ContextTable(config)
        self.model = model.DescriptorTable(config, self.contexts)

    async def load(self, ctx, number, encoding, idle=0.0):
        await send(ctx, self.dut.op, [load(number, encoding)], idle=idle, seed=number)
        self.model.load(number, 1, encoding)

    async def put(self, ctx, context, record, idle=0.0):
        await send(ctx, self.dut.op, [DescriptorOp.const({
            "kind": DescriptorOpKind.RULE, "number": context, "rule": rule_of(record)})], idle=idle, seed=context)
        self.contexts.put(context, record)

    async def check(self, ctx, page, context, stall=0.0, seed=0):
        stream = StreamInfo(context, self.contexts.record(context).codec, Dtype.BF16)
        await send(ctx, self.dut.request, [request(page, stream)], idle=stall, seed=seed)
        result, = await receive(ctx, self.dut.result, 1, stall=stall, seed=seed)
        assert (result.codec.value, result.setting) == self.model.encoding(page, stream)


@pytest.mark.parametrize("stall", [0.0, 0.5])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.descriptors}")
def test_matches_model(config, stall):
    rng = random.Random(f"{SEED} {stall} {config.digest()}")
    pair = Pair(config)

    async def bench(ctx):
        for context in rng.sample(range(config.contexts), min(6, config.contexts)):
            await pair.put(ctx, context, random_record(rng, config), stall)
        used = [context for context in range(config.contexts) if pair.contexts.record(context)]
        for step in range(300):
            what = rng.random()
            if what < 0.4:
                await pair.load(ctx, rng.randrange(config.descriptors), random_encoding(rng), stall)
            elif what < 0.5:
                await pair.put(ctx, rng.choice(used), random_record(rng, config), stall)
            else:
                context = rng.choice(used)
                record = pair.contexts.record(context)
                # The first and the last page of a stream, and any page.
                offset = rng.choice([rng.randrange(record.pages), record.pages - 1,
                                     (rng.randrange(record.pages) >> record.index_bits << record.index_bits)])
                await pair.check(ctx, record.first_page + offset, context, stall, step)

    simulate(pair.dut, bench, watched=[pair.dut.result])


def test_latency():
    pair = Pair(DeviceConfig.small())

    async def bench(ctx):
        await pair.put(ctx, 3, ContextRecord(pages=64, per_stream=True, index_bits=2, descriptor_base=5))
        await pair.load(ctx, 7, model.Encoding(Codec.FIXED, 9))
        ctx.set(pair.dut.result.ready, 1)
        for _ in range(3):
            await send(ctx, pair.dut.request, [request(11, StreamInfo(3, Codec.RAW, Dtype.FP16))])
            # `send` ends with the clock of the transfer.
            clocks = 1
            while not ctx.get(pair.dut.result.valid):
                await ctx.tick()
                clocks += 1
            assert clocks == pair.dut.latency
            assert ctx.get(pair.dut.result.p.codec).value == Codec.FIXED and ctx.get(pair.dut.result.p.setting) == 9
            await ctx.tick()

    simulate(pair.dut, bench)


def test_operations_beside_a_lookup():
    """They are not held up for longer than a clock, even by a result that nobody takes, and do not change it."""
    pair = Pair(DeviceConfig.small())
    stream = StreamInfo(1, Codec.SPECKV, Dtype.FP16)
    rng = random.Random(SEED)
    waited = []

    async def bench(ctx):
        await pair.put(ctx, 1, ContextRecord(pages=64, per_stream=True, index_bits=6, descriptor_base=9))
        for before in range(1, 9):
            old, new = random_encoding(rng), random_encoding(rng)
            await pair.load(ctx, 9, old)
            await send(ctx, pair.dut.request, [request(63, stream)])
            await ctx.tick().repeat(before)
            ctx.set(pair.dut.op.payload, load(9, new))
            ctx.set(pair.dut.op.valid, 1)
            clocks = 1
            while not ctx.get(pair.dut.op.ready):
                await ctx.tick()
                clocks += 1
            await ctx.tick()
            ctx.set(pair.dut.op.valid, 0)
            waited.append(clocks)
            await ctx.tick().repeat(5)
            result, = await receive(ctx, pair.dut.result, 1)
            assert (result.codec.value, result.setting) in ([old] if before >= pair.dut.latency - 1 else [old, new])

    simulate(pair.dut, bench, watched=[pair.dut.result])
    assert set(waited) == {1, 2}


@pytest.mark.parametrize("descriptors", [1, 64])
def test_sweep_after_reset(descriptors):
    """Wherever a reset comes, all descriptors are RAW and 0 after it, and nothing is under way."""
    config = DeviceConfig.small(descriptors=descriptors)
    pair = Pair(config)
    dut, reset = pair.dut, Signal()
    rng = random.Random(SEED)
    record = ContextRecord(pages=64, per_stream=True)

    async def sweep(ctx):
        clocks = 0
        while not ctx.get(dut.swept):
            assert not ctx.get(dut.op.ready | dut.request.ready | dut.result.valid)
            await ctx.tick()
            clocks += 1
        assert clocks == descriptors

    async def bench(ctx):
        await sweep(ctx)
        for clocks in range(1, 10):
            await pair.put(ctx, 1, record)
            for number in range(descriptors):
                await pair.load(ctx, number, random_encoding(rng))
            ctx.set(dut.request.payload, request(5, StreamInfo(1, Codec.RAW, Dtype.FP16)))
            ctx.set(dut.request.valid, 1)
            await ctx.tick().repeat(clocks)
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)
            ctx.set(dut.request.valid, 0)
            pair.model.load(0, descriptors, model.Encoding(Codec.RAW, 0))
            await sweep(ctx)
            await pair.put(ctx, 1, record)
            for page in range(descriptors):
                await pair.check(ctx, page, 1)

    simulate(ResetInserter(reset)(dut), bench)


def test_one_operation_a_clock():
    pair = Pair(DeviceConfig.small())
    dut, times = pair.dut, []

    async def bench(ctx):
        await ctx.tick().until(dut.swept)
        await send(ctx, dut.op, [load(number, model.Encoding(Codec.RAW, number)) for number in range(20)])

    async def count(ctx):
        clock = 0
        async for *_, taken in ctx.tick().sample(transfer(dut.op)):
            clock += 1
            if taken:
                times.append(clock)

    simulate(dut, bench, background=[count])
    assert len(times) == 20 and times[-1] - times[0] == 19
