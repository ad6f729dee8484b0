"""MMIO space of the RTL against the model: each register, random accesses, commands from end to end."""

import random

import pytest
from amaranth.hdl import Elaboratable, Module, ResetInserter, Signal
from command_responders import BadPages, LoggedContexts, ModelDevice, Responders, random_command
from streams import SEED, simulate

from speckv_hw.csr.command_engine import CommandEngine
from speckv_hw.csr.counters import Counters
from speckv_hw.csr.csr import Csr
from speckv_hw.stream import chain
from speckv_model.config import DeviceConfig
from speckv_model.constants import ErrorKind
from speckv_model.csr.csr import CsrModel
from speckv_model.csr.description import Access
from speckv_model.csr.registers import (
    COUNTERS,
    EVENTS,
    MMIO_BYTES,
    REGISTERS,
    command_slot_offset,
    completion_offset,
    pack_command,
)

# Granules of four pages keep walks over slots and pages short.
CONFIG = DeviceConfig.small(window_slots=1 << 14)


class Mmio:
    """The host's end of the MMIO port."""

    def __init__(self, dut, stall=0.0, seed=SEED):
        self.dut = dut
        self._stall = stall
        self._rng = random.Random(f"mmio {seed}")
        self.clocks = 0

    async def _access(self, ctx, request):
        port, response = self.dut.mmio_request, self.dut.mmio_response
        while self._rng.random() < self._stall:
            await ctx.tick()
        ctx.set(port.payload, request)
        ctx.set(port.valid, 1)
        await ctx.tick().until(port.ready)
        ctx.set(port.valid, 0)
        self.clocks = 1
        while True:
            ready = self._rng.random() >= self._stall
            ctx.set(response.ready, ready)
            valid, data = ctx.get(response.valid), ctx.get(response.payload.data)
            if valid and ready:
                break
            self.clocks += 1
            await ctx.tick()
        await ctx.tick()
        ctx.set(response.ready, 0)
        assert not ctx.get(response.valid)
        return data

    async def read(self, ctx, address):
        return await self._access(ctx, {"write": 0, "address": address, "data": self._rng.getrandbits(64)})

    async def write(self, ctx, address, value):
        assert await self._access(ctx, {"write": 1, "address": address, "data": value}) == 0


class Contextless:
    """A device of the model whose commands do nothing."""

    def __init__(self, free):
        self.free = free

    def free_sectors(self):
        return self.free


def idle_csr(config=CONFIG):
    """A `Csr` with one source of error records, and the model of the same."""
    return Csr(config, records=1), CsrModel(config, None, Contextless(config.pool_sectors))


def prepare(ctx, dut, config=CONFIG):
    ctx.set(dut.ready, 1)
    ctx.set(dut.pool_free_sectors, config.pool_sectors)


@pytest.mark.parametrize("config", [CONFIG, DeviceConfig.default(),
                                    DeviceConfig(window_bits=40, pool_bytes=1 << 38, window_slots=1 << 16)],
                         ids=DeviceConfig.digest)
def test_every_register_after_reset(config):
    dut, _ = idle_csr(config)
    mmio = Mmio(dut)

    async def testbench(ctx):
        prepare(ctx, dut, config)
        for register in REGISTERS:
            expected = register.reset_value(config)
            if register.name == "STATUS":
                expected |= register.pack(ready=1)
            if register.name != "CLOCKS":
                assert await mmio.read(ctx, register.offset) == expected, register.name

    simulate(dut, testbench)


def test_every_register_by_its_access():
    """Writes all ones, all zeros and noise everywhere; what can be written holds it, nothing else changes."""
    dut, model = idle_csr()
    mmio = Mmio(dut)
    rng = random.Random(SEED)
    plain = [register for register in REGISTERS if register.access != Access.COUNTER]

    async def testbench(ctx):
        prepare(ctx, dut)
        for register in plain:
            if register.name == "COMMAND_TAIL":
                continue
            for value in ((1 << 64) - 1, 0, rng.getrandbits(64)):
                await mmio.write(ctx, register.offset, value)
                model.mmio_write(register.offset, value)
                if register.access == Access.RW:
                    mask = sum(field.mask for field in register.fields)
                    assert await mmio.read(ctx, register.offset) == value & mask
                for other in plain:
                    assert await mmio.read(ctx, other.offset) == model.mmio_read(other.offset), other.name
                assert ctx.get(dut.prefetch_enable) == model.prefetch_enable
                assert ctx.get(dut.hdm_base) == model.hdm_base
                assert ctx.get(dut.hdm_committed) == model.hdm_committed
        for register in COUNTERS:
            await mmio.write(ctx, register.offset, rng.getrandbits(64))
            if register.name != "CLOCKS":
                assert await mmio.read(ctx, register.offset) == 0
        assert await mmio.read(ctx, REGISTERS.ERROR_COUNT.offset) == 0

    simulate(dut, testbench)


