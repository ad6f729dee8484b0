"""Poison, addresses that do not exist, memory errors, a full pool, refused commands: what is lost, and what
is not.
"""

import numpy as np
import pytest

import speckv
from speckv.device import Device
from speckv.traffic import kv_lines
from speckv_model.constants import (
    ENTRY_BYTES,
    LINE_BYTES,
    PAGE_BYTES,
    PAGE_LINES,
    Codec,
    DrsOpcode,
    Dtype,
    ErrorKind,
    Opcode,
    PageState,
    Status,
)
from speckv_model.csr.registers import REGISTERS
from speckv_model.cxl import messages
from speckv_model.table.entry import Entry

LINES = kv_lines(Dtype.FP16)


def fill(device, context, pages, seed=0):
    """Writes whole pages of `context`, so that they are sealed. Returns what they hold: uint8, (pages, 64,
    64).
    """
    lines = np.arange(pages * PAGE_LINES)
    device.store(
        context.address + lines * LINE_BYTES, LINES[(lines + 64 * seed) % len(LINES)], ld_id=context.ld_id
    )
    return device.load(context.address + lines * LINE_BYTES, ld_id=context.ld_id).reshape(
        pages, PAGE_LINES, LINE_BYTES
    )


def page_addresses(context, page):
    return context.address + page * PAGE_BYTES + LINE_BYTES * np.arange(PAGE_LINES)


def entry(device, context, page):
    """The page table entry of a page, from DRAM."""
    return Entry.unpack(device.link.dram_read(ENTRY_BYTES * (context.first_page + page), ENTRY_BYTES))


def flush(device, context, pages):
    device.commands.run(
        dict(opcode=Opcode.FLUSH, context=context.number, first_page=context.first_page, pages=pages)
    )


def assert_page(device, context, page, expected, lost=()):
    """Page `page` holds `expected`, but for the lines `lost`, which are poison."""
    data, poison = device.load(page_addresses(context, page), poison="mask", ld_id=context.ld_id)
    assert np.flatnonzero(poison).tolist() == list(lost)
    np.testing.assert_array_equal(data[~poison], expected[~poison])


def test_lines_with_byte_enables(device, seed):
    rng = np.random.default_rng(seed)
    context = device.create_context(1, 1, 128, 64)
    expected = np.zeros((4 * PAGE_LINES, LINE_BYTES), np.uint8)
    for _ in range(6):
        where = rng.integers(0, 4 * PAGE_LINES, 100)
        data = rng.integers(0, 256, (100, LINE_BYTES), np.uint8)
        enable = rng.integers(0, 1 << 64, 100, np.uint64)
        device.store(context.address + where * LINE_BYTES, data, byte_enable=enable)
        for line, values, bits in zip(where, data, np.unpackbits(enable.view(np.uint8).reshape(-1, 8), axis=1,
                                                                  bitorder="little")):
            expected[line] = np.where(bits, values, expected[line])
        device.store(context.address, expected[0], byte_enable=0)
    got = device.load(context.address + np.arange(4 * PAGE_LINES).reshape(4, PAGE_LINES) * LINE_BYTES)
    np.testing.assert_array_equal(got.reshape(-1, LINE_BYTES), expected)


@pytest.mark.parametrize("codec", ["raw", "speckv"])
@pytest.mark.parametrize("before", ["empty", "open", "sealed"])
def test_poison_written_by_the_host(device, codec, before):
    context = device.create_context(1, 1, 128, 64, codec=codec)
    held = fill(device, context, 3)
    if before == "empty":
        device.commands.run(dict(opcode=Opcode.FREE, context=0, first_page=context.first_page + 1, pages=1))
    elif before == "open":
        device.store(page_addresses(context, 1)[5], LINES[7])
    where = page_addresses(context, 1)
    device.store(where[9], LINES[0], poison=True)
    for page in (0, 2):
        assert_page(device, context, page, held[page])
    assert_page(device, context, 1, held[1], lost=range(PAGE_LINES))
    stats = device.stats()
    assert stats.first_error.kind == ErrorKind.HOST_POISON
    assert stats.first_error.address == int(where[9])
    # Nothing but FREE brings the page back.
    device.store(where, LINES[:PAGE_LINES])
    with pytest.raises(speckv.PoisonError, match="HOST_POISON") as caught:
        device.load(where)
    assert len(caught.value.addresses) == PAGE_LINES
    assert device.stats().last_error.kind == ErrorKind.WRITE_POISONED
    device.commands.run(dict(opcode=Opcode.FREE, context=0, first_page=context.first_page + 1, pages=1))
    assert not device.load(where).any()
    device.store(where[3], LINES[9])
    np.testing.assert_array_equal(device.load(where[3]), LINES[9])
    device.clear_errors()
    assert device.stats().first_error is None


