"""Depth of the logic of a mapped netlist: how many LUTs are between registers, by where a path ends.

The slowest path of a routed block names one register. Which of the others are as deep, and where their paths begin,
tells whether it takes one more stage or another design, and needs no routing.
"""

import re
from graphlib import TopologicalSorter

__all__ = ["deepest"]

# By kind of cell: its outputs, inputs that do not count as a level (muxes and carries of the same slice), and inputs
# of a clock.
_LOGIC = {
    "LUT4": (("Z",), (), ()),
    "PFUMX": (("Z",), ("ALUT", "BLUT", "C0"), ()),
    "L6MUX21": (("Z",), ("D0", "D1", "SD"), ()),
    "CCU2C": (("S0", "S1", "COUT"), ("CIN",), ()),
    "TRELLIS_DPR16X4": (("DO",), (), ("DI", "WAD", "WRE", "WCK")),
}


def deepest(netlist, top="boundary", count=10):
    """The groups of registers and memories that the deepest logic ends in.

    Parameters
    ----------
    netlist : dict
        Yosys' JSON of ECP5 cells, flat.
    top : str
        Name of the module.
    count : int
        Groups to return. A group is all bits of a register or all parts of a memory.

    Returns
    -------
    list of dict
        `to`, `from` (names of the groups) and `levels`, deepest first.
    """
    cells = netlist["modules"][top]["cells"]
    driver = {}
    for name, cell in cells.items():
        outputs = _LOGIC[cell["type"]][0] if cell["type"] in _LOGIC else _outputs(cell)
        driver |= {bit: name for port in outputs for bit in cell["connections"].get(port, ())}

    sources = {name: list(_sources(cell, driver)) for name, cell in cells.items() if cell["type"] in _LOGIC}
    order = TopologicalSorter({name: [source for source, _ in found if source in sources]
                               for name, found in sources.items()}).static_order()
    depth = {}
    for name in order:
        depth[name] = max(((depth[source][0] if source in depth else 0) + counts, depth.get(source, (0, source))[1])
                          for source, counts in sources[name]) if sources[name] else (0, name)

    groups = {}
    for name, cell in cells.items():
        if cell["type"] in _LOGIC and cell["type"] != "TRELLIS_DPR16X4":
            continue
        for source, _ in _sources(cell, driver, ends=True):
            if source in depth:
                levels, begin = depth[source]
                groups[_group(name)] = max(groups.get(_group(name), (0, "")), (levels, _group(begin)))
    found = sorted(groups.items(), key=lambda item: (-item[1][0], item[0]))[:count]
    return [{"to": name, "from": begin, "levels": levels} for name, (levels, begin) in found]


def _outputs(cell):
    return [port for port, direction in cell.get("port_directions", {}).items() if direction == "output"]


def _sources(cell, driver, *, ends=False):
    """Cells that drive `cell`, each with the levels that this takes; where its paths end those of clocked inputs."""
    outputs, same_slice, clocked = _LOGIC.get(cell["type"], (_outputs(cell), (), ()))
    for port, bits in cell["connections"].items():
        if port in outputs or (port in clocked) != (ends and bool(clocked)):
            continue
        for bit in bits:
            if bit in driver:
                yield driver[bit], int(port not in same_slice)


def _group(name):
    """Name of a register without what Yosys adds to it, and without bits."""
    name = re.sub(r"_TRELLIS_FF_Q.*|_(?:LUT4|PFUMX|L6MUX21|CCU2C)_.*", "", name.removeprefix("block."))
    return re.sub(r"(?:\.\d+)+$|\[\d+\]$", "", name)
