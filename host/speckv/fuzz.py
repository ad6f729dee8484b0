"""Hostile hosts: random messages, commands and register accesses to two devices in lock step.

One is the device under test, the other the emulated device. Every request must be answered, both must answer alike,
what is wrong leaves as many error records on both, and the data of a bystander, whom nobody may reach, stay.
"""

import json
import time
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from speckv_model.config import DeviceConfig
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, Codec, Dtype, Opcode
from speckv_model.csr.description import Access
from speckv_model.csr.registers import (
    COMMAND_COUNT_BITS,
    COMMAND_SLOT_BASE,
    COMPLETION_BASE,
    MMIO_BYTES,
    REGISTERS,
    command_slot_offset,
    completion_offset,
    pack_command,
)
from speckv_model.cxl.messages import REQUEST, expected
from speckv_sim.build import build_root

from . import open as open_device
from .errors import LinkError
from .soak import SEED, SHOWN, differences
from .traffic import kv_lines

REPORTS = build_root() / "reports"
BYSTANDER = 0
"""Number of the context that nobody may reach."""
OWNER = 15
BYSTANDER_PAGES = 24
COUNT_MASK = (1 << COMMAND_COUNT_BITS) - 1
TIMED = {REGISTERS.STATUS.offset, REGISTERS.POOL_FREE_SECTORS.offset} | {
    register.offset for register in REGISTERS
    if register.name.startswith(("ERROR_FIRST", "ERROR_LAST")) or register.access == Access.COUNTER}
"""Registers whose value depends on time, on the cache, or on which of two requests to different pages comes first."""
KEPT = {REGISTERS.MEMORY_TIMEOUT.offset, REGISTERS.ERROR_CLEAR.offset}
"""Registers that are left alone: with a short timeout DRAM is given up, and errors are counted throughout."""


