"""The memory port between random clients and a random AXI4 memory."""

import random

import numpy as np
import pytest
from amaranth.hdl import ResetInserter, Signal
from axi4_memory import Axi4Memory
from streams import SEED, receive, send, simulate

from speckv_hw.config import DeviceConfig
from speckv_hw.mem.memory_port import MemoryPort
from speckv_hw.mem.read_port import ReadPort
from speckv_hw.mem.write_port import WritePort
from speckv_model.mem.dram import Dram

CONFIG = DeviceConfig.small()
LINES = 1 << 12
"""What the tests use of the DRAM: readers the first half, each writer a part of the second."""


def make(readers, writers, read_depth, config=CONFIG, **memory):
    dut = MemoryPort(config, readers, writers, read_depth)
    dram = Dram(config)
    rng = np.random.default_rng(SEED)
    dram.write_lines(0, rng.integers(0, 256, (LINES, 64), np.uint8))
    return dut, dram, Axi4Memory(dut.axi, dram, bursts_in_flight=config.bursts_in_flight, **memory)


def to_int(line):
    return int.from_bytes(line.tobytes(), "little")


def random_requests(rng, count, first, lines):
    """(line, count) pairs inside `lines` lines from `first` on."""
    requests = []
    for _ in range(count):
        size = rng.choice([1, 1, 2, 4, 17, rng.randint(1, 66)])
        requests.append((first + rng.randrange(lines - size + 1), size))
    return requests


def reader(dut, dram, n, requests, *, idle=0.0, stall=0.0):
    """Testbenches that send read requests and check what comes back."""
    async def ask(ctx):
        payloads = [{"line": line, "count": count} for line, count in requests]
        await send(ctx, getattr(dut, f"read{n}_request"), payloads, idle=idle, seed=f"{SEED} {n}")

    async def check(ctx):
        for line, count in requests:
            data, error = dram.read_lines(line, count)
            port = getattr(dut, f"read{n}_data")
            got = await receive(ctx, port, count, stall=stall, seed=f"{SEED} {n} {line}")
            for index, payload in enumerate(got):
                assert payload.last == (index == count - 1)
                assert payload.error == error[index]
                if not error[index]:
                    assert payload.data == to_int(data[index])

    return ask, check


def writer(dut, n, requests, fails, *, idle=0.0, stall=0.0):
    """Testbenches that send requests and data and check the answers; their data; their enables."""
    rng = np.random.default_rng([SEED, n])
    total = sum(count for _, count in requests)
    data = rng.integers(0, 256, (total, 64), np.uint8)
    enable = rng.integers(0, 16, total) | rng.choice([0, 15], total)

    async def ask(ctx):
        payloads = [{"line": line, "count": count} for line, count in requests]
        await send(ctx, getattr(dut, f"write{n}_request"), payloads, idle=idle, seed=f"{SEED} ask {n}")

    async def write(ctx):
        payloads = [{"data": to_int(row), "enable": int(bits)} for row, bits in zip(data, enable)]
        await send(ctx, getattr(dut, f"write{n}_data"), payloads, idle=idle, seed=f"{SEED} write {n}")

    async def check(ctx):
        got = await receive(ctx, getattr(dut, f"write{n}_done"), len(requests), stall=stall)
        for (line, count), done in zip(requests, got):
            assert done.error == any(number in fails for number in range(line, line + count))

    quarters = (enable[:, None] >> np.arange(4) & 1).astype(bool)
    return (ask, write, check), data, quarters


def replay(dram, requests, data, quarters):
    done = 0
    for line, count in requests:
        dram.write_lines(line, data[done:done + count], quarters[done:done + count])
        done += count


