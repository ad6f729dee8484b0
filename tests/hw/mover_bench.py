"""What lies around the movers, in Python: page table, pool, DRAM and the lines of the page cache."""

import random
import zlib

import numpy as np
from streams import receive, send

from speckv_hw.types import AllocateResponse, ReadData, TableFault, TableOp, TableResponse, WriteDone
from speckv_model.constants import LINE_BYTES, PageState
from speckv_model.pool.pool_allocator import PoolAllocator


class Surroundings:
    """Serves the ports of a mover. Entries are dictionaries of `Entry` fields by page; DRAM lines are bytes by number."""

    def __init__(self, config, seed, stall=0.0):
        self.config = config
        self.rng = random.Random(f"surroundings {seed}")
        self.stall = stall
        self.entries = {}
        self.faults = {}
        self.dram = {}
        self.bad_reads = set()
        self.refuse_writes = False
        self.pool = PoolAllocator(config)
        self.slots = {}

    async def pause(self, ctx):
        while self.rng.random() < self.stall:
            await ctx.tick()

    async def table(self, ctx, dut):
        await self._serve_table(ctx, dut.table_request, dut.table_response)

    async def updates(self, ctx, dut):
        await self._serve_table(ctx, dut.update_request, dut.update_response)

    async def _serve_table(self, ctx, requests, responses):
        while True:
            request, = await receive(ctx, requests, 1)
            await self.pause(ctx)
            if request.op == TableOp.UPDATE:
                entry = request.entry
                self.entries[request.page] = {
                    "state": PageState(entry.state.value), "codec": entry.codec.value, "context": entry.context,
                    "place": entry.place, "lines": entry.lines, "crc": entry.crc}
            fault = self.faults.get(request.page, TableFault.NONE)
            entry = self.entries.get(request.page, {}) if fault == TableFault.NONE else {"state": PageState.POISONED}
            await send(ctx, responses, [TableResponse.const({
                "entry": {name: int(value) for name, value in entry.items()}, "fault": fault})])

    async def allocations(self, ctx, dut):
        while True:
            wanted, = await receive(ctx, dut.allocate, 1)
            await self.pause(ctx)
            sector = self.pool.allocate(wanted)
            await send(ctx, dut.allocated, [AllocateResponse.const({
                "ok": sector is not None, "sector": sector or 0})])

    async def frees(self, ctx, dut):
        while True:
            request, = await receive(ctx, dut.free, 1, stall=self.stall)
            self.pool.free(request.sector, request.sectors)

    async def writes(self, ctx, dut):
        while True:
            request, = await receive(ctx, dut.write_request, 1)
            lines = await receive(ctx, dut.write_data, request.count, stall=self.stall)
            for number, line in enumerate(lines):
                assert line.enable == 15
                self.dram[request.line + number] = line.data.to_bytes(LINE_BYTES, "little")
            await self.pause(ctx)
            await send(ctx, dut.write_done, [WriteDone.const({"error": self.refuse_writes})])

    async def reads(self, ctx, dut):
        while True:
            request, = await receive(ctx, dut.read_request, 1)
            await self.pause(ctx)
            await send(ctx, dut.read_data, [ReadData.const({
                "data": int.from_bytes(self.dram.get(request.line + number, bytes(LINE_BYTES)), "little"),
                "error": request.line + number in self.bad_reads,
                "last": number == request.count - 1}) for number in range(request.count)], idle=self.stall)

    async def cached_lines(self, ctx, dut):
        """The read port of the page cache: `slots` holds uint8 (64, 64) by slot number."""
        while True:
            wanted, = await receive(ctx, dut.line_request, 1, stall=self.stall)
            line = self.slots[wanted.slot][wanted.line]
            await send(ctx, dut.line_data, [int.from_bytes(line.tobytes(), "little")])

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
