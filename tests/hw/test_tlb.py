"""The TLB against the model's, request by request."""

import random

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from streams import SEED, receive, send, simulate

from speckv_hw.config import DeviceConfig
from speckv_hw.table.tlb import Tlb, TlbOp, TlbRequest
from speckv_model.table import page_table as model

SHAPES = [(4, 1), (8, 2), (16, 1), (32, 2), (64, 8)]
"""tlb_entries and tlb_ways."""


def config_of(shape):
    return DeviceConfig.small(tlb_entries=shape[0], tlb_ways=shape[1])


def requests(config, count, seed):
    """Random requests as a walker could make them, with the results that they must get (None: anything)."""
    rng = random.Random(seed)
    tlb = model.Tlb(config)
    pages = [4 * line + quarter for line in rng.sample(range(config.table_lines), 3 * config.tlb_lines)
             for quarter in range(4)]
    for _ in range(count):
        page = rng.choice(pages)
        entry, data = rng.getrandbits(128), rng.randbytes(64)
        line = tlb.find(page // 4)
        op = rng.choices([TlbOp.LOOKUP, TlbOp.UPDATE, TlbOp.DROP, TlbOp.FLUSH], [60, 20, 4, 1])[0]
        result = (line is not None, None)
        if op == TlbOp.LOOKUP and line is None and rng.random() < 0.7:
            op = TlbOp.FILL
            tlb.fill(page // 4, np.frombuffer(data, dtype=np.uint8))
        elif op == TlbOp.LOOKUP and line is not None:
            result = (True, int.from_bytes(line[page % 4 * 16:][:16].tobytes(), "little"))
        elif op == TlbOp.UPDATE and line is not None:
            line[page % 4 * 16:][:16] = np.frombuffer(entry.to_bytes(16, "little"), dtype=np.uint8)
        elif op == TlbOp.DROP:
            tlb.drop(page // 4)
        elif op == TlbOp.FLUSH:
            tlb.flush()
        yield request(op, page, entry, int.from_bytes(data, "little")), result


def request(op, page, entry=0, line=0):
    bits = op.value | page << 3 | entry << 31 | line << 159
    return TlbRequest.from_bits(bits)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_matches_model(shape, stall):
    config = config_of(shape)
    dut = Tlb(config)
    traffic = list(requests(config, 600, f"{SEED} {shape}"))
    results = []

    async def sender(ctx):
        await send(ctx, dut.request, [payload for payload, _ in traffic], idle=stall)

    async def receiver(ctx):
        results.extend(await receive(ctx, dut.result, len(traffic), stall=stall))

    simulate(dut, sender, receiver, watched=[dut.result])
    assert sum(hit for _, (hit, _) in traffic) > 50
    for n, ((payload, (hit, entry)), got) in enumerate(zip(traffic, results, strict=True)):
        assert got.hit == hit, f"request {n}, {payload.op}"
        if entry is not None:
            assert got.entry.as_bits() == entry, f"request {n}"


@pytest.mark.parametrize("op, more", [(TlbOp.LOOKUP, 0), (TlbOp.UPDATE, 0), (TlbOp.FILL, 1)])
def test_latency(op, more):
    dut = Tlb(DeviceConfig.small())

    async def bench(ctx):
        ctx.set(dut.result.ready, 1)
        ctx.set(dut.request.payload, request(op, 5))
        ctx.set(dut.request.valid, 1)
        clocks = 0
        while not ctx.get(dut.result.valid):
            _, _, taken = await ctx.tick().sample(dut.request.ready)
            clocks += 1
            if taken:
                ctx.set(dut.request.valid, 0)
        assert clocks == dut.latency + more

    simulate(dut, bench)


def test_reset_forgets_everything():
    reset = Signal()
    dut = Tlb(DeviceConfig.small(tlb_entries=16, tlb_ways=2))
    pages = range(0, 16, 4)

    async def ask(ctx, payloads):
        results = []
        for payload in payloads:
            await send(ctx, dut.request, [payload])
            results += await receive(ctx, dut.result, 1)
        return [result.hit for result in results]

    async def bench(ctx):
        lookups = [request(TlbOp.LOOKUP, page) for page in pages]
        await ask(ctx, [request(TlbOp.FILL, page, line=page) for page in pages])
        assert await ask(ctx, lookups) == [1] * len(pages)
        ctx.set(dut.request.payload, lookups[0])
        ctx.set(dut.request.valid, 1)
        await ctx.tick()
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(dut.request.valid, 0)
        ctx.set(reset, 0)
        await ctx.tick()
        assert not ctx.get(dut.result.valid)
        assert await ask(ctx, lookups) == [0] * len(pages)

    simulate(ResetInserter(reset)(dut), bench)
