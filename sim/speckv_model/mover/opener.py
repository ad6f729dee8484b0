"""Golden model of the opener: changes what a page holds without moving its lines."""

from ..constants import OPEN_SECTORS, PAGE_BITS, ErrorKind, PageState
from ..table.entry import Entry
from ..table.page_table import TableFault
from .messages import OpenDone, sectors_of


class Opener:
    """Opens, frees and poisons pages: only their entries and their room in the pool change.

    An entry is written before the sectors that it named are given back, and those stay taken where the entry
    could not be written or trusted: no two entries ever name the same sector.

    Parameters
    ----------
    table : PageTable
    pool : PoolAllocator
    errors : ErrorLog
    counters : Counters
    """

    def __init__(self, table, pool, errors, counters):
        self._table = table
        self._pool = pool
        self._errors = errors
        self._counters = counters

    def open(self, page, stream):
        """Reserves room for an OPEN page and gives back what the page held. Returns an `OpenDone`.

        Without room, a SEALED page stays SEALED and an EMPTY one becomes POISONED. A page whose entry cannot
        be read, trusted or written is POISONED.
        """
        before = self.lookup(page, stream)
        if before is None or before.state == PageState.POISONED:
            return OpenDone(False, PageState.POISONED)
        place = self._pool.allocate(OPEN_SECTORS, stream.context)
        if place is None:
            if before.state == PageState.EMPTY:
                before = self._poison(page, stream)
            return OpenDone(True, before.state)
        after = Entry(state=PageState.OPEN, context=stream.context, place=place)
        if not self.replace(page, before, after):
            self._pool.free(place, OPEN_SECTORS)
            return OpenDone(False, PageState.POISONED)
        self._counters.add("PAGES_OPENED")
        return OpenDone(False, PageState.OPEN)

    def free(self, page, stream):
        """Gives back what the page holds; it becomes EMPTY.

        Returns whether its entry could be written.
        """
        return self._become(page, stream, Entry())

    def poison(self, page, stream):
        """Gives back what the page holds; it becomes POISONED.

        Returns whether its entry could be written.
        """
        return self._become(page, stream, Entry(state=PageState.POISONED, context=stream.context))

    def lookup(self, page, stream):
        """The page's entry, or None where DRAM does not give it or it cannot be trusted; both are logged.

        The sectors that such an entry named, if any, stay taken until the next reset.
        """
        entry, fault = self._table.lookup(page)
        if fault == TableFault.MEMORY:
            self._errors.record(ErrorKind.MEMORY_READ, page << PAGE_BITS)
            return None
        is_foreign = entry.has_place and entry.context != stream.context
        if fault == TableFault.CORRUPT or is_foreign:
            self._errors.record(ErrorKind.ENTRY_CORRUPT, page << PAGE_BITS)
            return None
        return entry

    def replace(self, page, before, after):
        """Writes the entry `after` and gives back what `before` held. Returns whether DRAM took the entry."""
        fault = self._table.update(page, after)
        if fault != TableFault.NONE:
            self._errors.record(ErrorKind.MEMORY_WRITE, page << PAGE_BITS)
            return False
        if sectors := sectors_of(before):
            self._pool.free(before.place, sectors)
        return True

    def _poison(self, page, stream):
        """Writes a POISONED entry in place of one that names no sectors. Returns it."""
        entry = Entry(state=PageState.POISONED, context=stream.context)
        self.replace(page, Entry(), entry)
        return entry

    def _become(self, page, stream, after):
        before = self.lookup(page, stream)
        if before is None:
            # What the page held is not known and stays taken, but its content must not come back.
            return self.replace(page, Entry(), after)
        return before.state == after.state or self.replace(page, before, after)
