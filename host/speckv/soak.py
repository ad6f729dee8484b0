"""Random traffic to two devices in lock step, compared line by line.

One is the device under test; the other is the emulated device, with another cache where both are emulated:
what a read returns depends on neither.
"""

import json
import os
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from speckv_model.config import PRESETS, DeviceConfig
from speckv_model.constants import ReqOpcode, Status
from speckv_model.csr.registers import REGISTERS
from speckv_model.cxl.messages import Channel, Expect
from speckv_sim.build import build_root

from . import open as open_device
from .errors import CommandError, DescriptorsFull
from .traffic import Traffic

REPORTS = build_root() / "reports"
SEED = int(os.environ.get("SPECKV_SEED", "1"))
CONTEXTS = 4
PER_STREAM = 0.4
"""Probability that a context has a codec per stream."""
SHOWN = 10
"""Mismatches that are described one by one."""
PAGE_SECTORS = 64
"""Traffic uses no more pages than the pool has room for with so many sectors for each, so that the pool never runs out:
which page then goes without room depends on timing."""


def differences(requests, tested, reference):
    """Which responses differ in what the host may rely on: bool, (n,). All arguments are arrays of n."""
    differs = tested["kind"] != reference["kind"]
    has_ndr, has_drs = ((reference["kind"] & kind) != 0 for kind in (Expect.NDR, Expect.DRS))
    for name in ("meta_field", "meta_value", "ld_id"):
        differs |= (has_ndr | has_drs) & (tested[name] != reference[name])
    differs |= has_ndr & (tested["ndr_opcode"] != reference["ndr_opcode"])
    differs |= has_drs & (
        (tested["drs_opcode"] != reference["drs_opcode"]) | (tested["poison"] != reference["poison"])
    )
    readable = has_drs & (reference["poison"] == 0)
    return differs | readable & (tested["data"] != reference["data"]).any(axis=-1)


