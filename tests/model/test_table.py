"""Entries, their check bits, and the tables of the model."""

import random

import numpy as np
import pytest

from speckv_model.config import DeviceConfig
from speckv_model.constants import Codec, Dtype, PageState
from speckv_model.table.context import ContextRecord, ContextTable
from speckv_model.table.entry import FIELDS, POISONED, Entry, check
from speckv_model.table.page_table import KEPT, PageTable, TableFault

SEED = 1
CONFIG = DeviceConfig.small()


class Dram:
    """DRAM without delay; `bad` lines answer with an error."""

    def __init__(self, config):
        self.data = np.zeros((config.table_lines, 64), dtype=np.uint8)
        self.bad = set()
        self.writes = []

    def read_lines(self, line, count):
        return self.data[line:line + count].copy(), self._errors(line, count)

    def _errors(self, line, count):
        return np.array([n in self.bad for n in range(line, line + count)])

    def write_lines(self, line, data, enable=None):
        self.writes.append((line, len(data)))
        mask = np.repeat(np.ones((len(data), 4), dtype=bool) if enable is None else enable, 16, axis=1)
        self.data[line:line + len(data)][mask] = data[mask]
        return self._errors(line, len(data))


def random_entry(rng):
    fields = {name: rng.getrandbits(width) for name, width in FIELDS.items()}
    return Entry(**fields | {"state": rng.randrange(1, 4)})


def test_fields_fill_sixteen_bytes():
    assert sum(FIELDS.values()) == 128
    assert Entry().pack() == bytes(16)
    assert Entry(state=PageState.SEALED).pack() == bytes([2]) + bytes(15)
    assert Entry(check=0x81).pack() == bytes(15) + bytes([0x81])
    assert Entry(place=1, crc=0x12345678).pack().hex() == "0000020000000000000000" + "78563412" + "00"


def test_pack_and_unpack():
    rng = random.Random(SEED)
    for _ in range(200):
        entry = random_entry(rng)
        assert Entry.unpack(entry.pack()) == entry
        assert Entry.unpack(np.frombuffer(entry.pack(), dtype=np.uint8)) == entry


def test_entry_refuses():
    with pytest.raises(ValueError, match=r"lines must be from 0 to 127, not 128"):
        Entry(lines=128)
    with pytest.raises(ValueError, match=r"raw must be 16 bytes, not 15"):
        Entry.unpack(bytes(15))


def test_check_is_crc_8():
    """The check value of CRC-8/GSM-A is 0x37, for the nine digits; zeros in front change nothing."""
    assert check(np.frombuffer(bytes(6) + b"123456789", dtype=np.uint8)) == 0x37
    assert check(np.zeros((3, 2, 16), dtype=np.uint8)).tolist() == [[0, 0]] * 3


def test_check_is_linear():
    a, b = np.random.default_rng(SEED).integers(0, 256, (2, 100, 16), dtype=np.uint8)
    np.testing.assert_array_equal(check(a ^ b), check(a) ^ check(b))


