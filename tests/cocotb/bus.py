"""Stream drivers for cocotb. A stream is named by the prefix of its ports: `read0_data`."""

import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge
from runner import SEED

__all__ = ["start", "send", "receive"]


async def start(dut, sources, sinks):
    """Starts the clock `clk` of 10 ns and resets the design.

    `sources` names the streams that the testbench sends, `sinks` those that it receives; without a value from
    here their `valid` and `ready` would be random.
    """
    for name in sources:
        getattr(dut, f"{name}__valid").value = 0
    for name in sinks:
        getattr(dut, f"{name}__ready").value = 0
    cocotb.start_soon(Clock(dut.clk, 10, unit="ns").start())
    dut.rst.value = 1
    for _ in range(3):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


async def send(dut, name, payloads, *, idle=0.0, seed=SEED):
    """Sends `payloads`, integers, into stream `name`; before each, idles with probability `idle`."""
    rng = random.Random(f"send {name} {seed}")
    payload, valid, ready = (getattr(dut, f"{name}__{part}") for part in ("payload", "valid", "ready"))
    for value in payloads:
        while rng.random() < idle:
            await RisingEdge(dut.clk)
        payload.value = value
        valid.value = 1
        while True:
            await ReadOnly()
            taken = ready.value
            await RisingEdge(dut.clk)
            if taken:
                break
        valid.value = 0


async def receive(dut, name, count, *, stall=0.0, seed=SEED):
    """Receives `count` integers from stream `name`, which it returns; not ready with probability `stall`."""
    rng = random.Random(f"receive {name} {seed}")
    payload, valid, ready = (getattr(dut, f"{name}__{part}") for part in ("payload", "valid", "ready"))
    got = []
    while len(got) < count:
        offered = rng.random() >= stall
        ready.value = offered
        await ReadOnly()
        if offered and valid.value:
            got.append(int(payload.value))
        await RisingEdge(dut.clk)
    ready.value = 0
    return got
