"""A model device beside its reference: whatever is done is done to both, and every answer is compared."""

import os
from functools import cache
from pathlib import Path

import numpy as np
from device_reference import DeviceReference

from speckv_model.config import DeviceConfig
from speckv_model.constants import (
    LINE_BYTES,
    PAGE_BITS,
    PAGE_BYTES,
    PAGE_LINES,
    Codec,
    DrsOpcode,
    Dtype,
    ErrorKind,
    Opcode,
    PageState,
    Status,
)
from speckv_model.csr.registers import (
    COMPLETION_WORD,
    REGISTERS,
    command_slot_offset,
    completion_offset,
    pack_command,
)
from speckv_model.cxl import messages
from speckv_model.device import DeviceModel
from speckv_model.mover.messages import sectors_of
from speckv_model.table.page_table import TableFault

SEED = int(os.environ.get("SPECKV_SEED", "1"))
ALL_LINES = np.arange(PAGE_LINES)
SAMPLES = Path(__file__).parents[2] / "sim" / "data" / "kv_samples.npz"


@cache
def samples(name):
    """Captured K or V as lines: uint8 (n, 64)."""
    return np.load(SAMPLES)[name].reshape(-1).view(np.uint8).reshape(-1, LINE_BYTES)


def kv_lines(rng, count, name="k"):
    """`count` lines of captured K or V that follow each other, from a random row on: uint8 (count, 64)."""
    lines = samples(name)
    first = rng.integers(len(lines) // 4) * 4
    return lines[(first + np.arange(count)) % len(lines)]


def small(**changes):
    """A device of four cached pages and room for 32 OPEN pages."""
    return DeviceConfig.small(**dict(pool_bytes=1 << 18) | changes)


def cached(pages):
    """`small` with a cache of `pages` pages."""
    return small(cache_pages=pages, cache_ways=min(2, pages))


class Bench:
    """One context (number 1, pages `first` to `first + pages - 1`) to begin with.

    Parameters
    ----------
    config : DeviceConfig
    codec, dtype : Codec, Dtype
        Of the first context.
    """

    def __init__(self, config=None, codec=Codec.SPECKV, dtype=Dtype.FP16):
        self.config = config or small()
        self.device = DeviceModel(self.config)
        self.reference = DeviceReference(self.config)
        self.first = self.pages = self.config.granule_pages
        assert self.create(1, self.first, self.pages, codec, dtype) == Status.OK

    # Commands

    def command(self, opcode, context=1, first_page=None, pages=1, **fields):
        """Runs a command on the device only. Returns its `Status`."""
        device, head = self.device, self.device.mmio_read(REGISTERS.COMMAND_HEAD.offset)
        slot = head % self.config.command_slots
        first_page = self.first if first_page is None else first_page
        words = pack_command(opcode=opcode, context=context, tag=head, first_page=first_page, pages=pages,
                             **fields)
        for n, word in enumerate(words):
            device.mmio_write(command_slot_offset(slot) + 8 * n, word)
        device.mmio_write(REGISTERS.COMMAND_TAIL.offset, head + 1 & 0xFFFF)
        completion = COMPLETION_WORD.unpack(device.mmio_read(completion_offset(slot)))
        assert completion["done"] and completion["tag"] == head and completion["opcode"] == opcode
        return completion["status"]

    def create(self, context, first_page, pages, codec=Codec.SPECKV, dtype=Dtype.FP16, ld_id=0):
        status = self.command(Opcode.CREATE, context, first_page, pages, codec=codec, dtype=dtype,
                              ld_id=ld_id)
        if status == Status.OK:
            self.reference.create(context, first_page, pages, codec, dtype, ld_id)
        return status

    def create_per_stream(self, context, first_page, pages, codecs, *, index_bits, descriptor=0):
        """A context of SPECKV whose streams have `codecs`, by the descriptors from `descriptor` on."""
        for n, codec in enumerate(codecs):
            assert self.command(Opcode.LOAD_DESCRIPTOR, descriptor=descriptor + n, codec=codec) == Status.OK
        assert self.command(Opcode.CREATE, context, first_page, pages, codec=Codec.SPECKV, per_stream=1,
                            index_bits=index_bits, head_bits=(len(codecs) - 1).bit_length(),
                            descriptor_base=descriptor) == Status.OK
        self.reference.create(context, first_page, pages, lambda page: codecs[page - first_page >> index_bits],
                              Dtype.FP16, 0)

    def destroy(self, context=1):
        self.reference.destroy(context)
        return self.command(Opcode.DESTROY, context)

    def seal(self, page, context=1):
        self.reference.seal(page)
        assert self.command(Opcode.SEAL, context, page) == Status.OK

    def free(self, page, context=1):
        self.reference.free(page)
        assert self.command(Opcode.FREE, context, page) == Status.OK

    def flush(self, page, context=1):
        assert self.command(Opcode.FLUSH, context, page) == Status.OK

    def prefetch(self, page, context=1):
        assert self.command(Opcode.PREFETCH, context, page) == Status.OK

    # Requests

    def submit(self, requests):
        """Sends `requests` to both and compares what reads return. Returns the device's responses."""
        responses = self.device.submit(requests)
        for request, response in zip(requests, responses):
            self._check(request, response)
        return responses

    def _check(self, request, response):
        page, line = divmod(int(request["address"]) // LINE_BYTES, PAGE_LINES)
        ld_id = int(request["ld_id"])
        if request["channel"] == messages.Channel.RWD:
            enable = np.unpackbits(request["byte_enable"].reshape(1).view(np.uint8), bitorder="little")
            enable = enable.astype(bool)
            self.reference.write(page, line, request["data"], enable, bool(request["poison"]), ld_id)
        elif request["expect"] & messages.Expect.DRS:
            data, poison, nxm = self.reference.read(page, line, ld_id)
            where = f"page {page} line {line}"
            assert response["drs_opcode"] == (DrsOpcode.MEM_DATA_NXM if nxm else DrsOpcode.MEM_DATA), where
            assert response["poison"] == poison, where
            np.testing.assert_array_equal(response["data"], data, where)

    def write(self, page, lines, data, **options):
        """Writes `lines` of a page. Returns the responses."""
        return self.submit(messages.writes(addresses(page, lines), data, **options))

    def read(self, page, lines=ALL_LINES, **options):
        """Reads `lines` of a page and compares. Returns (data, poison)."""
        responses = self.submit(messages.reads(addresses(page, lines), **options))
        return responses["data"], responses["poison"]

    def hint(self, page):
        self.submit(messages.hints(addresses(page, [0])))

    # What the device says of itself

    def entry(self, page):
        return self.device.table.lookup(page)[0]

    def state(self, page):
        """State of a page by its entry, which must agree with the reference."""
        state = PageState(self.entry(page).state)
        assert state == self.reference.state(page)
        return state

    def counter(self, name):
        return self.device.mmio_read(getattr(REGISTERS, name).offset)

    def errors(self):
        """Kinds, addresses and details of the first and the last error, and how many there were."""
        found = []
        for name in ("FIRST", "LAST"):
            record = REGISTERS.ERROR_FIRST.unpack(self.counter(f"ERROR_{name}"))
            found.append((ErrorKind(record["kind"]), self.counter(f"ERROR_{name}_ADDRESS"), record["detail"]))
        return *found, self.counter("ERROR_COUNT")

    def only_error(self):
        """The error that was recorded, if it is the only one."""
        first, _, count = self.errors()
        assert count == 1, self.errors()
        return first

    def clear_errors(self):
        self.device.csr.errors.clear()

    def check_pool(self):
        """The pool has as much room as it has in the reference, where no sector can be lost."""
        assert self.device.pool.free_sectors == self.reference.pool.free_sectors

    def forget_entries(self):
        """Makes the device read entries from DRAM again: CREATE empties the TLB."""
        free = max(self.reference.contexts) + 1
        assert self.create(free, free * self.config.granule_pages, self.config.granule_pages) == Status.OK

    def dram_line(self, page):
        """DRAM line at which a page is stored."""
        assert self.entry(page).has_place
        return self.config.sector_line(self.entry(page).place)

    def check_places(self):
        """No two pages hold the same sector of the pool, and none holds a free one.

        Ends the bench: the pool is emptied.
        """
        taken = set()
        for *_, pages in self.reference.contexts.values():
            for page in pages:
                entry, fault = self.device.table.lookup(page)
                if fault == TableFault.NONE and (count := sectors_of(entry)):
                    sectors = set(range(entry.place, entry.place + count))
                    assert not taken & sectors
                    taken |= sectors
        # The pool refuses to take back what is free.
        for sector in taken:
            assert self.device.pool.free(sector, 1)


def addresses(page, lines):
    """Byte addresses of `lines` of a page."""
    return page * PAGE_BYTES + np.asarray(lines) * LINE_BYTES


def line_address(page, line):
    """Address of a line in error records."""
    return page << PAGE_BITS | line * LINE_BYTES
