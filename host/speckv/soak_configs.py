"""Soaks of devices of random configurations: what a read returns depends on none of their sizes."""

import dataclasses
import json
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from speckv_model.config import DeviceConfig
from speckv_model.constants import Codec

from . import open as open_device
from .errors import LinkError
from .soak import REPORTS, SEED, Soak

REFERENCE = dict(cache_pages=1, cache_ways=1, tlb_entries=4, tlb_ways=1)
"""The emulated device has the smallest cache and TLB."""


def random_config(rng):
    """A small `DeviceConfig` with random sizes."""
    def power(low, high):
        return 1 << int(rng.integers(low, high + 1))

    cache_pages, tlb_entries = power(0, 5), power(2, 8)
    others = [codec.name.lower() for codec in Codec if codec != Codec.RAW]
    codecs = [name for name in others if rng.random() < 0.5]
    return DeviceConfig.small(
        lanes=int(rng.choice([8, 16, 32])),
        cache_pages=cache_pages, cache_ways=min(cache_pages, power(0, 3)),
        tlb_entries=tlb_entries, tlb_ways=min(tlb_entries // 4, power(0, 2)),
        requests_in_flight=power(2, 9), fetches_in_flight=power(0, 4), bursts_in_flight=power(1, 5),
        pool_bytes=power(20, 23), contexts=power(3, 8), command_slots=power(1, 4),
        codecs=("raw", *codecs))


def random_surroundings(rng):
    """Options of the simulated link: DRAM, the host's pace, and what memories hold before the reset."""
    return dict(latency=int(rng.choice([1, 10, 100, 400])), jitter=int(rng.choice([0, 5, 60])),
                bytes_per_clock=int(rng.choice([8, 16, 32, 64])), idle=int(rng.choice([0, 0, 200])),
                stall=int(rng.choice([0, 0, 200])), seed=int(rng.integers(1, 1 << 30)),
                random_reset=bool(rng.random() < 0.5))


def main(ops=1_000_000, configs=10, seed=SEED, first=0, reports=REPORTS, console=None):
    """Runs a soak of `ops` / `configs` line operations on the RTL of each of `configs` configurations, of which those
    before number `first` are left out; writes ``soak_configs.json`` after each. Returns what that holds.
    """
    console = console or Console()
    runs = []
    result = {"seed": seed, "ops": 0, "mismatches": 0, "runs": runs,
              "command": f"speckv soak-configs --ops {ops} --configs {configs} --seed {seed} --first {first}"}
    reports = Path(reports)
    reports.mkdir(parents=True, exist_ok=True)
    for number in range(first, configs):
        rng = np.random.default_rng([seed, number])
        config, surroundings = random_config(rng), random_surroundings(rng)
        run = _soak(config, surroundings, -(-ops // configs), int(rng.integers(1 << 30)))
        runs.append({"number": number} | run)
        result["ops"] += run["ops"]
        result["mismatches"] += run["mismatches"]
        (reports / "soak_configs.json").write_text(json.dumps(result, indent=1))
        console.print(f"configuration {number}: {config}, {surroundings}", markup=False)
        console.print(f"{run['ops']:,} line operations, {run['commands']:,} commands, {run['mismatches']} mismatches "
                      f"in {run['wall_s']:.0f} s")
        for text in run["described"]:
            console.print(text, style="red", markup=False)
    console.print(f"{result['ops']:,} line operations on {len(runs)} configurations, "
                  f"{result['mismatches']} mismatches: {reports / 'soak_configs.json'}")
    return result


def _soak(config, surroundings, ops, seed):
    reference = dataclasses.replace(config, **REFERENCE)
    begin = time.perf_counter()
    with open_device("sim:", config, **surroundings) as tested, open_device("emu:", reference) as twin:
        built = time.perf_counter()
        soak = Soak(tested, twin, seed)
        try:
            soak.run(ops)
            soak.finish()
        except LinkError as error:
            soak.mismatches += 1
            soak.described.insert(0, f"the device does not answer any more: {error}")
    return {"ops": soak.ops, "commands": soak.commands, "mismatches": int(soak.mismatches),
            "described": soak.described, "seed": seed, "config": config.to_dict(), "surroundings": surroundings,
            "build_s": built - begin, "wall_s": time.perf_counter() - built}


@click.command("soak-configs")
@click.option("--ops", type=click.IntRange(1), default=1_000_000, show_default=True,
              help="Line operations in all, at least.")
@click.option("--configs", type=click.IntRange(1), default=10, show_default=True, help="Configurations.")
@click.option("--first", type=click.IntRange(0), default=0, show_default=True,
              help="Number of the first one to run, less than configs.")
@click.option(
    "--seed", type=int, default=SEED, show_default=True, help="Also from the environment: SPECKV_SEED."
)
@click.option("--reports", type=click.Path(file_okay=False), default=REPORTS,
              help="Where soak_configs.json goes; build/reports if not given.")
def command(**options):
    """Random traffic on the RTL of random configurations, compared with the model."""
    first, configs = options["first"], options["configs"]
    if first >= configs:
        raise click.UsageError(f"first must be less than configs, {configs}, or there is nothing to run, not {first}")
    if main(**options)["mismatches"]:
        raise SystemExit(1)
