"""The stream pieces under idle and back-pressure: order, contract, latency, throughput, fairness."""

import itertools
import random

import pytest
from amaranth.hdl import Module, ResetInserter, Signal
from amaranth.lib import data
from streams import SEED, receive, send, simulate

from speckv_hw.stream import Arbiter, BypassFifo, Fifo, Register, Stage, chain

WIDTH = 16
COUNT = 200
MATRIX = list(itertools.product([0.0, 0.3, 0.8], repeat=2))
"""Probabilities that the source idles and that the sink holds back."""

QUEUES = {"stage": lambda: Stage(WIDTH), "register": lambda: Register(WIDTH)} | {
    f"fifo{depth}": lambda depth=depth: Fifo(WIDTH, depth) for depth in (1, 2, 3, 4, 16)} | {
    f"bypass{depth}": lambda depth=depth: BypassFifo(WIDTH, depth) for depth in (4, 16)}
CAPACITY = {"stage": 2, "register": 1, "fifo1": 1, "fifo2": 2, "fifo3": 3, "fifo4": 4, "fifo16": 16, "bypass4": 4,
            "bypass16": 16}


def payloads(count=COUNT, seed=SEED):
    rng = random.Random(f"payloads {seed}")
    return [rng.getrandbits(WIDTH) for _ in range(count)]


@pytest.mark.parametrize("idle, stall", MATRIX)
@pytest.mark.parametrize("queue", QUEUES)
def test_queue_keeps_order(queue, idle, stall):
    dut = QUEUES[queue]()
    sent, got = payloads(), []

    async def source(ctx):
        await send(ctx, dut.i, sent, idle=idle)

    async def sink(ctx):
        got.extend(await receive(ctx, dut.o, COUNT, stall=stall))
        assert not ctx.get(dut.o.valid), "more came out than went in"

    simulate(dut, source, sink, watched=[dut.o])
    assert got == sent


@pytest.mark.parametrize("queue", QUEUES)
def test_queue_latency(queue):
    dut = QUEUES[queue]()

    async def bench(ctx):
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.i.payload, 0xABCD)
        await ctx.tick()
        ctx.set(dut.i.valid, 0)
        for _ in range(dut.latency - 1):
            assert not ctx.get(dut.o.valid)
            await ctx.tick()
        assert ctx.get(dut.o.valid)
        assert ctx.get(dut.o.payload) == 0xABCD

    simulate(dut, bench)


@pytest.mark.parametrize("queue", QUEUES)
def test_queue_throughput(queue):
    dut = QUEUES[queue]()
    sent, clocks = payloads(), []

    async def source(ctx):
        await send(ctx, dut.i, sent)

    async def sink(ctx):
        ctx.set(dut.o.ready, 1)
        left, clock = COUNT, 0
        while left:
            _, _, valid = await ctx.tick().sample(dut.o.valid)
            left -= valid
            clock += 1
        clocks.append(clock)

    simulate(dut, source, sink)
    assert clocks[0] - dut.latency == (2 * COUNT - 1 if queue == "fifo1" else COUNT)


@pytest.mark.parametrize("queue", QUEUES)
def test_queue_holds_its_capacity(queue):
    dut = QUEUES[queue]()
    capacity = CAPACITY[queue]
    sent = payloads(capacity + 1)

    async def bench(ctx):
        accepted = 0
        ctx.set(dut.i.valid, 1)
        for _ in range(2 * capacity + 4):
            ctx.set(dut.i.payload, sent[min(accepted, capacity)])
            if hasattr(dut, "level"):
                assert ctx.get(dut.level) == accepted
            _, _, ready = await ctx.tick().sample(dut.i.ready)
            accepted += ready
        assert accepted == capacity
        ctx.set(dut.i.valid, 0)
        assert await receive(ctx, dut.o, capacity) == sent[:capacity]

    simulate(dut, bench, watched=[dut.o])


