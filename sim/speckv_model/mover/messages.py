"""What the page cache and the movers tell each other, and the layout of a spilled page."""

from typing import NamedTuple

import numpy as np

from ..constants import LINE_BYTES, OPEN_SECTORS, PAGE_ROWS, SECTOR_LINES, Codec, Dtype, PageState

MAX_STORED_LINES = OPEN_SECTORS * SECTOR_LINES - 1
"""A spilled page: its header and 64 lines."""


ALL_ROWS = np.ones(PAGE_ROWS, bool)
ALL_ROWS.setflags(write=False)


class StreamInfo(NamedTuple):
    """What the movers must know of the stream that a page belongs to."""
    context: int
    codec: Codec
    dtype: Dtype
    by_row: bool = False
    """A read that misses fetches the row alone, where the codec lets it; stored rows have a check for it."""


class FetchDone(NamedTuple):
    """A page as the fetcher found it."""
    state: PageState
    base: bool
    """Lines that `written` does not name hold content too (a page that was reopened)."""
    written: np.ndarray
    """bool, (64,)."""
    poison: np.ndarray
    """bool, (64,): lines whose content is lost."""
    data: np.ndarray
    """uint8, (64, 64): zeros where there is no content; read only."""
    rows: np.ndarray = ALL_ROWS
    """bool, (16,): rows that were fetched; all, or one of a SEALED page."""


class OpenDone(NamedTuple):
    """How an OPEN job ended."""
    refused: bool
    """The pool has no room."""
    state: PageState
    """What the page is now."""


def sectors_of(entry):
    """Sectors of the pool that a page with this `entry` holds."""
    if entry.state == PageState.OPEN:
        return OPEN_SECTORS
    return -(-entry.lines // SECTOR_LINES) if entry.state == PageState.SEALED else 0


def pack_header(written, base, poison):
    """First line of a spilled page from its bitmaps (bool, (64,)) and `base`: uint8, (64,)."""
    header = np.zeros(LINE_BYTES, np.uint8)
    header[0:8] = np.packbits(written, bitorder="little")
    header[8] = base
    header[16:24] = np.packbits(poison, bitorder="little")
    return header


def unpack_header(header):
    """(written, base, poison) of the line that `pack_header` made."""
    bits = np.unpackbits(header, bitorder="little").astype(bool)
    return bits[0:64], bool(bits[64]), bits[128:192]
