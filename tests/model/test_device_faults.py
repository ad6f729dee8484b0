"""DRAM that fails and DRAM that lies: poison and an error record, never wrong data, no other page hurt."""

import numpy as np
import pytest
from device_bench import ALL_LINES, SEED, Bench, addresses, cached, kv_lines, line_address, small

from speckv_model.constants import LINE_BYTES, PAGE_BITS, PAGE_LINES, Codec, ErrorKind, PageState, Status
from speckv_model.cxl import messages

EMPTY, OPEN, SEALED, POISONED = PageState


@pytest.fixture
def rng():
    print(f"SPECKV_SEED={SEED}")
    return np.random.default_rng(SEED)


def raw_read(bench, page, lines=ALL_LINES):
    """(data, poison) of a page, without a look at the reference."""
    responses = bench.device.submit(messages.reads(addresses(page, lines)))
    assert not responses["data"][responses["poison"] != 0].any()
    return responses["data"], responses["poison"].astype(bool)


def raw_write(bench, page, lines, data, **options):
    bench.device.submit(messages.writes(addresses(page, lines), data, **options))


def stored_page(codec, state, rng):
    """A bench, and a page of it in `state` that is not in the cache."""
    bench = Bench(small(), codec)
    page = bench.first + 1
    lines = ALL_LINES if state == SEALED else np.arange(20)
    bench.write(page, lines, kv_lines(rng, len(lines)))
    bench.flush(page)
    assert bench.state(page) == state
    return bench, page


# DRAM answers with an error


@pytest.mark.parametrize("state", [OPEN, SEALED])
def test_read_error_of_uncompressed_pages_poisons_lines(rng, state):
    bench, page = stored_page(Codec.RAW, state, rng)
    good, _ = raw_read(bench, page)
    bench.flush(page)
    header = int(state == OPEN)
    bench.device.dram.fail(bench.dram_line(page) + header + 5, 3)
    data, poison = raw_read(bench, page)
    assert np.flatnonzero(poison).tolist() == [5, 6, 7]
    np.testing.assert_array_equal(data[~poison], good[~poison])
    assert bench.only_error() == (ErrorKind.MEMORY_READ, line_address(page, 0), 0)
    assert bench.state(page) == state
    if state == SEALED:
        bench.device.dram.heal()
        bench.flush(page)
        bench.read(page)


def test_read_error_of_compressed_pages_poisons_all(rng):
    bench, page = stored_page(Codec.SPECKV, SEALED, rng)
    assert bench.entry(page).codec == Codec.SPECKV
    bench.device.dram.fail(bench.dram_line(page) + 1)
    assert raw_read(bench, page)[1].all()
    assert bench.only_error() == (ErrorKind.MEMORY_READ, line_address(page, 0), 0)
    assert bench.state(page) == SEALED
    bench.device.dram.heal()
    bench.flush(page)
    bench.read(page)


def test_read_error_of_the_header_poisons_all(rng):
    bench, page = stored_page(Codec.RAW, OPEN, rng)
    bench.device.dram.fail(bench.dram_line(page))
    assert raw_read(bench, page)[1].all()
    assert bench.only_error() == (ErrorKind.MEMORY_READ, line_address(page, 0), 0)
    bench.device.dram.heal()
    bench.flush(page)
    bench.read(page)


def lose_lines(bench, page, lines):
    """Makes `lines` of a spilled page unreadable while the cache fetches it."""
    for line in lines:
        bench.device.dram.fail(bench.dram_line(page) + 1 + line)
    poison = raw_read(bench, page)[1]
    assert np.flatnonzero(poison).tolist() == lines
    bench.device.dram.heal()


def test_lost_lines_stay_lost_until_they_are_written(rng):
    bench, page = stored_page(Codec.RAW, OPEN, rng)
    lose_lines(bench, page, [2, 3, 4])
    bench.flush(page)
    assert np.flatnonzero(raw_read(bench, page)[1]).tolist() == [2, 3, 4]
    whole, part = kv_lines(rng, 1), kv_lines(rng, 1)
    raw_write(bench, page, [2], whole)
    raw_write(bench, page, [3], part, byte_enable=0xFF)
    raw_write(bench, page, [4], part, byte_enable=2**64 - 1)
    for _ in range(2):
        data, poison = raw_read(bench, page)
        assert np.flatnonzero(poison).tolist() == [3]
        np.testing.assert_array_equal(data[[2, 4]], np.concatenate([whole, part]))
        bench.flush(page)


def test_the_64th_line_may_heal_the_page(rng):
    bench, page = stored_page(Codec.RAW, SEALED, rng)
    bench.device.dram.fail(bench.dram_line(page) + 2)
    raw_read(bench, page)
    bench.device.dram.heal()
    lines, order = kv_lines(rng, 64), np.roll(ALL_LINES, -3)
    raw_write(bench, page, order, lines[order])
    assert bench.entry(page).state == SEALED
    data, poison = raw_read(bench, page)
    assert not poison.any()
    np.testing.assert_array_equal(data, lines)


