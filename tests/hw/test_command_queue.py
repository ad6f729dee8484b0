"""CommandQueue: order, doorbell rules, completion words, wrap-around of the counts."""

import random

import pytest
from amaranth.hdl import ResetInserter, Signal
from command_responders import number
from streams import SEED, simulate

from speckv_hw.csr.command_queue import CommandQueue
from speckv_model.config import DeviceConfig
from speckv_model.constants import Opcode, Status
from speckv_model.csr.registers import COMPLETION_WORD, pack_command

CONFIG = DeviceConfig.small(command_slots=4)
SLOTS = CONFIG.command_slots


async def fill(ctx, dut, slot, **fields):
    """Writes a command into `slot`."""
    ctx.set(dut.slot, slot)
    ctx.set(dut.write, 1)
    for n, word in enumerate(pack_command(**fields)):
        ctx.set(dut.word, n)
        ctx.set(dut.data, word)
        await ctx.tick()
    ctx.set(dut.write, 0)


async def ring(ctx, dut, tail):
    """Writes the doorbell; returns whether it was refused."""
    ctx.set(dut.new_tail, tail % (1 << 16))
    ctx.set(dut.doorbell, 1)
    refused = ctx.get(dut.refused)
    await ctx.tick()
    ctx.set(dut.doorbell, 0)
    return refused


async def completion(ctx, dut, slot):
    """Fields of the completion word of `slot`."""
    ctx.set(dut.slot, slot)
    await ctx.tick()
    return COMPLETION_WORD.unpack(ctx.get(dut.completion_word))


async def finish(ctx, dut, status):
    """Completes the command that is offered; returns it."""
    while not ctx.get(dut.command.valid):
        await ctx.tick()
    command = ctx.get(dut.command.payload)
    ctx.set(dut.completion.payload.status, status)
    ctx.set(dut.completion.valid, 1)
    ctx.set(dut.command.ready, 1)
    await ctx.tick()
    ctx.set(dut.completion.valid, 0)
    ctx.set(dut.command.ready, 0)
    return command


def test_fields_and_latency():
    dut = CommandQueue(CONFIG)
    fields = dict(opcode=0xFE, context=0xABC, tag=0xBEEF, first_page=0xFEDCBA9, pages=0x10000001,
                  index_bits=17, head_bits=30, layer_bits=5, dtype=1, codec=5, ld_id=9,
                  setting=0xA5, per_stream=1, descriptor_base=0x8001, descriptor=0x7FFE)

    async def testbench(ctx):
        ctx.set(dut.enable, 1)
        await fill(ctx, dut, 0, **fields)
        assert not await ring(ctx, dut, 1)
        clocks = 1
        while not ctx.get(dut.command.valid):
            await ctx.tick()
            clocks += 1
        assert clocks == dut.latency
        command = await finish(ctx, dut, Status.BAD_OPCODE)
        assert {name: number(command[name]) for name in fields} == fields
        shown = await completion(ctx, dut, 0)
        assert shown == {"status": Status.BAD_OPCODE, "opcode": 0xFE, "tag": 0xBEEF, "done": 1}
        await fill(ctx, dut, 0, **fields)
        assert await completion(ctx, dut, 0) == COMPLETION_WORD.unpack(0)

    simulate(dut, testbench, watched=[dut.command])


class Host:
    """Fills slots, rings and completes at random, and checks what the queue shows; counts from `start` on."""

    def __init__(self, dut, start, rng):
        self.dut = dut
        self.start = start
        self.rng = rng
        self.filled = self.submitted = self.completed = 0
        self.tags = []

    def slot(self, count):
        return (self.start + count) % SLOTS

    async def fill(self, ctx):
        if self.filled - self.completed < SLOTS:
            self.tags.append(self.rng.getrandbits(16))
            await fill(ctx, self.dut, self.slot(self.filled), opcode=Opcode.FREE, tag=self.tags[-1],
                       first_page=self.filled)
            self.filled += 1

    async def ring(self, ctx):
        self.submitted = self.rng.randint(self.submitted, self.filled)
        assert not await ring(ctx, self.dut, self.start + self.submitted)

    async def ring_wrongly(self, ctx):
        done = self.completed
        for count in (self.submitted - 1, done - 1, done + SLOTS + 1, done + 0x8000):
            if not self.submitted <= count <= self.completed + SLOTS:
                assert await ring(ctx, self.dut, self.start + count)

    async def finish(self, ctx):
        if self.submitted == self.completed:
            for _ in range(self.dut.latency + 1):
                assert not ctx.get(self.dut.command.valid)
                await ctx.tick()
            return
        status = self.rng.choice([Status.OK, Status.OVERLAP])
        command = await finish(ctx, self.dut, status)
        assert (command.first_page, command.tag) == (self.completed, self.tags[self.completed])
        shown = await completion(ctx, self.dut, self.slot(self.completed))
        assert shown == {"status": status, "opcode": Opcode.FREE, "tag": command.tag, "done": 1}
        self.completed += 1

    async def work(self, ctx, commands):
        while self.completed < commands:
            assert ctx.get(self.dut.head) == (self.start + self.completed) % (1 << 16)
            assert ctx.get(self.dut.tail) == (self.start + self.submitted) % (1 << 16)
            await self.rng.choice([self.fill, self.fill, self.ring, self.ring_wrongly, self.finish])(ctx)


def test_random_use_across_the_wrap_around():
    dut = CommandQueue(CONFIG)
    start = (1 << 16) - 150

    async def testbench(ctx):
        # As if that many commands had gone by.
        ctx.set(dut.head, start)
        ctx.set(dut.tail, start)
        ctx.set(dut.enable, 1)
        await Host(dut, start, random.Random(SEED)).work(ctx, 300)

    simulate(dut, testbench, watched=[dut.command])


@pytest.mark.parametrize("clocks", range(1, 12))
def test_reset_empties(clocks):
    dut = CommandQueue(CONFIG)
    reset = Signal()

    async def testbench(ctx):
        ctx.set(dut.enable, 1)
        host = Host(dut, 0, random.Random(SEED))
        await host.work(ctx, 5)
        await host.fill(ctx)
        await ring(ctx, dut, host.filled)
        await ctx.tick().repeat(clocks)
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        for slot in range(SLOTS):
            assert await completion(ctx, dut, slot) == COMPLETION_WORD.unpack(0)
        await Host(dut, 0, random.Random(SEED)).work(ctx, 10)

    simulate(ResetInserter(reset)(dut), testbench)


def test_waits_until_enabled():
    dut = CommandQueue(CONFIG)

    async def testbench(ctx):
        await fill(ctx, dut, 0, opcode=Opcode.NOP)
        await ring(ctx, dut, 1)
        for _ in range(20):
            assert not ctx.get(dut.command.valid)
            await ctx.tick()
        ctx.set(dut.enable, 1)
        await finish(ctx, dut, Status.OK)
        assert ctx.get(dut.head) == 1

    simulate(dut, testbench)