def test_window_moves():
    config = DeviceConfig.small(window_bits=30)
    dut, model = idle_csr(config)
    mmio = Mmio(dut)

    async def testbench(ctx):
        prepare(ctx, dut, config)
        commit = REGISTERS.HDM_CONTROL.pack(commit=1)
        top = 1 << 52
        for base in (1 << 28, top - (1 << 30), top - (1 << 29), top - (1 << 28), 0):
            for register, value in ((REGISTERS.HDM_BASE, top - 1), (REGISTERS.HDM_CONTROL, 0),
                                    (REGISTERS.HDM_BASE, base), (REGISTERS.HDM_CONTROL, commit)):
                await mmio.write(ctx, register.offset, value)
                model.mmio_write(register.offset, value)
                assert ctx.get(dut.hdm_base) == model.hdm_base
                assert ctx.get(dut.hdm_committed) == model.hdm_committed
                assert await mmio.read(ctx, REGISTERS.HDM_CONTROL.offset) == \
                    model.mmio_read(REGISTERS.HDM_CONTROL.offset)

    simulate(dut, testbench)


@pytest.mark.parametrize("stall", [0.0, 0.7])
def test_random_accesses(stall):
    """Reads and writes all over MMIO space, most of them where something is."""
    dut, model = idle_csr()
    mmio = Mmio(dut, stall)
    rng = random.Random(SEED)
    slots = CONFIG.command_slots
    interesting = ([register.offset for register in REGISTERS if register.access != Access.COUNTER]
                   + [command_slot_offset(slot) + 8 * word for slot in range(slots + 1) for word in range(8)]
                   + [completion_offset(slot) for slot in range(slots + 1)])

    async def testbench(ctx):
        prepare(ctx, dut)
        for _ in range(600):
            address = rng.choice(interesting) if rng.random() < 0.8 else rng.randrange(MMIO_BYTES)
            if rng.random() < 0.1:
                address ^= 1 << rng.randrange(16)
            known = REGISTERS.at(address)
            if known is not None and known.access == Access.COUNTER:
                continue
            if rng.random() < 0.5:
                value = rng.getrandbits(64)
                if address == REGISTERS.COMMAND_TAIL.offset:
                    # Nothing is submitted here: every other tail is refused.
                    value |= 0x8000
                await mmio.write(ctx, address, value)
                model.mmio_write(address, value)
            else:
                assert await mmio.read(ctx, address) == model.mmio_read(address), hex(address)

    simulate(dut, testbench, watched=[dut.mmio_response, dut.command])


def test_latency():
    dut, _ = idle_csr()
    mmio = Mmio(dut)

    async def testbench(ctx):
        for address in (REGISTERS.STATUS.offset, completion_offset(0), command_slot_offset(0)):
            await mmio.read(ctx, address)
            assert mmio.clocks == dut.latency
            await mmio.write(ctx, address, 0)
            assert mmio.clocks == dut.latency
        for register in COUNTERS:
            await mmio.read(ctx, register.offset)
            assert mmio.clocks <= dut.latency + Counters.latency

    simulate(dut, testbench)


def test_inputs_show():
    dut, model = idle_csr()
    mmio = Mmio(dut)

    async def testbench(ctx):
        for ready in (0, 1):
            ctx.set(dut.ready, ready)
            low_water = CONFIG.pool_sectors // 8
            for free in (0, low_water - 1, low_water, CONFIG.pool_sectors):
                ctx.set(dut.pool_free_sectors, free)
                assert await mmio.read(ctx, REGISTERS.POOL_FREE_SECTORS.offset) == free
                status = REGISTERS.STATUS.unpack(await mmio.read(ctx, REGISTERS.STATUS.offset))
                assert status == {"ready": ready, "busy": 0, "pool_low": free < low_water, "error": 0}

    simulate(dut, testbench)


def test_records_and_events_arrive():
    dut, model = idle_csr()
    mmio = Mmio(dut)
    record = {"kind": ErrorKind.PAGE_CORRUPT, "address": 0xFEDCBA9000, "detail": 0xABCD}

    async def testbench(ctx):
        prepare(ctx, dut)
        ctx.set(dut.record0.payload, record)
        ctx.set(dut.record0.valid, 1)
        await ctx.tick().until(dut.record0.ready)
        ctx.set(dut.record0.valid, 0)
        model.errors.record(**record)
        for n, register in enumerate(EVENTS):
            ctx.set(dut.events, {register.name.lower(): 1, "latency": {"valid": 1, "clocks": n}})
            await ctx.tick().repeat(n + 1)
            model.counters.add(register.name, n + 1)
            model.counters.add_latencies([n] * (n + 1))
        ctx.set(dut.events, {})
        for register in REGISTERS:
            if register.name != "CLOCKS":
                expected = model.mmio_read(register.offset)
                assert await mmio.read(ctx, register.offset) == expected, register.name
        before = await mmio.read(ctx, REGISTERS.CLOCKS.offset)
        await ctx.tick().repeat(100)
        assert 100 < await mmio.read(ctx, REGISTERS.CLOCKS.offset) - before < 100 + 2 * Counters.latency
        await mmio.write(ctx, REGISTERS.ERROR_CLEAR.offset, 1)
        await mmio.write(ctx, REGISTERS.COUNTERS_CLEAR.offset, 1)
        for name in ("ERROR_COUNT", "ERROR_FIRST", "REQ_READS", "LATENCY_2"):
            register = getattr(REGISTERS, name)
            assert await mmio.read(ctx, register.offset) == 0

    simulate(dut, testbench)


