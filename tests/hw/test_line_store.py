"""The page cache's data memory: content, byte enables, who gets a port when, and the latency of reads."""

import random

import pytest
from streams import SEED, receive, send, simulate

from speckv_hw.cache.line_store import LineStore, LineWrite
from speckv_hw.config import DeviceConfig
from speckv_hw.types import FillLine, SlotLine

ALL = 2**64 - 1
CONFIG = DeviceConfig.small()
PORTS = {"read": "read_data", "seal_read": "seal_data"}


def place(slot, line):
    return SlotLine.const({"slot": slot, "line": line})


def write(slot, line, value, enable=ALL):
    return LineWrite.const({"slot": {"slot": slot, "line": line}, "data": value, "enable": enable})


def fill(slot, line, value):
    return FillLine.const({"slot": slot, "line": line, "data": value})


def masked(old, new, enable):
    return int.from_bytes(bytes(new >> 8 * byte & 255 if enable >> byte & 1 else old >> 8 * byte & 255
                                for byte in range(64)), "little")


@pytest.mark.parametrize("pages", [1, 4])
@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_content(pages, stall):
    """Every line is filled, some are written over in part; both readers then find the same."""
    rng = random.Random(f"{SEED} {pages} {stall}")
    dut = LineStore(DeviceConfig.small(cache_pages=pages, cache_ways=1))
    places = [(slot, line) for slot in range(pages) for line in range(64)]
    content = {where: rng.getrandbits(512) for where in places}
    halves = places[:len(places) // 2], places[len(places) // 2:]
    fills = [fill(*where, content[where]) for where in halves[0]]
    writes = [write(*where, content[where]) for where in halves[1]]
    for where in rng.sample(halves[1], 20):
        value, enable = rng.getrandbits(512), rng.choice((0, 1, 1 << 63, rng.getrandbits(64)))
        writes.append(write(*where, value, enable))
        content[where] = masked(content[where], value, enable)
    filled = []

    async def give_fills(ctx):
        await send(ctx, dut.fill, fills, idle=stall)
        filled.append(0)

    async def give_writes(ctx):
        await send(ctx, dut.write, writes, idle=stall, seed=SEED + 1)
        filled.append(1)

    orders = {name: rng.sample(places, len(places)) for name in PORTS}

    def asks(name):
        async def ask(ctx):
            while len(filled) < 2:
                await ctx.tick()
            await send(ctx, getattr(dut, name), [place(*where) for where in orders[name]], idle=stall)
        return ask

    def takes(name, answers):
        async def take(ctx):
            got = await receive(ctx, getattr(dut, answers), len(places), stall=stall)
            assert got == [content[where] for where in orders[name]]
        return take

    simulate(dut, give_fills, give_writes, *(asks(name) for name in PORTS),
             *(takes(name, answers) for name, answers in PORTS.items()),
             watched=[dut.read_data, dut.seal_data])


@pytest.mark.parametrize("port", PORTS)
def test_reads_take_the_stated_latency_and_one_clock_each(port):
    dut = LineStore(CONFIG)
    answers = getattr(dut, PORTS[port])
    asked, answered = [], []

    async def ask(ctx):
        await send(ctx, dut.write, [write(1, line, line + 1) for line in range(64)])
        await send(ctx, getattr(dut, port), [place(1, line) for line in range(64)])
        await ctx.tick().repeat(3)

    async def count(ctx):
        ctx.set(answers.ready, 1)
        clock = 0
        async for _, _, ask, answer, data in ctx.tick().sample(
                getattr(dut, port).valid & getattr(dut, port).ready, answers.valid, answers.payload):
            clock += 1
            if ask:
                asked.append(clock)
            if answer:
                answered.append((clock, data))

    simulate(dut, ask, background=[count])
    assert answered == [(clock + LineStore.latency, line + 1) for line, clock in enumerate(asked)]
    assert len(asked) == asked[-1] - asked[0] + 1 == 64


@pytest.mark.parametrize("pair", [("write", "fill"), ("read", "seal_read")])
def test_users_of_a_port_alternate(pair):
    """While both want the port each gets every other clock; alone, every clock."""
    dut = LineStore(CONFIG)
    served = []

    def users(name, count):
        payload = {"write": write(0, 1, 5), "fill": fill(0, 2, 6)}.get(name, place(0, 3))

        async def use(ctx):
            await send(ctx, getattr(dut, name), [payload] * count)
        return use

    async def note(ctx):
        ctx.set(dut.read_data.ready, 1)
        ctx.set(dut.seal_data.ready, 1)
        async for _, _, *went in ctx.tick().sample(
                *(getattr(dut, name).valid & getattr(dut, name).ready for name in pair)):
            assert sum(went) <= 1
            if any(went):
                served.append(went.index(1))
            elif served:
                served.append(None)

    simulate(dut, users(pair[0], 20), users(pair[1], 30), background=[note])
    both, alone = served[:40], served[40:50]
    assert both[0::2] == [both[0]] * 20 and both[1::2] == [1 - both[0]] * 20
    assert alone == [1] * 10


def test_a_request_that_is_withdrawn_gets_no_answer():
    """The page cache puts an event before the request that it was about to serve."""
    dut = LineStore(CONFIG)

    async def bench(ctx):
        ctx.set(dut.seal_data.ready, 1)
        ctx.set(dut.seal_read.payload, place(0, 3))
        for port in (dut.seal_read, dut.read):
            ctx.set(port.valid, 1)
        assert ctx.get(dut.seal_read.ready) and not ctx.get(dut.read.ready)
        await ctx.tick()
        ctx.set(dut.read.valid, 0)
        assert ctx.get(dut.seal_data.valid)
        assert not ctx.get(dut.seal_read.ready)
        await ctx.tick()
        assert not ctx.get(dut.seal_data.valid) and not ctx.get(dut.read_data.valid)
        assert ctx.get(dut.seal_read.ready)

    simulate(dut, bench)


def test_an_answer_that_is_not_taken_holds_the_port():
    dut = LineStore(CONFIG)

    async def play(ctx):
        await send(ctx, dut.write, [write(0, 1, 0x11), write(0, 2, 0x22)])
        await send(ctx, dut.read, [place(0, 1)])
        ctx.set(dut.seal_read.payload, place(0, 2))
        ctx.set(dut.seal_read.valid, 1)
        for _ in range(10):
            _, _, taken, *answer = await ctx.tick().sample(
                dut.seal_read.ready, dut.read_data.valid, dut.read_data.payload)
            assert not taken and answer == [1, 0x11]
        assert await receive(ctx, dut.read_data, 1) == [0x11]
        ctx.set(dut.seal_read.valid, 0)
        assert await receive(ctx, dut.seal_data, 1) == [0x22]

    simulate(dut, play)
