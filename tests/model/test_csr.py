"""MMIO of the model: commands, their checks, doorbell, errors and counters."""


import pytest

from speckv_model.config import DeviceConfig
from speckv_model.constants import Codec, ErrorKind, Opcode, Status
from speckv_model.csr.commands import PageOpKind
from speckv_model.csr.counters import latency_bucket
from speckv_model.csr.csr import CsrModel
from speckv_model.csr.registers import (
    COMPLETION_WORD,
    REGISTERS,
    command_slot_offset,
    completion_offset,
    pack_command,
)
from speckv_model.table.context import ContextTable

CONFIG = DeviceConfig.small()
GRANULE = CONFIG.granule_pages


class RecordingDevice:
    """Notes what commands ask of the device; answers `status` for the page `bad_page`."""

    def __init__(self):
        self.asked = []
        self.bad_page = None
        self.status = Status.MEMORY_ERROR
        self.free = CONFIG.pool_sectors

    def clear_table(self, page, count):
        self.asked.append(("clear", page, count))
        return self.status if self.bad_page in range(page, page + count) else Status.OK

    def page_op(self, kind, page, context, record):
        self.asked.append((kind, page, context))
        return self.status if page == self.bad_page else Status.OK

    def load_descriptors(self, first, count, encoding):
        self.asked.append(("load", first, count, encoding))

    def free_sectors(self):
        return self.free


class Bench:
    """A model with a host's helpers."""

    def __init__(self, config=CONFIG):
        self.device = RecordingDevice()
        self.contexts = ContextTable(config)
        self.csr = CsrModel(config, self.contexts, self.device)
        self.tail = 0

    def read(self, register):
        return self.csr.mmio_read(register.offset)

    def write(self, register, value):
        self.csr.mmio_write(register.offset, value)

    def command(self, opcode, **fields):
        slot = self.tail % CONFIG.command_slots
        for n, word in enumerate(pack_command(opcode=opcode, tag=self.tail, **fields)):
            self.csr.mmio_write(command_slot_offset(slot) + 8 * n, word)
        assert self.csr.mmio_read(completion_offset(slot)) == 0
        self.tail = (self.tail + 1) % (1 << 16)
        self.write(REGISTERS.COMMAND_TAIL, self.tail)
        completion = COMPLETION_WORD.unpack(self.csr.mmio_read(completion_offset(slot)))
        assert completion["done"] and completion["opcode"] == opcode and completion["tag"] == self.tail - 1
        return completion["status"]

    def create(self, context=0, first_page=0, pages=GRANULE, **fields):
        return self.command(Opcode.CREATE, context=context, first_page=first_page, pages=pages, **fields)


@pytest.fixture
def bench():
    return Bench()


def test_create_makes_the_context_visible_after_clearing(bench):
    assert bench.create(3, GRANULE, 2 * GRANULE, ld_id=5, codec=Codec.SPECKV) == Status.OK
    assert bench.device.asked == [("clear", GRANULE, 2 * GRANULE)]
    record = bench.contexts.lookup(2 * GRANULE, 5)
    assert (record.first_page, record.pages, record.codec) == (GRANULE, 2 * GRANULE, Codec.SPECKV)


