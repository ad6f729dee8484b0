"""Stream drivers for the Amaranth simulator: every one takes idle and back-pressure probabilities and a seed."""

import os
import random
from contextlib import suppress

from amaranth.hdl import Value
from amaranth.sim import Simulator

SEED = int(os.environ.get("SPECKV_SEED", "1"))


async def send(ctx, port, payloads, *, idle=0.0, seed=SEED):
    """Sends `payloads` (values or constants) into the stream `port`, idling before each with probability `idle`."""
    rng = random.Random(f"send {seed}")
    for payload in payloads:
        while rng.random() < idle:
            await ctx.tick()
        ctx.set(port.payload, payload)
        ctx.set(port.valid, 1)
        await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)


async def receive(ctx, port, count, *, stall=0.0, seed=SEED):
    """Receives `count` payloads from the stream `port` as a list; holds `ready` low with probability `stall`."""
    rng = random.Random(f"receive {seed}")
    got = []
    while len(got) < count:
        ready = rng.random() >= stall
        ctx.set(port.ready, ready)
        _, _, valid, payload = await ctx.tick().sample(port.valid, port.payload)
        if ready and valid:
            got.append(payload)
    ctx.set(port.ready, 0)
    return got


async def watch(ctx, port):
    """Background check of the stream contract: a payload once offered stays until it is accepted."""
    held = None
    async for _, reset, valid, ready, payload in ctx.tick().sample(port.valid, port.ready, Value.cast(port.payload)):
        if held is not None and not reset:
            assert valid, "valid fell before the payload was accepted"
            assert payload == held, f"payload changed from {held:#x} to {payload:#x} before it was accepted"
        held = payload if valid and not ready else None


def simulate(dut, *testbenches, background=(), watched=(), clocks=100_000):
    """Runs `testbenches` (async functions of ctx) until all end, with stream contracts of `watched` checked.

    `background` testbenches do not keep the simulation going. Raises `TimeoutError` after `clocks` clocks.
    """
    sim = Simulator(dut)
    sim.add_clock(1e-6)
    left = len(testbenches)
    waiting = []

    def counted(testbench):
        async def run(ctx):
            nonlocal left
            await testbench(ctx)
            left -= 1
        return run

    def behind(testbench, *args):
        async def run(ctx):
            inner = testbench(ctx, *args)
            waiting.append(inner)
            await inner
        return run

    async def timeout(ctx):
        await ctx.tick().repeat(clocks)
        if left:
            raise TimeoutError(f"{left} testbench(es) still running after {clocks} clocks")

    for testbench in testbenches:
        sim.add_testbench(counted(testbench))
    for testbench in background:
        sim.add_testbench(behind(testbench), background=True)
    for port in watched:
        sim.add_testbench(behind(watch, port), background=True)
    sim.add_testbench(behind(timeout), background=True)
    try:
        sim.run()
    finally:
        # Left to the garbage collector, a testbench that waits for a clock ends with an error at some random moment.
        for testbench in waiting:
            with suppress(RuntimeError):
                testbench.close()
