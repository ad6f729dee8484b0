"""Kinds of faults, how many of each, and how they are put into DRAM."""

import numpy as np

from speckv_model.constants import ENTRY_BYTES, LINE_BYTES

FLIPS = {"bit": 1, "double": 2, "burst": 0, "many": 0, "line": 0}
RESPONSES = {"slverr": "slverr", "decerr": "decerr", "unanswered": "none"}
SHARES = {
    "page bit": 2200, "page double": 1600, "page burst": 900, "page many": 800, "page line": 400,
    "entry bit": 800, "entry double": 600, "entry many": 400,
    "read slverr": 600, "read decerr": 600, "entry read slverr": 120, "entry read decerr": 120,
    "read unanswered": 150, "entry read unanswered": 50,
    "write slverr": 180, "write decerr": 180, "entry write slverr": 125, "entry write decerr": 125,
    "write unanswered": 30, "entry write unanswered": 20,
}
"""Faults of each kind out of 10,000: of stored pages (bits flipped, a line replaced), of page table entries, of reads
and writes of stored pages and of entries (answered with an error, or not at all)."""


def shares(count):
    """How many of `count` faults are of each kind, at least one."""
    wanted = {kind: max(1, share * count // 10_000) for kind, share in SHARES.items()}
    wanted["page bit"] += max(0, count - sum(wanted.values()))
    return wanted


def flipped(kind, size, rng):
    """What to XOR `size` bytes with for a fault of the `kind` of flip: uint8 (size,), not all zero."""
    bits = np.zeros(8 * size, np.uint8)
    if kind == "line":
        begin = int(rng.integers(max(1, size // LINE_BYTES))) * 8 * LINE_BYTES
        bits[begin:begin + 8 * LINE_BYTES] = rng.integers(0, 2, 8 * min(size, LINE_BYTES), np.uint8)
    elif kind == "burst":
        length = int(rng.integers(3, 33))
        begin = int(rng.integers(bits.size - length + 1))
        bits[begin:begin + length] = rng.integers(0, 2, length, np.uint8)
        bits[[begin, begin + length - 1]] = 1
    else:
        count = FLIPS[kind] or int(rng.integers(3, 33))
        bits[rng.choice(bits.size, count, replace=False)] = 1
    return np.packbits(bits, bitorder="little")


class Fault:
    """A fault of `kind` that concerns `page` of a `Store`; made by `inject`."""

    def __init__(self, store, kind, page, rng):
        self.kind, self.page = kind, page
        self._link = store.tested.link
        self._undo = None
        self._whole_line = kind.startswith("entry read")
        self.pages = store.neighbours(page) if self._whole_line else [page]
        *place, what = kind.split()
        if what in RESPONSES:
            self._fail(store, place, RESPONSES[what], rng)
        else:
            address, size = (store.entry_address(page), ENTRY_BYTES) if place == ["entry"] else store.stored(page)
            self._flip(address, flipped(what, size, rng))

    def _fail(self, store, place, response, rng):
        config = store.tested.config
        if place[0] == "entry":
            line, count = store.entry_address(self.page) // LINE_BYTES, 1
        elif place == ["write"]:
            # Where a page will be written only the pool knows.
            line, count = config.pool_base_line, config.dram_bytes // LINE_BYTES - config.pool_base_line
        else:
            address, size = store.stored(self.page)
            line, count = address // LINE_BYTES + int(rng.integers(size // LINE_BYTES)), 1
        self._link.dram_fail(line, count, reads="read" in place, writes="write" in place, response=response)

    def _flip(self, address, mask):
        before = np.frombuffer(self._link.dram_read(address, mask.size), np.uint8)
        self._link.dram_write(address, before ^ mask)
        self._undo = address, before, before ^ mask

    def mend(self):
        """Puts back the bits that were flipped, unless the device has written there; `dram_heal` does the rest."""
        if self._undo:
            address, before, after = self._undo
            found = np.frombuffer(self._link.dram_read(address, before.size), np.uint8)
            self._link.dram_write(address, np.where(found == after, before, found))
