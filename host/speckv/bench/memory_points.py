"""What is measured of the memory system of the simulated device, figure by figure and curve by curve."""

from dataclasses import dataclass, replace

import numpy as np

from speckv_model.constants import LINE_BYTES, OPEN_SECTORS, PAGE_BYTES, PAGE_LINES
from speckv_model.cxl import messages

from .link import KV_HEADS, LAYERS, PAGE_TOKENS, captured
from .probe import LATENCY

FORMATS = (("fixed", 8), ("raw", 0), ("lossless", 0), ("variable", 128), ("speckv", 0))
"""(codec, setting) of what is written and read; the first one is that of all single figures."""
MIXED = 7, 8, 9
"""Settings of the first format's codec that streams have by turns where they differ."""
AMPLIFIED_WIDTH = 16
"""Bytes a clock of DRAM that the first format makes up for, being four times smaller than a page."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Parameters
    ----------
    tokens : int
        Of each context that is read, a multiple of 16: 24 pages for each 16 of them.
    write_tokens : int
        Of the context that sustained writes go to.
    widths, latencies : tuple of int
        Of DRAM, for the curves of sequential reads: bytes a clock, clocks.
    ratios : tuple of float
        Hit ratios.
    ratio_latencies : tuple of int
        Of DRAM, for the curves over the hit ratio.
    visits : int
        Of whole pages, for each point of such a curve.
    singles : int
        Single lines, for each point of such a curve.
    hits : int
        Reads that all hit.
    alone : int
        Reads that are measured one by one.
    pool_pages : int
        Pages that are sealed in each life of a pool.
    """

    tokens: int = 128
    write_tokens: int = 640
    widths: tuple[int, ...] = (8, 16, 32, 64)
    latencies: tuple[int, ...] = (20, 100, 200, 500)
    ratios: tuple[float, ...] = (0, 0.25, 0.5, 0.75, 0.9, 1)
    ratio_latencies: tuple[int, ...] = (100, 500)
    visits: int = 128
    singles: int = 1024
    hits: int = 8192
    alone: int = 16
    pool_pages: int = 200_000
    formats: tuple = FORMATS

    @classmethod
    def quick(cls):
        """A run of a minute."""
        return cls(tokens=64, write_tokens=128, widths=(16, 64), latencies=(100, 500), ratios=(0, 0.5, 0.9, 1),
                   ratio_latencies=(100,), visits=64, singles=256, hits=2048, alone=4, pool_pages=5_000)

    def within(self, config):
        """The same with contexts that the pool of `config` has room for, and formats that it has."""
        formats = tuple(each for each in self.formats if each[0] in config.codecs)
        if not formats or formats[0] != self.formats[0]:
            raise ValueError(f"config must have codec {self.formats[0][0]!r}, of which most figures are")
        step = 2 * KV_HEADS * LAYERS * OPEN_SECTORS
        # One half for what is read, the other for what is written.
        most, most_write = (max(1, config.pool_sectors // (2 * step * each)) for each in (len(formats), 1))
        return replace(self, formats=formats, tokens=min(self.tokens, most * PAGE_TOKENS),
                       write_tokens=min(self.write_tokens, most_write * PAGE_TOKENS))

    @property
    def points(self):
        """Steps of `measure`."""
        reads = len(self.widths) * len(self.latencies) * len(self.formats)
        return len(self.formats) + 3 + 3 + reads + 2 * len(self.ratio_latencies) * len(self.ratios)


def measure(probe, size, rng, advance=lambda: None):
    """All figures that need the device.

    Parameters
    ----------
    probe : Probe
    size : Size
    rng : numpy Generator
        Of the order of random reads.
    advance : function
        Called after each of ``size.points`` steps.

    Returns
    -------
    dict, that part of ``memory.json``
    """
    report, contexts = {"writes": {}}, {}
    for codec, setting in size.formats:
        written = contexts[codec] = probe.write(codec, setting, size.tokens)
        report["writes"][label(codec, setting)] = {
            "lines_per_clock": written.lines_per_clock, "dram_bytes_per_byte": written.dram_bytes_per_byte}
        advance()
    report |= writes(probe, size, advance)
    first = contexts[size.formats[0][0]]
    report |= hits(probe, size, rng, first)
    advance()
    report |= misses(probe, size, first)
    advance()
    others = [contexts[codec] for codec, _ in size.formats[1:]]
    probe.touch(*others)
    probe.dram(width=AMPLIFIED_WIDTH)
    amplified = probe.read(first.addresses.ravel())
    advance()
    probe.touch(*others)
    curves, passes = reads(probe, size, contexts, advance)
    by_ratio, more = ratios(probe, size, rng, first, advance)
    passes += [amplified, *more]
    probe.dram()
    return report | {
        "amplified_lines_per_clock": amplified.lines_per_clock,
        "lines_in_flight": max(each.most_in_flight for each in passes),
        "fetches_in_flight": max(each.most_fetches for each in passes),
        "curves": {"reads": curves, "hit_ratio": by_ratio},
    }


def label(codec, setting):
    """How a format is called."""
    return f"{codec} {setting}" if setting else codec


def writes(probe, size, advance=lambda: None):
    """Sustained writes of the first format, stream by stream and token by token; the contexts are freed again.

    Token by token the pages of all streams are full at the same time: also with another setting in each of them.
    """
    found = {}
    codec, setting = size.formats[0]
    for settings, by_token, key in ((setting, False, "write_lines_per_clock"),
                                    (setting, True, "write_lines_per_clock_by_token"),
                                    (MIXED, True, "write_lines_per_clock_by_token_mixed")):
        written = probe.write(codec, settings, size.write_tokens, by_token)
        written.context.free()
        found[key] = written.lines_per_clock
        if key == "write_lines_per_clock":
            found |= {"dram_write_bytes_per_kv_byte": written.dram_bytes_per_byte,
                      "dram_enabled_bytes_per_kv_byte": written.dram_enabled_per_byte}
        advance()
    return found


def hits(probe, size, rng, written):
    """Reads of random lines of pages that fill half of each set of the page cache."""
    pages = probe.spread(written.pages, max(1, probe.config.cache_ways // 2))
    lines = (pages[:, None] * PAGE_BYTES + np.arange(PAGE_LINES) * LINE_BYTES).ravel()
    # A page that is fetched may push out one that was here; not so the second time.
    for _ in range(2):
        probe.read(lines)
    found = probe.read(rng.choice(lines, size.hits))
    return {"hit_lines_per_clock": found.lines_per_clock, "hit_misses": found.stats["CACHE_MISSES"],
            "hit_latency_clocks": int(probe.alone(rng.choice(lines, size.alone)).max())}


def misses(probe, size, written):
    """Reads of the first lines of pages that are not in the page cache, but whose entries are in the TLB."""
    probe.dram()
    lines = written.pages[:2 * probe.config.cache_pages] * PAGE_BYTES
    probe.read(lines)
    before = probe.device.stats()
    latencies = probe.alone(lines[:size.alone])
    counted = probe.device.stats() - before
    return {"miss_first_line_clocks_plus_latency": int(np.median(latencies)) - LATENCY,
            "miss_first_line_worst": int(latencies.max()) - LATENCY,
            "miss_tlb_misses": counted["TLB_MISSES"], "miss_cache_hits": counted["CACHE_HITS"]}


def reads(probe, size, contexts, advance=lambda: None):
    """Points of sequential reads for every bandwidth and latency of DRAM and every format, and their passes."""
    points, passes = [], []
    for width in size.widths:
        for latency in size.latencies:
            probe.dram(latency, width)
            # The contexts by turns: what one needs is in no cache when its turn comes again.
            for codec, setting in size.formats:
                found = probe.read(contexts[codec].addresses.ravel())
                passes.append(found)
                points.append({
                    "format": label(codec, setting), "bytes_per_clock": width, "latency": latency,
                    "lines_per_clock": found.lines_per_clock,
                    "limit": min(1.0, width / found.dram_bytes_per_line),
                    "dram_bytes_per_line": found.dram_bytes_per_line,
                    "pages_fetched": found.stats["PAGES_FETCHED"], "tlb_misses": found.stats["TLB_MISSES"],
                    "lines_in_flight": found.most_in_flight, "fetches_in_flight": found.most_fetches})
                advance()
    return points, passes


def ratios(probe, size, rng, written, advance=lambda: None):
    """Points, and their passes, of random reads of pages that stay in the page cache mixed with others.

    Whole pages are visited (``page``), or single lines (``line``). What stays are OPEN pages, one in each set, which
    are not displaced as long as there are others.
    """
    resident = probe.create("raw", 0, size.tokens)
    pages = probe.spread(resident.first_page + np.arange(resident.pages), 1)
    lines = pages[:, None] * PAGE_BYTES + np.arange(PAGE_LINES - 1) * LINE_BYTES
    data = captured(size.tokens).view(np.uint8).reshape(-1, LINE_BYTES)[:lines.size]
    probe.link.submit(messages.writes(lines, data))
    uncached, points, passes = _Cycle(rng.permutation(written.pages)), [], []
    for latency in size.ratio_latencies:
        probe.dram(latency)
        for unit, count in (("page", size.visits), ("line", size.singles)):
            for ratio in size.ratios:
                hit = rng.permutation(count) < round(ratio * count)
                visited = np.where(hit, rng.choice(pages, count), 0)
                visited[~hit] = uncached.take(np.count_nonzero(~hit))
                line = (np.arange(PAGE_LINES) if unit == "page" else rng.integers(PAGE_LINES, size=(count, 1)))
                found = probe.read((visited[:, None] * PAGE_BYTES + line * LINE_BYTES).ravel())
                passes.append(found)
                points.append({
                    "unit": unit, "latency": latency, "hit_ratio": float(hit.mean()),
                    "lines_per_clock": found.lines_per_clock, "counted_hit_ratio": found.stats.hit_rate,
                    "pages_fetched": found.stats["PAGES_FETCHED"], "pages_spilled": found.stats["PAGES_SPILLED"]})
                advance()
    resident.free()
    return points, passes


class _Cycle:
    """Items of an array in turns, so that each comes again as late as it can."""

    def __init__(self, items):
        self._items, self._next = items, 0

    def take(self, count):
        found = self._items[(self._next + np.arange(count)) % self._items.size]
        self._next += count
        return found
