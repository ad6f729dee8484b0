"""Random traffic for a device: batches of requests, commands, contexts that come and go."""

from functools import cache
from pathlib import Path

import numpy as np
from ml_dtypes import bfloat16

from speckv_model.codec import CODECS
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, Codec, Dtype, Opcode, ReqOpcode, RwdOpcode
from speckv_model.cxl import messages
from speckv_model.cxl.messages import REQUEST, Channel

SAMPLES = Path(__file__).parents[2] / "sim" / "data" / "kv_samples.npz"
"""K and V of the tiny language model: uint16, FP16 bit patterns."""
LAYOUTS = ((1, 1, 128, 512), (2, 2, 128, 100), (3, 2, 64, 300), (1, 3, 256, 90), (6, 2, 128, 48))
"""(layers, kv_heads, head_dim, max_tokens) of the contexts."""
OTHER_REQUESTS = (ReqOpcode.MEM_INV, ReqOpcode.MEM_INV_NT, ReqOpcode.MEM_RD_FWD, ReqOpcode.MEM_CLN_EVCT, 15)


@cache
def kv_lines(dtype):
    """Captured K and V in the values of `dtype` (a `Dtype`), in the order of tokens: uint8, (lines, 64)."""
    with np.load(SAMPLES) as samples:
        values = np.concatenate([samples["k"].ravel(), samples["v"].ravel()]).view(np.float16)
    if dtype == Dtype.BF16:
        values = values.astype(bfloat16)
    return values.view(np.uint8).reshape(-1, LINE_BYTES)


class Region:
    """The pages of one context that traffic goes to."""

    def __init__(self, context, first_page, pages, dtype):
        self.context, self.first_page, self.pages, self.dtype = context, first_page, pages, dtype

    def addresses(self, page, line):
        """Byte addresses of lines (arrays) of pages counted from the region's first."""
        return ((self.first_page + page) * PAGE_BYTES + line * LINE_BYTES).astype(np.uint64)


