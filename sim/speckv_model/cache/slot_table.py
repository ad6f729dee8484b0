"""Golden model of the slot table: what the page cache knows of its slots, and the choice of victims."""

import numpy as np

from ..constants import LINE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_LINES, PageState


def set_of(config, page):
    """Set of a window page: its bits folded by XOR, so that one index in many streams spreads over sets."""
    bits = (config.cache_sets - 1).bit_length()
    folded = 0
    while page and bits:
        folded ^= page & config.cache_sets - 1
        page >>= bits
    return folded


class Slot:
    """Room for one page: what is known of it, and its lines."""

    __slots__ = ("set", "way", "page", "stream", "prefetched", "state", "base", "count", "written", "poison",
                 "any_poison", "data", "rows")

    def __init__(self, set, way):
        self.set = set
        self.way = way
        self.page = None
        """Window page in the slot, or None."""
        self.stream = None
        self.prefetched = False
        """Fetched by a prefetch and not used since."""
        self.state = PageState.EMPTY
        self.base = False
        """Lines that were not written since the page opened hold content too."""
        self.count = 0
        """Distinct lines written since the page opened."""
        self.written = np.zeros(PAGE_LINES, bool)
        self.poison = np.zeros(PAGE_LINES, bool)
        self.any_poison = False
        """Whether a line is poison, so that most reads need not look."""
        self.data = np.zeros((PAGE_LINES, LINE_BYTES), np.uint8)
        """Lines; zeros where there is no content."""
        self.rows = np.ones(PAGE_ROWS, bool)
        """Rows that are here; all of them unless the page is SEALED."""

    def fill(self, page, stream, done, prefetched):
        """Takes the page that the fetcher brought as the `FetchDone` `done`."""
        self.page, self.stream, self.prefetched = page, stream, prefetched
        self.state, self.base = done.state, done.base
        self.rows[:] = done.rows
        self.data[:] = done.data
        self.written[:] = done.written
        self.count = int(np.count_nonzero(self.written))
        self.set_poison(done.poison)

    def add(self, done):
        """Takes a row more of the SEALED page that is here in part, of the `FetchDone` `done`."""
        lines = np.repeat(done.rows, ROW_LINES)
        self.rows |= done.rows
        self.data[lines] = done.data[lines]
        self.set_poison(done.poison[lines], lines)

    def open(self):
        """Counts written lines anew; of an EMPTY page no others hold content, of a SEALED one all do."""
        self.base = self.state == PageState.SEALED
        self.state = PageState.OPEN
        self.written[:] = False
        self.count = 0

    def lose(self):
        """Makes the page POISONED."""
        self.state = PageState.POISONED
        self.rows[:] = True
        self.set_poison(True)

    def set_poison(self, poison, lines=slice(None)):
        """Says of `lines` whether they are poison (bool or array of bool)."""
        self.poison[lines] = poison
        self.any_poison = bool(self.poison.any())


class SlotTable:
    """Slots by set and way, the slot of each page in the cache, and the choice of victims.

    A victim is an invalid way, else the first clean one from the set's turn on (cyclic), else the way at the
    turn, which is OPEN; a prefetch never gets an OPEN page or one that was prefetched and is yet unused. The
    turn moves on to the way after the one that was taken.

    Parameters
    ----------
    config : DeviceConfig
    """

    def __init__(self, config):
        self._config = config
        ways = range(config.cache_ways)
        self._sets = [[Slot(set, way) for way in ways] for set in range(config.cache_sets)]
        self._turns = [0] * config.cache_sets
        self._by_page = {}

    def find(self, page):
        """The slot that holds window `page`, or None."""
        return self._by_page.get(page)

    def victim(self, page):
        """The slot that a demand for `page` gets; it may hold an OPEN page."""
        ways = self._sets[set_of(self._config, page)]
        return self._choose(ways, lambda slot: slot.state != PageState.OPEN) or ways[self._turns[ways[0].set]]

    def spare(self, page):
        """The slot that a prefetch of `page` gets, or None."""
        ways = self._sets[set_of(self._config, page)]
        return self._choose(ways, lambda slot: slot.state != PageState.OPEN and not slot.prefetched)

    def take(self, slot, page, stream, done, prefetched):
        """Gives `slot` to `page`, with what the fetcher brought."""
        self.drop(slot)
        slot.fill(page, stream, done, prefetched)
        self._by_page[page] = slot
        self._turns[slot.set] = (slot.way + 1) % self._config.cache_ways

    def drop(self, slot):
        """Forgets the page in `slot`."""
        self._by_page.pop(slot.page, None)
        slot.page = None

    def _choose(self, ways, is_candidate):
        for slot in ways:
            if slot.page is None:
                return slot
        turn = self._turns[ways[0].set]
        for slot in ways[turn:] + ways[:turn]:
            if is_candidate(slot):
                return slot
        return None
