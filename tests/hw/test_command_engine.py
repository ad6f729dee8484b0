"""CommandEngine against its model: statuses, errors and every change that it asks for, in order."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from amaranth.hdl import Elaboratable, Module, ResetInserter, Signal
from command_responders import (
    BadPages,
    LoggedContexts,
    ModelDevice,
    Responders,
    number,
    random_command,
)
from streams import SEED, receive, send, simulate

from speckv_hw.csr.command_engine import CommandEngine
from speckv_hw.stream import chain
from speckv_hw.table.context_table import ContextTable
from speckv_model.config import DeviceConfig
from speckv_model.constants import ErrorKind, Opcode, Status
from speckv_model.csr.commands import CommandProcessor
from speckv_model.csr.error_log import ErrorLog

# Granules of four pages keep walks over slots and pages short.
CONFIG = DeviceConfig.small(window_slots=1 << 14)
NOTHING = dict(context=0, tag=0, first_page=0, pages=0, index_bits=0, head_bits=0, layer_bits=0, dtype=0,
               codec=0, ld_id=0, setting=0, per_stream=0, by_row=0, descriptor_base=0, descriptor=0)


class AllErrors(ErrorLog):
    """An error log that keeps every record."""

    def __init__(self):
        self.records = []
        super().__init__()

    def record(self, kind, address, detail=0):
        super().record(kind, address, detail)
        self.records.append((kind, address, detail))


def expect(commands, bad, config=CONFIG):
    """Statuses, error records and log of the model after `commands`."""
    log, errors = [], AllErrors()
    processor = CommandProcessor(config, LoggedContexts(config, log), ModelDevice(config, bad, log), errors)
    return [processor.execute(command) for command in commands], errors.records, log


def run(commands, bad=None, delay=0.5, config=CONFIG):
    """Statuses, error records and log of the engine after `commands`."""
    dut = CommandEngine(config)
    bad = bad or BadPages()
    log, errors, statuses = [], [], []
    responders = Responders(config, dut, bad, log, SEED, delay)

    async def commander(ctx):
        await send(ctx, dut.command, commands, idle=delay)

    async def completions(ctx):
        for completion in await receive(ctx, dut.completion, len(commands), stall=delay):
            statuses.append(number(completion.status))

    async def error_records(ctx):
        while True:
            [record] = await receive(ctx, dut.error, 1, stall=delay)
            errors.append((number(record.kind), record.address, record.detail))

    simulate(dut, commander, completions, background=[error_records, *responders.testbenches],
             watched=[dut.manage, dut.table_request, dut.descriptor_op, dut.page_op, dut.error], clocks=200_000)
    return statuses, errors, log


@pytest.mark.parametrize("delay", [0.0, 0.6])
@pytest.mark.parametrize("seed", range(2))
def test_random_commands(seed, delay):
    rng = random.Random(f"{SEED} {seed}")
    commands = [random_command(rng, CONFIG) for _ in range(250)]
    bad = BadPages([13])
    assert run(commands, bad, delay) == expect(commands, bad)


def test_every_status():
    create = NOTHING | dict(opcode=Opcode.CREATE, pages=4)
    commands = [create, NOTHING | dict(opcode=200), create, create | dict(context=1, pages=3),
                create | dict(context=1), create | dict(context=1, codec=5),
                create | dict(context=1, index_bits=3), NOTHING | dict(opcode=Opcode.PIN),
                create | dict(context=1, first_page=12), create | dict(context=1, first_page=4, setting=1)]
    bad = BadPages([13])
    assert run(commands, bad) == expect(commands, bad)
    assert expect(commands, bad)[0] == list(Status)


def test_settings_are_those_of_the_codecs():
    """Every setting near an edge, of every codec number, loaded and in CREATE: refused where the model refuses it."""
    config = replace(CONFIG, codecs=("raw", "speckv", "fixed", "variable"))
    choices = [dict(codec=codec, setting=setting) for codec in range(8) for setting in (0, 1, 6, 7, 16, 17, 128, 255)]
    commands = [NOTHING | dict(opcode=Opcode.LOAD_DESCRIPTOR, descriptor=number % 64, pages=1) | choice
                for number, choice in enumerate(choices)]
    commands += [NOTHING | dict(opcode=opcode, context=2, pages=4) | choice for choice in choices
                 for opcode in (Opcode.CREATE, Opcode.DESTROY)]
    expected = expect(commands, BadPages(), config)
    counts = Counter(expected[0])
    # RAW and SPECKV take one of these settings, FIXED two, VARIABLE all; CREATE's contexts are destroyed again.
    assert counts[Status.OK] == 3 * (1 + 1 + 2 + 8)
    assert set(counts) == {Status.OK, Status.BAD_CODEC, Status.BAD_DESCRIPTOR, Status.BAD_CONTEXT}
    assert run(commands, delay=0.0, config=config) == expected


@pytest.mark.parametrize("descriptors", [1, 64, 4096])
def test_descriptors_that_the_table_has(descriptors):
    """Ranges that end before, at and behind the end of the table, loaded or needed by the streams of a context."""
    config = replace(CONFIG, descriptors=descriptors)
    load = NOTHING | dict(opcode=Opcode.LOAD_DESCRIPTOR, codec=1)
    few, end = min(3, descriptors), descriptors
    commands = [load | fields for fields in (
        dict(descriptor=end - few, pages=few), dict(descriptor=end - few, pages=few + 1), dict(descriptor=end, pages=1),
        dict(descriptor=0, pages=0), dict(descriptor=0, pages=end + 1), dict(descriptor=0xFFFF, pages=1),
        dict(descriptor=0, pages=(1 << 29) - 1), dict(descriptor=0, pages=end))]
    # 64 pages: as many streams as they hold, or as the geometry has.
    create = NOTHING | dict(opcode=Opcode.CREATE, context=1, pages=64, per_stream=1)
    for index_bits, head_bits, layer_bits in ((0, 0, 0), (0, 2, 1), (3, 4, 5), (5, 9, 13), (4, 12, 0), (6, 3, 3)):
        streams = min(64 >> index_bits, 2 << head_bits + layer_bits)
        for base in {max(end - streams, 0), max(end - streams + 1, 0), end - 1, end, 0xFFFF - streams}:
            widths = dict(index_bits=index_bits, head_bits=head_bits, layer_bits=layer_bits)
            commands += [create | widths | dict(descriptor_base=base), NOTHING | dict(opcode=Opcode.DESTROY, context=1)]
    expected = expect(commands, BadPages(), config)
    counts = Counter(expected[0])
    assert counts[Status.OK] >= 4 and counts[Status.BAD_DESCRIPTOR] > 16
    assert run(commands, delay=0.0, config=config) == expected


class WithContextTable(Elaboratable):
    """The engine with the context table that it manages."""

    def __init__(self, config):
        self.engine = CommandEngine(config)
        self.table = ContextTable(config, 1)

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = self.engine
        m.submodules.table = self.table
        chain(m, self.engine.manage, self.table.manage)
        chain(m, self.table.managed, self.engine.managed)
        return m


def test_with_the_context_table():
    """Between commands every page belongs to whom the model says."""
    dut = WithContextTable(CONFIG)
    engine, table = dut.engine, dut.table
    rng = random.Random(SEED)
    bad, log, expected_log, statuses = BadPages([13]), [], [], []
    responders = Responders(CONFIG, engine, bad, log, SEED)
    contexts = LoggedContexts(CONFIG, expected_log)
    processor = CommandProcessor(CONFIG, contexts, ModelDevice(CONFIG, bad, expected_log), AllErrors())

    async def testbench(ctx):
        ctx.set(engine.error.ready, 1)
        ctx.set(table.result.ready, 1)
        for _ in range(80):
            command = random_command(rng, CONFIG)
            await send(ctx, engine.command, [command])
            await ctx.tick()
            assert statuses.pop() == processor.execute(command)
            assert not statuses
            page, owner = rng.randrange(20), contexts.slot(rng.randrange(5))
            ld_id = rng.getrandbits(4) if owner is None else contexts.record(owner).ld_id
            await send(ctx, table.lookup, [{"page": page, "ld_id": ld_id}])
            while not ctx.get(table.result.valid):
                await ctx.tick()
            found = int(contexts.find(page, ld_id))
            assert ctx.get(table.result.payload.hit) == (found >= 0)
            if found >= 0:
                assert ctx.get(table.result.payload.stream.context) == found
            await ctx.tick()

    async def completions(ctx):
        while True:
            [completion] = await receive(ctx, engine.completion, 1)
            statuses.append(number(completion.status))

    simulate(dut, testbench, background=[completions, *responders.page_testbenches])
    assert [entry for entry in expected_log if entry[0] in ("clear", "load", "page")] == log


def test_largest_window():
    config = DeviceConfig(window_bits=40, pool_bytes=1 << 38, window_slots=1 << 16, contexts=4096)
    granule, top = config.granule_pages, config.window_pages
    last = dict(opcode=Opcode.CREATE, context=4095, first_page=top - granule, pages=granule)
    commands = [NOTHING | last | changes for changes in (
        dict(pages=2 * granule), dict(index_bits=13), dict(),
        dict(opcode=Opcode.SEAL, first_page=top - 1, pages=2),
        dict(opcode=Opcode.SEAL, first_page=top - 2, pages=2), dict(context=0))]
    expected = expect(commands, BadPages(), config)
    assert expected[0] == [Status.BAD_RANGE, Status.BAD_GEOMETRY, Status.OK, Status.BAD_RANGE, Status.OK,
                           Status.OVERLAP]
    assert run(commands, config=config) == expected


def test_whole_window_in_one_context():
    config = DeviceConfig(window_bits=28, window_slots=2, contexts=2)
    commands = [NOTHING | dict(opcode=Opcode.CREATE, pages=config.window_pages, index_bits=16, head_bits=6,
                               layer_bits=5),
                NOTHING | dict(opcode=Opcode.FLUSH, first_page=config.window_pages - 1, pages=1)]
    expected = expect(commands, BadPages(), config)
    assert expected[0] == [Status.OK, Status.OK]
    assert run(commands, config=config) == expected


def test_error_of_a_command_names_its_first_page():
    _, errors, _ = run([NOTHING | dict(opcode=200, first_page=0xABCDEF1)])
    assert errors == [(ErrorKind.COMMAND, 0xABCDEF1000, Status.BAD_OPCODE)]


def test_reset_in_the_middle():
    """After a reset at any clock of a DESTROY the engine is idle and does what it is then asked."""
    dut = CommandEngine(CONFIG)
    reset = Signal()
    log = []
    create = NOTHING | dict(opcode=Opcode.CREATE, context=1, pages=8)
    destroy = NOTHING | dict(opcode=Opcode.DESTROY, context=1)
    responders = Responders(CONFIG, dut, BadPages(), log, SEED, delay=0.0, reset=reset)

    async def one(ctx, command):
        ctx.set(dut.command.payload, command)
        ctx.set(dut.command.valid, 1)
        ctx.set(dut.completion.ready, 1)
        [completion] = await ctx.tick().sample(dut.completion.payload).until(dut.completion.valid)
        ctx.set(dut.command.valid, 0)
        return number(completion.status)

    async def testbench(ctx):
        for clocks in range(1, 60, 3):
            assert await one(ctx, create) == Status.OK
            ctx.set(dut.command.payload, destroy)
            ctx.set(dut.command.valid, 1)
            ctx.set(dut.completion.ready, 0)
            await ctx.tick().repeat(clocks)
            ctx.set(dut.command.valid, 0)
            ctx.set(reset, 1)
            # The device's reset also empties the boxes that would answer.
            await ctx.tick().repeat(8)
            ctx.set(reset, 0)
            for port in (dut.manage, dut.table_request, dut.descriptor_op, dut.page_op, dut.error, dut.completion):
                assert not ctx.get(port.valid)
            for slot in range(2):
                responders.contexts.put_slot(slot, None)
            responders.contexts.put(1, None)

    simulate(ResetInserter(reset)(dut), testbench, background=responders.testbenches)


def test_record_survives_its_context():
    """FREE of DESTROY still names the stream's codec and dtype."""
    commands = [NOTHING | dict(opcode=Opcode.CREATE, context=2, pages=4, codec=1, dtype=1),
                NOTHING | dict(opcode=Opcode.DESTROY, context=2)]
    _, _, log = run(commands)
    frees = [entry for entry in log if entry[0] == "page"]
    assert frees == [("page", 1, page, 2, 1, 1) for page in range(4)]
    record = next(entry[2] for entry in log if entry[0] == "put")
    assert replace(record, pages=0) == replace(record, pages=0, codec=1, dtype=1)
