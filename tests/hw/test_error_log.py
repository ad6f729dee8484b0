"""ErrorLog against its model under simultaneous records and clears."""

import random

import pytest
from streams import SEED, send, simulate

from speckv_hw.csr.error_log import ErrorLog
from speckv_hw.types import ErrorRecord
from speckv_model.constants import ErrorKind
from speckv_model.csr import error_log as model

KINDS = [kind for kind in ErrorKind if kind != ErrorKind.NONE]


def fields(record):
    """A record of either side as plain numbers."""
    kind = record.kind
    return int(kind if isinstance(kind, int) else kind.value), int(record.address), int(record.detail)


async def check_against_model(ctx, dut, ports):
    """Background check in every clock: the log shows what the model shows, no record waits too long."""
    log = model.ErrorLog()
    waiting = [0] * ports
    sampled = [signal for port in dut.records for signal in (port.valid, port.ready, port.payload)]
    while True:
        shown = (ctx.get(dut.count), fields(ctx.get(dut.first)), fields(ctx.get(dut.last)))
        assert shown == (log.count, fields(log.first), fields(log.last))
        _, _, clear, *samples = await ctx.tick().sample(dut.clear, *sampled)
        if clear:
            log.clear()
        accepted = 0
        for n in range(ports):
            valid, ready, record = samples[3 * n:3 * n + 3]
            waiting[n] = waiting[n] + 1 if valid and not ready else 0
            assert waiting[n] < ports
            if valid and ready:
                accepted += 1
                log.record(*fields(record))
        assert accepted == any(samples[0::3])


@pytest.mark.parametrize("ports", [1, 2, 5])
@pytest.mark.parametrize("idle", [0.0, 0.9])
def test_random_records(ports, idle):
    dut = ErrorLog(ports)
    rng = random.Random(SEED)

    def sender(n):
        records = [ErrorRecord.const({"kind": rng.choice(KINDS), "address": rng.getrandbits(40),
                                      "detail": rng.getrandbits(16)}) for _ in range(200)]

        async def testbench(ctx):
            await send(ctx, dut.records[n], records, idle=idle, seed=SEED + n)
        return testbench

    async def clear(ctx):
        for _ in range(10):
            await ctx.tick().repeat(rng.randint(1, 40))
            ctx.set(dut.clear, 1)
            await ctx.tick()
            ctx.set(dut.clear, 0)

    async def check(ctx):
        await check_against_model(ctx, dut, ports)

    simulate(dut, *(sender(n) for n in range(ports)), clear, background=[check], watched=dut.records)


def test_latency():
    dut = ErrorLog(1)

    async def testbench(ctx):
        ctx.set(dut.record0.payload, {"kind": ErrorKind.NO_ROOM, "address": 4096, "detail": 7})
        ctx.set(dut.record0.valid, 1)
        clocks = 0
        while ctx.get(dut.count) == 0:
            await ctx.tick()
            ctx.set(dut.record0.valid, 0)
            clocks += 1
        assert clocks == dut.latency
        assert fields(ctx.get(dut.first)) == (ErrorKind.NO_ROOM, 4096, 7)

    simulate(dut, testbench)


def test_bad_ports():
    with pytest.raises(ValueError, match="ports must be a positive integer, not 0"):
        ErrorLog(0)
