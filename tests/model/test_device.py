"""The whole model, request by request: page states, messages, contexts, room, reset."""

import numpy as np
import pytest
from device_bench import ALL_LINES, SEED, Bench, addresses, cached, kv_lines, line_address, small

from speckv_model.constants import (
    OPEN_SECTORS,
    PAGE_BYTES,
    PAGE_LINES,
    Codec,
    DrsOpcode,
    Dtype,
    ErrorKind,
    MetaField,
    MetaValue,
    NdrOpcode,
    Opcode,
    PageState,
    ReqOpcode,
    RwdOpcode,
    SnpType,
    Status,
)
from speckv_model.csr.registers import REGISTERS
from speckv_model.cxl import messages
from speckv_model.cxl.messages import Channel, Expect

EMPTY, OPEN, SEALED, POISONED = PageState


@pytest.fixture
def rng():
    print(f"SPECKV_SEED={SEED}")
    return np.random.default_rng(SEED)


@pytest.fixture
def bench():
    return Bench()


# What the page goes through before; each leaves it in the state of the same name.
PATHS = {
    EMPTY: lambda bench, page, rng: None,
    OPEN: lambda bench, page, rng: bench.write(page, [3, 9, 40], kv_lines(rng, 3)),
    SEALED: lambda bench, page, rng: bench.write(page, ALL_LINES, kv_lines(rng, 64)),
    POISONED: lambda bench, page, rng: bench.write(page, [5], kv_lines(rng, 1), poison=1),
}
ACTIONS = {
    "read": lambda bench, page, rng: bench.read(page),
    "write": lambda bench, page, rng: bench.write(page, [7, 9], kv_lines(rng, 2)),
    "write a part": lambda bench, page, rng: bench.write(page, [7, 9], kv_lines(rng, 2),
                                                         byte_enable=[0xFF00, 1 << 63]),
    "write nothing": lambda bench, page, rng: bench.write(page, [7, 9], kv_lines(rng, 2), byte_enable=0),
    "write all": lambda bench, page, rng: bench.write(page, rng.permutation(64), kv_lines(rng, 64)),
    "write poison": lambda bench, page, rng: bench.write(page, [9], kv_lines(rng, 1), poison=1),
    "seal": lambda bench, page, rng: bench.seal(page),
    "free": lambda bench, page, rng: bench.free(page),
    "flush": lambda bench, page, rng: bench.flush(page),
    "prefetch": lambda bench, page, rng: bench.prefetch(page),
    "hint": lambda bench, page, rng: bench.hint(page),
}
CHANGES = {
    "write": {EMPTY: OPEN, SEALED: OPEN},
    "write a part": {EMPTY: OPEN, SEALED: OPEN},
    "write all": {EMPTY: SEALED, OPEN: SEALED},
    "write poison": {EMPTY: POISONED, OPEN: POISONED, SEALED: POISONED},
    "seal": {OPEN: SEALED},
    "free": {OPEN: EMPTY, SEALED: EMPTY, POISONED: EMPTY},
}


@pytest.mark.parametrize("codec", [Codec.RAW, Codec.SPECKV])
@pytest.mark.parametrize("pages", [1, 4])
@pytest.mark.parametrize("in_cache", [True, False])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("before", PageState)
def test_states(rng, before, action, in_cache, pages, codec):
    bench = Bench(cached(pages), codec)
    page = bench.first + 2
    PATHS[before](bench, page, rng)
    if not in_cache:
        bench.flush(page)
    assert bench.state(page) == before
    ACTIONS[action](bench, page, rng)
    assert bench.state(page) == CHANGES.get(action, {}).get(before, before)
    data, poison = bench.read(page)
    bench.flush(page)
    again = bench.read(page)
    np.testing.assert_array_equal(data, again[0])
    np.testing.assert_array_equal(poison, again[1])
    assert (bench.entry(page).state in (OPEN, SEALED)) == bench.entry(page).has_place
    bench.check_pool()