def test_poison_names_tokens_and_the_rest_can_be_read(device):
    context = device.create_context(2, 2, 128, 64)
    rng = np.random.default_rng(1)
    k, v = rng.standard_normal((2, 40, 2, 128)).astype(np.float16)
    for layer in range(2):
        context.append(layer, k, v)
    device.store(context.line_addresses(1, 0, 40)[1, 0, 70], LINES[0], poison=True)
    with pytest.raises(speckv.PoisonError, match="layer 1.*K of head 1, tokens 16 to 32") as caught:
        context.read(1, 0, 40)
    assert caught.value.tokens == [(1, 1, "k", 16, 32)]
    context.read(0, 0, 40)
    got_k, got_v, lost = context.read(1, 0, 40, poison="mask")
    assert lost.sum() == 16 and lost[0, 16:32, 1].all()
    np.testing.assert_array_equal(got_v, v)
    np.testing.assert_array_equal(got_k[~lost[0]], k[~lost[0]])


def test_addresses_in_no_context_of_the_asker(device):
    context = device.create_context(1, 1, 128, 64, ld_id=3)
    held = fill(device, context, 1)[0]
    inside = page_addresses(context, 0)
    outside = np.concatenate(
        [inside + context.pages * PAGE_BYTES, inside + device.config.window_bytes, inside + (1 << 50)]
    )
    link = device.link
    for requests in (messages.reads(outside, ld_id=3), messages.reads(inside, ld_id=4)):
        responses = link.submit(requests)
        assert np.all(responses["drs_opcode"] == DrsOpcode.MEM_DATA_NXM)
        assert not responses["data"].any() and not responses["poison"].any()
        assert np.all(responses["ld_id"] == requests["ld_id"])
        stats = device.stats()
        assert stats.error_count == requests.size
        assert stats.first_error.kind == stats.last_error.kind == ErrorKind.READ_OUTSIDE
        device.clear_errors()
    for requests in (messages.writes(outside, np.ones((outside.size, 64)), ld_id=3),
                     messages.writes(inside, np.ones((inside.size, 64)), ld_id=4)):
        assert np.all(link.submit(requests)["kind"] == messages.Expect.NDR)
        stats = device.stats()
        assert stats.error_count == requests.size and stats.first_error.kind == ErrorKind.WRITE_OUTSIDE
        device.clear_errors()
    assert_page(device, context, 0, held)
    with pytest.raises(speckv.AddressError, match="context of the asker"):
        device.load(inside, ld_id=4)