@pytest.mark.parametrize("queue", QUEUES)
def test_queue_is_empty_after_reset(queue):
    inner = QUEUES[queue]()
    reset = Signal()
    dut = ResetInserter(reset)(inner)

    async def bench(ctx):
        await send(ctx, inner.i, payloads(CAPACITY[queue]))
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        for _ in range(4):
            assert not ctx.get(inner.o.valid)
            assert ctx.get(inner.i.ready)
            await ctx.tick()
        await send(ctx, inner.i, [0x1234])
        assert await receive(ctx, inner.o, 1) == [0x1234]

    simulate(dut, bench)


@pytest.mark.parametrize("depth", [0, -1, 1.5, "4"])
def test_fifo_rejects_depth(depth):
    with pytest.raises(ValueError, match="depth must be a positive integer, not"):
        Fifo(8, depth)


@pytest.mark.parametrize("depth", [3, -1, 4.5, "4"])
def test_bypass_fifo_rejects_depth(depth):
    with pytest.raises(ValueError, match="depth must be an integer of at least 4, not"):
        BypassFifo(8, depth)


def test_chain():
    m = Module()
    m.submodules.first = first = Stage(WIDTH)
    m.submodules.second = second = Fifo(WIDTH, 4)
    m.submodules.third = third = Stage(WIDTH)
    chain(m, first, second, third)
    sent, got = payloads(), []

    async def source(ctx):
        await send(ctx, first.i, sent, idle=0.2)

    async def sink(ctx):
        got.extend(await receive(ctx, third.o, COUNT, stall=0.2))

    simulate(m, source, sink, watched=[first.o, second.o, third.o])
    assert got == sent


PORT = data.StructLayout({"port": 4, "number": 12})


@pytest.mark.parametrize("idle, stall", MATRIX)
@pytest.mark.parametrize("ports", [1, 2, 3, 5])
def test_arbiter_merges(ports, idle, stall):
    dut = Arbiter(PORT, ports)
    got = []

    def source(port):
        async def run(ctx):
            sent = [PORT.const({"port": port, "number": number}) for number in range(50)]
            await send(ctx, dut.inputs[port], sent, idle=idle, seed=f"{SEED} {port}")
        return run

    async def sink(ctx):
        got.extend(await receive(ctx, dut.o, 50 * ports, stall=stall))

    async def names_its_port(ctx):
        async for *_, valid, port, payload in ctx.tick().sample(dut.o.valid, dut.port, dut.o.payload):
            assert not valid or payload.port == port

    simulate(dut, *map(source, range(ports)), sink, background=[names_its_port], watched=[dut.o])
    for port in range(ports):
        assert [payload.number for payload in got if payload.port == port] == list(range(50))


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_arbiter_is_fair(stall):
    ports = 4
    dut = Arbiter(PORT, ports)
    rng = random.Random(f"fair {SEED}")

    async def bench(ctx):
        waited = [0] * ports
        for _ in range(2000):
            for port, stream in enumerate(dut.inputs):
                # What is offered stays; port 0 always offers.
                if not ctx.get(stream.valid):
                    ctx.set(stream.valid, port == 0 or rng.random() < 0.5)
            ctx.set(dut.o.ready, rng.random() >= stall)
            ready = [ctx.get(stream.valid) and ctx.get(stream.ready) for stream in dut.inputs]
            offered = [ctx.get(stream.valid) for stream in dut.inputs]
            await ctx.tick()
            assert sum(ready) <= 1
            for port, stream in enumerate(dut.inputs):
                if ready[port]:
                    waited[port] = 0
                    ctx.set(stream.valid, 0)
                elif offered[port]:
                    waited[port] += sum(ready)
                assert waited[port] < ports

    simulate(dut, bench, watched=[dut.o])


def test_arbiter_takes_turns():
    dut = Arbiter(PORT, 3)

    async def bench(ctx):
        for stream in dut.inputs:
            ctx.set(stream.valid, 1)
        ctx.set(dut.o.ready, 1)
        turns = [(await ctx.tick().sample(dut.port))[2] for _ in range(9)]
        assert turns == [0, 1, 2] * 3

    simulate(dut, bench)


@pytest.mark.parametrize("ports", [0, -2, 2.0])
def test_arbiter_rejects_ports(ports):
    with pytest.raises(ValueError, match="ports must be a positive integer, not"):
        Arbiter(8, ports)