@pytest.mark.parametrize("changes, status", [
    (dict(context=CONFIG.contexts), Status.BAD_CONTEXT),
    (dict(context=1), Status.BAD_CONTEXT),
    (dict(codec=5), Status.BAD_CODEC),
    (dict(codec=7), Status.BAD_CODEC),
    (dict(pages=0), Status.BAD_RANGE),
    (dict(pages=GRANULE - 1), Status.BAD_RANGE),
    (dict(first_page=1), Status.BAD_RANGE),
    (dict(first_page=CONFIG.window_pages), Status.BAD_RANGE),
    (dict(first_page=CONFIG.window_pages - GRANULE, pages=2 * GRANULE), Status.BAD_RANGE),
    (dict(index_bits=7), Status.BAD_GEOMETRY),
    (dict(index_bits=6, head_bits=10, layer_bits=12), Status.BAD_GEOMETRY),
    (dict(codec=Codec.SPECKV, setting=1), Status.BAD_DESCRIPTOR),
    (dict(setting=255), Status.BAD_DESCRIPTOR),
    (dict(per_stream=1, index_bits=3, head_bits=1, layer_bits=1, descriptor_base=57), Status.BAD_DESCRIPTOR),
    (dict(per_stream=1, head_bits=4, layer_bits=1, descriptor_base=1), Status.BAD_DESCRIPTOR),
    (dict(per_stream=1, descriptor_base=0xFFFF), Status.BAD_DESCRIPTOR),
    (dict(first_page=0, pages=2 * GRANULE), Status.OVERLAP),
])
def test_create_is_refused(bench, changes, status):
    assert GRANULE == 64
    assert bench.create(1, GRANULE, GRANULE, index_bits=6, head_bits=10, layer_bits=11) == Status.OK
    assert bench.create(**dict(context=2, first_page=4 * GRANULE) | changes) == status
    assert len(bench.device.asked) == 1
    first = REGISTERS.ERROR_FIRST.unpack(bench.read(REGISTERS.ERROR_FIRST))
    assert first == {"kind": ErrorKind.COMMAND, "detail": status, "valid": 1}


@pytest.mark.parametrize("fields", [
    dict(index_bits=3, head_bits=1, layer_bits=1, descriptor_base=CONFIG.descriptors - 8),
    dict(index_bits=6, head_bits=4, layer_bits=4, descriptor_base=CONFIG.descriptors - 1),
    dict(index_bits=0, head_bits=1, layer_bits=0, descriptor_base=CONFIG.descriptors - 4),
])
def test_create_needs_descriptors_of_the_streams_that_exist(bench, fields):
    """As many as the range reaches, at most as many as the geometry names; none without `per_stream`."""
    assert bench.create(0, per_stream=1, **fields) == Status.OK
    record = bench.contexts.record(0)
    assert record.per_stream and record.descriptor_base == fields["descriptor_base"]
    fields["descriptor_base"] += 1
    assert bench.create(1, GRANULE, per_stream=1, **fields) == Status.BAD_DESCRIPTOR
    assert bench.create(1, GRANULE, **fields) == Status.OK


def test_create_that_cannot_clear_leaves_nothing(bench):
    bench.device.bad_page = 3
    assert bench.create() == Status.MEMORY_ERROR
    assert bench.contexts.lookup(0, 0) is None
    bench.device.bad_page = None
    assert bench.create() == Status.OK


def test_destroy_frees_in_order_and_gives_back_the_range(bench):
    bench.create(3, GRANULE, 2 * GRANULE)
    bench.device.asked.clear()
    assert bench.command(Opcode.DESTROY, context=3) == Status.OK
    assert bench.device.asked == [(PageOpKind.FREE, page, 3) for page in range(GRANULE, 3 * GRANULE)]
    assert bench.contexts.lookup(GRANULE, 0) is None
    assert bench.create(4, 2 * GRANULE) == Status.OK
    assert bench.command(Opcode.DESTROY, context=3) == Status.BAD_CONTEXT


def test_page_commands(bench):
    bench.create(3, GRANULE, 2 * GRANULE)
    for opcode, kind in ((Opcode.SEAL, PageOpKind.SEAL), (Opcode.FREE, PageOpKind.FREE),
                         (Opcode.PREFETCH, PageOpKind.PREFETCH), (Opcode.FLUSH, PageOpKind.FLUSH)):
        bench.device.asked.clear()
        assert bench.command(opcode, context=3, first_page=GRANULE + 5, pages=3) == Status.OK
        assert bench.device.asked == [(kind, GRANULE + n, 3) for n in (5, 6, 7)]


def test_page_commands_stay_in_their_context(bench):
    bench.create(3, GRANULE, 2 * GRANULE)
    bench.device.asked.clear()
    for first, pages in ((GRANULE - 1, 2), (3 * GRANULE - 1, 2), (GRANULE, 0), (0, 1), (3 * GRANULE, 1)):
        assert bench.command(Opcode.SEAL, context=3, first_page=first, pages=pages) == Status.BAD_RANGE
    assert bench.command(Opcode.SEAL, context=4, first_page=GRANULE, pages=1) == Status.BAD_CONTEXT
    assert bench.command(Opcode.SEAL, context=4095, first_page=GRANULE, pages=1) == Status.BAD_CONTEXT
    assert bench.device.asked == []


