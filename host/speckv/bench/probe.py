"""A simulated device and a host that measures it in device clocks."""

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from speckv_model.cache.slot_table import set_of
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, DrsOpcode
from speckv_model.csr.registers import COUNTER_BITS, REGISTERS
from speckv_model.cxl import messages

from ..context import Context, as_dtype
from ..device import Device
from ..link.simulated import SimulatedLink
from ..stats import Stats
from .link import HEAD_DIM, KV_HEADS, LAYERS, captured

LATENCY, WIDTH = 100, 64
"""Of DRAM, where nothing else is said: clocks, bytes a clock."""
PATIENCE = 10_000_000
"""Clocks that sealing may take."""


@dataclass(frozen=True)
class Pass:
    """What became of a batch of reads: clocks of acceptance and of answer of each, and what the device counted."""

    accepted: np.ndarray
    answered: np.ndarray
    stats: Stats
    dram: np.ndarray
    """`DRAM_COUNTS` of the page table and of the pool."""

    @cached_property
    def lines_per_clock(self):
        """Sustained: from when the first eighth, and as many as were in flight, are answered to the last acceptance."""
        order = np.sort(self.answered)
        begin, end = order[max(order.size // 8, self.most_in_flight) - 1], self.accepted.max()
        if 2 * (end - begin) < order[-1] - self.accepted.min():
            # So few that they hardly were all on their way at once.
            begin, end = self.accepted.min(), order[-1]
        return float(np.count_nonzero((order > begin) & (order <= end)) / (end - begin))

    @cached_property
    def most_in_flight(self):
        """Most requests that were accepted and not answered at one time."""
        accepted = np.sort(self.accepted)
        gone = np.searchsorted(np.sort(self.answered), accepted, side="right")
        return int((np.arange(1, accepted.size + 1) - gone).max())

    @property
    def most_fetches(self):
        """Most read bursts for pages that were in flight at one time."""
        return int(self.dram["most_read_bursts"][1])

    @property
    def dram_bytes_per_line(self):
        """Bytes that DRAM gave, the page table's included, for each line that was read."""
        return float(self.dram["lines_read"].sum() * LINE_BYTES / self.accepted.size)


@dataclass(frozen=True)
class Written:
    """A full and sealed context; `addresses` of its lines layer by layer, stream by stream: (streams, lines)."""

    context: Context
    addresses: np.ndarray
    lines_per_clock: float
    """From the first request to the seal of the last page."""
    dram_bytes_per_byte: float
    """Whole lines that DRAM took until then, the page table's included, for each byte of K and V."""
    dram_enabled_per_byte: float
    """The same, but only bytes that the writes enabled."""

    @property
    def pages(self):
        """Its window pages, in order."""
        return np.unique(self.addresses // PAGE_BYTES).astype(np.int64)


class Probe:
    """A device of `config` over the simulated link, driven as fast as it takes requests. A context manager.

    Parameters
    ----------
    config : DeviceConfig
    in_flight : int
        Requests of the host that wait for their answers, at most.
    dtype : str
        Of K and V.
    seed : int
        Of the simulation.
    """

    def __init__(self, config, in_flight, dtype, seed):
        self.config, self._dtype, self._latency = config, as_dtype(dtype), LATENCY
        self.link = SimulatedLink(config, in_flight=in_flight, latency=LATENCY, bytes_per_clock=WIDTH, seed=seed)
        try:
            self.device = Device(self.link, lookahead=0)
            self.link.dram_counts(config.pool_base_line)
        except BaseException:
            self.link.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.link.close()

    def dram(self, latency=LATENCY, width=WIDTH):
        """From now on DRAM is `latency` clocks away and moves `width` bytes a clock."""
        self._latency = latency
        self.link.configure(latency=latency, bytes_per_clock=width)

    def create(self, codec, setting, tokens):
        """A context for `tokens` tokens of the language model, which are not written.

        `setting` is that of all streams, or a tuple of those that they have by turns.
        """
        shape = dict(layers=LAYERS, kv_heads=KV_HEADS, head_dim=HEAD_DIM, max_tokens=tokens, dtype=self._dtype)
        if not isinstance(setting, tuple):
            return self.device.create_context(**shape, codec=codec, setting=setting)
        turns = itertools.cycle((codec, each) for each in setting)
        streams = [[list(itertools.islice(turns, 2)) for _ in range(KV_HEADS)] for _ in range(LAYERS)]
        return self.device.create_context(**shape, descriptors=self.device.load_descriptors(streams))

    def write(self, codec, setting, tokens, by_token=False):
        """Fills a new context with captured K and V, whole pages: `Written`.

        Lines come stream by stream, or with `by_token` token by token, each in all streams.
        """
        context, values = self.create(codec, setting, tokens), captured(tokens).astype(self._dtype)
        addresses = np.concatenate([context.line_addresses(layer, 0, tokens).reshape(2 * KV_HEADS, -1)
                                    for layer in range(LAYERS)])
        data = np.stack([context.geometry.to_lines(*values[layer]) for layer in range(LAYERS)])
        data = data.reshape(*addresses.shape, LINE_BYTES)
        requests = messages.writes(addresses, data).reshape(addresses.shape)
        if by_token:
            requests = requests.reshape(len(requests), tokens, -1).transpose(1, 0, 2)
        self.device.clear_counters()
        self._counts()
        begin = self.link.clocks
        self.link.submit(np.ascontiguousarray(requests).ravel())
        self.link.mmio_poll(REGISTERS.PAGES_SEALED.offset, (1 << COUNTER_BITS) - 1, addresses.size // PAGE_LINES,
                            PATIENCE)
        clocks, counts = self.link.clocks - begin, self._counts()
        return Written(context, addresses, addresses.size / clocks,
                       float(counts["lines_written"].sum() / addresses.size),
                       float(counts["bytes_written"].sum() / (addresses.size * LINE_BYTES)))

    def read(self, addresses):
        """Reads lines, without hints: `Pass`."""
        before = self.device.stats()
        self._counts()
        responses = self._submit(messages.reads(addresses))
        counts, stats = self._counts(), self.device.stats() - before
        accepted = responses["accepted"].astype(np.int64)
        return Pass(accepted, accepted + responses["latency"], stats, counts)

    def alone(self, addresses):
        """Reads lines one by one, each when all work for the one before is long over: latencies (n,)."""
        latencies = []
        for address in addresses:
            latencies.append(int(self._submit(messages.reads([address]))["latency"][0]))
            self.link.run(8 * PAGE_LINES + self._latency)
        return np.array(latencies)

    def touch(self, *contexts):
        """Reads a line of each page of contexts (`Written`), so that what was in the page cache and the TLB is gone."""
        for written in contexts:
            self._submit(messages.reads(written.pages * PAGE_BYTES))

    def spread(self, pages, each):
        """`each` of the window `pages` in every set of the page cache."""
        chosen = {}
        for page in map(int, pages):
            chosen.setdefault(set_of(self.config, page), []).append(page)
        return np.concatenate([np.array(found[:each]) for found in chosen.values()])

    def _submit(self, requests):
        responses = self.link.submit(requests)
        if responses["poison"].any() or (responses["drs_opcode"] != DrsOpcode.MEM_DATA).any():
            raise RuntimeError(f"the device has lost content: {self.device.first_error_text()}")
        return responses

    def _counts(self):
        return self.link.dram_counts(self.config.pool_base_line)