class Commanded(Elaboratable):
    """A `Csr` and the engine that executes its commands."""

    def __init__(self, config):
        self.csr = Csr(config, records=1)
        self.engine = CommandEngine(config)

    def elaborate(self, platform):
        m = Module()
        m.submodules.csr = self.csr
        m.submodules.engine = self.engine
        chain(m, self.csr.command, self.engine.command)
        chain(m, self.engine.completion, self.csr.completion)
        chain(m, self.engine.error, self.csr.record0)
        return m


class CommandedPair:
    """Submits the same commands to the RTL and to the model, and compares what the host then sees."""

    def __init__(self, dut, model, mmio):
        self.dut = dut
        self.model = model
        self.mmio = mmio
        self.tail = 0

    async def write(self, ctx, address, value):
        await self.mmio.write(ctx, address, value)
        self.model.mmio_write(address, value)

    async def submit(self, ctx, commands):
        """Fills slots with `commands`, rings once, waits until all are complete, compares."""
        slots = CONFIG.command_slots
        for command in commands:
            for n, word in enumerate(pack_command(**command)):
                await self.write(ctx, command_slot_offset(self.tail % slots) + 8 * n, word)
            self.tail = (self.tail + 1) % (1 << 16)
        await self.write(ctx, REGISTERS.COMMAND_TAIL.offset, self.tail)
        while REGISTERS.STATUS.unpack(await self.mmio.read(ctx, REGISTERS.STATUS.offset))["busy"]:
            pass
        for address in [completion_offset(slot) for slot in range(slots)] + [
                register.offset for register in REGISTERS if register.name.startswith(("COMMAND", "ERROR"))]:
            assert await self.mmio.read(ctx, address) == self.model.mmio_read(address), hex(address)


def test_random_commands():
    dut = Commanded(CONFIG)
    bad = BadPages([13])
    log, expected = [], []
    responders = Responders(CONFIG, dut.engine, bad, log, SEED)
    model = CsrModel(CONFIG, LoggedContexts(CONFIG, expected), ModelDevice(CONFIG, bad, expected))
    pair = CommandedPair(dut.csr, model, Mmio(dut.csr, 0.2))
    rng = random.Random(SEED)

    async def testbench(ctx):
        prepare(ctx, dut.csr)
        for _ in range(40):
            count = rng.randint(1, CONFIG.command_slots)
            await pair.submit(ctx, [random_command(rng, CONFIG) for _ in range(count)])
            assert log == expected

    simulate(dut, testbench, background=responders.testbenches,
             watched=[dut.csr.command, dut.csr.mmio_response])
    assert len(log) > 40


def test_reset_in_the_middle():
    """Resets while commands run; afterwards MMIO is as after power-up and commands work."""
    dut = Commanded(CONFIG)
    reset = Signal()
    bad = BadPages()
    rng = random.Random(SEED)
    log = []
    responders = Responders(CONFIG, dut.engine, bad, log, SEED, reset=reset)

    async def testbench(ctx):
        prepare(ctx, dut.csr)
        for _ in range(15):
            # The context table is swept by the reset too.
            responders.contexts.__init__(CONFIG, log)
            log.clear()
            expected = []
            model = CsrModel(CONFIG, LoggedContexts(CONFIG, expected), ModelDevice(CONFIG, bad, expected))
            mmio = Mmio(dut.csr)
            for register in REGISTERS:
                if register.name.startswith(("STATUS", "COMMAND", "ERROR", "HDM", "CONTROL")):
                    assert await mmio.read(ctx, register.offset) == model.mmio_read(register.offset)
            pair = CommandedPair(dut.csr, model, mmio)
            await pair.submit(ctx, [random_command(rng, CONFIG) for _ in range(3)])
            assert log == expected
            for n in range(2):
                slot = command_slot_offset((pair.tail + n) % CONFIG.command_slots)
                for word, value in enumerate(pack_command(**random_command(rng, CONFIG))):
                    await mmio.write(ctx, slot + 8 * word, value)
            await mmio.write(ctx, REGISTERS.COMMAND_TAIL.offset, pair.tail + 2)
            await ctx.tick().repeat(rng.randint(1, 60))
            ctx.set(reset, 1)
            await ctx.tick().repeat(20)
            ctx.set(reset, 0)

    simulate(ResetInserter(reset)(dut), testbench, background=responders.testbenches)


def test_bad_records():
    with pytest.raises(ValueError, match="records must be a positive integer, not 0"):
        Csr(CONFIG, records=0)
