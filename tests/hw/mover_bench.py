"""What lies around the movers, in Python: page table, pool, DRAM and the lines of the page cache."""

import random
import zlib

import numpy as np
from streams import receive, send

from speckv_hw.table.descriptor import Encoding
from speckv_hw.types import AllocateResponse, ReadData, TableFault, TableOp, TableResponse, WriteDone
from speckv_model.constants import LINE_BYTES, PageState
from speckv_model.pool.pool_allocator import PoolAllocator


def line_value(line):
    """The integer that a line (uint8, (64,)) is on a 512-bit stream."""
    return int.from_bytes(line.tobytes(), "little")


def mask_of(flags):
    """The integer whose bits are `flags` (booleans), the first one lowest."""
    return sum(1 << n for n, flag in enumerate(flags) if flag)


class Surroundings:
    """Serves the ports of a mover. Entries are dictionaries of `Entry` fields by page; DRAM lines are bytes by number.

    With probability `stall` each clock is let pass before a request is taken, a payload given or an answer made.
    """

    def __init__(self, config, seed, stall=0.0):
        self.config = config
        self.rng = random.Random(f"surroundings {seed}")
        self.stall = stall
        self.entries = {}
        self.faults = {}
        """Of look-ups, by page."""
        self.update_faults = {}
        """Of updates, by page; the entry stays as it was."""
        self.dram = {}
        self.bad_reads = set()
        self.refuse_writes = False
        self.pool = PoolAllocator(config)
        self.no_room = set()
        """Which allocations fail, counted from 0."""
        self.slots = {}
        self.encodings = {}
        """(codec, setting) by page, where it is not that of the stream."""

    async def pause(self, ctx):
        while self.rng.random() < self.stall:
            await ctx.tick()

    async def take(self, ctx, port, count=1):
        # A seed of its own for each call, since most calls take one payload only.
        return await receive(ctx, port, count, stall=self.stall, seed=self.rng.random())

    async def give(self, ctx, port, payloads):
        await send(ctx, port, payloads, idle=self.stall, seed=self.rng.random())

    async def collect(self, ctx, port, into):
        """Takes what comes out of `port` and appends it to the list `into`."""
        while True:
            into += await self.take(ctx, port)

    async def table(self, ctx, dut):
        await self._serve_table(ctx, dut.table_request, dut.table_response)

    async def updates(self, ctx, dut):
        await self._serve_table(ctx, dut.update_request, dut.update_response)

    async def encodings_of_pages(self, ctx, dut):
        """The descriptor table."""
        while True:
            request, = await self.take(ctx, dut.encoding_request)
            await self.pause(ctx)
            codec, setting = self.encodings.get(request.page, (request.stream.codec.value, 0))
            await self.give(ctx, dut.encoding, [Encoding.const({"codec": codec, "setting": setting})])

    async def _serve_table(self, ctx, requests, responses):
        while True:
            request, = await self.take(ctx, requests)
            await self.pause(ctx)
            faults = self.update_faults if request.op == TableOp.UPDATE else self.faults
            fault = faults.get(request.page, TableFault.NONE)
            if request.op == TableOp.UPDATE and fault == TableFault.NONE:
                entry = request.entry
                self.entries[request.page] = {
                    "state": PageState(entry.state.value), "codec": entry.codec.value, "context": entry.context,
                    "place": entry.place, "lines": entry.lines, "crc": entry.crc}
            entry = self.entries.get(request.page, {}) if fault == TableFault.NONE else {"state": PageState.POISONED}
            await self.give(ctx, responses, [TableResponse.const({
                "entry": {name: int(value) for name, value in entry.items()}, "fault": fault})])

    async def allocations(self, ctx, dut):
        number = 0
        while True:
            wanted, = await self.take(ctx, dut.allocate)
            await self.pause(ctx)
            sector = None if number in self.no_room else self.pool.allocate(wanted.sectors, wanted.context)
            number += 1
            await self.give(ctx, dut.allocated, [AllocateResponse.const({
                "ok": sector is not None, "sector": sector or 0})])

    async def frees(self, ctx, dut):
        while True:
            request, = await self.take(ctx, dut.free)
            assert self.pool.free(request.sector, request.sectors), "sectors were given back that were not taken"

    async def writes(self, ctx, dut):
        while True:
            request, = await self.take(ctx, dut.write_request)
            lines = await self.take(ctx, dut.write_data, request.count)
            for number, line in enumerate(lines):
                assert line.enable == 15
                self.dram[request.line + number] = line.data.to_bytes(LINE_BYTES, "little")
            await self.pause(ctx)
            await self.give(ctx, dut.write_done, [WriteDone.const({"error": self.refuse_writes})])

    async def reads(self, ctx, dut):
        while True:
            request, = await self.take(ctx, dut.read_request)
            await self.pause(ctx)
            await self.give(ctx, dut.read_data, self.burst(request))

    def burst(self, request):
        """DRAM's answer to a `ReadRequest`."""
        return [ReadData.const({
            "data": int.from_bytes(self.dram.get(request.line + number, bytes(LINE_BYTES)), "little"),
            "error": request.line + number in self.bad_reads,
            "last": number == request.count - 1}) for number in range(request.count)]

    async def cached_lines(self, ctx, dut):
        """The read port of the page cache: `slots` holds uint8 (64, 64) by slot number."""
        while True:
            wanted, = await self.take(ctx, dut.line_request)
            line = self.slots[wanted.slot][wanted.line]
            await send(ctx, dut.line_data, [line_value(line)])

    def stored(self, page):
        """What DRAM holds of `page`: uint8 (lines, 64), its CRC checked."""
        entry = self.entries[page]
        first = self.config.sector_line(entry["place"])
        stored = b"".join(self.dram[first + number] for number in range(entry["lines"]))
        assert zlib.crc32(stored) == entry["crc"]
        return np.frombuffer(stored, np.uint8).reshape(-1, LINE_BYTES)

    def store(self, page, entry, stored):
        """Puts a stored page (uint8, (lines, 64)) into DRAM, with its entry."""
        first = self.config.sector_line(entry["place"])
        for number, line in enumerate(stored):
            self.dram[first + number] = line.tobytes()
        self.entries[page] = {"lines": len(stored), "crc": zlib.crc32(stored.tobytes())} | entry