class Fuzz:
    """Throws the same at `tested` and `reference` (`speckv.Device`, both new) and compares."""

    def __init__(self, tested, reference, seed):
        self._devices = tested, reference
        self._links = tested.link, reference.link
        self._config = tested.config
        self._rng = np.random.default_rng(seed)
        self.requests = self.commands = self.accesses = self.mismatches = 0
        self.bystander_lines = 0
        """Lines of the bystander that were found changed."""
        self.described = []
        self._created = {}
        """First window pages of contexts that were to be created, by number."""
        self._places = [0]
        """Window pages near which something is."""
        lines = kv_lines(Dtype.FP16)
        for device in self._devices:
            context = device.create_context(1, 1, 128, 8 * BYSTANDER_PAGES, codec="fixed", ld_id=OWNER)
            self._bystander = context.address + LINE_BYTES * np.arange(BYSTANDER_PAGES * PAGE_LINES)
            device.store(self._bystander, lines[:self._bystander.size], ld_id=OWNER)
        self._held = tested.load(self._bystander, ld_id=OWNER)
        self._tail = tested.link.mmio_read(REGISTERS.COMMAND_TAIL.offset)

    def run(self, rounds, on_round=lambda: None):
        for number in range(rounds):
            what = self._rng.random()
            if what < 0.45:
                self._submit()
            elif what < 0.75:
                self._command()
            else:
                self._access()
            if number % 40 == 39:
                self._settle()
            on_round()
        self._settle()

    def _submit(self):
        """Random requests: any opcode, metadata and LD-ID, addresses in and out of contexts and of the window."""
        rng, count = self._rng, int(self._rng.integers(1, 200))
        requests = np.zeros(count, REQUEST)
        requests["channel"] = rng.integers(0, 2, count)
        usual = rng.random(count) < 0.6
        requests["opcode"] = np.where(usual, rng.choice([1, 2], count), rng.integers(0, 16, count))
        for name, bits in (("snp_type", 3), ("meta_field", 2), ("meta_value", 2), ("traffic_class", 2), ("ld_id", 4)):
            requests[name] = rng.integers(0, 1 << bits, count)
        # The owner of the bystander is not among the attackers.
        requests["ld_id"][(requests["ld_id"] == OWNER) | (rng.random(count) < 0.7)] = 0
        requests["poison"] = rng.random(count) < 0.02
        near = (rng.choice(self._places, count) + rng.integers(0, 6, count)) * PAGE_BYTES
        address = np.where(rng.random(count) < 0.9, near, rng.integers(0, 1 << 52, count) // PAGE_BYTES * PAGE_BYTES)
        requests["address"] = (address + LINE_BYTES * rng.integers(0, PAGE_LINES, count)) % (1 << 52)
        requests["byte_enable"] = rng.integers(0, 1 << 64, count, np.uint64)
        requests["data"] = rng.integers(0, 256, (count, LINE_BYTES), np.uint8)
        requests["expect"] = expected(requests)
        self._compare_responses(requests)
        self.requests += count

    def _compare_responses(self, requests):
        responses = [link.submit(requests) for link in self._links]
        wrong = np.flatnonzero(differences(requests, *responses))
        self.mismatches += wrong.size
        for i in wrong[:3]:
            self._describe(f"{requests[i]}: {responses[0][i]}, not {responses[1][i]}")

    def _command(self):
        """Random fields in some slots, and a doorbell that rings for as many, more than there are, or less."""
        rng, slots = self._rng, self._config.command_slots
        count = int(rng.integers(1, slots + 1))
        for number in range(count):
            words = pack_command(**self._fields())
            for word, value in enumerate(words):
                self._write(command_slot_offset((self._tail + number) % slots) + 8 * word, value)
        if rng.random() < 0.2:
            wrong = self._tail + int(rng.choice([slots + 1, slots + 7, -1, -5, 1 << 15]))
            self._write(REGISTERS.COMMAND_TAIL.offset, wrong & COUNT_MASK)
        self._ring(count)
        statuses = [[link.mmio_read(completion_offset((self._tail - 1 - number) % slots)) for number in range(count)]
                    for link in self._links]
        self._compare("completions", *statuses)
        self.commands += count

    def _fields(self):
        rng, config = self._rng, self._config
        fields = dict(
            opcode=int(rng.choice([*map(int, Opcode), int(rng.integers(256))])),
            # 1 to 3 exist now and then, others hardly ever.
            context=int(rng.choice([1, 2, 3, int(rng.integers(1, 1 << 12))])),
            first_page=int(rng.choice(self._places)) + int(rng.choice([0, 0, 1, 3])),
            pages=int(rng.choice([0, 1, 5, config.granule_pages, 2 * config.granule_pages])),
            index_bits=int(rng.choice([0, 3, 5, int(rng.integers(32))])), head_bits=int(rng.choice([0, 1, 28])),
            layer_bits=int(rng.choice([0, 1, 17])), dtype=int(rng.integers(2)), codec=int(rng.integers(8)),
            ld_id=int(rng.integers(OWNER)), setting=int(rng.choice([0, 0, 8, int(rng.integers(256))])),
            per_stream=int(rng.random() < 0.3), by_row=int(rng.integers(2)),
            descriptor_base=int(rng.choice([0, 1, int(rng.integers(1 << 16))])),
            descriptor=int(rng.choice([0, 3, int(rng.integers(1 << 16))])), tag=int(rng.integers(1 << 16)))
        if rng.random() < 0.4:
            fields |= self._plausible()
        return fields

    def _plausible(self):
        """Fields of a command that may well succeed: of a CREATE, or for the pages of a context."""
        rng, config = self._rng, self._config
        number = int(rng.integers(1, 4))
        if number not in self._created or rng.random() < 0.1:
            self._created[number] = int(rng.integers(1, config.window_slots)) * config.granule_pages
            self._places = [0, *self._created.values()]
            return dict(opcode=Opcode.CREATE, context=number, first_page=self._created[number],
                        pages=config.granule_pages, index_bits=2, head_bits=0, layer_bits=0, ld_id=0, setting=0,
                        codec=Codec[str(rng.choice(config.codecs)).upper()], per_stream=0)
        opcode = int(rng.choice([Opcode.SEAL, Opcode.FREE, Opcode.PREFETCH, Opcode.FLUSH, Opcode.DESTROY],
                                p=[0.3, 0.2, 0.2, 0.25, 0.05]))
        return dict(opcode=opcode, context=number, first_page=self._created[number] + int(rng.integers(4)), pages=3)

    def _ring(self, count):
        self._tail = self._tail + count & COUNT_MASK
        self._write(REGISTERS.COMMAND_TAIL.offset, self._tail)
        self._wait()

    def _wait(self):
        self._links[0].mmio_poll(REGISTERS.COMMAND_HEAD.offset, COUNT_MASK, self._tail, 5_000_000)

    def _write(self, address, value):
        for link in self._links:
            link.mmio_write(address, value)
        self.accesses += 1

    def _access(self):
        """Random reads and writes of registers and of what is none."""
        rng = self._rng
        for _ in range(int(rng.integers(1, 30))):
            region = int(rng.choice([0, 0, 0, COMMAND_SLOT_BASE, COMPLETION_BASE, 3 << 14]))
            address = region + 8 * int(rng.integers(0, 40 if rng.random() < 0.8 else MMIO_BYTES // 32))
            if rng.random() < 0.5:
                if address not in TIMED:
                    self._compare(f"register {address:#x}", *(link.mmio_read(address) for link in self._links))
            elif address not in KEPT | {REGISTERS.COMMAND_TAIL.offset}:
                self._write(address, int(rng.integers(0, 1 << 64, dtype=np.uint64)))
            self.accesses += 1

    def _settle(self):
        """Puts the window back, looks at the bystander, and ends contexts."""
        self._write(REGISTERS.HDM_CONTROL.offset, 0)
        self._write(REGISTERS.HDM_BASE.offset, 0)
        self._write(REGISTERS.HDM_CONTROL.offset, REGISTERS.HDM_CONTROL.pack(commit=1))
        self._compare("errors", *(link.mmio_read(REGISTERS.ERROR_COUNT.offset) for link in self._links))
        data, poison = self._devices[0].load(self._bystander, ld_id=OWNER, poison="mask")
        wrong = int(((data != self._held).any(axis=-1) | poison).sum())
        if wrong:
            self.bystander_lines += wrong
            self.mismatches += wrong
            self._describe(f"{wrong} lines of the bystander have changed")
        for number in range(1, self._config.contexts):
            for word, value in enumerate(pack_command(opcode=Opcode.DESTROY, context=number)):
                self._write(command_slot_offset(self._tail % self._config.command_slots) + 8 * word, value)
            self._ring(1)
        self._created, self._places = {}, [0]
        self._compare("free sectors", *(link.mmio_read(REGISTERS.POOL_FREE_SECTORS.offset) for link in self._links))

    def _compare(self, what, tested, reference):
        if tested != reference:
            self.mismatches += 1
            self._describe(f"{what}: {tested}, not {reference}")

    def _describe(self, text):
        if len(self.described) < SHOWN:
            self.described.append(text)


def main(link="sim", rounds=2000, seed=SEED, reports=REPORTS, console=None, config=None):
    """Throws `rounds` batches, commands and register accesses at a small device; writes ``fuzz.json``. Returns that."""
    console = console or Console()
    config = config or DeviceConfig.small()
    console.print(f"fuzz of {rounds:,} rounds, link {link}, seed {seed}")
    begin, hangs = time.perf_counter(), 0
    with open_device(f"{link}:", config) as tested, open_device("emu:", config) as reference:
        fuzz = Fuzz(tested, reference, seed)
        try:
            fuzz.run(rounds)
        except LinkError as error:
            hangs = 1
            fuzz.described.insert(0, f"the device does not answer any more: {error}")
    result = {"link": link, "seed": seed, "rounds": rounds, "requests": fuzz.requests, "commands": fuzz.commands,
              "accesses": fuzz.accesses, "mismatches": int(fuzz.mismatches),
              "bystander_lines": fuzz.bystander_lines, "hangs": hangs, "described": fuzz.described,
              "wall_s": time.perf_counter() - begin, "config": config.to_dict(),
              "command": f"speckv fuzz --link {link} --rounds {rounds} --seed {seed}"}
    reports = Path(reports)
    reports.mkdir(parents=True, exist_ok=True)
    (reports / "fuzz.json").write_text(json.dumps(result, indent=1))
    for text in fuzz.described:
        console.print(text, style="red", markup=False)
    console.print(f"{fuzz.requests:,} requests, {fuzz.commands:,} commands, {fuzz.accesses:,} register accesses, "
                  f"{fuzz.mismatches} mismatches, {hangs} hangs in {result['wall_s']:.0f} s: {reports / 'fuzz.json'}")
    return result


@click.command("fuzz")
@click.option("--rounds", type=click.IntRange(1), default=2000, show_default=True,
              help="Batches of requests, commands and register accesses.")
@click.option("--link", type=click.Choice(["sim", "emu"]), default="sim", show_default=True,
              help="The device under test.")
@click.option(
    "--seed", type=int, default=SEED, show_default=True, help="Also from the environment: SPECKV_SEED."
)
@click.option("--reports", type=click.Path(file_okay=False), default=REPORTS,
              help="Where fuzz.json goes; build/reports if not given.")
def command(**options):
    """Random messages, commands and register accesses to two devices in lock step."""
    result = main(**options)
    if result["mismatches"] or result["hangs"]:
        raise SystemExit(1)