def test_each_stream_is_sealed_by_its_descriptor(bench, rng):
    """Whatever the context's own codec is; another context, without descriptors, is not concerned."""
    first, pages = 4 * bench.config.granule_pages, bench.config.granule_pages
    codecs = [Codec.RAW, Codec.SPECKV, Codec.SPECKV, Codec.RAW]
    bench.create_per_stream(2, first, pages, codecs, index_bits=4, descriptor=bench.config.descriptors - 4)
    for page in first + rng.permutation(pages)[:24]:
        bench.write(page, ALL_LINES, kv_lines(rng, 64))
        assert bench.state(page) == SEALED and bench.entry(page).codec == codecs[page - first >> 4]
        bench.read(page)
    bench.write(bench.first, ALL_LINES, kv_lines(rng, 64))
    assert bench.entry(bench.first).codec == Codec.SPECKV
    bench.read(bench.first)


def test_descriptors_are_raw_after_a_reset(bench, rng):
    assert bench.command(Opcode.LOAD_DESCRIPTOR, pages=64, codec=Codec.SPECKV) == Status.OK
    bench.device.reset()
    assert bench.command(Opcode.CREATE, 1, bench.first, bench.pages, per_stream=1, head_bits=5) == Status.OK
    for page in range(bench.first, bench.first + bench.pages, 9):
        bench.device.submit(messages.writes(addresses(page, ALL_LINES), kv_lines(rng, 64)))
        assert (bench.entry(page).state, bench.entry(page).codec) == (SEALED, Codec.RAW)


def test_64th_distinct_line_seals(bench, rng):
    page = bench.first
    lines = np.concatenate([np.arange(63), np.arange(63)])
    bench.write(page, lines, kv_lines(rng, len(lines)))
    assert bench.state(page) == OPEN
    bench.write(page, [63], kv_lines(rng, 1))
    assert bench.state(page) == SEALED
    assert bench.entry(page).codec == Codec.SPECKV
    bench.read(page)


def test_a_run_of_writes_seals_where_the_64th_line_is(bench, rng):
    page = bench.first
    lines = np.concatenate([[1, 1, 2], np.arange(64), [5, 6, 5], np.arange(64), [0]])
    bench.write(page, lines, kv_lines(rng, len(lines)))
    assert bench.counter("PAGES_SEALED") == 2
    assert bench.counter("PAGES_OPENED") == 3
    assert bench.state(page) == OPEN
    bench.read(page)


def test_reopened_page_keeps_its_other_lines(bench, rng):
    page = bench.first
    bench.write(page, ALL_LINES, kv_lines(rng, 64))
    sealed, _ = bench.read(page)
    for n in range(3):
        new = kv_lines(rng, 1)
        bench.write(page, [n], new)
        bench.flush(page)
        data, _ = bench.read(page)
        np.testing.assert_array_equal(data[n], new[0])
        np.testing.assert_array_equal(data[3:], sealed[3:])
        bench.seal(page)
        # What the codec gave once it gives again: the rows that were not touched lose nothing more.
        data, _ = bench.read(page)
        np.testing.assert_array_equal(data[4:], sealed[4:])


def test_partial_writes_to_lines_without_content_start_from_zeros(bench):
    page = bench.first
    bench.write(page, [4], np.full((1, 64), 0xAA), byte_enable=0b1010)
    data, _ = bench.read(page, [4])
    assert data[0].tolist() == [0, 0xAA, 0, 0xAA] + 60 * [0]
    bench.write(page, [4, 4], np.full((2, 64), 0x55), byte_enable=[0b0001, 1 << 63])
    data, _ = bench.read(page, [4])
    assert data[0].tolist() == [0x55, 0xAA, 0, 0xAA] + 59 * [0] + [0x55]


def test_a_write_that_enables_nothing_changes_nothing(bench, rng):
    page = bench.first
    bench.write(page, [0], kv_lines(rng, 1), byte_enable=0)
    assert bench.state(page) == EMPTY
    bench.write(page, np.arange(63), kv_lines(rng, 63))
    bench.write(page, [63], kv_lines(rng, 1), byte_enable=0)
    assert bench.state(page) == OPEN
    assert bench.errors()[2] == 0


def test_pages_that_do_not_shrink_are_stored_raw(bench, rng):
    page = bench.first
    noise = rng.integers(0, 256, (64, 64), np.uint8)
    bench.write(page, ALL_LINES, noise)
    bench.read(page)
    assert bench.entry(page).codec in (Codec.RAW, Codec.SPECKV)
    assert bench.entry(page).lines <= PAGE_LINES