class Soak:
    """Drives the devices `tested` and `reference` (`speckv.Device`) with the same random traffic.

    Parameters
    ----------
    tested, reference : Device
    seed : int
    """

    def __init__(self, tested, reference, seed):
        self._devices = tested, reference
        self._rng = np.random.default_rng(seed)
        self._traffic = Traffic(tested.config, self._rng)
        self._pages = min(100, tested.config.pool_sectors // PAGE_SECTORS * 2 // 3 // CONTEXTS)
        self._twins = {}
        self.ops = 0
        self.hints = 0
        self.commands = 0
        self.mismatches = 0
        self.described = []

    def run(self, ops, on_ops=lambda count: None):
        """At least `ops` line operations, hints not counted; `on_ops(count)` is called after each batch."""
        end = self.ops + ops
        while self.ops < end:
            what = self._rng.random()
            if not self._twins or what < 0.04 and len(self._twins) < CONTEXTS:
                self._create()
            elif what < 0.045:
                self._destroy(self._traffic.region())
            elif what < 0.13:
                self._command(self._traffic.page_command())
            elif what < 0.15:
                self._command(self._traffic.bad_command())
            elif what < 0.16:
                self._disturb()
            else:
                on_ops(self._submit(self._traffic.batch()))
        on_ops(self._submit(self._traffic.everything()))

    def finish(self):
        """Destroys all contexts and compares what is left: room in the pool and the number of errors."""
        for region in list(self._traffic.regions):
            self._destroy(region)
        tested, reference = (device.stats() for device in self._devices)
        for name in ("pool_free_sectors", "error_count"):
            self._compare(name, getattr(tested, name), getattr(reference, name))
        self._compare("sectors lost", tested.pool_sectors - tested.pool_free_sectors, 0)

    def _submit(self, requests):
        responses = [device.link.submit(requests) for device in self._devices]
        wrong = np.flatnonzero(differences(requests, *responses))
        for i in wrong[:SHOWN]:
            self._describe(
                f"operation {self.ops + i}, {requests[i]}: {responses[0][i]}, not {responses[1][i]}"
            )
        self.mismatches += wrong.size
        hints = int(
            np.sum((requests["channel"] == Channel.REQ) & (requests["opcode"] == ReqOpcode.MEM_SPEC_RD))
        )
        self.hints += hints
        self.ops += requests.size - hints
        return requests.size - hints

    def _create(self):
        layout = self._traffic.layout()
        if self._rng.random() < PER_STREAM:
            choices = self._traffic.encodings(layout)
            first, second = (self._create_per_stream(device, layout, choices) for device in self._devices)
        else:
            first, second = (device.create_context(**layout) for device in self._devices)
        self._compare("first page of a context", first.first_page, second.first_page)
        self._twins[first.number] = first, second
        self._traffic.add(first, self._pages)
        self.commands += 1

    @staticmethod
    def _create_per_stream(device, layout, choices):
        """A context encoded as `choices` say, or by its codec where the device has no room for the choices."""
        try:
            descriptors = device.load_descriptors(choices)
        except DescriptorsFull:
            return device.create_context(**layout)
        return device.create_context(**layout | {"codec": "raw"}, descriptors=descriptors)

    def _destroy(self, region):
        for context in self._twins.pop(region.context.number):
            context.free()
            if context.descriptors:
                context.descriptors.free()
        self._traffic.regions.remove(region)
        self.commands += 1

    def _command(self, fields):
        self._compare(f"status of {fields}", *(self._status(device, fields) for device in self._devices))
        self.commands += 1

    def _disturb(self):
        """Lets time pass, or changes the pace of the host and of the simulated DRAM."""
        link, rng = self._devices[0].link, self._rng
        if hasattr(link, "configure") and rng.random() < 0.3:
            link.configure(
                latency=int(rng.choice([1, 20, 100, 200])),
                jitter=int(rng.choice([0, 0, 30])),
                bytes_per_clock=int(rng.choice([16, 32, 64])),
                idle=int(rng.choice([0, 0, 100, 500])),
                stall=int(rng.choice([0, 0, 100, 500])),
            )
        else:
            link.run(int(rng.integers(1, 500)))

    @staticmethod
    def _status(device, fields):
        try:
            device.commands.run(fields)
        except CommandError as error:
            return error.status
        return Status.OK

    def _compare(self, what, tested, reference):
        if tested != reference:
            self.mismatches += 1
            self._describe(f"after operation {self.ops}, {what}: {tested}, not {reference}")

    def _describe(self, text):
        if len(self.described) < SHOWN:
            self.described.append(text)


def main(link="sim", preset="small", ops=200_000, seed=SEED, reports=REPORTS, console=None, **options):
    """Runs a soak and writes ``soak.json`` to the folder `reports`.

    Parameters
    ----------
    link : str
        The device under test: ``sim`` or ``emu``.
    preset : str
        Configuration of both devices, ``small`` or ``default``.
    ops : int
        Line operations, at least.
    seed : int
        Of the traffic.
    reports : path-like
        Where the report goes.
    **options
        For `speckv.open` of the device under test.

    Returns
    -------
    dict
        What ``soak.json`` holds; `mismatches` counts the responses, statuses and final figures that differ.
    """
    console = console or Console()
    console.print(f"soak of {ops:,} line operations, link {link}, configuration {preset}, seed {seed}")
    config = DeviceConfig.preset(preset)
    other = config
    if link == "emu":
        other = DeviceConfig.preset(preset, cache_pages=1, cache_ways=1, tlb_entries=4, tlb_ways=1)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with open_device(f"{link}:", config, **options) as tested, open_device("emu:", other) as reference:
        soak = Soak(tested, reference, seed)
        begin, clocks = time.perf_counter(), tested.stats()["CLOCKS"]
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("line operations", total=ops)
            soak.run(ops, lambda count: progress.advance(bar, count))
            soak.finish()
        seconds = time.perf_counter() - begin
        result = {"link": link, "seed": seed, "ops": soak.ops, "hints": soak.hints, "commands": soak.commands,
                  "mismatches": soak.mismatches, "described": soak.described,
                  "clocks": tested.link.mmio_read(REGISTERS.CLOCKS.offset) - clocks, "wall_s": seconds,
                  "config": config.to_dict(), "reference_config": other.to_dict()}
    reports = Path(reports)
    reports.mkdir(parents=True, exist_ok=True)
    (reports / "soak.json").write_text(json.dumps(result, indent=1))
    for text in soak.described:
        console.print(text, style="red", markup=False)
    console.print(f"{soak.ops:,} line operations, {soak.commands:,} commands, {soak.mismatches} mismatches "
                  f"in {seconds:.0f} s: {reports / 'soak.json'}")
    return result


@click.command("soak")
@click.option(
    "--ops", type=click.IntRange(1), default=200_000, show_default=True, help="Line operations, at least."
)
@click.option("--link", type=click.Choice(["sim", "emu"]), default="sim", show_default=True,
              help="The device under test.")
@click.option(
    "--config", "preset", type=click.Choice(PRESETS), default="small", show_default=True
)
@click.option(
    "--seed", type=int, default=SEED, show_default=True, help="Also from the environment: SPECKV_SEED."
)
@click.option("--reports", type=click.Path(file_okay=False), default=REPORTS,
              help="Where soak.json goes; build/reports if not given.")
def command(**options):
    """Random traffic on two devices in lock step, compared line by line."""
    if main(**options)["mismatches"]:
        raise SystemExit(1)


if __name__ == "__main__":
    command()
