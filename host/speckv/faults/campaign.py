"""A campaign of faults: each ends as poison or an error record of what it concerns, and nothing else changes."""

import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from speckv_model.config import DeviceConfig
from speckv_model.constants import PAGE_LINES, Opcode
from speckv_sim.build import build_root

from .. import open as open_device
from ..errors import LinkError
from .kinds import Fault, shares
from .store import OPEN_LINES, Store

REPORTS = build_root() / "reports"
TIMEOUT_CLOCKS = 2000
"""After which the device gives up DRAM; more than any answer takes that comes."""
BYSTANDERS = 8
"""Pages read together with one that is not answered."""
SHOWN = 20
"""Findings that are described one by one."""
OUTCOMES = ("injected", "detected", "harmless", "silent_wrong")


class Campaign:
    """Injects faults into what the device `tested` stores, and judges what it then reads.

    A fault is `detected` where a line that it concerns is poison or (faults of writes) an error was recorded;
    `silent_wrong` where a line is neither poison nor right, old content of lines whose writes were taken included; else
    `harmless`: nobody read the bytes, or it had not come to a write. `twin` is an emulated device without faults. After
    each batch the faults are mended, and all must be as before; what poison stays lies in pages that the device itself
    had to rewrite, and ends with FREE.
    """

    def __init__(self, tested, twin, seed):
        self._rng = np.random.default_rng(seed)
        self._devices = tested, twin
        self.by_kind, self.by_form = {}, {}
        self.error_records = 0
        self.collateral_poison = 0
        """Lines that no fault concerned and that were poison for a time: asked for after one that was not answered."""
        self.not_mended = 0
        """Lines that were not right after the faults were mended, though the device had no reason to rewrite them."""
        self.unrecorded = 0
        """Batches with fewer error records than pages with poison."""
        self.resets = 0
        """The device was reset to get room back that unreadable entries had."""
        self.described = []
        self._fill_store()

    def _fill_store(self):
        self.store = Store(*self._devices, self._rng)
        self.store.set_timeout(TIMEOUT_CLOCKS)
        self.store.take_errors()

    def run(self, count, on_faults=lambda count: None):
        """Injects about `count` faults; `on_faults(count)` is called after each batch."""
        stored, single = [], []
        for kind, wanted in shares(count).items():
            (single if "write" in kind or "unanswered" in kind else stored).extend([kind] * wanted)
        stored = [stored[i] for i in self._rng.permutation(len(stored))]
        for kind in single:
            (self._write if "write" in kind else self._unanswered)(kind)
            on_faults(1)
            if self.store.is_short_of_room:
                self.resets += 1
                for device in self._devices:
                    device.reset()
                self._fill_store()
        while stored:
            on_faults(self._batch(stored))

    def total(self, outcome):
        return sum(counts[outcome] for counts in self.by_kind.values())

    @property
    def unexpected(self):
        """What must not happen."""
        return self.total("silent_wrong") + self.not_mended + self.unrecorded

    def _batch(self, kinds):
        """Takes faults of `kinds` for a part of the pages, one for each, and judges them. Returns how many."""
        free = set(range(self.store.pages))
        faults = []
        while kinds and free and len(faults) < self.store.pages * 2 // 3:
            page = int(self._rng.choice(sorted(free)))
            concerned = self.store.neighbours(page) if kinds[-1].startswith("entry read") else [page]
            if not free.issuperset(concerned):
                break
            free.difference_update(concerned)
            faults.append(Fault(self.store, kinds.pop(), page, self._rng))
        data, poison = self.store.read(range(self.store.pages))
        self._judge(faults, data, poison, self.store.take_errors())
        self._mend(faults)
        return len(faults)

    def _unanswered(self, kind):
        """One read that is not answered, among others."""
        page = int(self._rng.integers(self.store.pages))
        fault = Fault(self.store, kind, page, self._rng)
        pages = sorted({page, *fault.pages, *self._rng.choice(self.store.pages, BYSTANDERS).tolist()})
        data, poison = self.store.read(pages)
        # Others were asked for after what is not answered, and so are given up with it.
        others = np.ones(self.store.pages, bool)
        others[fault.pages] = False
        given_up = poison & others[:, None]
        self.collateral_poison += int(given_up.sum())
        data[given_up], poison[given_up] = self.store.expected[given_up], False
        self._judge([fault], data, poison, self.store.take_errors())
        self._mend([fault], pages)

    def _judge(self, faults, data, poison, errors):
        self.error_records += errors
        wrong = (data != self.store.expected).any(axis=-1) & ~poison
        concerned = set()
        for fault in faults:
            concerned.update(fault.pages)
            outcome = "detected" if poison[fault.pages].any() else "harmless"
            self._count(fault, outcome, wrong[fault.pages].sum())
        others = [page for page in range(self.store.pages) if page not in concerned]
        strays = np.argwhere((wrong | poison)[others])
        if len(strays):
            self.not_mended += len(strays)
            page, line = others[strays[0][0]], strays[0][1]
            self._describe(f"page {page} ({self.store.form(page)}), line {line}, which no fault concerns, has changed")
        if poison.any(axis=1).sum() > errors:
            self.unrecorded += 1
            self._describe(f"{poison.any(axis=1).sum()} pages with poison and {errors} error records")

    def _count(self, fault, outcome, wrong_lines):
        outcome = "silent_wrong" if wrong_lines else outcome
        form = self.store.form(fault.page)
        for counts, name in ((self.by_kind, fault.kind), (self.by_form, form)):
            counts = counts.setdefault(name, dict.fromkeys(OUTCOMES, 0))
            counts["injected"] += 1
            counts[outcome] += 1
        if wrong_lines:
            self._describe(f"{fault.kind}, page {fault.page} ({form}): {wrong_lines} lines are wrong and not poison")

    def _mend(self, faults, pages=None):
        """Ends `faults`, and looks at `pages` (all)."""
        self.store.tested.link.dram_heal()
        for fault in faults:
            fault.mend()
        self.store.forget(pages)
        data, poison = self.store.read(range(self.store.pages) if pages is None else pages)
        bad = (data != self.store.expected).any(axis=-1) | poison
        # An OPEN page of which a line could not be read is written back without that line.
        lasting = {page for fault in faults for page in fault.pages if self.store.form(page) == "open" and
                   poison[page].any()}
        for page in np.flatnonzero(bad.any(axis=1)):
            if page not in lasting:
                self.not_mended += int(bad[page].sum())
                self._describe(f"page {page} ({self.store.form(page)}) is not right after the faults were mended: "
                               f"{', '.join(fault.kind for fault in faults if page in fault.pages)}")
        self.store.fill(np.flatnonzero(bad.any(axis=1)))
        self.store.forget(np.flatnonzero(bad.any(axis=1)))
        self.store.take_errors()

    def _write(self, kind):
        """One page that is written while its writes to DRAM, or those of its entry, fail."""
        store = self.store
        page = int(self._rng.integers(store.pages))
        all_lines = np.arange(PAGE_LINES)
        begin = self._rng.random()
        if begin < 0.3:
            store.command(Opcode.FREE, page)
        elif begin < 0.7:
            store.write(page, self._rng.permutation(PAGE_LINES)[:10])
        store.refresh([page])
        store.forget([page])
        before = store.expected[page].copy()
        store.take_errors()

        fault = Fault(store, kind, page, self._rng)
        lines = np.sort(self._rng.permutation(PAGE_LINES)[:OPEN_LINES]) if store.form(page) == "open" else all_lines
        store.write(page, lines)
        store.command(Opcode.FLUSH, page)
        store.refresh([page])
        # What the page has when it is read again depends on whether the fault has been mended by then.
        data, poison = store.read([page])
        errors = store.take_errors()
        store.tested.link.dram_heal()
        store.forget([page])
        later, later_poison = store.read([page])
        errors += store.take_errors()
        self.error_records += errors
        wrong = 0
        for found, lost in ((data[page], poison[page]), (later[page], later_poison[page])):
            wrong_now = (found != store.expected[page]).any(axis=-1) & ~lost
            if errors >= len(lines):
                # Each write was refused, with a record of its own.
                wrong_now &= (found != before).any(axis=-1)
            wrong += wrong_now.sum()
        self._count(fault, "detected" if errors else "harmless", wrong)
        store.fill([page])
        store.forget([page])
        data, poison = store.read([page])
        bad = int(((data != store.expected).any(axis=-1) | poison).sum())
        if bad:
            self.not_mended += bad
            self._describe(f"page {page} ({store.form(page)}) cannot be written again after {kind}: {bad} lines")
        store.take_errors()

    def _describe(self, text):
        if len(self.described) < SHOWN:
            self.described.append(text)


