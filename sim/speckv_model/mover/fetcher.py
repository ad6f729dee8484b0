"""Golden model of the fetcher: brings pages from DRAM into the page cache."""

from collections import OrderedDict
from zlib import crc32

import numpy as np

from ..codec import decode, fixed
from ..constants import LINE_BYTES, PAGE_BITS, PAGE_LINES, PAGE_ROWS, ROW_LINES, Codec, ErrorKind, PageState
from .messages import ALL_ROWS, MAX_STORED_LINES, FetchDone, unpack_header

MEMO_PAGES = 1024
ROWS = np.arange(PAGE_ROWS)
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

    Where the stream says so, a row of a page that is stored as `fixed` can be fetched alone. It then has a check of its
    own; a row that fails it, and one of which a line was answered with an error, is poison.

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

    def fetch(self, page, stream, row=None):
        """Content of window `page` as a `FetchDone`; of its `row` alone where one is given and can be had alone."""
        self._counters.add("PAGES_FETCHED")
        entry = self._opener.lookup(page, stream)
        if entry is None or entry.state == PageState.POISONED:
            return self._done(PageState.POISONED)
        if entry.state == PageState.EMPTY:
            return self._done(PageState.EMPTY)
        if not 1 <= entry.lines <= MAX_STORED_LINES:
            # An OPEN page that was never spilled has no content but in the cache: here it is lost.
            return self._corrupt(page, ErrorKind.ENTRY_CORRUPT)
        if row is not None and entry.state == PageState.SEALED and entry.codec == Codec.FIXED:
            return self._row(page, stream, entry, row)
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
            data = self._decode(entry.codec, stream, stored)
            if data is None:
                return self._corrupt(page, ErrorKind.PAGE_CORRUPT)
            return self._done(PageState.SEALED, data=data, lines=PAGE_LINES)
        if entry.codec == Codec.RAW:
            return self._done(PageState.SEALED, poison=failed[:PAGE_LINES], data=stored[:PAGE_LINES], lines=PAGE_LINES)
        return self._done(PageState.SEALED, poison=ALL_LINES, lines=PAGE_LINES)

    def _row(self, page, stream, entry, row):
        rate = fixed.rate_of(entry.lines, stream.by_row)
        start = row * rate.row_bytes
        first, end = start // LINE_BYTES, -(-(start + rate.row_bytes) // LINE_BYTES)
        stored, failed = self._dram.read_lines(self._config.sector_line(entry.place) + first, end - first)
        self._counters.add("FETCH_LINES_IN", end - first)
        body = stored.reshape(-1)[start - first * LINE_BYTES:][:rate.row_bytes]
        poison, data = NO_LINES.copy(), np.zeros_like(ZERO_PAGE)
        here = slice(row * ROW_LINES, (row + 1) * ROW_LINES)
        data[here] = fixed.decode_rows(body, rate, stream.dtype).astype("<u2").view(np.uint8).reshape(-1, LINE_BYTES)
        check = body[rate.check_at:rate.check_at + fixed.CHECK_BYTES]
        poison[here] = failed.any() or (fixed.row_check(body, rate) != check).any()
        if poison.any():
            kind = ErrorKind.MEMORY_READ if failed.any() else ErrorKind.PAGE_CORRUPT
            self._errors.record(kind, page << PAGE_BITS)
        return self._done(PageState.SEALED, poison=poison, data=data, lines=ROW_LINES, rows=ROWS == row)

    def _decode(self, codec, stream, stored):
        """The page as lines, or None where `stored` is not an encoded page."""
        stored = stored.tobytes()
        key = codec, stream.dtype, stream.by_row, stored
        data = self._decoded.pop(key, None)
        if data is None:
            try:
                data = decode(codec, stream.dtype, np.frombuffer(stored, np.uint8), stream.by_row)
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

    def _done(self, state, base=False, written=NO_LINES, poison=None, data=ZERO_PAGE, lines=0, rows=ALL_ROWS):
        self._counters.add("FETCH_LINES_OUT", lines)
        if poison is None:
            poison = ALL_LINES if state == PageState.POISONED else NO_LINES
        return FetchDone(state, base, written, poison, data, rows)
