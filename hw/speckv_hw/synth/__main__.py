"""Synthesises blocks, shows and keeps what came out: `python -m speckv_hw.synth [block ...]`."""

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from speckv_hw.config import PRESETS, DeviceConfig
from speckv_hw.generate import parse_changes, verilog_of
from speckv_hw.synth import flow
from speckv_hw.synth.blocks import BLOCKS

CONSOLE = Console()


def measure(block, config, directory, *, with_route=True, timeout=3600, seeds=1, say=lambda step: None):
    """Area and clock of one block; taken from `directory` where the same Verilog was measured before.

    Parameters
    ----------
    block : str
        One of `BLOCKS`.
    config : DeviceConfig
    directory : Path
        Verilog, netlist, logs and result go to a directory of the block's name in it.
    with_route : bool
        Place and route too, for the clock.
    timeout : float
        Seconds that each tool may take.
    seeds : int
        Placements to try.
    say : callable
        Is told each step when it begins.

    Returns
    -------
    dict
        `lut4, ff, dsp, bram` (None where synthesis failed), `mhz, mhz_by_seed, clock_path` (None where not routed),
        `cells`, `deepest` (where the deepest logic ends), `status` (``ok``, that it does not fit, or what went wrong),
        whether it has `failed` and the `seconds` it took; for the device also `modules`, the area of each of its
        blocks.
    """
    result = dict.fromkeys(("lut4", "ff", "dsp", "bram", "mhz", "mhz_by_seed", "clock_path", "cells", "deepest"))
    result |= {"status": "ok", "failed": False}
    by_module = block == "device"
    place = directory / block
    place.mkdir(parents=True, exist_ok=True)
    kept = place / "result.json"
    begin = time.monotonic()
    say("Verilog")
    try:
        verilog = verilog_of(config, BLOCKS[block](config))
    except Exception as error:  # A block that cannot be built must not hide the others' results.
        return result | {"status": f"build: {type(error).__name__}: {error}", "failed": True, "seconds": 0}
    asked = [flow.recipe(verilog, by_module), with_route, seeds, sorted(result)]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    if kept.exists() and (old := json.loads(kept.read_text()))["key"] == key:
        return old["result"]
    try:
        say("synthesis")
        result |= flow.synthesise(verilog, place, timeout, by_module=by_module)
        if with_route:
            say("place and route")
            result |= flow.route(result, place, timeout, seeds)
    except flow.TooLarge as error:
        result["status"] = str(error)
    except flow.FlowError as error:
        result |= {"status": str(error), "failed": True}
    result["seconds"] = round(time.monotonic() - begin, 1)
    if not result["failed"]:
        kept.write_text(json.dumps({"key": key, "result": result}, indent=2))
    return result


def _table(results, config_name):
    table = Table(title=f"{flow.DEVICE}, configuration {config_name}")
    for column in ("block", "LUT4", "FF", "DSP", "BRAM", "MHz", "slowest path"):
        table.add_column(column, justify="left" if column in ("block", "slowest path") else "right")
    for block, result in results.items():
        path = result["clock_path"]
        note = result["status"] if result["status"] != "ok" else path and (
            f"{path['from']} -> {path['to']}: {path['levels']} levels, "
            f"{path['logic_ns']} ns logic, {path['routing_ns']} ns routing")
        table.add_row(block, *(str("-" if result[column] is None else result[column])
                               for column in ("lut4", "ff", "dsp", "bram", "mhz")), note or "-")
    return table


def _table_of_modules(modules):
    table = Table(title="The device by module, each without those in it")
    for column in ("module", "LUT4", "FF", "DSP", "BRAM"):
        table.add_column(column, justify="left" if column == "module" else "right")
    for name, area in sorted(modules.items(), key=lambda item: -item[1]["lut4"]):
        table.add_row(name, *(str(area[column]) for column in ("lut4", "ff", "dsp", "bram")))
    return table


def _measure_all(names, config, directory, jobs, **options):
    """Results of `measure` for blocks `names`, `jobs` at once, in that order; says how each goes."""
    with (Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=CONSOLE) as progress,
          ThreadPoolExecutor(jobs) as executor):
        def run(block):
            task = progress.add_task(block)
            result = measure(block, config, directory, **options,
                             say=lambda step: progress.update(task, description=f"{block}: {step}"))
            progress.remove_task(task)
            progress.console.print(f"{block}: {result['status']}, {result['lut4']} LUT4, {result['mhz']} MHz, "
                                   f"{result['seconds']} s", highlight=False)
            return result

        # The device takes longest, so that it had better not be the last one alone.
        started = {block: executor.submit(run, block) for block in sorted(names, key=lambda block: block != "device")}
        return {block: started[block].result() for block in names}


@click.command()
@click.argument("names", nargs=-1, metavar="[BLOCK]...")
@click.option("--config", "preset", type=click.Choice(PRESETS), default="default",
              show_default=True, help="Preset to start from.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE",
              help="Change a parameter of the preset; may be repeated.")
@click.option("--no-route", is_flag=True, help="Area only.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True,
              help="Blocks at once; the device takes up to 4 GiB, the others less.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True,
              help="Placements to try; the clock is their median.")
@click.option("--timeout", default=3600.0, show_default=True, help="Seconds a tool may run, the fast router a third.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default="build",
              show_default=True, help="Gets synth/ with netlists and logs, and reports/synth.json.")
def main(names, preset, assignments, no_route, jobs, seeds, timeout, output):
    """Area (Yosys) and routed clock (nextpnr) of BLOCKs on ECP5; by default of all, then of the device."""
    for name in names:
        if name not in BLOCKS:
            raise click.BadParameter(f"block must be one of {', '.join(BLOCKS)}, not {name!r}")
    try:
        config = DeviceConfig.preset(preset, **parse_changes(assignments))
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error)) from None
    results = _measure_all(list(dict.fromkeys(names or BLOCKS)), config, output / "synth", jobs,
                           with_route=not no_route, timeout=timeout, seeds=seeds)
    CONSOLE.print(_table(results, preset))
    if modules := results.get("device", {}).get("modules"):
        CONSOLE.print(_table_of_modules(modules))
    report = output / "reports" / "synth.json"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps({
        "device": flow.DEVICE,
        "tools": flow.tools(),
        "configuration": config.to_dict(),
        "luts_of_cell": flow.LUTS_OF_CELL,
        "blocks": results,
    }, indent=2) + "\n")
    CONSOLE.print(f"written to {report}")
    if any(result["failed"] for result in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
