"""Golden model of the fetcher: brings pages from DRAM into the page cache."""

from collections import OrderedDict
from zlib import crc32

import numpy as np

from ..codec import decode
from ..constants import LINE_BYTES, PAGE_BITS, PAGE_LINES, Codec, ErrorKind, PageState
from .messages import MAX_STORED_LINES, FetchDone, unpack_header

MEMO_PAGES = 1024
NO_LINES = np.zeros(PAGE_LINES, bool)
ALL_LINES = np.ones(PAGE_LINES, bool)
ZERO_PAGE = np.zeros((PAGE_LINES, LINE_BYTES), np.uint8)
for constant in (NO_LINES, ALL_LINES, ZERO_PAGE):
    constant.setflags(write=False)


class Fetcher:
    """Looks a page up in the page table, reads what is stored of it, checks it and decodes it.

    An entry or a page that fails its check is POISONED in the cache; what DRAM holds stays as it is, and fails again at
    the next fetch. Where DRAM answers with an error the lines concerned are poison in the cache only: one by one for
    `raw` and OPEN pages, all for other codecs and where the header of an OPEN page is lost.

    What was decoded lately is kept, found by the stored bytes themselves: that only saves time.

    Parameters
    ----------
    config : DeviceConfig
    opener : Opener
    dram : Dram
    errors : ErrorLog
    counters : Counters
    """

    def __init__(self, config, opener, dram, errors, counters):
        self._config = config
        self._opener = opener
        self._dram = dram
        self._errors = errors
        self._counters = counters
        self._decoded = OrderedDict()

    def fetch(self, page, stream):
        """Content of window `page` as a `FetchDone`."""
        self._counters.add("PAGES_FETCHED")
        entry = self._opener.lookup(page, stream)
        if entry is None or entry.state == PageState.POISONED:
            return self._done(PageState.POISONED)
        if entry.state == PageState.EMPTY:
            return self._done(PageState.EMPTY)
        if not 1 <= entry.lines <= MAX_STORED_LINES:
            # An OPEN page that was never spilled has no content but in the cache: here it is lost.
            return self._corrupt(page, ErrorKind.ENTRY_CORRUPT)
        stored, failed = self._dram.read_lines(self._config.sector_line(entry.place), entry.lines)
        self._counters.add("FETCH_LINES_IN", entry.lines)
        if failed.any():
            self._errors.record(ErrorKind.MEMORY_READ, page << PAGE_BITS)
        elif crc32(stored) != entry.crc:
            return self._corrupt(page, ErrorKind.PAGE_CORRUPT)
        if entry.state == PageState.OPEN:
            return self._open_page(stored, failed)
        return self._sealed_page(page, stream, entry, stored, failed)

    def _open_page(self, stored, failed):
        if failed[0]:
            return self._done(PageState.POISONED)
        written, base, poison = unpack_header(stored[0])
        data = np.zeros_like(ZERO_PAGE)
        data[:len(stored) - 1] = stored[1:]
        poison[:len(stored) - 1] |= failed[1:]
        return self._done(PageState.OPEN, base, written, poison, data, lines=len(stored) - 1)

    def _sealed_page(self, page, stream, entry, stored, failed):
        if not failed.any():
            data = self._decode(entry.codec, stream.dtype, stored)
            if data is None:
                return self._corrupt(page, ErrorKind.PAGE_CORRUPT)
            return self._done(PageState.SEALED, data=data, lines=PAGE_LINES)
        if entry.codec == Codec.RAW:
            return self._done(PageState.SEALED, poison=failed[:PAGE_LINES], data=stored[:PAGE_LINES], lines=PAGE_LINES)
        return self._done(PageState.SEALED, poison=ALL_LINES, lines=PAGE_LINES)

    def _decode(self, codec, dtype, stored):
        """The page as lines, or None where `stored` is not an encoded page."""
        stored = stored.tobytes()
        key = codec, dtype, stored
        data = self._decoded.pop(key, None)
        if data is None:
            try:
                data = decode(codec, dtype, np.frombuffer(stored, np.uint8))
            except ValueError:
                return None
            data = data.reshape(PAGE_LINES, LINE_BYTES)
            data.setflags(write=False)
            if len(self._decoded) == MEMO_PAGES:
                self._decoded.popitem(last=False)
        self._decoded[key] = data
        return data

    def _corrupt(self, page, kind):
        self._errors.record(kind, page << PAGE_BITS)
        return self._done(PageState.POISONED)

    def _done(self, state, base=False, written=NO_LINES, poison=None, data=ZERO_PAGE, lines=0):
        self._counters.add("FETCH_LINES_OUT", lines)
        if poison is None:
            poison = ALL_LINES if state == PageState.POISONED else NO_LINES
        return FetchDone(state, base, written, poison, data)