def test_poison_write(bench, rng):
    page = bench.first
    free = bench.device.pool.free_sectors
    bench.write(page, ALL_LINES, kv_lines(rng, 64))
    bench.write(page, [1], kv_lines(rng, 1), poison=1)
    assert bench.only_error() == (ErrorKind.HOST_POISON, line_address(page, 1), 0)
    assert bench.device.pool.free_sectors == free
    data, poison = bench.read(page)
    assert poison.all() and not data.any()
    bench.clear_errors()
    bench.write(page, [2, 3], kv_lines(rng, 2))
    first, last, count = bench.errors()
    assert first == (ErrorKind.WRITE_POISONED, line_address(page, 2), 0)
    assert last == (ErrorKind.WRITE_POISONED, line_address(page, 3), 0)
    assert count == 2


# Messages

COMPLETIONS = [(MetaValue.INVALID, NdrOpcode.CMP), (MetaValue.ANY, NdrOpcode.CMP_E),
               (MetaValue.SHARED, NdrOpcode.CMP_S)]


def request(channel, opcode, **fields):
    requests = np.zeros(1, messages.REQUEST)
    requests["channel"], requests["opcode"], requests["meta_field"] = channel, opcode, MetaField.NO_OP
    for name, value in fields.items():
        requests[name] = value
    requests["expect"] = messages.expected(requests)
    return requests


@pytest.mark.parametrize("opcode", [ReqOpcode.MEM_RD, ReqOpcode.MEM_RD_DATA])
@pytest.mark.parametrize("snp_type", SnpType)
@pytest.mark.parametrize("meta_value, completion", COMPLETIONS)
@pytest.mark.parametrize("meta_field", MetaField)
def test_answers_to_reads(bench, rng, opcode, snp_type, meta_field, meta_value, completion):
    line = kv_lines(rng, 1)
    bench.write(bench.first, [0], line)
    [response] = bench.submit(request(Channel.REQ, opcode, snp_type=snp_type, meta_field=meta_field,
                                      meta_value=meta_value, address=addresses(bench.first, 0)))
    wants_state = meta_field == MetaField.META0_STATE and snp_type != SnpType.NO_OP
    assert response["kind"] == (Expect.DRS | Expect.NDR if wants_state else Expect.DRS)
    if wants_state:
        assert response["ndr_opcode"] == completion
    assert response["drs_opcode"] == DrsOpcode.MEM_DATA
    assert (response["meta_field"], response["meta_value"]) == (MetaField.NO_OP, 0)
    np.testing.assert_array_equal(response["data"], line[0])


@pytest.mark.parametrize("opcode", [ReqOpcode.MEM_INV, ReqOpcode.MEM_INV_NT])
@pytest.mark.parametrize("meta_value, completion", COMPLETIONS)
@pytest.mark.parametrize("meta_field", MetaField)
def test_answers_to_invalidations(bench, opcode, meta_field, meta_value, completion):
    requests = request(Channel.REQ, opcode, meta_field=meta_field, meta_value=meta_value, ld_id=7)
    [response] = bench.submit(requests)
    assert response["kind"] == Expect.NDR
    assert response["ld_id"] == 7
    assert response["ndr_opcode"] == (completion if meta_field == MetaField.META0_STATE else NdrOpcode.CMP)
    assert bench.errors()[2] == 0
    assert bench.counter("REQ_INVALIDATES") == 1


@pytest.mark.parametrize("opcode", RwdOpcode)
def test_answers_to_writes(bench, opcode):
    [response] = bench.submit(request(Channel.RWD, opcode, address=addresses(bench.first, 0),
                                      meta_field=MetaField.META0_STATE, meta_value=MetaValue.ANY))
    assert response["kind"] == Expect.NDR
    assert response["ndr_opcode"] == NdrOpcode.CMP
    assert not response["data"].any()


def test_hints_are_not_answered(bench):
    responses = bench.submit(messages.hints(addresses(bench.first, [0])))
    assert responses.tobytes() == bytes(responses.nbytes)


