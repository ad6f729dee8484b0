"""Golden model of the page cache: every read and write of the host ends here."""

import numpy as np

from ..constants import LINE_BYTES, PAGE_BITS, PAGE_LINES, ROW_LINES, ErrorKind, PageState
from .slot_table import SlotTable

LINE_SHIFT = LINE_BYTES.bit_length() - 1
ALL_BYTES = np.uint64(2**64 - 1)


class PageCache:
    """Decompressed pages; answers reads and writes, and sends the movers to work on a miss.

    What an access does to a page in each of its states:

    ========  ===================  ==========================  ==========================
    state     read                 write                       write of poison
    ========  ===================  ==========================  ==========================
    EMPTY     zeros                opener makes it OPEN first  opener makes it POISONED
    OPEN      content, else zeros  stored; the 64th seals it   opener makes it POISONED
    SEALED    content              opener makes it OPEN first  opener makes it POISONED
    POISONED  poison               dropped, logged             logged
    ========  ===================  ==========================  ==========================

    Without room the write is dropped and logged. A page that was sealed or spilled leaves the cache.

    Parameters
    ----------
    config : DeviceConfig
    fetcher : Fetcher
    opener : Opener
    sealer : Sealer
    errors : ErrorLog
    counters : Counters
    """

    def __init__(self, config, fetcher, opener, sealer, errors, counters):
        self._fetcher = fetcher
        self._opener = opener
        self._sealer = sealer
        self._errors = errors
        self._counters = counters
        self._slots = SlotTable(config)

    # Requests of the host

    def read(self, page, stream, lines):
        """Reads `lines` (int array, n) of window `page`.

        Returns the data, uint8 (n, 64), and which of it is poison, bool (n,) or False where none is.
        """
        slot = self._access(page, stream, row=int(lines[0]) // ROW_LINES if stream.by_row else None)
        hits = len(lines) - 1
        if not slot.rows.all():
            hits -= self._bring_rows(slot, lines)
        self._counters.add("CACHE_HITS", hits)
        data = slot.data[lines]
        if not slot.any_poison:
            return data, False
        poison = slot.poison[lines]
        data[poison] = 0
        return data, poison

    def write(self, page, stream, lines, data, byte_enable):
        """Writes `lines` (int array, n) of window `page` in order.

        `data`: uint8, (n, 64); `byte_enable`: uint64, (n,), bit i enables byte i of the line; none is zero.
        """
        start = 0
        while start < len(lines):
            slot = self._access(page, stream)
            stop = start + 1
            refusal = self._open(slot)
            if refusal is not None:
                self._log(refusal, page, lines[start:stop])
            else:
                stop = start + self._until_sealed(slot, lines[start:])
                self._store(slot, lines[start:stop], data[start:stop], byte_enable[start:stop])
                self._counters.add("CACHE_HITS", stop - start - 1)
                if slot.count == PAGE_LINES:
                    self._seal(slot)
            start = stop

    def write_poison(self, page, stream, lines):
        """A host's write of poison to `lines` (int array, n): the page becomes POISONED."""
        slot = self._access(page, stream)
        self._counters.add("CACHE_HITS", len(lines) - 1)
        if slot.state != PageState.POISONED:
            self._opener.poison(page, stream)
            slot.lose()
        self._log(ErrorKind.HOST_POISON, page, lines)

    # Operations of commands and the prefetcher

    def seal(self, page, stream):
        """Seals the page if it is OPEN."""
        slot = self._slots.find(page) or self._bring(page, stream)
        if slot.state == PageState.OPEN:
            self._seal(slot)

    def free(self, page, stream):
        """Forgets the page and gives back what it holds. Returns whether DRAM let it."""
        slot = self._slots.find(page)
        if slot is not None:
            self._slots.drop(slot)
        freed = self._opener.free(page, stream)
        self._counters.add("PAGES_FREED")
        return freed

    def flush(self, page):
        """Writes the page to DRAM if it is OPEN, and forgets it."""
        slot = self._slots.find(page)
        if slot is not None:
            self._vacate(slot)

    def prefetch(self, page, stream):
        """Fetches the page if it is not here and that displaces nothing that is needed.

        Returns whether it is here.
        """
        if self._slots.find(page) is not None:
            return True
        slot = self._slots.spare(page)
        if slot is None:
            return False
        self._slots.take(slot, page, stream, self._fetcher.fetch(page, stream), prefetched=True)
        self._counters.add("PREFETCHES_ISSUED")
        return True

    # Slots

    def _access(self, page, stream, row=None):
        """The slot of a page that the host touches; counts the touch.

        With `row` only that row need be there afterwards, else all of the page.
        """
        slot = self._slots.find(page)
        if slot is None:
            self._counters.add("CACHE_MISSES")
            return self._bring(page, stream, row)
        if not (slot.rows.all() if row is None else slot.rows[row]):
            self._counters.add("CACHE_MISSES")
            done = self._fetcher.fetch(page, stream, row)
            if row is None:
                slot.fill(page, stream, done, prefetched=False)
            else:
                slot.add(done)
            return slot
        self._counters.add("CACHE_HITS")
        if slot.prefetched:
            slot.prefetched = False
            self._counters.add("PREFETCHES_USED")
        return slot

    def _bring(self, page, stream, row=None):
        """Makes room for a page that is not here and fetches it, or `row` of it."""
        slot = self._slots.victim(page)
        self._vacate(slot)
        self._slots.take(slot, page, stream, self._fetcher.fetch(page, stream, row), prefetched=False)
        return slot

    def _bring_rows(self, slot, lines):
        """Fetches the rows of `lines` that are not here. Returns how many."""
        fetched = 0
        for row in lines // ROW_LINES:
            if not slot.rows[row]:
                self._access(slot.page, slot.stream, row=row)
                fetched += 1
        return fetched

    def _vacate(self, slot):
        """Spills an OPEN page; the slot is empty then."""
        if slot.page is None:
            return
        if slot.state == PageState.OPEN:
            self._sealer.spill(slot.page, slot.stream, slot.data, slot.base, slot.written, slot.poison)
        self._slots.drop(slot)

    def _seal(self, slot):
        self._sealer.seal(slot.page, slot.stream, slot.data, slot.poison)
        self._slots.drop(slot)

    # Writes

    def _open(self, slot):
        """Makes the page in `slot` OPEN if it is not.

        Returns the kind of error where that is refused, else None.
        """
        if slot.state == PageState.OPEN:
            return None
        if slot.state == PageState.POISONED:
            return ErrorKind.WRITE_POISONED
        done = self._opener.open(slot.page, slot.stream)
        if done.state == PageState.OPEN:
            slot.open()
            return None
        if done.state == PageState.POISONED:
            slot.lose()
        return ErrorKind.NO_ROOM if done.refused else ErrorKind.WRITE_POISONED

    def _until_sealed(self, slot, lines):
        """How many writes of `lines` the page takes: those up to the one that seals it."""
        left = PAGE_LINES - slot.count
        if len(lines) < left:
            return len(lines)
        distinct, first = np.unique(lines, return_index=True)
        first = np.sort(first[~slot.written[distinct]])
        return int(first[left - 1]) + 1 if len(first) >= left else len(lines)

    def _store(self, slot, lines, data, byte_enable):
        """Writes lines, in order, into an OPEN page; a line that is written as a whole is poison no more."""
        whole = byte_enable == ALL_BYTES
        if whole.all():
            slot.data[lines] = data
        else:
            enable = np.unpackbits(byte_enable.view(np.uint8), bitorder="little").reshape(-1, LINE_BYTES)
            enable = enable.view(bool)
            for line, values, enabled in zip(lines, data, enable):
                np.copyto(slot.data[line], values, where=enabled)
        if slot.any_poison:
            slot.set_poison(False, lines[whole])
        slot.written[lines] = True
        slot.count = int(np.count_nonzero(slot.written))

    def _log(self, kind, page, lines):
        for line in lines:
            self._errors.record(kind, page << PAGE_BITS | int(line) << LINE_SHIFT)