def test_one_bad_page_does_not_stop_the_rest(bench):
    bench.create(3, GRANULE, GRANULE)
    bench.device.asked.clear()
    bench.device.bad_page = GRANULE + 1
    assert bench.command(Opcode.SEAL, context=3, first_page=GRANULE, pages=4) == Status.MEMORY_ERROR
    assert len(bench.device.asked) == 4


@pytest.fixture
def more_codecs():
    """A bench of a device that also has codecs with settings."""
    return Bench(DeviceConfig.small(codecs=("raw", "speckv", "fixed", "variable")))


def test_load_descriptor(more_codecs):
    for codec, setting in ((Codec.RAW, 0), (Codec.SPECKV, 0), (Codec.FIXED, 7), (Codec.FIXED, 16),
                           (Codec.VARIABLE, 0), (Codec.VARIABLE, 255)):
        more_codecs.device.asked.clear()
        assert more_codecs.command(Opcode.LOAD_DESCRIPTOR, descriptor=3, pages=61, codec=codec,
                                   setting=setting) == Status.OK
        assert more_codecs.device.asked == [("load", 3, 61, (codec, setting))]


@pytest.mark.parametrize("changes, status", [
    (dict(codec=Codec.LOSSLESS), Status.BAD_CODEC),
    (dict(codec=7, pages=0), Status.BAD_CODEC),
    (dict(setting=1), Status.BAD_DESCRIPTOR),
    (dict(codec=Codec.RAW, setting=8), Status.BAD_DESCRIPTOR),
    (dict(codec=Codec.FIXED, setting=6), Status.BAD_DESCRIPTOR),
    (dict(codec=Codec.FIXED, setting=17), Status.BAD_DESCRIPTOR),
    (dict(pages=0), Status.BAD_DESCRIPTOR),
    (dict(pages=5), Status.BAD_DESCRIPTOR),
    (dict(descriptor=64), Status.BAD_DESCRIPTOR),
    (dict(descriptor=0xFFFF), Status.BAD_DESCRIPTOR),
    (dict(pages=(1 << 29) - 1), Status.BAD_DESCRIPTOR),
])
def test_load_descriptor_is_refused(more_codecs, changes, status):
    fields = dict(codec=Codec.SPECKV, descriptor=60, pages=4) | changes
    assert more_codecs.command(Opcode.LOAD_DESCRIPTOR, **fields) == status
    assert more_codecs.device.asked == []
    first = REGISTERS.ERROR_FIRST.unpack(more_codecs.read(REGISTERS.ERROR_FIRST))
    assert first == {"kind": ErrorKind.COMMAND, "detail": status, "valid": 1}


def test_other_opcodes(bench):
    assert bench.command(Opcode.NOP) == Status.OK
    for opcode in (Opcode.PIN, Opcode.UNPIN):
        assert bench.command(opcode) == Status.UNSUPPORTED
    assert bench.command(200) == Status.BAD_OPCODE


def test_doorbell_refuses_what_the_slots_cannot_hold(bench):
    for _ in range(3):
        bench.command(Opcode.NOP)
    for tail in (3 + CONFIG.command_slots + 1, 2, 0xFFFF):
        bench.write(REGISTERS.ERROR_CLEAR, 1)
        bench.write(REGISTERS.COMMAND_TAIL, tail)
        assert bench.read(REGISTERS.COMMAND_TAIL) == bench.read(REGISTERS.COMMAND_HEAD) == 3
        assert bench.read(REGISTERS.ERROR_FIRST_ADDRESS) == REGISTERS.COMMAND_TAIL.offset
        first = REGISTERS.ERROR_FIRST.unpack(bench.read(REGISTERS.ERROR_FIRST))
        assert first == {"kind": ErrorKind.COMMAND, "detail": tail, "valid": 1}