@pytest.mark.parametrize("channel", Channel)
def test_unknown_opcodes_are_completed_and_logged(bench, channel):
    req = {ReqOpcode.MEM_RD, ReqOpcode.MEM_RD_DATA, ReqOpcode.MEM_INV, ReqOpcode.MEM_INV_NT,
           ReqOpcode.MEM_SPEC_RD}
    known = req if channel == Channel.REQ else set(RwdOpcode)
    kind = (ErrorKind.BAD_REQ_OPCODE, ErrorKind.BAD_RWD_OPCODE)[channel]
    unknown = [opcode for opcode in range(16) if opcode not in known]
    for opcode in unknown:
        bench.clear_errors()
        [response] = bench.device.submit(request(channel, opcode, address=addresses(bench.first, 9),
                                                 meta_field=MetaField.META0_STATE, meta_value=MetaValue.ANY))
        assert (response["kind"], response["ndr_opcode"]) == (Expect.NDR, NdrOpcode.CMP)
        assert bench.only_error() == (kind, line_address(bench.first, 9), opcode)
    assert bench.counter("REQ_OTHER") == len(unknown)
    assert bench.state(bench.first) == EMPTY


# Where addresses lead


def test_outside_any_context(bench, rng):
    page = bench.first + bench.pages
    data, poison = bench.read(page, [3])
    assert not data.any() and not poison.any()
    assert bench.only_error() == (ErrorKind.READ_OUTSIDE, line_address(page, 3), 0)
    bench.clear_errors()
    [response] = bench.write(page, [4], kv_lines(rng, 1))
    assert response["kind"] == Expect.NDR
    assert bench.only_error() == (ErrorKind.WRITE_OUTSIDE, line_address(page, 4), 0)
    bench.hint(page)
    assert bench.errors()[2] == 1


@pytest.mark.parametrize("base", [0, 1 << 28, 0xABC << 28, (1 << 52) - (1 << 28)])
def test_window_base(bench, rng, base):
    bench.device.mmio_write(REGISTERS.HDM_CONTROL.offset, 0)
    bench.device.mmio_write(REGISTERS.HDM_BASE.offset, base)
    bench.device.mmio_write(REGISTERS.HDM_CONTROL.offset, REGISTERS.HDM_CONTROL.pack(commit=1))
    line, window = kv_lines(rng, 1), bench.config.window_bytes
    address = int(addresses(bench.first, 0))
    bench.device.submit(messages.writes([base + address], line))
    around = [(base + delta + address) % (1 << 52) for delta in (-window, window, 0)]
    below, above, inside = bench.device.submit(messages.reads(around))
    assert below["drs_opcode"] == above["drs_opcode"] == DrsOpcode.MEM_DATA_NXM
    assert not below["data"].any() and not above["data"].any()
    np.testing.assert_array_equal(inside["data"], line[0])
    assert bench.errors()[:2] == ((ErrorKind.READ_OUTSIDE, address, 0),) * 2


def test_window_that_is_not_committed(bench):
    bench.device.mmio_write(REGISTERS.HDM_CONTROL.offset, 0)
    [response] = bench.device.submit(messages.reads([addresses(bench.first, 0)]))
    assert response["drs_opcode"] == DrsOpcode.MEM_DATA_NXM


def test_owners_are_kept_apart(bench, rng):
    other = 2 * bench.first
    assert bench.create(2, other, bench.pages, ld_id=5) == Status.OK
    line = kv_lines(rng, 1)
    bench.write(bench.first, [0], line, ld_id=0)
    bench.write(other, [0], line, ld_id=5)
    assert bench.errors()[2] == 0
    for page, stranger in ((bench.first, 5), (other, 0), (other, 6)):
        bench.clear_errors()
        data, _ = bench.read(page, [0], ld_id=stranger)
        assert not data.any()
        assert bench.only_error()[0] == ErrorKind.READ_OUTSIDE
        bench.clear_errors()
        bench.write(page, [0], kv_lines(rng, 1), ld_id=stranger)
        assert bench.only_error()[0] == ErrorKind.WRITE_OUTSIDE
    bench.read(bench.first, [0])
    [response] = bench.submit(messages.reads([addresses(other, 0)], ld_id=5))
    assert response["ld_id"] == 5
    np.testing.assert_array_equal(response["data"], line[0])


# Room


def fill_pool(bench, rng, context=1):
    """Opens pages of the context until there is no room for another. Returns how many."""
    pages = 0
    while bench.device.pool.free_sectors >= OPEN_SECTORS and bench.errors()[2] == 0:
        bench.write(bench.first + pages, [pages], kv_lines(rng, 1))
        pages += 1
    return pages - bench.errors()[2]


