"""The memory system of the simulated device, in device clocks.

    speckv bench memory
"""

import concurrent.futures
import json
import multiprocessing
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from speckv_model.config import PRESETS, DeviceConfig
from speckv_sim.build import BuildError, build, build_root

from ..errors import SpeckvError
from ..traffic import SAMPLES
from . import memory_report
from .link import HEAD_DIM, KV_HEADS, LAYERS
from .memory_points import AMPLIFIED_WIDTH, Size, label, measure
from .pool import MIXES, pool_loss
from .probe import LATENCY, WIDTH, Probe

IN_FLIGHT = 1024
"""Requests of the host that wait for their answers, at most: more than the device takes."""


def run(config=None, size=None, reports=None, console=None, dtype="bfloat16", seed=1):
    """Measures, writes ``memory.json`` and its pictures to `reports`, shows a table.

    Parameters
    ----------
    config : DeviceConfig, optional
        The device, with all codecs; the default configuration if not given.
    size : Size, optional
        Its contexts are made smaller where the pool is too small.
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
    config, console = config or DeviceConfig.default(), console or Console()
    size = (size or Size()).within(config)
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
    report |= {"pool_loss_pct": max(life["worst_pct"] for life in pools.values()),
               "pool_loss_mean_pct": pools["mixed"]["mean_pct"], "pools": pools}
    report = {
        "bars": memory_report.judge(report), **report,
        "parameters": {
            "config": config.to_dict(), "size": asdict(size), "seed": seed, "dtype": dtype, "values": SAMPLES.name,
            "layers": LAYERS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "host_in_flight": IN_FLIGHT,
            "dram_latency": LATENCY, "dram_bytes_per_clock": WIDTH, "amplified_bytes_per_clock": AMPLIFIED_WIDTH,
            "formats": [label(*each) for each in size.formats]},
    }
    reports.mkdir(parents=True, exist_ok=True)
    (reports / "memory.json").write_text(json.dumps(report, indent=1) + "\n")
    pictures = memory_report.pictures(report, reports)
    memory_report.table(report, console)
    console.print(f"\nreport: {reports / 'memory.json'}, pictures: {', '.join(map(str, pictures))}")
    return report


@click.command()
@click.option("--config", "preset", type=click.Choice(PRESETS), default="default", show_default=True)
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


if __name__ == "__main__":
    main()