def test_check_notices_every_one_and_two_bit_error():
    bits = np.arange(128)
    units = np.zeros((128, 16), dtype=np.uint8)
    units[bits, bits // 8] = 1 << (bits % 8)
    syndromes = check(units) ^ units[:, 15]
    assert (syndromes != 0).all()
    assert len(set(syndromes.tolist())) == 128


def test_sealed_is_intact():
    rng = random.Random(SEED)
    entry = random_entry(rng)
    assert entry.sealed().intact
    assert not Entry(lines=1).intact
    assert Entry().intact and Entry().sealed() == Entry()


def test_page_table_holds_what_was_written():
    rng = random.Random(SEED)
    dram = Dram(CONFIG)
    table = PageTable(CONFIG, dram)
    truth = {}
    for _ in range(3000):
        page = rng.randrange(400)
        kind = rng.choices(["lookup", "update", "clear"], [60, 39, 1])[0]
        if kind == "update":
            entry = random_entry(rng)
            truth[page] = entry.sealed()
            assert table.update(page, entry) == TableFault.NONE
        elif kind == "clear":
            count = 4 * rng.randrange(20)
            assert table.clear(page & ~3, count) == TableFault.NONE
            truth |= {p: Entry() for p in range(page & ~3, (page & ~3) + count)}
        else:
            assert table.lookup(page) == (truth.get(page, Entry()), TableFault.NONE)
    assert table.hits > 50 and table.misses > 50
    for page, entry in truth.items():
        assert dram.data[page // 4, page % 4 * 16:][:16].tobytes() == entry.pack()


def test_page_table_counts_hits():
    table = PageTable(CONFIG, Dram(CONFIG))
    for page in (0, 1, 2, 3, 4, 3):
        table.lookup(page)
    assert (table.hits, table.misses) == (4, 2)


def test_tlb_replaces_in_turn():
    config = DeviceConfig.small(tlb_entries=8, tlb_ways=2)
    table = PageTable(config, Dram(config))
    for page in (0, 4, 0, 8, 4, 0):
        table.lookup(page)
    # Pages 0 and 4 fill both ways, 8 takes that of 0 (its turn, though used later), and 0 then that of 4.
    assert (table.hits, table.misses) == (2, 4)


def test_page_table_faults():
    rng = random.Random(SEED)
    dram = Dram(CONFIG)
    table = PageTable(CONFIG, dram)
    dram.data[3, 16] = 1
    assert table.lookup(13) == (POISONED, TableFault.CORRUPT)
    assert table.lookup(12) == (Entry(), TableFault.NONE)
    dram.bad.add(5)
    assert table.lookup(20) == (POISONED, TableFault.MEMORY)
    entry = random_entry(rng)
    assert table.update(20, entry) == TableFault.NONE
    assert table.lookup(20) == (entry.sealed(), TableFault.NONE)
    assert table.lookup(21) == (POISONED, TableFault.MEMORY)
    assert table.clear(16, 8) == TableFault.MEMORY
    dram.bad.clear()
    assert table.lookup(20) == (Entry(), TableFault.NONE)


def test_entries_that_dram_refuses_are_kept():
    rng = random.Random(SEED)
    dram = Dram(CONFIG)
    kept = []
    table = PageTable(CONFIG, dram, kept.append)
    entries = {page: random_entry(rng).sealed() for page in range(20, 20 + KEPT)}
    dram.bad.update(range(100))
    for page, entry in entries.items():
        assert table.update(page, entry) == TableFault.NONE
    assert kept == list(entries)
    for page, entry in entries.items():
        assert table.lookup(page) == (entry, TableFault.NONE)
    dram.bad.clear()
    assert table.update(4, entries[20]) == TableFault.NONE
    for page, entry in entries.items():
        assert dram.data[page // 4, page % 4 * 16:][:16].tobytes() == entry.pack()
        assert table.lookup(page) == (entry, TableFault.NONE)


def test_nothing_is_trusted_when_no_more_entries_can_be_kept():
    dram = Dram(CONFIG)
    table = PageTable(CONFIG, dram)
    dram.bad.update(range(100))
    faults = [table.update(page, Entry(lines=1)) for page in range(KEPT + 1)]
    assert faults == [TableFault.NONE] * KEPT + [TableFault.MEMORY]
    assert table.lookup(1000) == (POISONED, TableFault.MEMORY)


def test_clear_bursts_end_at_multiples_of_64_lines():
    dram = Dram(CONFIG)
    PageTable(CONFIG, dram).clear(4 * 60, 4 * 200)
    assert dram.writes == [(60, 4), (64, 64), (128, 64), (192, 64), (256, 4)]


@pytest.mark.parametrize("call, message", [
    (lambda table: table.lookup(1 << 16), "page must be inside the window, not 65536"),
    (lambda table: table.update(-1, Entry()), "page must be inside the window, not -1"),
    (lambda table: table.clear(2, 4), "page must be a multiple of 4, not 2"),
    (lambda table: table.clear(4, 6), "count must be a multiple of 4, not 6"),
    (lambda table: table.clear((1 << 16) - 4, 8), "page and count must stay inside the window"),
])
def test_page_table_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(PageTable(CONFIG, Dram(CONFIG)))


def test_context_table():
    table = ContextTable(CONFIG)
    granule = CONFIG.granule_pages
    record = ContextRecord(ld_id=2, first_page=granule, pages=granule + 3, dtype=Dtype.BF16,
                           codec=Codec.SPECKV)
    table.put(5, record)
    assert table.lookup(granule, 2) is None, "not visible before a slot names it"
    table.put_slot(1, 5)
    table.put_slot(2, 5)
    assert (table.record(5), table.slot(1), table.slot(3)) == (record, 5, None)
    assert table.lookup(granule, 2) == table.lookup(2 * granule + 2, 2) == record
    beyond = granule + CONFIG.window_pages
    for page, ld_id in ((granule - 1, 2), (2 * granule + 3, 2), (granule, 1), (beyond, 2)):
        assert table.lookup(page, ld_id) is None
    pages = np.arange(-2, 4 * granule)
    expected = np.where((pages >= granule) & (pages < 2 * granule + 3), 5, -1)
    np.testing.assert_array_equal(table.find(pages, 2), expected)
    both = np.stack([np.full(pages.shape, -1), expected], axis=1)
    np.testing.assert_array_equal(table.find(pages[:, None], [1, 2]), both)
    table.put_slot(1, None)
    assert table.lookup(granule, 2) is None and table.lookup(2 * granule, 2) == record
    table.put(5, None)
    assert table.lookup(2 * granule, 2) is None


def test_context_table_refuses():
    table = ContextTable(CONFIG)
    with pytest.raises(ValueError, match="context must be from 0 to 15, not 16"):
        table.put(16, None)
    with pytest.raises(ValueError, match="slot must be from 0 to 1023, not -1"):
        table.put_slot(-1, 0)


def test_empty_entries_are_all_zeros():
    assert Entry().intact and not Entry(lines=3).sealed().intact