class Traffic:
    """Makes random batches for the contexts in `regions`.

    Parameters
    ----------
    config : DeviceConfig
    rng : numpy Generator
    """

    def __init__(self, config, rng):
        self._config = config
        self._rng = rng
        self.regions = []

    def layout(self):
        """Arguments for `Device.create_context`."""
        rng = self._rng
        layers, kv_heads, head_dim, max_tokens = LAYOUTS[rng.integers(len(LAYOUTS))]
        return dict(
            layers=layers,
            kv_heads=kv_heads,
            head_dim=head_dim,
            max_tokens=max_tokens,
            dtype=("float16", "bfloat16")[rng.integers(2)],
            codec=self._config.codecs[rng.integers(len(self._config.codecs))],
            ld_id=int(rng.integers(4)),
        )

    def encodings(self, layout):
        """A codec and a setting for each stream of a context with this `layout`: for `Device.load_descriptors`."""
        rng, shape = self._rng, (layout["layers"], layout["kv_heads"], 2)
        choices = []
        for name in self._config.codecs:
            settings = CODECS[Codec[name.upper()]].SETTINGS
            choices += [(name, int(setting)) for setting in rng.choice(settings, min(3, len(settings)), replace=False)]
        return np.array(choices, dtype=object)[rng.integers(len(choices), size=shape)]

    def add(self, context, pages):
        """Includes `context` (`speckv.Context`), of which at most `pages` pages are to be used."""
        pages = min(pages, context.pages)
        first = context.first_page + int(self._rng.integers(context.pages - pages + 1))
        dtype = Dtype.BF16 if context.dtype == bfloat16 else Dtype.FP16
        self.regions.append(Region(context, first, pages, dtype))

    def region(self):
        """One of the regions."""
        return self.regions[self._rng.integers(len(self.regions))]

    def batch(self):
        """A batch of one of the kinds below: `REQUEST` array."""
        kinds = {self._scattered: 5, self._fill: 6, self._stream: 8, self._strays: 0.7, self._poison: 0.2}
        weights = np.array(list(kinds.values()))
        return list(kinds)[self._rng.choice(len(kinds), p=weights / weights.sum())]()

    def everything(self):
        """Reads of every line in use."""
        batches = []
        for region in self.regions:
            page, line = np.divmod(np.arange(region.pages * PAGE_LINES), PAGE_LINES)
            batches.append(messages.reads(region.addresses(page, line), ld_id=region.context.ld_id))
        return np.concatenate(batches) if batches else np.zeros(0, REQUEST)

    def page_command(self):
        """A SEAL, FREE, FLUSH or PREFETCH of some pages: fields of a command."""
        region, rng = self.region(), self._rng
        opcode = rng.choice(
            [Opcode.SEAL, Opcode.FLUSH, Opcode.PREFETCH, Opcode.FREE], p=[0.35, 0.25, 0.25, 0.15]
        )
        first = int(rng.integers(region.pages))
        count = int(rng.integers(1, min(6, region.pages - first) + 1))
        return dict(
            opcode=Opcode(int(opcode)),
            context=region.context.number,
            first_page=region.first_page + first,
            pages=count,
        )

    def bad_command(self):
        """A command that must be refused: fields of a command."""
        region, rng = self.region(), self._rng
        number, first = region.context.number, region.context.first_page
        unused = self._config.contexts - 1
        choices = (
            dict(opcode=200, context=number, first_page=first, pages=1),
            dict(opcode=Opcode.PIN, context=number, first_page=first, pages=1),
            dict(opcode=Opcode.SEAL, context=unused, first_page=first, pages=1),
            dict(opcode=Opcode.FREE, context=number, first_page=first, pages=0),
            dict(opcode=Opcode.FREE, context=number, first_page=first, pages=region.context.pages + 1),
            dict(opcode=Opcode.CREATE, context=number, first_page=first, pages=self._config.granule_pages),
            dict(opcode=Opcode.CREATE, context=unused, first_page=first, pages=self._config.granule_pages),
            dict(
                opcode=Opcode.CREATE, context=unused, first_page=first + 1, pages=self._config.granule_pages
            ),
            dict(
                opcode=Opcode.CREATE,
                context=unused,
                first_page=first,
                pages=self._config.granule_pages,
                codec=7,
            ),
            dict(
                opcode=Opcode.CREATE,
                context=unused,
                first_page=first,
                pages=self._config.granule_pages,
                index_bits=20,
                head_bits=10,
            ),
            dict(opcode=Opcode.CREATE, context=unused, first_page=first, pages=self._config.granule_pages, setting=7),
            dict(opcode=Opcode.CREATE, context=unused, first_page=first, pages=self._config.granule_pages,
                 per_stream=1, descriptor_base=self._config.descriptors),
            dict(opcode=Opcode.LOAD_DESCRIPTOR, descriptor=self._config.descriptors - 1, pages=2),
            dict(opcode=Opcode.LOAD_DESCRIPTOR, pages=self._config.descriptors, setting=1),
            dict(opcode=Opcode.LOAD_DESCRIPTOR, pages=self._config.descriptors, codec=6),
            dict(opcode=Opcode.DESTROY, context=unused),
        )
        return choices[rng.integers(len(choices))]

    def _scattered(self):
        """Reads, writes, part writes and hints on a few pages, all mixed."""
        region, rng = self.region(), self._rng
        count = int(rng.integers(1, 300))
        pages = rng.choice(region.pages, int(rng.integers(1, min(8, region.pages) + 1)), replace=False)
        addresses = region.addresses(rng.choice(pages, count), rng.integers(0, PAGE_LINES, count))
        requests = messages.writes(addresses, self._lines(region, count), ld_id=region.context.ld_id)
        what = rng.random(count)
        is_read = what < 0.55
        requests[is_read] = messages.reads(addresses[is_read], ld_id=region.context.ld_id)
        requests["opcode"][what < 0.1] = ReqOpcode.MEM_RD_DATA
        requests["opcode"][what < 0.05] = ReqOpcode.MEM_SPEC_RD
        self._metadata(requests, is_read & (what > 0.4))
        is_part = what > 0.85
        requests["opcode"][is_part] = RwdOpcode.MEM_WR_PTL
        requests["byte_enable"][is_part] = self._byte_enables(int(is_part.sum()))
        requests["expect"] = messages.expected(requests)
        return requests

    def _fill(self):
        """Whole pages written, in order or not."""
        region, rng = self.region(), self._rng
        first = int(rng.integers(region.pages))
        count = int(rng.integers(1, min(4, region.pages - first) + 1)) * PAGE_LINES
        order = np.arange(count) if rng.random() < 0.7 else rng.permutation(count)
        page, line = np.divmod(order, PAGE_LINES)
        return messages.writes(region.addresses(first + page, line), self._lines(region, count)[order],
                               ld_id=region.context.ld_id)

    def _stream(self):
        """A run of lines read in order, with hints ahead."""
        region, rng = self.region(), self._rng
        lines = region.pages * PAGE_LINES
        start = int(rng.integers(lines))
        page, line = np.divmod(np.arange(start, min(lines, start + int(rng.integers(1, 400)))), PAGE_LINES)
        addresses = region.addresses(page, line)
        requests = messages.reads(addresses, ld_id=region.context.ld_id)
        hints = messages.hints(
            (addresses[::PAGE_LINES] + np.uint64(PAGE_BYTES))[:-1], ld_id=region.context.ld_id
        )
        return np.insert(requests, np.arange(hints.size) * PAGE_LINES, hints)

    def _strays(self):
        """Requests from the wrong owner, outside any context or the window, and with other opcodes."""
        region, rng = self.region(), self._rng
        requests = self._scattered()[:40]
        what = rng.random(requests.size)
        requests["ld_id"][what < 0.3] = region.context.ld_id ^ 8
        outside = what > 0.7
        requests["address"][outside] += np.uint64(
            1 << 40 if rng.random() < 0.5 else self._config.window_bytes // 2
        )
        other = (what > 0.3) & (what < 0.5) & (requests["channel"] == Channel.REQ)
        requests["opcode"][other] = rng.choice(OTHER_REQUESTS, int(other.sum()))
        self._metadata(requests, other)
        requests["opcode"][(what > 0.3) & (what < 0.4) & (requests["channel"] == Channel.RWD)] = 9
        requests["expect"] = messages.expected(requests)
        return requests

    def _poison(self):
        """A write of poison among other traffic to the page."""
        requests = self._scattered()
        writes = np.flatnonzero(requests["channel"] == Channel.RWD)
        if writes.size:
            requests["poison"][self._rng.choice(writes)] = 1
        return requests

    def _metadata(self, requests, where):
        """Gives the requests named by `where` (bool) random metadata and snoop types."""
        count = int(where.sum())
        requests["meta_field"][where] = self._rng.choice([0, 3], count)
        requests["meta_value"][where] = self._rng.choice([0, 2, 3], count)
        requests["snp_type"][where] = self._rng.integers(0, 4, count)

    def _byte_enables(self, count):
        """Random ones: contiguous, scattered or none."""
        rng = self._rng
        enables = rng.integers(0, 1 << 64, count, np.uint64)
        run = (np.uint64(1) << rng.integers(0, 64, count, np.uint64)) - np.uint64(1)
        return np.where(rng.random(count) < 0.5, enables, run << rng.integers(0, 64, count, np.uint64))

    def _lines(self, region, count):
        """Lines to write: mostly captured K and V from a row on, else constants or random bits."""
        rng = self._rng
        what = rng.random()
        if what < 0.05:
            return rng.integers(0, 256, (count, LINE_BYTES), np.uint8)
        if what < 0.1:
            return np.tile(rng.integers(0, 256, (1, 2), np.uint8), (count, LINE_BYTES // 2))
        captured = kv_lines(region.dtype)
        first = int(rng.integers(len(captured) // 4)) * 4
        return captured[(first + np.arange(count)) % len(captured)]