def test_nothing_there(bench):
    slots = CONFIG.command_slots
    addresses = (0x004, 0x3FF8, command_slot_offset(slots), completion_offset(slots), 0xC000, 0xFFF8)
    for n, address in enumerate(addresses):
        assert bench.csr.mmio_read(address) == 0
        assert bench.read(REGISTERS.ERROR_LAST_ADDRESS) == address
        bench.csr.mmio_write(address, 1)
        assert bench.read(REGISTERS.ERROR_COUNT) == 2 * n + 2
    last = REGISTERS.ERROR_LAST.unpack(bench.read(REGISTERS.ERROR_LAST))
    assert last == {"kind": ErrorKind.MMIO_ADDRESS, "detail": 1, "valid": 1}
    with pytest.raises(ValueError, match="address must be from 0 to 65535, not 65536"):
        bench.csr.mmio_read(1 << 16)


def test_window_moves_only_while_it_is_not_committed(bench):
    assert bench.csr.hdm_committed and bench.csr.hdm_base == 0
    bench.write(REGISTERS.HDM_BASE, 1 << 40)
    assert bench.csr.hdm_base == 0
    bench.write(REGISTERS.HDM_CONTROL, 0)
    bench.write(REGISTERS.HDM_BASE, (1 << 40) + 12345)
    assert bench.csr.hdm_base == 1 << 40 and not bench.csr.hdm_committed
    bench.write(REGISTERS.HDM_CONTROL, REGISTERS.HDM_CONTROL.pack(commit=1))
    assert bench.csr.hdm_committed
    assert bench.read(REGISTERS.HDM_CONTROL) == REGISTERS.HDM_CONTROL.pack(commit=1, committed=1)


def test_window_beyond_the_address_space_is_not_committed():
    bench = Bench()
    bench.csr = CsrModel(DeviceConfig.small(window_bits=30), bench.contexts, bench.device)
    bench.write(REGISTERS.HDM_CONTROL, 0)
    for base, committed in (((1 << 52) - (1 << 30), True), ((1 << 52) - (1 << 28), False)):
        bench.write(REGISTERS.HDM_CONTROL, 0)
        bench.write(REGISTERS.HDM_BASE, base)
        bench.write(REGISTERS.HDM_CONTROL, REGISTERS.HDM_CONTROL.pack(commit=1))
        assert bench.csr.hdm_committed == committed
        assert REGISTERS.HDM_CONTROL.unpack(bench.read(REGISTERS.HDM_CONTROL))["error"] == (not committed)


def test_pool_low_follows_its_threshold(bench):
    status = REGISTERS.STATUS
    bench.device.free = 100
    for threshold, low in ((100, 0), (101, 1)):
        bench.write(REGISTERS.POOL_LOW_WATER, threshold)
        assert status.unpack(bench.read(status)) == {"ready": 1, "busy": 0, "pool_low": low, "error": 0}
    assert bench.read(REGISTERS.POOL_FREE_SECTORS) == 100


def test_counters_count_and_clear(bench):
    bench.csr.counters.add("CACHE_HITS", 5)
    bench.csr.counters.add("CACHE_HITS")
    bench.csr.counters.add("CACHE_MISSES", (1 << 48) + 7)
    bench.csr.counters.add_latencies([0, 1, 2, 3, 4, 70000])
    assert bench.read(REGISTERS.CACHE_HITS) == 6
    assert bench.read(REGISTERS.CACHE_MISSES) == 7
    assert [bench.csr.counters[f"LATENCY_{n}"] for n in range(16)] == [2, 2, 1] + [0] * 12 + [1]
    bench.write(REGISTERS.COUNTERS_CLEAR, 1)
    assert bench.read(REGISTERS.CACHE_HITS) == 0
    with pytest.raises(KeyError):
        bench.csr.counters.add("SURPRISES")


def test_latency_buckets_are_powers_of_two():
    clocks = [0, 1, 2, 3, 4, 7, 8, 32767, 32768, 65535, 1 << 30]
    assert latency_bucket(clocks).tolist() == [0, 0, 1, 1, 2, 2, 3, 14, 15, 15, 15]
