"""Synthesises blocks, shows and keeps what came out: `python -m speckv_hw.synth [block ...]`."""

import hashlib
import json
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from speckv_hw.config import PRESETS, DeviceConfig
from speckv_hw.generate import parse_changes, verilog_of
from speckv_hw.synth import flow
from speckv_hw.synth.blocks import BLOCKS

CONSOLE = Console()


def measure(block, config, directory, *, with_route=True, timeout=3600):
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

    Returns
    -------
    dict
        `lut4, ff, dsp, bram` (None where synthesis failed), `mhz, clock_path` (None where not routed),
        `cells`, `status` (``ok``, that it does not fit, or what went wrong), whether it has `failed` and the `seconds`
        it took; for the device also `modules`, the area of each of its blocks.
    """
    result = dict.fromkeys(("lut4", "ff", "dsp", "bram", "mhz", "clock_path", "cells"))
    result |= {"status": "ok", "failed": False}
    by_module = block == "device"
    place = directory / block
    place.mkdir(parents=True, exist_ok=True)
    kept = place / "result.json"
    begin = time.monotonic()
    with CONSOLE.status(f"{block}: Verilog"):
        try:
            verilog = verilog_of(config, BLOCKS[block](config))
        except Exception as error:  # A block that cannot be built must not hide the others' results.
            return result | {"status": f"build: {type(error).__name__}: {error}", "failed": True, "seconds": 0}
    key = hashlib.sha256(json.dumps([flow.recipe(verilog, by_module), with_route, sorted(result)]).encode()).hexdigest()
    if kept.exists() and (old := json.loads(kept.read_text()))["key"] == key:
        return old["result"]
    try:
        with CONSOLE.status(f"{block}: synthesis"):
            result |= flow.synthesise(verilog, place, timeout, by_module=by_module)
        if with_route:
            with CONSOLE.status(f"{block}: place and route"):
                result |= flow.route(result, place, timeout)
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


@click.command()
@click.argument("names", nargs=-1, metavar="[BLOCK]...")
@click.option("--config", "preset", type=click.Choice(PRESETS), default="default",
              show_default=True, help="Preset to start from.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE",
              help="Change a parameter of the preset; may be repeated.")
@click.option("--no-route", is_flag=True, help="Area only.")
@click.option("--timeout", default=3600.0, show_default=True, help="Seconds a tool may run, the fast router a third.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default="build",
              show_default=True, help="Gets synth/ with netlists and logs, and reports/synth.json.")
def main(names, preset, assignments, no_route, timeout, output):
    """Area (Yosys) and routed clock (nextpnr) of BLOCKs on ECP5; by default of all, then of the device."""
    for name in names:
        if name not in BLOCKS:
            raise click.BadParameter(f"block must be one of {', '.join(BLOCKS)}, not {name!r}")
    try:
        config = DeviceConfig.preset(preset, **parse_changes(assignments))
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error)) from None
    results = {}
    for block in names or BLOCKS:
        results[block] = result = measure(block, config, output / "synth",
                                          with_route=not no_route, timeout=timeout)
        CONSOLE.print(f"{block}: {result['status']}, {result['lut4']} LUT4, {result['mhz']} MHz, "
                      f"{result['seconds']} s", highlight=False)
    CONSOLE.print(_table(results, preset))
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