@pytest.mark.parametrize("cache_pages", [1, 4, 64])
def test_full_pool(rng, cache_pages):
    bench = Bench(cached(cache_pages), Codec.RAW)
    sealed = bench.first + 60
    bench.write(sealed, ALL_LINES, kv_lines(rng, 64))
    pages = fill_pool(bench, rng)
    assert 0 < pages < bench.pages - 4
    refused = bench.first + pages
    assert bench.only_error() == (ErrorKind.NO_ROOM, line_address(refused, pages), 0)
    assert bench.state(refused) == POISONED
    assert bench.read(refused)[1].all()

    # A write to a SEALED page is dropped, and the page stays what it was.
    bench.clear_errors()
    bench.write(sealed, [1, 2], kv_lines(rng, 2))
    assert bench.errors() == ((ErrorKind.NO_ROOM, line_address(sealed, 1), 0),
                              (ErrorKind.NO_ROOM, line_address(sealed, 2), 0), 2)
    assert bench.state(sealed) == SEALED
    bench.read(sealed)

    # OPEN pages take writes and can be sealed: in the room that they have.
    bench.clear_errors()
    for page in range(bench.first, bench.first + pages):
        bench.write(page, ALL_LINES, kv_lines(rng, 64))
        assert bench.state(page) == SEALED
    for page in range(bench.first, bench.first + pages):
        bench.read(page)
    assert bench.errors()[2] == 0
    bench.check_pool()

    # What is freed can be used again.
    bench.free(refused)
    for page in range(bench.first, bench.first + 4):
        bench.free(page)
    bench.write(refused, [0], kv_lines(rng, 1))
    bench.write(sealed, [1], kv_lines(rng, 1))
    assert bench.state(refused) == bench.state(sealed) == OPEN
    bench.read(refused)
    bench.read(sealed)
    bench.check_pool()


# Contexts come and go


def test_destroy_then_create_shows_nothing_old(bench, rng):
    config, free = bench.config, bench.device.pool.free_sectors
    kept = 4 * bench.first
    bench.create(9, kept, bench.pages)
    bench.write(kept, ALL_LINES, kv_lines(rng, 64))
    held = free - bench.device.pool.free_sectors
    for page in range(bench.first, bench.first + 12):
        lines = rng.permutation(64)[:rng.integers(1, 65)]
        bench.write(page, lines, kv_lines(rng, len(lines)))
    assert bench.destroy() == Status.OK
    assert bench.device.pool.free_sectors == free - held
    assert (bench.read(bench.first, [0])[0] == 0).all()
    assert bench.create(3, bench.first, bench.pages, Codec.RAW, Dtype.BF16, ld_id=2) == Status.OK
    for page in range(bench.first, bench.first + 12):
        data, poison = bench.read(page, ld_id=2)
        assert not data.any() and not poison.any()
        bench.write(page, [50], kv_lines(rng, 1), byte_enable=1, ld_id=2)
        bench.read(page, ld_id=2)
    bench.read(kept)
    assert config.cache_pages < 12


