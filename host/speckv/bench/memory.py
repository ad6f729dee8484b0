"""The memory system of the simulated device, in device clocks.

    speckv bench memory
"""

import concurrent.futures
import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from speckv_model.config import DeviceConfig
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES
from speckv_model.cxl import messages
from speckv_sim.build import BuildError, build, build_root

from ..errors import SpeckvError
from ..traffic import SAMPLES
from . import memory_report
from .link import HEAD_DIM, KV_HEADS, LAYERS, captured
from .pool import MIXES, pool_loss
from .probe import LATENCY, WIDTH, Probe

FORMATS = (("fixed", 8), ("raw", 0), ("lossless", 0), ("variable", 128), ("speckv", 0))
"""(codec, setting) of what is written and read; the first one is that of all single figures."""
AMPLIFIED_WIDTH = 16
"""Bytes a clock of DRAM that the first format makes up for, being four times smaller than a page."""
IN_FLIGHT = 1024
"""Requests of the host that wait for their answers, at most: more than the device takes."""


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
    pool_pages: int = 100_000

    @classmethod
    def quick(cls):
        """A run of a minute."""
        return cls(tokens=64, write_tokens=128, widths=(16, 64), latencies=(100, 500), ratios=(0, 0.5, 0.9, 1),
                   ratio_latencies=(100,), visits=64, singles=256, hits=2048, alone=4, pool_pages=5_000)

    @property
    def points(self):
        """Steps of `measure`."""
        reads = len(self.widths) * len(self.latencies) * len(FORMATS)
        return len(FORMATS) + 2 + 3 + reads + 2 * len(self.ratio_latencies) * len(self.ratios)


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
    for codec, setting in FORMATS:
        written = contexts[codec] = probe.write(codec, setting, size.tokens)
        report["writes"][label(codec, setting)] = {
            "lines_per_clock": written.lines_per_clock, "dram_bytes_per_byte": written.dram_bytes_per_byte}
        advance()
    report |= writes(probe, size, advance)
    first = contexts[FORMATS[0][0]]
    report |= hits(probe, size, rng, first)
    advance()
    report |= misses(probe, size, first)
    advance()
    others = [contexts[codec] for codec, _ in FORMATS[1:]]
    probe.touch(*others)
    probe.dram(width=AMPLIFIED_WIDTH)
    amplified = probe.read(first.addresses.ravel())
    advance()
    probe.touch(*others)
    curves, passes = reads(probe, size, contexts, advance)
    passes.append(amplified)
    probe.dram()
    return report | {
        "amplified_lines_per_clock": amplified.lines_per_clock,
        "lines_in_flight": max(each.most_in_flight for each in passes),
        "fetches_in_flight": max(each.most_fetches for each in passes),
        "curves": {"reads": curves, "hit_ratio": ratios(probe, size, rng, first, advance)},
    }


def label(codec, setting):
    """How a format is called."""
    return f"{codec} {setting}" if setting else codec


def writes(probe, size, advance=lambda: None):
    """Sustained writes of `FORMATS`' first, stream by stream and token by token; the contexts are freed again."""
    found = {}
    for by_token, key in ((False, "write_lines_per_clock"), (True, "write_lines_per_clock_by_token")):
        written = probe.write(*FORMATS[0], size.write_tokens, by_token)
        written.context.free()
        found[key] = written.lines_per_clock
        if not by_token:
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
            for codec, setting in FORMATS:
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
    """Points of random reads of pages that stay in the page cache mixed with pages that are not in it.

    Whole pages are visited (``page``), or single lines (``line``). What stays are OPEN pages, one in each set, which
    are not displaced as long as there are others.
    """
    resident = probe.create("raw", 0, size.tokens)
    pages = probe.spread(resident.first_page + np.arange(resident.pages), 1)
    lines = pages[:, None] * PAGE_BYTES + np.arange(PAGE_LINES - 1) * LINE_BYTES
    data = captured(size.tokens).view(np.uint8).reshape(-1, LINE_BYTES)[:lines.size]
    probe.link.submit(messages.writes(lines, data))
    uncached, points = _Cycle(rng.permutation(written.pages)), []
    for latency in size.ratio_latencies:
        probe.dram(latency)
        for unit, count in (("page", size.visits), ("line", size.singles)):
            for ratio in size.ratios:
                hit = rng.permutation(count) < round(ratio * count)
                visited = np.where(hit, rng.choice(pages, count), 0)
                visited[~hit] = uncached.take(np.count_nonzero(~hit))
                line = (np.arange(PAGE_LINES) if unit == "page" else rng.integers(PAGE_LINES, size=(count, 1)))
                found = probe.read((visited[:, None] * PAGE_BYTES + line * LINE_BYTES).ravel())
                points.append({
                    "unit": unit, "latency": latency, "hit_ratio": float(hit.mean()),
                    "lines_per_clock": found.lines_per_clock, "counted_hit_ratio": found.stats.hit_rate,
                    "pages_fetched": found.stats["PAGES_FETCHED"], "pages_spilled": found.stats["PAGES_SPILLED"]})
                advance()
    resident.free()
    return points


