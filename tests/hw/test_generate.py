"""The Verilog of the device and what is written beside it."""

import json
import os
import re
import subprocess
import sys

import pytest
from amaranth.hdl import Assert, Module, Print, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from click.testing import CliRunner

from speckv_hw.config import DeviceConfig
from speckv_hw.generate import description_of, main, parse_changes, ports_of, verilog_of
from speckv_hw.stream import Fifo, Stage
from speckv_hw.types import Entry

CONFIG = DeviceConfig.small()

STREAMS_IN = {"m2s_req": 80, "m2s_rwd": 656, "mmio_request": 81}
STREAMS_OUT = {"s2m_ndr": 29, "s2m_drs": 542, "mmio_response": 64}


class Talkative(wiring.Component):
    """A counter that asserts and prints."""

    def __init__(self):
        super().__init__({"request": In(stream.Signature(8)), "count": Out(8)})

    def elaborate(self, platform):
        m = Module()
        limit = Signal(8)
        m.d.comb += [self.request.ready.eq(1), Assert(self.count >= limit)]
        with m.If(self.request.valid):
            m.d.sync += [self.count.eq(self.count + 1), Print("one more"), Assert(self.count != 255)]
        return m


def test_ports_have_flat_names():
    assert ports_of(verilog_of(CONFIG, Fifo(Entry, 4))) == [
        {"name": "clk", "direction": "input", "width": 1},
        {"name": "i__payload", "direction": "input", "width": 128},
        {"name": "i__ready", "direction": "output", "width": 1},
        {"name": "i__valid", "direction": "input", "width": 1},
        {"name": "level", "direction": "output", "width": 3},
        {"name": "o__payload", "direction": "output", "width": 128},
        {"name": "o__ready", "direction": "input", "width": 1},
        {"name": "o__valid", "direction": "output", "width": 1},
        {"name": "rst", "direction": "input", "width": 1},
    ]


def test_assertions_and_prints_are_left_out():
    verilog = verilog_of(CONFIG, Talkative())
    assert "assert" not in verilog and "$write" not in verilog and "$display" not in verilog
    assert "count <=" in verilog


def test_ports_of_unknown_module():
    with pytest.raises(ValueError, match="name must be a module of the Verilog, not 'other'"):
        ports_of(verilog_of(CONFIG, Stage(1)), "other")


def test_text_depends_on_nothing_else(tmp_path):
    program = ("from speckv_hw.generate import verilog_of; from speckv_hw.stream import Fifo; "
               "print(verilog_of(None, Fifo(32, 16)), end='')")
    texts = {
        subprocess.run([sys.executable, "-c", program], cwd=folder, env=os.environ | {"PYTHONHASHSEED": seed},
                       check=True, capture_output=True, text=True).stdout
        for folder, seed in ((".", "1"), (tmp_path, "2"))
    }
    assert texts == {verilog_of(None, Fifo(32, 16))}


def test_device(tmp_path):
    run = CliRunner().invoke(main, ["--config", "small", "--set", "lanes=8", "--output", str(tmp_path)])
    assert run.exit_code == 0, run.output
    verilog = (tmp_path / "speckv_small.v").read_text()
    description = json.loads((tmp_path / "speckv_small.json").read_text())
    config = DeviceConfig.small(lanes=8)
    assert description == description_of(config, verilog)
    assert DeviceConfig.from_dict(description["configuration"]) == config
    assert f"module {description['top']}(" in verilog
    ports = {port["name"]: (port["direction"], port["width"]) for port in description["ports"]}
    for streams, ahead, back in ((STREAMS_IN, "input", "output"), (STREAMS_OUT, "output", "input")):
        for name, width in streams.items():
            assert ports[f"{name}__payload"] == (ahead, width)
            assert ports[f"{name}__valid"] == (ahead, 1)
            assert ports[f"{name}__ready"] == (back, 1)
    assert ports["axi__awaddr"] == ports["axi__araddr"] == ("output", config.dram_address_bits)
    assert ports["axi__wdata"] == ("output", 512) and ports["axi__rdata"] == ("input", 512)
    assert ports["clk"] == ports["rst"] == ("input", 1)


@pytest.mark.parametrize("arguments, message", [
    (["--set", "lanes"], "change must be a parameter of"),
    (["--set", "lane=8"], "not 'lane=8'"),
    (["--set", "lanes=wide"], "lanes must be an int, not 'wide'"),
    (["--set", "lanes=12"], "lanes must be 8, 16 or 32, not 12"),
    (["--set", "codecs=raw,zip"], "codecs must be among"),
    (["--config", "huge"], "'huge' is not one of"),
])
def test_bad_settings(arguments, message, tmp_path):
    run = CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "rtl")])
    assert run.exit_code == 2
    assert message in " ".join(run.output.replace("│", " ").split())
    assert not (tmp_path / "rtl").exists()


def test_changes():
    assert parse_changes(["lanes=0x10", "codecs=raw"]) == {"lanes": 16, "codecs": ("raw",)}


class PartlyConstant(wiring.Component):
    """A signal of which some bits are decided by a condition and others are constant."""
    choose: In(1)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.o[4:].eq(15)
        with m.If(self.choose):
            m.d.comb += self.o[:4].eq(5)
        return m


def test_constant_bits_of_a_signal_are_driven_in_simulation():
    verilog = verilog_of(CONFIG, PartlyConstant())
    assert "4'hf" in verilog
    for block in re.findall(r"always @\*\n(.*)", verilog):
        assert not re.search(r" = \d+'h[0-9a-f]+;", block), f"a block that reads nothing never runs: {block}"