@pytest.mark.parametrize("by_command", [False, True])
def test_sealing_a_page_with_lost_lines_poisons_it(rng, by_command):
    bench, page = stored_page(Codec.RAW, OPEN, rng)
    lose_lines(bench, page, [2])
    if by_command:
        bench.seal(page)
    else:
        raw_write(bench, page, np.arange(20, 64), kv_lines(rng, 44))
    assert bench.entry(page).state == POISONED
    assert raw_read(bench, page)[1].all()
    assert bench.device.pool.free_sectors == bench.config.pool_sectors


def test_reopening_a_page_with_lost_lines_keeps_them_lost(rng):
    bench, page = stored_page(Codec.RAW, SEALED, rng)
    bench.device.dram.fail(bench.dram_line(page) + 7)
    bench.device.dram.fail(bench.dram_line(page) + 8)
    raw_read(bench, page)
    bench.device.dram.heal()
    raw_write(bench, page, [7], kv_lines(rng, 1))
    bench.flush(page)
    assert np.flatnonzero(raw_read(bench, page)[1]).tolist() == [8]


@pytest.mark.parametrize("codec", [Codec.RAW, Codec.SPECKV])
def test_write_error_while_sealing(rng, codec):
    bench = Bench(small(), codec)
    page = bench.first
    bench.write(page, np.arange(63), kv_lines(rng, 63))
    bench.device.dram.fail_writes(bench.config.pool_base_line, bench.config.pool_bytes // LINE_BYTES)
    raw_write(bench, page, [63], kv_lines(rng, 1))
    assert bench.only_error() == (ErrorKind.MEMORY_WRITE, line_address(page, 0), 0)
    assert bench.entry(page).state == POISONED
    assert raw_read(bench, page)[1].all()
    assert bench.device.pool.free_sectors == bench.config.pool_sectors
    bench.device.dram.heal()
    bench.free(page)
    bench.write(page, ALL_LINES, kv_lines(rng, 64))
    bench.read(page)


def test_write_error_while_spilling(rng):
    bench = Bench(cached(1))
    page = bench.first
    bench.write(page, [1], kv_lines(rng, 1))
    bench.device.dram.fail_writes(bench.dram_line(page) + 2)
    bench.read(page + 1)
    assert bench.only_error() == (ErrorKind.MEMORY_WRITE, line_address(page, 0), 0)
    assert raw_read(bench, page)[1].all()
    assert bench.entry(page).state == POISONED
    assert bench.device.pool.free_sectors == bench.config.pool_sectors


def test_table_read_error(rng):
    bench, page = stored_page(Codec.SPECKV, SEALED, rng)
    bench.forget_entries()
    bench.device.dram.fail(page // 4)
    assert raw_read(bench, page)[1].all()
    assert bench.only_error() == (ErrorKind.MEMORY_READ, line_address(page, 0), 0)
    raw_write(bench, page, [1], kv_lines(rng, 1))
    assert bench.errors()[1] == (ErrorKind.WRITE_POISONED, line_address(page, 1), 0)
    bench.device.dram.heal()
    bench.flush(page)
    bench.read(page)


def test_table_write_error(rng):
    bench, page = stored_page(Codec.SPECKV, SEALED, rng)
    other = page + 4
    bench.device.dram.fail_writes(page // 4)
    free = bench.device.pool.free_sectors
    bench.write(page, [1], kv_lines(rng, 1))
    assert bench.only_error() == (ErrorKind.MEMORY_WRITE, line_address(page, 0), 0)
    assert bench.device.pool.free_sectors < free
    bench.flush(page)
    bench.read(page)
    bench.device.dram.heal()
    bench.flush(page)
    bench.write(other, [0], kv_lines(rng, 1))
    bench.read(page)
    bench.read(other)
    bench.check_places()


def test_commands_on_failing_dram(rng):
    bench, page = stored_page(Codec.SPECKV, SEALED, rng)
    bench.device.dram.fail_writes(page // 4)
    assert bench.destroy() == Status.OK
    assert bench.create(1, bench.first, bench.pages) == Status.MEMORY_ERROR
    bench.device.dram.heal()
    assert bench.create(1, bench.first, bench.pages) == Status.OK
    assert not bench.read(page)[0].any()


# DRAM has forgotten


@pytest.mark.parametrize("state", [OPEN, SEALED])
@pytest.mark.parametrize("codec", [Codec.RAW, Codec.SPECKV])
def test_corrupt_page_is_poisoned_at_every_fetch(rng, codec, state):
    bench, page = stored_page(codec, state, rng)
    before = bench.entry(page)
    neighbour = page + 1
    bench.write(neighbour, ALL_LINES, kv_lines(rng, 64))
    byte = bench.dram_line(page) * LINE_BYTES + int(rng.integers(before.lines * LINE_BYTES))
    bench.device.dram.flip(byte, int(rng.integers(8)))
    data, poison = raw_read(bench, page)
    assert poison.all()
    assert bench.only_error() == (ErrorKind.PAGE_CORRUPT, line_address(page, 0), 0)
    bench.flush(page)
    assert raw_read(bench, page)[1].all()
    bench.read(neighbour)
    bench.free(page)
    bench.write(page, ALL_LINES, kv_lines(rng, 64))
    bench.read(page)
    bench.check_pool()


@pytest.mark.parametrize("bit", range(0, 128, 3))
def test_corrupt_entry_is_poisoned_at_every_fetch(rng, bit):
    bench, page = stored_page(Codec.SPECKV, SEALED, rng)
    bench.forget_entries()
    bench.device.dram.flip(page * 16 + bit // 8, bit % 8)
    assert raw_read(bench, page)[1].all()
    assert bench.only_error() == (ErrorKind.ENTRY_CORRUPT, line_address(page, 0), 0)
    bench.flush(page)
    assert raw_read(bench, page)[1].all()
    bench.free(page)
    bench.read(page)
    bench.write(page, [0], kv_lines(rng, 1))
    bench.read(page)
    bench.check_places()


def test_entry_of_another_context_is_corrupt(rng):
    bench, page = stored_page(Codec.SPECKV, SEALED, rng)
    other = 2 * bench.first
    bench.create(2, other, bench.pages, ld_id=1)
    bench.device.table.update(other, bench.entry(page))
    [response] = bench.device.submit(messages.reads(addresses(other, [0]), ld_id=1))
    assert response["poison"] and not response["data"].any()
    assert bench.only_error()[0] == ErrorKind.ENTRY_CORRUPT
    bench.read(page)


# All of it at random


class FaultyTraffic:
    """Random traffic to a few pages whose DRAM fails or forgets (`fault`: ``fail`` or ``flip``).

    Not both: the CRC of a page with a line that DRAM did not give cannot be judged.

    A write that was refused, and logged, leaves its page as it was: until the page is freed nothing is
    expected of it.
    """

    def __init__(self, bench, rng, fault):
        self.bench, self.rng = bench, rng
        self.fault = getattr(self, fault)
        self.hot = range(bench.first, bench.first + 8)
        self.refused = set()
        self.good = self.poison = 0
        self._record = bench.device.csr.errors.record
        bench.device.csr.errors.record = self._note

    def _note(self, kind, address, detail=0):
        self._record(kind, address, detail)
        if kind in (ErrorKind.WRITE_POISONED, ErrorKind.NO_ROOM):
            self.refused.add(address >> PAGE_BITS)

    def read(self, page):
        data, poison = raw_read(self.bench, page)
        self.poison += int(poison.sum())
        if page not in self.refused:
            self.good += int((~poison).sum())
            wanted = [self.bench.reference.read(page, line)[0] for line in ALL_LINES]
            np.testing.assert_array_equal(data[~poison], np.array(wanted)[~poison])

    def write(self, page):
        count = int(self.rng.choice([1, 5, PAGE_LINES]))
        lines = self.rng.permutation(PAGE_LINES)[:count]
        enable = None if self.rng.random() < 0.8 else self.rng.integers(1 << 64, size=count, dtype=np.uint64)
        self.bench.write(page, lines, kv_lines(self.rng, count), byte_enable=enable)

    def free(self, page):
        self.bench.free(page)
        self.refused.discard(page)

    def fail(self, page):
        if self.bench.entry(page).has_place:
            line = self.bench.dram_line(page) + int(self.rng.integers(PAGE_LINES))
            dram = self.bench.device.dram
            fail = dram.fail if self.rng.random() < 0.7 else dram.fail_writes
            fail(line, int(self.rng.integers(1, 4)))

    def flip(self, page):
        entry = self.bench.entry(page)
        if entry.has_place and entry.lines:
            first = self.bench.dram_line(page) * LINE_BYTES
            byte = int(self.rng.integers(entry.lines * LINE_BYTES))
            self.bench.device.dram.flip(first + byte, int(self.rng.integers(8)))

    def heal(self, page):
        self.bench.device.dram.heal()

    def step(self):
        actions = [self.read, self.write, self.bench.flush, self.bench.seal, self.free, self.fault, self.heal]
        action = self.rng.choice(len(actions), p=[.3, .35, .1, .03, .08, .09, .05])
        actions[action](int(self.rng.choice(self.hot)))


@pytest.mark.parametrize("pages", [1, 4])
@pytest.mark.parametrize("codec", [Codec.RAW, Codec.SPECKV])
@pytest.mark.parametrize("fault", ["fail", "flip"])
def test_never_wrong_data(rng, fault, codec, pages):
    bench = Bench(cached(pages), codec)
    traffic = FaultyTraffic(bench, rng, fault)
    for _ in range(600):
        traffic.step()
    bench.device.dram.heal()
    assert traffic.good > 1000 and traffic.poison > 100
    for page in traffic.hot:
        traffic.free(page)
        bench.read(page)
        bench.write(page, ALL_LINES, kv_lines(rng, 64))
        bench.read(page)
    bench.check_pool()
    bench.check_places()