class _Cycle:
    """Items of an array in turns, so that each comes again as late as it can."""

    def __init__(self, items):
        self._items, self._next = items, 0

    def take(self, count):
        found = self._items[(self._next + np.arange(count)) % self._items.size]
        self._next += count
        return found


def run(config=None, size=None, reports=None, console=None, dtype="bfloat16", seed=1):
    """Measures, writes ``memory.json`` and its pictures to `reports`, shows a table.

    Parameters
    ----------
    config : DeviceConfig, optional
        The device, with all codecs; the default configuration if not given.
    size : Size, optional
    reports : path-like, optional
        ``reports`` of the build folder if not given.
    console : rich Console, optional
    dtype : str
        Of K and V.
    seed : int
        Of the order of random reads, of the lives of pools and of the simulation.

    Returns
    -------
    dict, what ``memory.json`` holds

    Raises
    ------
    BuildError, SpeckvError
        The device could not be built, or fails.
    """
    config, size, console = config or DeviceConfig.default(), size or Size(), console or Console()
    reports = Path(reports or build_root() / "reports")
    columns = (TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())
    build(config)
    # Forked processes would keep what this one has open.
    other = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with other, Progress(*columns, console=console) as progress:
        lives = {mix: other.submit(pool_loss, config, mix, size.pool_pages, seed) for mix in MIXES}
        bar = progress.add_task("device", total=size.points)
        with Probe(config, IN_FLIGHT, dtype, seed) as probe:
            report = measure(probe, size, np.random.default_rng(seed), lambda: progress.advance(bar))
        bar, pools = progress.add_task("lives of the pool", total=len(lives)), {}
        for mix, life in lives.items():
            pools[mix] = life.result()
            progress.advance(bar)
    report |= {"pool_loss_pct": pools["mixed"]["worst_pct"], "pool_loss_mean_pct": pools["mixed"]["mean_pct"],
               "pools": pools}
    report = {
        "bars": memory_report.judge(report), **report,
        "parameters": {
            "config": config.to_dict(), "size": asdict(size), "seed": seed, "dtype": dtype, "values": SAMPLES.name,
            "layers": LAYERS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "host_in_flight": IN_FLIGHT,
            "dram_latency": LATENCY, "dram_bytes_per_clock": WIDTH, "amplified_bytes_per_clock": AMPLIFIED_WIDTH,
            "formats": [label(*each) for each in FORMATS]},
    }
    reports.mkdir(parents=True, exist_ok=True)
    (reports / "memory.json").write_text(json.dumps(report, indent=1) + "\n")
    pictures = memory_report.pictures(report, reports)
    memory_report.table(report, console)
    console.print(f"\nreport: {reports / 'memory.json'}, pictures: {', '.join(map(str, pictures))}")
    return report


@click.command()
@click.option("--config", "preset", type=click.Choice(["default", "small"]), default="default", show_default=True)
@click.option("--quick", is_flag=True, help="Fewer points of the curves and fewer lines.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16"]), default="bfloat16", show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--reports", type=click.Path(file_okay=False), help="Where the reports go; build/reports if not given.")
def main(preset, quick, dtype, seed, reports):
    """Measure the memory system of the simulated device in its clocks."""
    try:
        run(DeviceConfig.preset(preset), Size.quick() if quick else Size(), reports, dtype=dtype, seed=seed)
    except (BuildError, SpeckvError) as error:
        raise click.ClickException(str(error)) from error
