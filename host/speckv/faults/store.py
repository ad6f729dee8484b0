"""Pages in every form that DRAM holds them in, with what each must read as."""

import numpy as np

from speckv_model.constants import (
    ENTRIES_PER_LINE,
    ENTRY_BYTES,
    LINE_BYTES,
    PAGE_BYTES,
    PAGE_LINES,
    ROW_LINES,
    Dtype,
    Opcode,
)
from speckv_model.csr.registers import REGISTERS
from speckv_model.cxl import messages
from speckv_model.table.entry import Entry

from ..traffic import kv_lines

FORM_PAGES = 24
"""Pages of each form."""
OPEN_LINES = 20
"""An OPEN page has that many lines that were written."""
FORMS = {
    "raw": dict(codec="raw"),
    "speckv": dict(codec="speckv"),
    "lossless": dict(codec="lossless"),
    "fixed": dict(codec="fixed", rate=64),
    "fixed by row": dict(codec="fixed", rate=64, by_row=True),
    "variable": dict(codec="variable"),
    "open": dict(codec="raw"),
}
"""Arguments of `Device.create_context`; pages of the last are never sealed."""


class Store:
    """Pages that `tested` and `twin` (`speckv.Device`) hold alike: whatever is written is written to both.

    Pages are numbered from 0, `FORM_PAGES` for each of `forms`. `expected` is what they must read as, that is what the
    twin reads: uint8, (pages, 64, 64).
    """

    def __init__(self, tested, twin, rng):
        self.tested, self.twin, self._rng = tested, twin, rng
        self.forms = [form for form, layout in FORMS.items() if layout["codec"] in tested.config.codecs]
        self._contexts = []
        for device in (tested, twin):
            contexts = [device.create_context(1, 1, 128, 8 * FORM_PAGES, **FORMS[form]) for form in self.forms]
            self._contexts.append(contexts)
        # Looking up its entries drives all others out of the TLB.
        self._sweeper = tested.create_context(1, 1, 128, 16 * tested.config.tlb_entries)
        self.first_page = np.concatenate(
            [context.first_page + np.arange(FORM_PAGES) for context in self._contexts[0]])
        self.pages = len(self.first_page)
        self.expected = np.zeros((self.pages, PAGE_LINES, LINE_BYTES), np.uint8)
        self.fill(range(self.pages))
        self.forget()

    @property
    def is_short_of_room(self):
        """Whether the pool can hardly open all pages: what unreadable entries name stays taken until a reset."""
        return self.tested.stats().pool_free_sectors < self.tested.config.pool_sectors // 4

    def form(self, page):
        return self.forms[page // FORM_PAGES]

    def addresses(self, page, lines):
        """Byte addresses of `lines` of `page`, arrays that broadcast."""
        return np.uint64(self.tested.base) + (
            self.first_page[page] * PAGE_BYTES + np.asarray(lines) * LINE_BYTES).astype(np.uint64)

    # Both devices
    def write(self, page, lines):
        """Writes captured K and V to `lines` of `page`; `expected` follows with `refresh`."""
        captured = kv_lines(Dtype.FP16)
        data = captured[(int(self._rng.integers(len(captured) // 4)) * 4 + np.arange(len(lines))) % len(captured)]
        for device in (self.tested, self.twin):
            device.store(self.addresses(page, lines), data)

    def fill(self, pages):
        """Writes each of `pages` anew, in its form."""
        for page in pages:
            self.command(Opcode.FREE, page)
            self.write(page, np.arange(OPEN_LINES if self.form(page) == "open" else PAGE_LINES))
        self.refresh(pages)

    def refresh(self, pages):
        for page in pages:
            self.expected[page] = self.twin.load(self.addresses(page, np.arange(PAGE_LINES)))

    def command(self, opcode, page):
        for device, contexts in zip((self.tested, self.twin), self._contexts):
            context = contexts[page // FORM_PAGES]
            device.commands.run(
                dict(opcode=opcode, context=context.number, first_page=int(self.first_page[page]), pages=1))

    # The device under test
    def forget(self, pages=None):
        """Nothing of `pages` (all), and no entry, is on chip afterwards."""
        ranges = [(context, context.first_page, FORM_PAGES) for context in self._contexts[0]] if pages is None else [
            (self._contexts[0][page // FORM_PAGES], int(self.first_page[page]), 1) for page in pages]
        self.tested.commands.run(*(
            dict(opcode=Opcode.FLUSH, context=context.number, first_page=first, pages=count)
            for context, first, count in ranges))
        pages = np.arange(0, 2 * self.tested.config.tlb_entries, ENTRIES_PER_LINE)
        self.tested.link.submit(messages.reads(self._sweeper.address + pages * PAGE_BYTES))

    def read(self, pages):
        """Reads all lines of `pages`, in random order, single rows of pages whose rows can be had alone.

        Returns data and poison: uint8 (pages, 64, 64) and bool (pages, 64) of all pages; of others as expected.
        """
        pieces = []
        for page in pages:
            size = ROW_LINES if self.form(page) == "fixed by row" else PAGE_LINES
            pieces += [(page, first, size) for first in range(0, PAGE_LINES, size)]
        pieces = [pieces[i] for i in self._rng.permutation(len(pieces))]
        page = np.repeat([piece[0] for piece in pieces], [piece[2] for piece in pieces])
        line = np.concatenate([first + np.arange(size) for _, first, size in pieces])
        responses = self.tested.link.submit(messages.reads(self.addresses(page, line)))
        data, poison = self.expected.copy(), np.zeros((self.pages, PAGE_LINES), bool)
        data[page, line] = responses["data"]
        poison[page, line] = responses["poison"] != 0
        return data, poison

    def entry_address(self, page):
        """Byte address of the page's entry in DRAM."""
        return int(ENTRY_BYTES * self.first_page[page])

    def stored(self, page):
        """Byte address and number of bytes of what DRAM holds of the page."""
        entry = Entry.unpack(self.tested.link.dram_read(self.entry_address(page), ENTRY_BYTES))
        return self.tested.config.sector_line(entry.place) * LINE_BYTES, entry.lines * LINE_BYTES

    def neighbours(self, page):
        """Pages whose entries are in the same line as that of `page`."""
        return np.flatnonzero(self.first_page // ENTRIES_PER_LINE == self.first_page[page] // ENTRIES_PER_LINE).tolist()

    def set_timeout(self, clocks):
        self.tested.link.mmio_write(REGISTERS.MEMORY_TIMEOUT.offset, REGISTERS.MEMORY_TIMEOUT.pack(clocks=clocks))

    def take_errors(self):
        """Number of errors recorded since the last call."""
        count = self.tested.link.mmio_read(REGISTERS.ERROR_COUNT.offset)
        self.tested.clear_errors()
        return count
