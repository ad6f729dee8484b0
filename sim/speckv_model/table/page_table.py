"""The page table in device DRAM, and the mirror of the TLB in front of it."""

from enum import IntEnum

import numpy as np

from ..constants import ENTRIES_PER_LINE, ENTRY_BYTES, LINE_BYTES
from .entry import POISONED, Entry

CLEAR_LINES = 64
"""Lines of the longest burst that a clear writes; bursts do not cross multiples of it."""
KEPT = 32
"""Entries that DRAM would not take and that are kept."""


class TableFault(IntEnum):
    NONE = 0
    CORRUPT = 1
    """The entry's check bits are wrong."""
    MEMORY = 2
    """DRAM answered with an error."""


class Tlb:
    """Cache of table lines, set-associative, replacement round robin in each set.

    Parameters
    ----------
    config : DeviceConfig
    """

    def __init__(self, config):
        self._sets = config.tlb_sets
        self._ways = config.tlb_ways
        self._lines = np.full((self._sets, self._ways), -1, dtype=np.int64)
        self._data = np.zeros((self._sets, self._ways, LINE_BYTES), dtype=np.uint8)
        self._turn = np.zeros(self._sets, dtype=np.int64)

    def _set_of(self, line):
        """The line number folded by XOR, so that one index in many streams spreads over the sets."""
        folded = 0
        while line and self._sets > 1:
            folded ^= line % self._sets
            line //= self._sets
        return folded

    def find(self, line):
        """Table line `line`, uint8 (64,), to be read or written in place; None if it is not cached."""
        set_ = self._set_of(line)
        ways = np.flatnonzero(self._lines[set_] == line)
        return self._data[set_, ways[0]] if ways.size else None

    def fill(self, line, data):
        """Takes in table line `line`, which is not cached, in place of the line whose turn it is."""
        set_ = self._set_of(line)
        way = self._turn[set_]
        self._lines[set_, way] = line
        self._data[set_, way] = data
        self._turn[set_] = (way + 1) % self._ways

    def drop(self, line):
        """Forgets table line `line`."""
        set_ = self._set_of(line)
        self._lines[set_, self._lines[set_] == line] = -1

    def flush(self):
        """Forgets all lines; whose turn it is stays."""
        self._lines[:] = -1


class PageTable:
    """Entries of all window pages. Bit-exact with the hardware for requests that come one after the other.

    An entry that DRAM would not take is kept, and counts instead of what DRAM has; whatever changes the table
    tries to write it again before. When there is no room for another one, nothing of DRAM's is trusted any more.

    Parameters
    ----------
    config : DeviceConfig
    dram
        Device DRAM: `read_lines(line, count)` returns data uint8 (count, 64) and errors bool (count,);
        `write_lines(line, data, enable)` with `enable` bool (count, 4), the 16-byte quarters to write. It may
        return errors bool (count,).
    on_kept
        Called with a page whose entry begins to be kept.

    Attributes
    ----------
    hits, misses : int
        Lookups that the TLB answered, and those that took a walk.
    """

    def __init__(self, config, dram, on_kept=lambda page: None):
        self._config = config
        self._dram = dram
        self._tlb = Tlb(config)
        self._on_kept = on_kept
        self._kept = {}
        """Packed entries, uint8 (16,), by page."""
        self._lost = False
        self.hits = 0
        self.misses = 0

    def lookup(self, page):
        """Entry of window page `page` and a `TableFault`; with a fault the entry is `POISONED`."""
        line, quarter = self._split(page)
        data = self._tlb.find(line)
        if data is not None:
            self.hits += 1
        else:
            self.misses += 1
            if self._lost:
                return POISONED, TableFault.MEMORY
            if page in self._kept:
                return Entry.unpack(self._kept[page]), TableFault.NONE
            lines, errors = self._dram.read_lines(line, 1)
            if errors[0]:
                return POISONED, TableFault.MEMORY
            data = lines[0]
            if not any(kept // ENTRIES_PER_LINE == line for kept in self._kept):
                self._tlb.fill(line, data)
        entry = Entry.unpack(data[quarter * ENTRY_BYTES:(quarter + 1) * ENTRY_BYTES])
        return (entry, TableFault.NONE) if entry.intact else (POISONED, TableFault.CORRUPT)

    def update(self, page, entry):
        """Makes `entry`, check bits computed here, the entry of `page`. Returns a `TableFault`."""
        self._try_again()
        line, quarter = self._split(page)
        raw = np.frombuffer(entry.sealed().pack(), dtype=np.uint8)
        if self._write_entry(page, raw):
            self._kept.pop(page, None)
            cached = self._tlb.find(line)
            if cached is not None:
                cached[quarter * ENTRY_BYTES:(quarter + 1) * ENTRY_BYTES] = raw
            return TableFault.NONE
        self._tlb.drop(line)
        if page not in self._kept:
            if len(self._kept) == KEPT:
                self._lost = True
                return TableFault.MEMORY
            self._on_kept(page)
        self._kept[page] = raw
        return TableFault.NONE

    def clear(self, page, count):
        """Makes `count` pages from `page` on EMPTY, both multiples of four. Returns a `TableFault`."""
        for name, value in (("page", page), ("count", count)):
            if value % ENTRIES_PER_LINE:
                raise ValueError(f"{name} must be a multiple of {ENTRIES_PER_LINE}, not {value!r}")
        if not 0 <= page <= page + count <= self._config.window_pages:
            raise ValueError(f"page and count must stay inside the window, not {page!r} and {count!r}")
        self._try_again()
        line, end = page // ENTRIES_PER_LINE, (page + count) // ENTRIES_PER_LINE
        failed = False
        while line < end:
            burst = min(CLEAR_LINES - line % CLEAR_LINES, end - line)
            failed |= self._write(line, np.zeros((burst, LINE_BYTES), np.uint8), None)
            line += burst
        self._kept = {kept: raw for kept, raw in self._kept.items() if not page <= kept < page + count}
        self._tlb.flush()
        return TableFault.MEMORY if failed else TableFault.NONE

    def _split(self, page):
        if not 0 <= page < self._config.window_pages:
            raise ValueError(f"page must be inside the window, not {page!r}")
        return page // ENTRIES_PER_LINE, page % ENTRIES_PER_LINE

    def _try_again(self):
        """Writes the kept entries once more."""
        self._kept = {page: raw for page, raw in self._kept.items() if not self._write_entry(page, raw)}

    def _write_entry(self, page, raw):
        """Returns whether DRAM took the entry, uint8 (16,)."""
        line, quarter = self._split(page)
        enable = np.arange(ENTRIES_PER_LINE)[None] == quarter
        return not self._write(line, np.tile(raw, (1, ENTRIES_PER_LINE)), enable)

    def _write(self, line, data, enable):
        """Writes to DRAM and returns whether that failed."""
        errors = self._dram.write_lines(line, data, enable)
        return errors is not None and bool(np.any(errors))
