"""Random reads and writes through the memory port; see test_memory_port.py."""

import random

import cocotb
from bus import receive, send, start
from cocotb.triggers import ClockCycles, Combine, with_timeout
from cocotbext.axi import AxiBus, AxiRam
from runner import SEED, parameters

from speckv_model.config import DeviceConfig

LINE_WIDTH = 34
LINES = 4096
SOURCES = ("read0_request", "read1_request", "write0_request", "write1_request", "write0_data", "write1_data")
SINKS = ("read0_data", "read1_data", "write0_done", "write1_done")


def request(line, count):
    return count << LINE_WIDTH | line


async def memory_of(dut, pause):
    """Resets; returns the AXI memory, with random content in its first lines, pausing on all channels."""
    config = DeviceConfig.from_dict(parameters()["config"])
    memory = AxiRam(AxiBus.from_prefix(dut, "axi_"), dut.clk, dut.rst, size=config.dram_bytes)
    memory.write(0, random.Random(SEED).randbytes(64 * LINES))
    await start(dut, SOURCES, SINKS)

    def pauses(seed):
        rng = random.Random(f"pause {seed}")
        while True:
            yield rng.random() < pause

    channels = (memory.write_if.aw_channel, memory.write_if.w_channel, memory.write_if.b_channel,
                memory.read_if.ar_channel, memory.read_if.r_channel)
    for n, channel in enumerate(channels):
        channel.set_pause_generator(pauses(n))
    return memory


@cocotb.test()
@cocotb.parametrize(pause=[0.0, 0.5], stall=[0.0, 0.5])
async def random_traffic(dut, pause, stall):
    memory = await memory_of(dut, pause)
    rng = random.Random(f"traffic {SEED}")
    tasks = []

    async def check_reader(n, requests):
        for line, count in requests:
            got = await receive(dut, f"read{n}_data", count, stall=stall)
            wanted = memory.read(64 * line, 64 * count)
            for index, value in enumerate(got):
                assert (value & ((1 << 512) - 1)).to_bytes(64, "little") == wanted[64 * index:64 * index + 64]
                assert value >> 512 & 1 == 0, "error"
                assert value >> 513 == (index == count - 1), "last"

    async def check_writer(n, count):
        assert await receive(dut, f"write{n}_done", count, stall=stall) == [0] * count

    for n in range(2):
        requests = []
        for _ in range(40):
            count = rng.choice([1, 4, 8, rng.randint(1, 66)])
            requests.append((rng.randrange(LINES // 2 - count), count))
        tasks.append(cocotb.start_soon(send(dut, f"read{n}_request", [request(*pair) for pair in requests])))
        tasks.append(cocotb.start_soon(check_reader(n, requests)))

    expected = bytearray(memory.read(0, 64 * LINES))
    for n in range(2):
        requests, lines = [], []
        first = LINES // 2 + n * LINES // 4
        for _ in range(40):
            count = rng.choice([1, 4, 8, rng.randint(1, 66)])
            line = first + rng.randrange(LINES // 4 - count)
            requests.append(request(line, count))
            for place in range(line, line + count):
                data, enable = rng.randbytes(64), rng.choice([15, rng.randrange(16)])
                lines.append(enable << 512 | int.from_bytes(data, "little"))
                for quarter in range(4):
                    if enable >> quarter & 1:
                        at = 64 * place + 16 * quarter
                        expected[at:at + 16] = data[16 * quarter:16 * quarter + 16]

        tasks.append(cocotb.start_soon(send(dut, f"write{n}_request", requests)))
        tasks.append(cocotb.start_soon(send(dut, f"write{n}_data", lines, idle=stall / 2)))
        tasks.append(cocotb.start_soon(check_writer(n, len(requests))))

    await with_timeout(Combine(*tasks), 400, "us")
    await ClockCycles(dut.clk, 20)
    assert memory.read(0, 64 * LINES) == bytes(expected)
    for name in SINKS:
        assert not getattr(dut, f"{name}__valid").value