@pytest.mark.parametrize("latency, stall, idle, slow", [
    ((1, 1), 0.0, 0.0, 0.0),
    ((1, 60), 0.3, 0.0, 0.5),
    ((40, 60), 0.1, 0.5, 0.3),
    ((1, 20), 0.5, 0.1, 0.0),
])
def test_random_clients(latency, stall, idle, slow):
    dut, dram, memory = make(3, 2, (256, 16, 4), latency=latency, stall=stall)
    expected = Dram(CONFIG)
    expected.write_lines(0, dram.read_lines(0, LINES)[0])
    rng = random.Random(f"clients {SEED}")
    failing_reads = set(rng.sample(range(LINES // 2), 100))
    failing_writes = set(rng.sample(range(LINES // 2, LINES), 30))
    for line in failing_reads:
        dram.fail(line)
    for line in failing_writes:
        dram.fail_writes(line)
        expected.fail_writes(line)
    testbenches = []
    for n, requests in enumerate((30, 40, 20)):
        requests = random_requests(rng, requests, 0, LINES // 2)
        testbenches += reader(dut, dram, n, requests, idle=idle, stall=slow)
    for n in range(2):
        requests = random_requests(rng, 25, LINES // 2 + n * LINES // 4, LINES // 4)
        benches, data, quarters = writer(dut, n, requests, failing_writes, idle=idle, stall=slow)
        testbenches += benches
        replay(expected, requests, data, quarters)
    watched = [dut.read0_data, dut.read1_data, dut.read2_data, dut.write0_done, dut.write1_done]
    finished = []

    def counted(testbench):
        async def run(ctx):
            await testbench(ctx)
            finished.append(testbench)
        return run

    async def end(ctx):
        while len(finished) < len(testbenches):
            await ctx.tick()
        await ctx.tick().repeat(10)
        assert memory.idle
        outputs = [port.valid for port in watched] + [dut.axi.arvalid, dut.axi.awvalid, dut.axi.wvalid]
        assert not any(ctx.get(valid) for valid in outputs)

    simulate(dut, *map(counted, testbenches), end, background=[memory.run], watched=watched, clocks=30_000)
    assert np.array_equal(dram.read_lines(0, LINES)[0], expected.read_lines(0, LINES)[0])
    assert memory.most_reads == CONFIG.bursts_in_flight or latency == (1, 1)


def test_slow_clients_do_not_block_others():
    """Clients that take nothing and a writer without data leave the others working, and lose nothing."""
    dut, dram, memory = make(3, 3, (64, 4, 64), latency=(5, 5))
    rng = random.Random(f"block {SEED}")
    others = []

    def counted(testbench):
        async def run(ctx):
            await testbench(ctx)
            others.append(testbench)
        return run

    def after_others(testbench):
        async def run(ctx):
            while len(others) < 5:
                await ctx.tick()
            await testbench(ctx)
        return run

    def slow_reader(n):
        ask, check = reader(dut, dram, n, [(40, 66), (2, 66), (200, 3)])
        return ask, after_others(check)

    requests = CONFIG.bursts_in_flight + 2
    (ask, write, check), _, _ = writer(dut, 1, [(LINES - 1, 1)] * requests, ())
    (ask_early, write_late, check_late), _, _ = writer(dut, 0, [(LINES - 2, 2)], ())
    slow = [*slow_reader(0), *slow_reader(1), ask, write, after_others(check),
            ask_early, after_others(write_late), check_late]
    benches, _, _ = writer(dut, 2, random_requests(rng, 20, 2048, 512), ())
    quick = [*reader(dut, dram, 2, random_requests(rng, 20, 1024, 512)), *benches]
    simulate(dut, *slow, *map(counted, quick), background=[memory.run], clocks=10_000)
    assert memory.idle


@pytest.mark.parametrize("count", [64, 66])
def test_read_throughput(count):
    """One line a clock with a memory latency of 100 clocks; cut requests cost nothing."""
    config = DeviceConfig.default()
    dut, dram, memory = make(1, 1, (512,), config=config, latency=(100, 100))
    requests = [(2 * n, count) for n in range(20)]
    ask, check = reader(dut, dram, 0, requests)
    clocks = []

    async def measure(ctx):
        await ctx.tick().until(dut.read0_data.valid)
        clocks.append(0)

    async def count_clocks(ctx):
        async for _ in ctx.tick():
            if clocks:
                clocks[0] += 1

    simulate(dut, ask, check, measure, background=[memory.run, count_clocks])
    assert clocks[0] <= 1.02 * count * len(requests)


def test_write_throughput():
    dut, dram, memory = make(1, 2, 16, config=DeviceConfig.default(), latency=(100, 100))
    requests = [(2 * n, 64) for n in range(20)]
    benches, _, _ = writer(dut, 0, requests, ())
    clocks = []

    async def count_clocks(ctx):
        async for _ in ctx.tick():
            clocks.append(1)

    simulate(dut, *benches, background=[memory.run, count_clocks])
    assert len(clocks) - 110 <= (64 + 2) * len(requests)


def test_latencies():
    dut, dram, memory = make(1, 1, 16, latency=(1, 1))
    seen = {}

    async def clock(ctx):
        signals = {
            "request": dut.read0_request.valid & dut.read0_request.ready, "ar": dut.axi.arvalid,
            "r": dut.axi.rvalid, "data": dut.read0_data.valid,
            "write": dut.write0_request.valid & dut.write0_request.ready, "aw": dut.axi.awvalid,
        }
        now = 0
        async for _, _, *values in ctx.tick().sample(*signals.values()):
            now += 1
            for name, value in zip(signals, values):
                if value:
                    seen.setdefault(name, now)

    benches, _, _ = writer(dut, 0, [(7, 3)], ())
    simulate(dut, *reader(dut, dram, 0, [(5, 1)]), *benches, background=[memory.run, clock])
    assert seen["ar"] - seen["request"] == ReadPort.request_latency
    assert seen["data"] - seen["r"] == ReadPort.data_latency
    assert seen["aw"] - seen["write"] == WritePort.request_latency


@pytest.mark.parametrize("clocks", [3, 8, 20, 41])
def test_reset_in_mid_traffic(clocks):
    """Whatever was in flight, after a reset of port and memory only new requests are answered."""
    reset = Signal()
    dut, dram, memory = make(2, 1, (64, 8), latency=(1, 20), reset=reset)
    rng = random.Random(f"reset {SEED}")
    reads = [reader(dut, dram, n, random_requests(rng, 10, 0, 1000)) for n in range(2)]
    writes, _, _ = writer(dut, 0, random_requests(rng, 10, LINES // 2, 1000), ())
    started = []

    async def traffic_and_reset(ctx):
        inputs = [dut.read0_request, dut.read1_request, dut.write0_request, dut.write0_data]
        for port in inputs[:3]:
            ctx.set(port.payload, {"line": 1000, "count": 30})
        for port in inputs:
            ctx.set(port.valid, 1)
        await ctx.tick().repeat(clocks)
        ctx.set(reset, 1)
        for port in inputs:
            ctx.set(port.valid, 0)
        await ctx.tick()
        ctx.set(reset, 0)
        started.append(clocks)

    def after_reset(testbench):
        async def run(ctx):
            while not started:
                await ctx.tick()
            await testbench(ctx)
        return run

    testbenches = [after_reset(testbench) for testbench in (*reads[0], *reads[1], *writes)]
    simulate(ResetInserter(reset)(dut), traffic_and_reset, *testbenches, background=[memory.run])
    assert memory.idle


TIMEOUT = 200


@pytest.mark.parametrize("rounds", [2, 9])
def test_reads_that_are_not_answered(rounds):
    """They end as errors, others go on, and late answers are nobody's; also where no series of identifiers is left."""
    dut, dram, memory = make(2, 1, (64, 16), latency=(5, 20))
    rng = random.Random(f"silent {SEED}")
    finished = []

    async def read(ctx, line, count):
        await send(ctx, dut.read0_request, [{"line": line, "count": count}])
        got = await receive(ctx, dut.read0_data, count)
        assert [payload.last for payload in got] == [0] * (count - 1) + [1]
        return got

    def assert_right(line, got):
        assert not any(payload.error for payload in got)
        assert [payload.data for payload in got] == [to_int(row) for row in dram.read_lines(line, len(got))[0]]

    async def silent(ctx):
        ctx.set(dut.timeout, TIMEOUT)
        memory.silent.add(500)
        for _ in range(rounds):
            got = await read(ctx, 490, 30)
            assert got[10].error and got[-1].error
            line = rng.randrange(400)
            got = await read(ctx, line, 66)
            if rounds < 7:
                assert_right(line, got)
        memory.speak()
        if rounds >= 7:
            await ctx.tick().repeat(500)
        for _ in range(10):
            line = rng.randrange(1000)
            assert_right(line, await read(ctx, line, rng.randint(1, 30)))
            await ctx.tick().repeat(rng.randint(1, 40))
        finished.append(True)

    async def other(ctx):
        while not finished:
            line = 600 + rng.randrange(400)
            await send(ctx, dut.read1_request, [{"line": line, "count": 5}])
            assert_right(line, await receive(ctx, dut.read1_data, 5))

    simulate(dut, silent, other, background=[memory.run], clocks=20_000)
    assert memory.idle


@pytest.mark.parametrize("count", [2, 9])
def test_writes_that_are_not_answered(count):
    """They end as errors; later ones of the same writer too, until memory answers again, and others go on."""
    dut, dram, memory = make(1, 2, 16, latency=(5, 20))
    finished = []

    async def write(ctx, n, line, value):
        port = [getattr(dut, f"write{n}_{name}") for name in ("request", "data", "done")]
        await send(ctx, port[0], [{"line": line, "count": 2}])
        await send(ctx, port[1], [{"data": value, "enable": 15}] * 2)
        [done] = await receive(ctx, port[2], 1)
        return done.error

    async def silent(ctx):
        ctx.set(dut.timeout, TIMEOUT)
        memory.silent.add(500)
        for number in range(count):
            assert await write(ctx, 0, 500 if number == 0 else 600 + number, number)
        memory.speak()
        await ctx.tick().repeat(3 * TIMEOUT)
        for number in range(10):
            assert not await write(ctx, 0, 700 + number, number)
        finished.append(True)

    async def other(ctx):
        while not finished:
            assert not await write(ctx, 1, 800, 5)

    simulate(dut, silent, other, background=[memory.run], clocks=20_000)
    assert memory.idle
    assert [int(dram.read_lines(700 + n, 1)[0][0, 0]) for n in range(10)] == list(range(10))


@pytest.mark.parametrize("arguments, message", [
    ((0, 1, 16), "readers must be"),
    ((1, 0, 16), "writers must be"),
    ((1, 1, 3), "depths must be"),
    ((2, 1, (16,)), "read_depth must name"),
])
def test_bad_parameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        MemoryPort(CONFIG, *arguments)
