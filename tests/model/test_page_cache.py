"""The page cache alone: which slot is taken, and what the movers are asked for."""

import numpy as np
import pytest

from speckv_model.cache.page_cache import PageCache
from speckv_model.cache.slot_table import set_of
from speckv_model.config import DeviceConfig
from speckv_model.constants import LINE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_LINES, Codec, Dtype, PageState
from speckv_model.csr.counters import Counters
from speckv_model.csr.error_log import ErrorLog
from speckv_model.mover.messages import FetchDone, OpenDone, StreamInfo

STREAM = StreamInfo(0, Codec.RAW, Dtype.FP16)
ALL_BYTES = np.uint64(2**64 - 1)


class Movers:
    """Fetcher, opener and sealer in one: remembers what it was asked for and keeps pages in a dictionary."""

    def __init__(self):
        self.jobs = []
        self.states = {}

    def fetch(self, page, stream, row=None):
        none = np.zeros(PAGE_LINES, bool)
        data = np.full((PAGE_LINES, LINE_BYTES), page, np.uint8)
        state = self.states.get(page, PageState.SEALED)
        if row is None or state != PageState.SEALED:
            self.jobs.append(("fetch", page))
            return FetchDone(state, False, none, none, data)
        self.jobs.append(("fetch", page, row))
        data[np.arange(PAGE_LINES) // ROW_LINES != row] = 0
        return FetchDone(state, False, none, none, data, np.arange(PAGE_ROWS) == row)

    def open(self, page, stream):
        self.jobs.append(("open", page))
        self.states[page] = PageState.OPEN
        return OpenDone(False, PageState.OPEN)

    def seal(self, page, stream, data, poison):
        self.jobs.append(("seal", page))
        self.states[page] = PageState.SEALED

    def spill(self, page, stream, data, base, written, poison):
        self.jobs.append(("spill", page))

    def free(self, page, stream):
        self.jobs.append(("free", page))
        self.states[page] = PageState.EMPTY
        return True


class Rig:
    def __init__(self, pages, ways):
        self.config = DeviceConfig.small(cache_pages=pages, cache_ways=ways)
        self.movers = Movers()
        self.cache = PageCache(self.config, self.movers, self.movers, self.movers, ErrorLog(), Counters())

    def read(self, *pages):
        """Reads a line of each page. Returns the jobs that it took."""
        return self._jobs(lambda page: self.cache.read(page, STREAM, np.array([5])), pages)

    def write(self, *pages):
        """Writes a line of each page. Returns the jobs that it took."""
        write = np.array([5]), np.zeros((1, LINE_BYTES), np.uint8), np.array([ALL_BYTES])
        return self._jobs(lambda page: self.cache.write(page, STREAM, *write), pages)

    def prefetch(self, *pages):
        return self._jobs(lambda page: self.cache.prefetch(page, STREAM), pages)

    def _jobs(self, action, pages):
        self.movers.jobs.clear()
        for page in pages:
            action(page)
        return list(self.movers.jobs)

    def here(self, *pages):
        """Which of `pages` are in the cache."""
        return [page for page in pages if self.cache._slots.find(page) is not None]


def test_hits_need_no_mover():
    rig = Rig(4, 4)
    assert rig.read(1, 2) == [("fetch", 1), ("fetch", 2)]
    assert rig.read(2, 1, 1) == []
    assert rig.write(1) == [("open", 1)]
    assert rig.write(1) == []


def test_data_of_a_hit():
    rig = Rig(4, 4)
    data, poison = rig.cache.read(7, STREAM, np.array([0, 9, 0]))
    assert (data == 7).all() and data.shape == (3, LINE_BYTES) and not poison


def test_clean_victims_go_round_robin():
    rig = Rig(4, 4)
    rig.read(0, 1, 2, 3)
    rig.read(10)
    assert rig.here(0, 1, 2, 3) == [1, 2, 3]
    rig.read(1, 11)
    assert rig.here(0, 1, 2, 3) == [2, 3]


def test_open_pages_stay_as_long_as_there_is_a_clean_one():
    rig = Rig(4, 4)
    rig.write(0, 1, 3)
    rig.read(2)
    for page in (10, 11, 12):
        assert rig.read(page) == [("fetch", page)]
    assert rig.here(0, 1, 2, 3) == [0, 1, 3]


def test_an_open_victim_is_spilled_first():
    rig = Rig(4, 4)
    rig.write(0, 1, 2, 3)
    assert rig.read(10) == [("spill", 0), ("fetch", 10)]
    assert rig.write(10) == [("open", 10)]
    assert rig.read(11) == [("spill", 1), ("fetch", 11)]


def test_invalid_ways_are_taken_first():
    rig = Rig(4, 4)
    rig.read(0, 1, 2, 3)
    rig.cache.flush(2)
    rig.cache.free(1, STREAM)
    rig.read(10)
    assert rig.here(0, 1, 2, 3, 10) == [0, 3, 10]
    rig.read(11)
    assert rig.here(0, 1, 2, 3, 10, 11) == [0, 3, 10, 11]


def test_sealing_leaves_the_slot_empty():
    rig = Rig(4, 4)
    data = np.zeros((PAGE_LINES, LINE_BYTES), np.uint8)
    rig.cache.write(1, STREAM, np.arange(PAGE_LINES), data, np.full(PAGE_LINES, ALL_BYTES))
    assert rig.movers.jobs == [("fetch", 1), ("open", 1), ("seal", 1)]
    assert rig.here(1) == []


def test_prefetches_displace_neither_open_nor_unused_pages():
    rig = Rig(2, 2)
    assert rig.prefetch(1, 2) == [("fetch", 1), ("fetch", 2)]
    assert rig.prefetch(1, 3) == []
    rig.read(1)
    assert rig.prefetch(3) == [("fetch", 3)]
    assert rig.here(1, 2, 3) == [2, 3]
    rig.write(2, 3)
    assert rig.prefetch(4) == []
    assert rig.here(2, 3, 4) == [2, 3]


def test_commands():
    rig = Rig(4, 2)
    rig.write(4)
    rig.movers.jobs.clear()
    rig.cache.flush(4)
    rig.cache.flush(5)
    assert rig.movers.jobs == [("spill", 4)]
    rig.movers.jobs.clear()
    rig.cache.seal(4, STREAM)
    rig.cache.seal(6, STREAM)
    assert rig.movers.jobs == [("fetch", 4), ("seal", 4), ("fetch", 6)]
    rig.movers.jobs.clear()
    rig.write(7)
    assert rig.cache.free(7, STREAM)
    assert rig.movers.jobs[-1] == ("free", 7) and ("spill", 7) not in rig.movers.jobs


@pytest.mark.parametrize("pages, ways", [(1, 1), (8, 8), (8, 1), (64, 4)])
def test_sets_are_all_used(pages, ways):
    config = DeviceConfig.small(cache_pages=pages, cache_ways=ways)
    assert {set_of(config, page) for page in range(config.cache_sets)} == set(range(config.cache_sets))
    # The same index in many streams does not meet in one set.
    strided = {set_of(config, stream * config.cache_sets) for stream in range(config.cache_sets)}
    assert strided == set(range(config.cache_sets))


BY_ROW = STREAM._replace(by_row=True)


def test_rows_are_fetched_as_they_are_read():
    rig = Rig(4, 4)

    def read(*lines):
        rig.movers.jobs.clear()
        data, poison = rig.cache.read(7, BY_ROW, np.array(lines))
        assert (data == 7).all() and not np.any(poison)
        return list(rig.movers.jobs)

    assert read(5) == [("fetch", 7, 1)]
    assert read(4, 5, 6, 7) == []
    assert read(7, 8, 9, 63, 4) == [("fetch", 7, 2), ("fetch", 7, 15)]
    assert read(*range(64)) == [("fetch", 7, row) for row in range(16) if row not in (1, 2, 15)]
    assert read(*range(64)) == []


def test_a_write_fetches_the_rest_of_the_page():
    rig = Rig(4, 4)
    rig.cache.read(7, BY_ROW, np.array([5]))
    rig.movers.jobs.clear()
    rig.cache.write(7, BY_ROW, np.array([9]), np.full((1, LINE_BYTES), 1, np.uint8), np.array([ALL_BYTES]))
    assert rig.movers.jobs == [("fetch", 7), ("open", 7)]
    data, _ = rig.cache.read(7, BY_ROW, np.arange(64))
    assert (data[9] == 1).all() and (np.delete(data, 9, axis=0) == 7).all()


def test_pages_without_single_rows_come_as_a_whole():
    rig = Rig(4, 4)
    rig.movers.states[7] = PageState.OPEN
    rig.cache.read(7, BY_ROW, np.array([5]))
    rig.cache.read(7, BY_ROW, np.array([50]))
    assert rig.movers.jobs == [("fetch", 7)]
