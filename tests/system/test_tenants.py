"""What one tenant wrote is never read by another: a canary, and everything that can be read searched for it."""

import numpy as np
import pytest

import speckv
from speckv.traffic import kv_lines
from speckv_model.constants import LINE_BYTES, PAGE_LINES, ROW_LINES, DrsOpcode, Dtype, ErrorKind, Opcode
from speckv_model.cxl import messages

PAGES = 12
VICTIM, SPY = 3, 9
CANARY = np.frombuffer(b"\x5a\x3c" * (LINE_BYTES // 2), np.uint8)
"""As FP16 and BF16 a value that lossy codecs keep, at least nearly."""


def addresses_of(context):
    return (context.address + LINE_BYTES * np.arange(PAGES * PAGE_LINES)).reshape(PAGES, PAGE_LINES)


def fill_with_canary(device, codec):
    """A context of the victim with pages of every kind: sealed, OPEN in the cache, OPEN in DRAM, full and in part."""
    context = device.create_context(1, 1, 128, 16 * PAGES // 2, codec=codec, ld_id=VICTIM)
    addresses = addresses_of(context)
    full, part = addresses[:PAGES // 2], addresses[PAGES // 2:, ::3]
    for where in (full, part):
        device.store(where, np.broadcast_to(CANARY, (*where.shape, LINE_BYTES)), ld_id=VICTIM)
    command(device, context, Opcode.FLUSH, PAGES // 2, 4)
    device.load(addresses[3:5], ld_id=VICTIM)
    return context


def command(device, context, opcode, first, pages):
    device.commands.run(
        dict(opcode=opcode, context=context.number, first_page=context.first_page + first, pages=pages))


def search(device, context, written=()):
    """Asserts that the spy finds nothing in `context` but what is in `written`: (page, line) to bytes."""
    addresses = addresses_of(context)
    expected = np.zeros((PAGES, PAGE_LINES, LINE_BYTES), np.uint8)
    for (page, line), content in dict(written).items():
        expected[page, line] = content
    # Line by line in an order that does not suit the cache, single rows, and all in order.
    scattered = np.random.default_rng(1).permutation(PAGES * PAGE_LINES)[:150]
    for where in (scattered, np.arange(5, PAGES * PAGE_LINES, 7 * ROW_LINES), np.arange(PAGES * PAGE_LINES)):
        got = device.load(addresses.ravel()[where], ld_id=context.ld_id)
        assert not np.any(got.view("<u2") == CANARY.view("<u2")[0]), "the canary sings"
        np.testing.assert_array_equal(got, expected.reshape(-1, LINE_BYTES)[where])


@pytest.mark.parametrize("codec", ["raw", "fixed", "lossless"])
def test_pages_of_a_former_owner(device, codec):
    before = device.stats().pool_free_sectors
    victim = fill_with_canary(device, codec)
    first_page, addresses = victim.first_page, addresses_of(victim)
    everyone = [messages.reads(addresses[:, ::9], ld_id=ld_id) for ld_id in range(16) if ld_id != VICTIM]
    responses = device.link.submit(np.concatenate(everyone))
    assert np.all(responses["drs_opcode"] == DrsOpcode.MEM_DATA_NXM) and not responses["data"].any()
    victim.free()
    assert device.stats().pool_free_sectors == before
    responses = device.link.submit(np.concatenate([*everyone, messages.reads(addresses, ld_id=VICTIM)]))
    assert np.all(responses["drs_opcode"] == DrsOpcode.MEM_DATA_NXM) and not responses["data"].any()

    spy = device.create_context(1, 1, 128, 16 * PAGES // 2, codec="fixed", ld_id=SPY, by_row=True)
    assert spy.first_page == first_page
    search(device, spy)
    # A line, and a byte of another, of every page: OPEN now, in room that the victim had.
    lines, written = kv_lines(Dtype.FP16), {}
    for page in range(PAGES):
        line = 5 * page % PAGE_LINES
        other = (line + 30) % PAGE_LINES
        device.store(addresses[page, line], lines[page], ld_id=SPY)
        device.store(addresses[page, other], lines[page], byte_enable=1 << page, ld_id=SPY)
        written[page, line] = lines[page]
        written[page, other] = np.where(np.arange(LINE_BYTES) == page, lines[page], 0)
    search(device, spy, written)
    command(device, spy, Opcode.FLUSH, 0, PAGES)
    search(device, spy, written)
    command(device, spy, Opcode.FREE, 0, PAGES)
    search(device, spy)
    # Sealed with next to nothing in them: lines that were never written stay zeros.
    for page in range(PAGES):
        device.store(addresses[page, 0], np.zeros(LINE_BYTES, np.uint8), ld_id=SPY)
    command(device, spy, Opcode.SEAL, 0, PAGES)
    search(device, spy)


def test_pages_freed_by_their_owner_and_by_the_next(device):
    """FREE gives the pages back at once, here to another context while the first still lives."""
    victim = fill_with_canary(device, "raw")
    command(device, victim, Opcode.FREE, 0, PAGES)
    spy = device.create_context(1, 1, 128, 16 * PAGES // 2, codec="raw", ld_id=SPY)
    addresses = addresses_of(spy)
    for page in range(PAGES):
        device.store(addresses[page, 63], np.full(LINE_BYTES, 7, np.uint8), ld_id=SPY)
    written = {(page, 63): 7 for page in range(PAGES)}
    search(device, spy, written)
    command(device, spy, Opcode.FLUSH, 0, PAGES)
    search(device, spy, written)
    search(device, victim)


def test_writes_and_poison_of_another_owner(device):
    victim = device.create_context(1, 1, 128, 16 * PAGES // 2, codec="lossless", ld_id=VICTIM)
    addresses = addresses_of(victim)
    held = kv_lines(Dtype.FP16)[:addresses.size].reshape(*addresses.shape, LINE_BYTES)
    device.store(addresses[:, :40], held[:, :40], ld_id=VICTIM)
    device.clear_errors()
    for number, attack in enumerate((dict(), dict(poison=True), dict(byte_enable=3))):
        where = addresses[:, number::8]
        device.store(where, np.broadcast_to(CANARY, (*where.shape, LINE_BYTES)), ld_id=SPY, **attack)
        stats = device.stats()
        assert stats.error_count == where.size
        assert stats.first_error.kind == stats.last_error.kind == ErrorKind.WRITE_OUTSIDE
        assert stats.first_error.address == where.flat[0] - device.base
        device.clear_errors()
    with pytest.raises(speckv.AddressError, match="context of the asker"):
        device.load(addresses, ld_id=SPY)
    got = device.load(addresses, ld_id=VICTIM)
    np.testing.assert_array_equal(got[:, :40], held[:, :40])
    assert not got[:, 40:].any()