@pytest.mark.parametrize("codec, lost", [("raw", [10, 11, 12]), ("speckv", list(range(PAGE_LINES)))])
def test_a_memory_error_becomes_poison_of_the_lines_concerned(device, codec, lost):
    context = device.create_context(1, 1, 128, 96, codec=codec)
    held = fill(device, context, 6)
    flush(device, context, 6)
    damaged = entry(device, context, 2)
    assert damaged.state == PageState.SEALED
    device.link.dram_fail(device.config.sector_line(damaged.place) + 10, 3)
    for page in range(6):
        assert_page(device, context, page, held[page], lost if page == 2 else ())
    first = device.stats().first_error
    assert (first.kind, first.address // PAGE_BYTES) == (ErrorKind.MEMORY_READ, context.first_page + 2)
    device.link.dram_heal()
    flush(device, context, 6)
    for page in range(6):
        assert_page(device, context, page, held[page])


def test_a_memory_error_in_an_open_page(device):
    context = device.create_context(1, 1, 128, 96, codec="speckv")
    where = page_addresses(context, 0)
    device.store(where[:20], LINES[:20])
    flush(device, context, 1)
    spilled = entry(device, context, 0)
    assert spilled.state == PageState.OPEN
    # The page's lines follow its header.
    device.link.dram_fail(device.config.sector_line(spilled.place) + 1 + 4, 2)
    assert_page(device, context, 0, np.concatenate([LINES[:20], np.zeros((44, 64), np.uint8)]), [4, 5])


@pytest.mark.parametrize("codec", ["raw", "speckv"])
def test_stored_bytes_that_changed_become_poison(device, codec):
    context = device.create_context(1, 1, 128, 96, codec=codec)
    held = fill(device, context, 3)
    flush(device, context, 3)
    damaged = entry(device, context, 1)
    assert damaged.codec == Codec[codec.upper()]
    address = device.config.sector_line(damaged.place) * LINE_BYTES + 333
    byte = device.link.dram_read(address, 1)[0]
    device.link.dram_write(address, bytes([byte ^ 0x10]))
    for page in range(3):
        assert_page(device, context, page, held[page], range(PAGE_LINES) if page == 1 else ())
    assert device.stats().first_error.kind == ErrorKind.PAGE_CORRUPT
    # The stored bytes are judged each time that they are fetched.
    flush(device, context, 3)
    assert_page(device, context, 1, held[1], range(PAGE_LINES))
    device.link.dram_write(address, bytes([byte]))
    flush(device, context, 3)
    assert_page(device, context, 1, held[1])


def test_a_full_pool_refuses_new_pages_and_keeps_the_old(device):
    context = device.create_context(1, 1, 128, 16 * 300)
    pages = device.config.pool_sectors // 32
    lines = np.arange(pages * PAGE_LINES)
    content = LINES[lines % len(LINES)]
    for start in range(0, pages * PAGE_LINES, 16 * PAGE_LINES):
        part = slice(start, start + 16 * PAGE_LINES)
        device.store(context.address + lines[part] * LINE_BYTES, content[part])
    stats = device.stats()
    assert stats.first_error.kind == ErrorKind.NO_ROOM
    assert device.link.mmio_read(REGISTERS.STATUS.offset) & REGISTERS.STATUS.field("pool_low").mask
    data, poison = device.load(context.address + lines * LINE_BYTES, poison="mask")
    poison = poison.reshape(pages, PAGE_LINES)
    refused = poison.any(axis=1)
    assert np.array_equal(refused, poison.all(axis=1)), "a page is lost as a whole or not at all"
    assert 0 < refused.sum() < pages // 8 and not refused[:pages // 2].any()
    held = ~np.repeat(refused, PAGE_LINES)
    np.testing.assert_array_equal(data[held], content[held])
    assert stats.first_error.address // PAGE_BYTES == context.first_page + np.flatnonzero(refused)[0]
    # Room that comes back can be used at once.
    device.commands.run(
        dict(opcode=Opcode.FREE, context=0, first_page=context.first_page, pages=8),
        dict(opcode=Opcode.FREE, context=0, first_page=context.first_page + pages - 1, pages=1),
    )
    where = page_addresses(context, pages - 1)
    device.store(where, LINES[:PAGE_LINES])
    np.testing.assert_array_equal(device.load(where), LINES[:PAGE_LINES])


def test_refused_commands_say_why_and_touch_nothing(device):
    context = device.create_context(1, 1, 128, 64)
    held = fill(device, context, 2)
    first, granule = context.first_page, device.config.granule_pages
    free = dict(first_page=first + context.pages, pages=granule)
    for fields, status in [
        (dict(opcode=200), Status.BAD_OPCODE),
        (dict(opcode=Opcode.PIN, context=0, first_page=first, pages=1), Status.UNSUPPORTED),
        (dict(opcode=Opcode.CREATE, context=0, **free), Status.BAD_CONTEXT),
        (dict(opcode=Opcode.CREATE, context=device.config.contexts, **free), Status.BAD_CONTEXT),
        (dict(opcode=Opcode.CREATE, context=1, first_page=first, pages=granule), Status.OVERLAP),
        (dict(opcode=Opcode.CREATE, context=1, first_page=first + 1, pages=granule), Status.BAD_RANGE),
        (
            dict(opcode=Opcode.CREATE, context=1, first_page=device.config.window_pages, pages=granule),
            Status.BAD_RANGE,
        ),
        (dict(opcode=Opcode.CREATE, context=1, codec=5, **free), Status.BAD_CODEC),
        (dict(opcode=Opcode.CREATE, context=1, index_bits=28, **free), Status.BAD_GEOMETRY),
        (dict(opcode=Opcode.CREATE, context=1, setting=1, **free), Status.BAD_DESCRIPTOR),
        (dict(opcode=Opcode.LOAD_DESCRIPTOR, pages=1, setting=1), Status.BAD_DESCRIPTOR),
        (dict(opcode=Opcode.DESTROY, context=1), Status.BAD_CONTEXT),
        (dict(opcode=Opcode.FREE, context=1, first_page=first, pages=1), Status.BAD_CONTEXT),
        (dict(opcode=Opcode.FREE, context=0, first_page=first, pages=context.pages + 1), Status.BAD_RANGE),
    ]:
        device.clear_errors()
        with pytest.raises(speckv.CommandError, match=status.name) as caught:
            device.commands.run(fields)
        assert caught.value.status == status
        record = device.stats().first_error
        assert (record.kind, record.detail) == (ErrorKind.COMMAND, status)
    for page in range(2):
        assert_page(device, context, page, held[page])


def test_stats_count_what_was_done(device):
    context = device.create_context(1, 2, 128, 64, codec="speckv")
    k, v = LINES[:2 * 64 * 2 * 4].view(np.float16).reshape(2, 64, 2, 128)
    before = device.stats()
    context.append(0, k, v)
    context.read(0, 0, 64)
    device.store(context.address, LINES[0], byte_enable=1)
    grown = device.stats() - before
    lines = 64 * 2 * 2 * 4
    assert grown.lines_read == lines and grown.lines_written == lines + 1
    assert grown["REQ_HINTS"] == 15
    assert grown["PAGES_SEALED"] == 16 and grown["PAGES_OPENED"] == 17
    page_side, stored_side = grown.sealed_bytes
    assert page_side == 16 * PAGE_BYTES and 0 < stored_side < page_side
    # Every request that has to wait for its page is a miss; only a simulated link has some that wait.
    assert 0 < grown.hit_rate < 1
    assert grown["CACHE_HITS"] + grown["CACHE_MISSES"] == 2 * lines + 1
    assert grown.error_count == 0 and grown.first_error is None
    assert grown.held_bytes == 64 * 2 * 2 * 256
    context.seal()
    assert 1 < device.stats().ratio <= page_side / stored_side
    device.clear_counters()
    assert device.stats().lines_read == 0


def test_a_reset_leaves_an_empty_and_working_device(device):
    context = device.create_context(1, 2, 128, 64, codec="speckv")
    fill(device, context, 3)
    device.link.reset()
    again = Device(device.link)
    stats = again.stats()
    assert stats.pool_free_sectors == stats.pool_sectors and stats.error_count == 0
    assert np.all(
        again.link.submit(messages.reads(page_addresses(context, 0)))["drs_opcode"] == DrsOpcode.MEM_DATA_NXM
    )
    context = again.create_context(1, 2, 128, 64, codec="speckv")
    assert not again.load(page_addresses(context, 0)).any()
    fill(again, context, 3)


def test_a_window_elsewhere(device):
    link, base = device.link, 0x1_2340_0000_0000
    link.mmio_write(REGISTERS.HDM_CONTROL.offset, 0)
    link.mmio_write(REGISTERS.HDM_BASE.offset, base)
    link.mmio_write(REGISTERS.HDM_CONTROL.offset, REGISTERS.HDM_CONTROL.pack(commit=1))
    moved = Device(link)
    context = moved.create_context(1, 1, 128, 64)
    assert context.address == base
    held = fill(moved, context, 1)
    assert_page(moved, context, 0, held[0])
    with pytest.raises(speckv.AddressError, match="in the window"):
        moved.load(0)
