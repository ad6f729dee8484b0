"""Golden model of the sealer: writes a page's lines to DRAM, compressed or as they are."""

from zlib import crc32

import numpy as np

from ..codec import encode
from ..constants import (
    LINE_BYTES,
    OPEN_SECTORS,
    PAGE_BITS,
    PAGE_LINES,
    SECTOR_LINES,
    Codec,
    ErrorKind,
    PageState,
)
from ..table.entry import Entry
from .messages import pack_header


class Sealer:
    """Seals and spills OPEN pages.

    Sealing never fails for want of room: where the pool has none the sealed page takes the begin of what the
    OPEN page had reserved, and the rest of that is given back. A page that DRAM does not take becomes
    POISONED.

    Parameters
    ----------
    config : DeviceConfig
    descriptors : DescriptorTable
        Says how a page is to be encoded.
    opener : Opener
    pool : PoolAllocator
    dram : Dram
    errors : ErrorLog
    counters : Counters
    """

    def __init__(self, config, descriptors, opener, pool, dram, errors, counters):
        self._config = config
        self._descriptors = descriptors
        self._opener = opener
        self._pool = pool
        self._dram = dram
        self._errors = errors
        self._counters = counters

    def seal(self, page, stream, data, poison):
        """Compresses the page, places it, writes it and frees what it had reserved.

        `data`: uint8, (64, 64), zeros in lines without content. `poison`: bool, (64,), lines whose content is
        lost: any of them makes the page POISONED. Returns the page's new `PageState`.
        """
        before = self._opener.lookup(page, stream)
        if before is None or before.state != PageState.OPEN:
            return PageState.POISONED
        if poison.any():
            return self._lose(page, stream)
        codec, setting = self._descriptors.encoding(page, stream)
        stored = encode(codec, stream.dtype, data.ravel(), setting, stream.by_row)
        if stored is None:
            codec, stored = Codec.RAW, data.ravel()
        stored = stored.reshape(-1, LINE_BYTES)
        self._counters.add("SEAL_LINES_IN", PAGE_LINES)
        self._counters.add("SEAL_LINES_OUT", len(stored))

        sectors = -(-len(stored) // SECTOR_LINES)
        place = self._pool.allocate(sectors, stream.context)
        is_new = place is not None
        if not is_new:
            place = before.place
        if not self._write(page, place, stored):
            if is_new:
                self._pool.free(place, sectors)
            return self._lose(page, stream)
        after = Entry(state=PageState.SEALED, codec=codec, context=stream.context, place=place,
                      lines=len(stored), crc=crc32(stored))
        if is_new:
            if not self._opener.replace(page, before, after):
                self._pool.free(place, sectors)
                return PageState.POISONED
        else:
            if not self._opener.replace(page, Entry(), after):
                return PageState.POISONED
            self._pool.free(place + sectors, OPEN_SECTORS - sectors)
        self._counters.add("PAGES_SEALED")
        return PageState.SEALED

    def spill(self, page, stream, data, base, written, poison):
        """Writes the page as it is, with its bitmaps, into its reserved room.

        `data` as for `seal`; `written`, `poison`: bool, (64,); `base`: whether lines not written hold content
        too. Returns the page's `PageState` after that.
        """
        before = self._opener.lookup(page, stream)
        if before is None or before.state != PageState.OPEN:
            return PageState.POISONED
        count = PAGE_LINES if base else int(np.flatnonzero(written)[-1]) + 1
        stored = np.concatenate([pack_header(written, base, poison)[None], data[:count]])
        if not self._write(page, before.place, stored):
            return self._lose(page, stream)
        after = Entry(state=PageState.OPEN, context=stream.context, place=before.place, lines=len(stored),
                      crc=crc32(stored))
        if not self._opener.replace(page, Entry(), after):
            return PageState.POISONED
        self._counters.add("PAGES_SPILLED")
        return PageState.OPEN

    def _write(self, page, place, stored):
        """Writes lines at a sector. Returns whether DRAM took them; logs it where not."""
        errors = self._dram.write_lines(self._config.sector_line(place), stored)
        if not np.any(errors):
            return True
        self._errors.record(ErrorKind.MEMORY_WRITE, page << PAGE_BITS)
        return False

    def _lose(self, page, stream):
        self._opener.poison(page, stream)
        return PageState.POISONED