def main(link="sim", preset="small", faults=10_000, seed=1, reports=REPORTS, console=None, config=None):
    """Runs a campaign and writes ``faults.json`` to the folder `reports`.

    Parameters
    ----------
    link : str
        The device under test: ``sim`` or ``emu``.
    preset : str
        Its configuration, ``small`` or ``default``.
    faults : int
        How many to inject, about.
    seed : int
    reports : path-like
        Where the report goes.
    config : DeviceConfig, optional
        In place of the preset.

    Returns
    -------
    dict
        What ``faults.json`` holds; not `complete` where it was broken off with Ctrl-C.
    """
    console = console or Console()
    console.print(f"campaign of {faults:,} faults, link {link}, configuration {preset}, seed {seed}")
    config = config or DeviceConfig.preset(preset)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,} of {task.total:,}"),
               TimeElapsedColumn(), TimeRemainingColumn())
    begin, hangs, complete = time.perf_counter(), 0, True
    options = {"hang_clocks": 300_000} if link == "sim" else {}
    with open_device(f"{link}:", config, **options) as tested, open_device("emu:", config) as twin:
        campaign = Campaign(tested, twin, seed)
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("faults", total=sum(shares(faults).values()))
            try:
                campaign.run(faults, lambda count: progress.advance(bar, count))
            except LinkError as error:
                hangs = 1
                campaign.described.insert(0, f"the device does not answer any more: {error}")
            except KeyboardInterrupt:
                complete = False
        clocks = tested.link.clocks
    result = {outcome: campaign.total(outcome) for outcome in OUTCOMES} | {
        "hangs": hangs, "error_records": campaign.error_records, "collateral_poison": campaign.collateral_poison,
        "not_mended": campaign.not_mended, "unrecorded": campaign.unrecorded,
        "resets": campaign.resets, "unexpected": campaign.unexpected + hangs, "complete": complete,
        "by_kind": campaign.by_kind, "by_form": campaign.by_form,
        "described": campaign.described, "seed": seed, "link": link, "timeout_clocks": TIMEOUT_CLOCKS,
        "clocks": clocks, "wall_s": time.perf_counter() - begin, "config": config.to_dict(),
        "command": f"speckv faults --link {link} --config {preset} --faults {faults} --seed {seed}"}
    reports = Path(reports)
    reports.mkdir(parents=True, exist_ok=True)
    (reports / "faults.json").write_text(json.dumps(result, indent=1))
    _show(result, console, reports)
    return result


def _show(result, console, reports):
    for title, counts in (("kind", result["by_kind"]), ("form of the page", result["by_form"])):
        table = Table(title, *(outcome.replace("_", " ") for outcome in OUTCOMES))
        for name, values in counts.items():
            table.add_row(name, *(f"{values[outcome]:,}" for outcome in OUTCOMES))
        table.add_section()
        table.add_row("all", *(f"{result[outcome]:,}" for outcome in OUTCOMES))
        console.print(table)
    for text in result["described"]:
        console.print(text, style="red", markup=False)
    console.print(f"{result['injected']:,} faults, {result['error_records']:,} error records, {result['hangs']} hangs, "
                  f"{result['unexpected']} unexpected in {result['wall_s']:.0f} s: {reports / 'faults.json'}")
