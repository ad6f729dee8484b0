"""The synthesis flow on components of known size. Placing and routing is left to `make synth`."""

import json

import pytest
from amaranth.hdl import Fragment, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.config import DeviceConfig
from speckv_hw.generate import verilog_of
from speckv_hw.stream import Fifo, Stage
from speckv_hw.synth import flow
from speckv_hw.synth.blocks import BLOCKS
from speckv_hw.synth.flow import FlowError, TooLarge, ToolTimeout, boundary, route, synthesise
from speckv_hw.synth.levels import deepest

CONFIG = DeviceConfig.small()

SMALL = {"lut4": 1, "ff": 0, "dsp": 0, "bram": 0}

TIMEOUT = 300
"""Seconds: the first run ever of Yosys compiles it."""


class Product(wiring.Component):
    def __init__(self):
        super().__init__({"a": In(16), "b": In(16), "o": Out(32)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.o.eq(self.a * self.b)
        return m


def test_registers(tmp_path):
    area = synthesise(verilog_of(CONFIG, Stage(100)), tmp_path, TIMEOUT)
    assert area["ff"] == 2 * 100 + 2
    assert 100 <= area["lut4"] <= 120
    assert area["dsp"] == area["bram"] == 0


@pytest.mark.parametrize("depth, width, bram", [(17, 36, 0), (1025, 36, 2)])
def test_memories_are_memory_cells(depth, width, bram, tmp_path):
    area = synthesise(verilog_of(CONFIG, Fifo(width, depth)), tmp_path, TIMEOUT)
    assert area["bram"] == bram
    assert area["cells"].get("TRELLIS_DPR16X4", 0) == (0 if bram else width // 4)
    assert area["ff"] < width + 100


def test_product(tmp_path):
    area = synthesise(verilog_of(CONFIG, Product()), tmp_path, TIMEOUT)
    assert area["dsp"] == 1 and area["ff"] == 32


class Chain(wiring.Component):
    """A sum of 64 bits, and one of 4, between registers."""

    def __init__(self):
        super().__init__({"a": In(64), "deep": Out(1), "shallow": Out(1)})

    def elaborate(self, platform):
        m = Module()
        operand = Signal(64)
        m.d.sync += [operand.eq(self.a), self.deep.eq(operand.xor()), self.shallow.eq(operand[:4].xor())]
        return m


def test_levels_are_counted(tmp_path):
    synthesise(verilog_of(CONFIG, Chain()), tmp_path, TIMEOUT)
    found = deepest(json.loads((tmp_path / "block.json").read_text()))
    assert found[0] == {"to": "deep", "from": "operand", "levels": 3}
    assert {"to": "shallow", "from": "operand", "levels": 1} in found


def test_time_is_limited(tmp_path):
    with pytest.raises(FlowError, match="synthesise: not done after 0.01 s"):
        synthesise(verilog_of(CONFIG, Stage(1)), tmp_path, 0.01)


def test_what_is_too_large_is_not_routed(tmp_path):
    area = {"lut4": 90000, "ff": 0, "dsp": 0, "bram": 0}
    with pytest.raises(TooLarge, match="does not fit: 90,000 lut4 of 83,640"):
        route(area, tmp_path, TIMEOUT)


def test_the_thorough_router_has_its_turn(tmp_path, monkeypatch):
    """Where the fast one is not done in its time, and only there."""
    asked = []

    def run(step, command, arguments, directory, timeout):
        asked.append((arguments[-1], timeout))
        if arguments[-1] == "router2":
            raise ToolTimeout("route: not done")
        raise FlowError("route: no way")

    monkeypatch.setattr(flow, "_run", run)
    with pytest.raises(FlowError, match="no way"):
        route(SMALL, tmp_path, 30, seeds=2)
    assert asked == [("router2", 10), ("router2", 10), ("router1", 30)]


def test_the_clock_is_the_median_of_placements(tmp_path, monkeypatch):
    """Of those that could be routed, with the path of the one that it is."""
    clocks = {"1": 80.0, "2": None, "3": 60.0, "4": 70.0, "5": 90.0}

    def run(step, command, arguments, directory, timeout):
        seed = arguments[arguments.index("--seed") + 1]
        if clocks[seed] is None:
            raise ToolTimeout("route: not done")
        path = [{"from": {"cell": "block.a"}, "to": {"cell": f"block.b{seed}"}, "type": "logic", "delay": 1}]
        report = {"fmax": {"clk": {"achieved": clocks[seed]}},
                  "critical_paths": [{"from": "posedge clk", "to": "posedge clk", "path": path}]}
        (directory / "route.json").write_text(json.dumps(report))

    monkeypatch.setattr(flow, "_run", run)
    found = route(SMALL, tmp_path, 30, seeds=5)
    assert found["mhz"] == 70.0 and found["clock_path"]["to"] == "b4"
    assert found["mhz_by_seed"] == {int(seed): clock for seed, clock in clocks.items()}


def test_boundary_needs_three_pins():
    text = boundary(verilog_of(CONFIG, Fifo(700, 4)))
    assert text.startswith("module boundary(input clk, input reset, input serial);")
    assert "input_register [701:0]" in text and "output_register [704:0]" in text


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_can_be_made(block):
    Fragment.get(BLOCKS[block](CONFIG), None)
