"""What a device must answer, line by line: the states of a page in plain Python."""

import numpy as np

from speckv_model.codec import decode, encode
from speckv_model.constants import LINE_BYTES, OPEN_SECTORS, PAGE_LINES, SECTOR_BYTES, Codec, PageState
from speckv_model.pool.pool_allocator import PoolAllocator


class _Page:
    def __init__(self, context):
        self.context = context
        self.clear(PageState.EMPTY)

    def clear(self, state):
        self.state = state
        self.content = np.zeros((PAGE_LINES, LINE_BYTES), np.uint8)
        self.written = set()
        self.held = None


class DeviceReference:
    """Requests one at a time; contexts by number; only the pool is the model's own, for its placements.

    Parameters
    ----------
    config : DeviceConfig
    """

    def __init__(self, config):
        self.pool = PoolAllocator(config)
        self.contexts = {}
        self.refused = 0
        """Writes that found no room."""

    def create(self, context, first_page, pages, codec, dtype, ld_id):
        """`codec` may be a function of the page."""
        pages = {page: _Page(context) for page in range(first_page, first_page + pages)}
        self.contexts[context] = ld_id, codec if callable(codec) else lambda page: codec, dtype, pages

    def destroy(self, context):
        *_, pages = self.contexts.pop(context)
        for page in pages.values():
            self._give_back(page)

    def state(self, page):
        return self._page(page)[2].state

    def read(self, page, line, ld_id=0):
        """(data, poison, nxm) of a line."""
        found = self._page(page, ld_id)
        if found is None:
            return np.zeros(LINE_BYTES, np.uint8), 0, 1
        *_, page = found
        return page.content[line], int(page.state == PageState.POISONED), 0

    def write(self, page, line, data, enable=None, poison=False, ld_id=0):
        """Writes the bytes of `data` that `enable` (bool, (64,); None: all) names, or poison."""
        found = self._page(page, ld_id)
        enable = np.ones(LINE_BYTES, bool) if enable is None else enable
        if found is None or not (poison or enable.any()):
            return
        codec, dtype, page = found
        if page.state == PageState.POISONED:
            return
        if poison:
            self._give_back(page)
            page.clear(PageState.POISONED)
            return
        if page.state != PageState.OPEN and not self._open(page):
            return
        page.content[line, enable] = data[enable]
        page.written.add(line)
        if len(page.written) == PAGE_LINES:
            self._seal(codec, dtype, page)

    def seal(self, page):
        codec, dtype, page = self._page(page)
        if page.state == PageState.OPEN:
            self._seal(codec, dtype, page)

    def free(self, page):
        *_, page = self._page(page)
        self._give_back(page)
        page.clear(PageState.EMPTY)

    def _page(self, page, ld_id=None):
        for owner, codec, dtype, pages in self.contexts.values():
            if page in pages and ld_id in (None, owner):
                return codec(page), dtype, pages[page]
        return None

    def _open(self, page):
        place = self.pool.allocate(OPEN_SECTORS, page.context)
        if place is None:
            self.refused += 1
            if page.state == PageState.EMPTY:
                page.clear(PageState.POISONED)
            return False
        self._give_back(page)
        page.state, page.held, page.written = PageState.OPEN, (place, OPEN_SECTORS), set()
        return True

    def _seal(self, codec, dtype, page):
        stored = encode(codec, dtype, page.content.ravel())
        if stored is None:
            codec, stored = Codec.RAW, page.content.ravel()
        sectors = -(-len(stored) // SECTOR_BYTES)
        place = self.pool.allocate(sectors, page.context)
        if place is None:
            place, reserved = page.held
            self.pool.free(place + sectors, reserved - sectors)
        else:
            self._give_back(page)
        page.state, page.held = PageState.SEALED, (place, sectors)
        page.content = decode(codec, dtype, stored).reshape(PAGE_LINES, LINE_BYTES).copy()

    def _give_back(self, page):
        if page.held:
            assert self.pool.free(*page.held)
        page.held = None
