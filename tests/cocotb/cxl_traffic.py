"""Random CXL.mem traffic to a few pages of each of several contexts, near enough together to use the cache."""

from dataclasses import dataclass

import numpy as np
from codec_pages import mixed_pages, real_rows

from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, Codec, Dtype, Opcode, ReqOpcode, RwdOpcode
from speckv_model.cxl import messages
from speckv_model.cxl.messages import REQUEST

__all__ = ["Context", "Traffic"]

OPCODES = 16


@dataclass(frozen=True)
class Context:
    """A context of one window granule, of which `pages` (array of window pages) are used."""
    number: int
    first_page: int
    codec: Codec
    dtype: Dtype
    ld_id: int
    pages: np.ndarray


class Traffic:
    """Makes batches of requests for the contexts in `contexts`.

    Parameters
    ----------
    config : DeviceConfig
    rng : numpy Generator
    pages : int
        Pages used of each context.
    """

    def __init__(self, config, rng, pages=5):
        self._config = config
        self._rng = rng
        self._pages = pages
        self._captured = {dtype: real_rows(dtype).view(np.uint8).reshape(-1, LINE_BYTES) for dtype in Dtype}
        self.contexts = []

    def context(self, number, codec, dtype, ld_id):
        """A context at a random free place of the window; it is in `contexts` from now on."""
        granule = self._config.granule_pages
        taken = {context.first_page for context in self.contexts}
        while (first := int(self._rng.integers(self._config.window_slots)) * granule) in taken:
            pass
        pages = first + self._rng.choice(granule, self._pages, replace=False)
        self.contexts.append(Context(number, first, codec, dtype, ld_id, pages))
        return self.contexts[-1]

    def create(self, context):
        """Fields of the command that creates it, with descriptors for its 16 streams or without."""
        return dict(opcode=Opcode.CREATE, context=context.number, first_page=context.first_page,
                    pages=self._config.granule_pages, index_bits=2, head_bits=1, layer_bits=2,
                    dtype=context.dtype, codec=context.codec, ld_id=context.ld_id,
                    per_stream=int(self._rng.integers(2)),
                    descriptor_base=int(self._rng.integers(self._config.descriptors - 15)))

    def load_descriptors(self):
        """Fields of commands that give every descriptor a random codec."""
        first = np.flatnonzero(self._rng.random(self._config.descriptors) < 0.3)
        first = np.union1d(first, 0)
        return [dict(opcode=Opcode.LOAD_DESCRIPTOR, descriptor=int(begin), pages=int(end - begin),
                     codec=int(self._rng.choice([Codec.RAW, Codec.SPECKV])))
                for begin, end in zip(first, [*first[1:], self._config.descriptors])]

    def page_command(self, *opcodes):
        """Fields of a command that is one of `opcodes`, about one page."""
        context = self._context()
        return dict(opcode=int(self._rng.choice(opcodes)), context=context.number,
                    first_page=int(self._rng.choice(context.pages)), pages=1)

    def batch(self, runs):
        """`runs` runs of requests of the kinds below, each on pages of one context."""
        kinds = self._rng.choice([self._fill, self._stream, self._scattered, self._odd], runs,
                                 p=[0.25, 0.35, 0.3, 0.1])
        return np.concatenate([kind(self._context()) for kind in kinds])

    def everything(self):
        """Reads of all lines of all pages in use."""
        return np.concatenate([messages.reads(self._addresses(page, np.arange(PAGE_LINES)), ld_id=context.ld_id)
                               for context in self.contexts for page in context.pages])

    def fill(self, context, page, lines=PAGE_LINES):
        """Writes of the first `lines` lines of a page."""
        return messages.writes(self._addresses(page, np.arange(lines)), self._lines(context, lines),
                               ld_id=context.ld_id)

    def reads(self, context, page, lines):
        return messages.reads(self._addresses(page, lines), ld_id=context.ld_id)

    def _context(self):
        return self.contexts[self._rng.integers(len(self.contexts))]

    def _addresses(self, page, lines):
        return (np.asarray(page) * PAGE_BYTES + np.asarray(lines) * LINE_BYTES).astype(np.uint64)

    def _fill(self, context):
        """A page written, in order or not, often as a whole, which seals it; then some of it is read."""
        rng, page = self._rng, self._rng.choice(context.pages)
        requests = self.fill(context, page, int(rng.choice([PAGE_LINES, PAGE_LINES, 50])))
        if rng.random() < 0.3:
            rng.shuffle(requests)
        return np.concatenate([requests, self.reads(context, page, rng.choice(PAGE_LINES, 6, replace=False))])

    def _stream(self, context):
        """Lines of two pages read in order, with a hint ahead."""
        rng = self._rng
        first, second = rng.choice(context.pages, 2, replace=False)
        lines = np.arange(rng.integers(PAGE_LINES), PAGE_LINES)
        hint = messages.hints(self._addresses([second], [0]), ld_id=context.ld_id)
        more = self.reads(context, second, np.arange(rng.integers(1, PAGE_LINES)))
        return np.concatenate([hint, self._with_metadata(self.reads(context, first, lines)), more])

    def _scattered(self, context):
        """Reads, writes and part writes on two pages, all mixed."""
        rng = self._rng
        count = int(rng.integers(5, 40))
        pages = rng.choice(rng.choice(context.pages, 2, replace=False), count)
        addresses = self._addresses(pages, rng.integers(PAGE_LINES, size=count))
        requests = messages.writes(addresses, self._lines(context, count), ld_id=context.ld_id)
        part = rng.random(count) < 0.4
        requests["opcode"][part] = RwdOpcode.MEM_WR_PTL
        requests["byte_enable"] = self._byte_enables(count)
        is_read = rng.random(count) < 0.5
        reads = messages.reads(addresses, ld_id=context.ld_id)
        reads["opcode"] = rng.choice([ReqOpcode.MEM_RD, ReqOpcode.MEM_RD_DATA], count)
        requests[is_read] = self._with_metadata(reads)[is_read]
        return requests

    def _odd(self, context):
        """Requests with every field random: all opcodes, places outside the context and the window, owners;
        sometimes poison."""
        rng, count = self._rng, 24
        requests = np.zeros(count, REQUEST)
        for name, values in (("channel", 2), ("opcode", OPCODES), ("snp_type", 8), ("meta_field", 4),
                             ("meta_value", 4), ("traffic_class", 4)):
            requests[name] = rng.integers(values, size=count)
        requests["ld_id"] = np.where(rng.random(count) < 0.7, context.ld_id, rng.integers(16, size=count))
        requests["byte_enable"] = self._byte_enables(count)
        requests["data"] = self._lines(context, count)
        requests["poison"] = rng.random(count) < 0.1
        page = context.first_page + rng.integers(-2, self._config.granule_pages + 2, count)
        page = np.where(rng.random(count) < 0.6, rng.choice(context.pages, count), page)
        beyond = np.where(rng.random(count) < 0.2, rng.integers(1, 1 << 24, count), 0)
        requests["address"] = self._addresses(page % self._config.window_pages, rng.integers(PAGE_LINES, size=count))
        requests["address"] += (beyond << self._config.window_bits).astype(np.uint64)
        requests["expect"] = messages.expected(requests)
        return requests

    def _with_metadata(self, requests):
        """The same reads, some with metadata that asks for a completion beside the data."""
        rng, count = self._rng, len(requests)
        asks = rng.random(count) < 0.2
        requests["meta_field"] = np.where(asks, 0, 3)
        requests["meta_value"] = np.where(asks, rng.choice([0, 2, 3], count), 0)
        requests["snp_type"] = np.where(asks, rng.integers(0, 4, count), 0)
        requests["expect"] = messages.expected(requests)
        return requests

    def _byte_enables(self, count):
        """All bytes, none, random ones or a run of them."""
        rng = self._rng
        every, some = np.uint64(2**64 - 1), rng.integers(0, 2**64, count, np.uint64, endpoint=False)
        run = (every >> rng.integers(0, 64, count, np.uint64)) << rng.integers(0, 64, count, np.uint64)
        choice = rng.integers(0, 8, count)
        return np.select([choice == 0, choice == 1, choice < 5], [np.uint64(0), every, some], run)

    def _lines(self, context, count):
        """Lines to write: mostly captured K and V from a row on, else what the codec tests call mixed."""
        rng = self._rng
        lines = self._captured[context.dtype]
        if rng.random() < 0.2:
            lines = mixed_pages(rng, context.dtype, 1).reshape(-1, LINE_BYTES)
        first = int(rng.integers(len(lines) // 4)) * 4
        return lines[(first + np.arange(count)) % len(lines)]