def test_create_over_garbage(rng):
    bench = Bench()
    bench.destroy()
    dram = bench.device.dram
    noise = rng.integers(0, 256, (bench.config.dram_bytes // 64, 64), np.uint8)
    dram.write_lines(0, noise)
    assert bench.create(1, bench.first, bench.pages) == Status.OK
    for page in range(bench.first, bench.first + bench.pages):
        data, poison = bench.read(page)
        assert not data.any() and not poison.any()
    bench.write(bench.first, [1], kv_lines(rng, 1))
    bench.flush(bench.first)
    bench.read(bench.first)
    assert bench.errors()[2] == 0


def test_commands_name_their_context(bench, rng):
    bench.write(bench.first, [0], kv_lines(rng, 1))
    for opcode in (Opcode.SEAL, Opcode.FREE, Opcode.FLUSH, Opcode.PREFETCH):
        assert bench.command(opcode, context=2) == Status.BAD_CONTEXT
        assert bench.command(opcode, first_page=bench.first - 1) == Status.BAD_RANGE
        assert bench.command(opcode, first_page=bench.first + 1, pages=bench.pages) == Status.BAD_RANGE
    bench.read(bench.first)


def test_commands_work_on_ranges(bench, rng):
    pages = range(bench.first + 1, bench.first + 9)
    for page in pages:
        bench.write(page, [page % 64], kv_lines(rng, 1))
    for page in pages:
        bench.reference.seal(page)
    assert bench.command(Opcode.SEAL, first_page=pages[0], pages=len(pages)) == Status.OK
    assert {bench.state(page) for page in pages} == {SEALED}
    for page in pages:
        bench.read(page)
    for page in pages:
        bench.reference.free(page)
    assert bench.command(Opcode.FREE, first_page=pages[0], pages=len(pages)) == Status.OK
    assert {bench.state(page) for page in pages} == {EMPTY}
    assert bench.device.pool.free_sectors == bench.config.pool_sectors


def test_reset_in_the_middle(bench, rng):
    for page in range(bench.first, bench.first + 6):
        bench.write(page, [1], kv_lines(rng, 1))
    bench.device.reset()
    assert bench.device.pool.free_sectors == bench.config.pool_sectors
    assert bench.counter("REQ_WRITES") == 0
    [response] = bench.device.submit(messages.reads([addresses(bench.first, 1)]))
    assert response["drs_opcode"] == DrsOpcode.MEM_DATA_NXM
    bench.reference = type(bench.reference)(bench.config)
    assert bench.create(1, bench.first, bench.pages) == Status.OK
    for page in range(bench.first, bench.first + 6):
        assert not bench.read(page)[0].any()
    bench.write(bench.first, ALL_LINES, kv_lines(rng, 64))
    bench.read(bench.first)


# Prefetching and counting


def test_prefetch_brings_a_page_and_never_displaces_an_open_one(rng):
    bench = Bench(small(cache_pages=2, cache_ways=2))
    sealed = [bench.first + n for n in range(4)]
    for page in sealed:
        bench.write(page, ALL_LINES, kv_lines(rng, 64))
    bench.hint(sealed[0])
    assert (bench.counter("PREFETCHES_ISSUED"), bench.counter("PREFETCHES_USED")) == (1, 0)
    bench.hint(sealed[0])
    assert (bench.counter("PREFETCHES_ISSUED"), bench.counter("PREFETCHES_DROPPED")) == (1, 0)
    bench.read(sealed[0])
    assert (bench.counter("PREFETCHES_USED"), bench.counter("CACHE_MISSES")) == (1, 4)
    opened = [bench.first + n for n in (8, 9)]
    for page in opened:
        bench.write(page, [0], kv_lines(rng, 1))
    bench.hint(sealed[1])
    bench.prefetch(sealed[2])
    assert (bench.counter("PREFETCHES_ISSUED"), bench.counter("PREFETCHES_DROPPED")) == (1, 2)
    assert bench.counter("PAGES_SPILLED") == 0


def test_hints_can_be_switched_off(bench):
    bench.device.mmio_write(REGISTERS.CONTROL.offset, REGISTERS.CONTROL.pack(prefetch_enable=0))
    bench.hint(bench.first)
    assert (bench.counter("PREFETCHES_ISSUED"), bench.counter("PREFETCHES_DROPPED")) == (0, 1)


def test_counters(bench, rng):
    page = bench.first
    bench.write(page, ALL_LINES, kv_lines(rng, 64))
    bench.write(page + 1, [0, 1], kv_lines(rng, 2), byte_enable=1)
    bench.read(page)
    bench.hint(page + 1)
    lines = bench.entry(page).lines
    expected = dict(REQ_READS=64, REQ_WRITES=64, REQ_PARTIAL_WRITES=2, REQ_HINTS=1, CACHE_MISSES=3,
                    CACHE_HITS=127, PAGES_OPENED=2, PAGES_SEALED=1, PAGES_FETCHED=3, PAGES_SPILLED=0,
                    SEAL_LINES_IN=64, SEAL_LINES_OUT=lines, FETCH_LINES_IN=lines, FETCH_LINES_OUT=64)
    assert {name: bench.counter(name) for name in expected} == expected


def test_a_page_filled_in_order_goes_to_dram_once(bench):
    # Rows of one value are what any codec shrinks.
    page = bench.first
    bench.write(page, ALL_LINES, np.tile(np.full(32, 1.5, np.float16).view(np.uint8), (64, 1)))
    cleared, entry_writes = bench.config.granule_pages // 4, 2
    assert bench.counter("DRAM_LINES_WRITTEN") == cleared + entry_writes + bench.entry(page).lines
    assert bench.entry(page).lines * 64 <= 0.35 * PAGE_BYTES
