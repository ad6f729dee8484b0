"""Single rows of sealed pages: what is read is what the whole page gives, for less DRAM traffic."""

import numpy as np
import pytest

from speckv.traffic import kv_lines
from speckv_model.codec import decode_pages, encode_pages
from speckv_model.constants import (
    ENTRY_BYTES,
    LINE_BYTES,
    PAGE_BYTES,
    PAGE_LINES,
    PAGE_ROWS,
    ROW_LINES,
    Codec,
    Dtype,
    ErrorKind,
)
from speckv_model.table.entry import Entry

PAGES = 12
"""More than the small device caches."""


def filled(device, *, rate):
    """A context whose first pages hold captured K and V, sealed, to be read by rows. The addresses of their lines,
    (pages, 64), and what the codec makes of them."""
    context = device.create_context(1, 2, 128, 96, codec="fixed", rate=rate, by_row=True)
    addresses = context.address + LINE_BYTES * np.arange(PAGES * PAGE_LINES)
    lines = kv_lines(Dtype.FP16)[:len(addresses)]
    device.store(addresses, lines)
    stored, count, _ = encode_pages(Codec.FIXED, Dtype.FP16, lines.reshape(PAGES, PAGE_BYTES), rate // 8, by_row=True)
    wanted = decode_pages(Codec.FIXED, Dtype.FP16, stored, count, by_row=True)
    return addresses.reshape(PAGES, PAGE_LINES), wanted.reshape(PAGES, PAGE_LINES, LINE_BYTES)


@pytest.mark.parametrize("rate", [56, 64, 104, 128])
def test_rows_are_those_of_the_whole_page(device, seed, rate):
    rng = np.random.default_rng([seed, rate])
    single, wanted = filled(device, rate=rate)
    for _ in range(60):
        page, row = rng.integers(PAGES), rng.integers(PAGE_ROWS)
        lines = np.arange(ROW_LINES * row, ROW_LINES * (row + 1))
        assert np.array_equal(device.load(single[page, lines]), wanted[page, lines]), f"page {page}, row {row}"
    assert np.array_equal(device.load(single), wanted)
    assert device.stats().error_count == 0


def test_a_row_of_64_bytes_is_one_line_of_dram(device):
    addresses, _ = filled(device, rate=64)
    device.load(addresses[0])
    before = device.stats()
    rows = [(page, 5) for page in range(1, PAGES)]
    device.load(np.array([addresses[page, ROW_LINES * row] for page, row in rows]))
    spent = device.stats() - before
    assert spent.fetched_bytes == (len(rows) * ROW_LINES * LINE_BYTES, len(rows) * LINE_BYTES)


def test_a_write_keeps_the_rows_that_were_not_read(device, seed):
    addresses, wanted = filled(device, rate=80)
    device.load(addresses[-3:])
    value = np.random.default_rng(seed).integers(0, 256, (1, LINE_BYTES), np.uint8)
    for page in range(PAGES):
        device.load(addresses[page, 8:9])
        device.store(addresses[page, 20:21], value)
        wanted[page, 20] = value
    assert np.array_equal(device.load(addresses), wanted)


def test_a_flipped_bit_is_poison_in_its_row_alone(device):
    addresses, wanted = filled(device, rate=64)
    device.load(addresses)
    device.load(addresses[-1])
    for page in range(PAGES - 6):
        number = (int(addresses[page, 0]) - device.base) // PAGE_BYTES
        entry = Entry.unpack(device.link.dram_read(ENTRY_BYTES * number, ENTRY_BYTES))
        at = device.config.sector_line(entry.place) * LINE_BYTES + 64 * 3 + 17
        device.link.dram_write(at, bytes([device.link.dram_read(at, 1)[0] ^ 0x10]))
    before = device.stats()
    for page in range(PAGES - 6):
        data, lost = device.load(addresses[page, [8, 12, 15, 16]], poison="mask")
        assert lost.tolist() == [False, True, True, False]
        assert np.array_equal(data[[0, 3]], wanted[page, [8, 16]])
    stats = device.stats()
    assert stats.error_count - before.error_count == PAGES - 6
    assert stats.last_error.kind == ErrorKind.PAGE_CORRUPT
