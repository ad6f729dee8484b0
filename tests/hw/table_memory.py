"""Device DRAM behind a client's side of the memory port, for tests in the Amaranth simulator."""

import random
from collections import deque

import numpy as np
from amaranth.hdl import Const

from speckv_model.constants import ENTRIES_PER_LINE, ENTRY_BYTES, LINE_BYTES


class TableMemory:
    """DRAM of `lines` lines with the interface of the model's.

    Every access to `bad` lines ends in an error, and so does every write to `doubtful` ones, which takes
    place, and to `refusing` ones, which does not. Latencies are ranges in clocks.

    As AXI4 allows, a read may see a write that is under way, or not: each is carried out at a random moment
    between its acceptance and its end, so that a client that does not wait for the end of its writes is
    found out. Writes are carried out in order. While `reset` is high requests are forgotten.
    """

    def __init__(self, lines, *, bad=(), doubtful=(), reads=(1, 20), writes=(1, 20), stall=0.3, seed=1,
                 reset=None):
        self.data = np.zeros((lines, LINE_BYTES), dtype=np.uint8)
        self.bad = set(bad)
        self.doubtful = set(doubtful)
        self.refusing = set()
        self.reads = []
        self.writes = []
        self._read_latency = reads
        self._write_latency = writes
        self._reset = Const(0) if reset is None else reset
        self._stall = stall
        self._rng = random.Random(f"memory {seed}")

    def read_lines(self, line, count):
        errors = np.array([n in self.bad for n in range(line, line + count)])
        return self.data[line:line + count].copy(), errors

    def write_lines(self, line, data, enable=None):
        if (self.bad | self.refusing).intersection(range(line, line + len(data))):
            return np.ones(len(data), dtype=bool)
        if enable is None:
            enable = np.ones((len(data), ENTRIES_PER_LINE), dtype=bool)
        mask = np.repeat(enable, ENTRY_BYTES, axis=1)
        self.data[line:line + len(data)] = np.where(mask, data, self.data[line:line + len(data)])
        return np.array([n in self.doubtful for n in range(line, line + len(data))])

    def _accepts(self):
        return self._rng.random() >= self._stall

    async def serve_reads(self, ctx, dut):
        """Background testbench for `read_request` and `read_data` of `dut`."""
        queue, offered, now = deque(), False, 0
        while True:
            ready = self._accepts()
            ctx.set(dut.read_request.ready, ready)
            if not offered and queue and queue[0][0] <= now and self._accepts():
                data, error = queue[0][2] if queue[0][2] else self._read(queue[0][1])
                ctx.set(dut.read_data.payload, {"data": data, "error": error, "last": 1})
                ctx.set(dut.read_data.valid, 1)
                offered = True
            _, _, reset, valid, request, taken = await ctx.tick().sample(
                self._reset, dut.read_request.valid, dut.read_request.payload, dut.read_data.ready)
            now += 1
            if offered and taken or reset:
                offered = False
                ctx.set(dut.read_data.valid, 0)
                queue.popleft() if not reset else queue.clear()
            if valid and ready and not reset:
                assert request.count == 1, "a walk reads one line"
                self.reads.append(request.line)
                early = self._read(request.line) if self._rng.random() < 0.5 else None
                queue.append((now + self._rng.randint(*self._read_latency), request.line, early))

    def _read(self, line):
        data, errors = self.read_lines(line, 1)
        return int.from_bytes(data.tobytes(), "little"), int(errors[0])

    async def serve_writes(self, ctx, dut):
        """Background testbench for `write_request`, `write_data` and `write_done` of `dut`."""
        requests, done, offered, beats, now = deque(), deque(), False, [], 0
        while True:
            request_ready, data_ready = self._accepts(), bool(requests) and self._accepts()
            ctx.set(dut.write_request.ready, request_ready)
            ctx.set(dut.write_data.ready, data_ready)
            if not offered and done and done[0][0] <= now and self._accepts():
                _, error, late = done[0]
                if late:
                    error = self._write(*late)
                    done[0] = done[0][0], error, None
                ctx.set(dut.write_done.payload.error, error)
                ctx.set(dut.write_done.valid, 1)
                offered = True
            _, _, reset, valid, request, data_valid, data, taken = await ctx.tick().sample(
                self._reset, dut.write_request.valid, dut.write_request.payload,
                dut.write_data.valid, dut.write_data.payload, dut.write_done.ready)
            now += 1
            if reset:
                offered = False
                ctx.set(dut.write_done.valid, 0)
                for state in (requests, done, beats):
                    state.clear()
                continue
            if offered and taken:
                offered = False
                ctx.set(dut.write_done.valid, 0)
                done.popleft()
            if data_valid and data_ready:
                beats.append((data.data, data.enable))
                if len(beats) == requests[0].count:
                    job = requests.popleft().line, tuple(beats)
                    beats.clear()
                    due = now + self._rng.randint(*self._write_latency)
                    done.append((due, 0, job))
                    if self._rng.random() < 0.5:
                        done = deque((due, self._write(*late) if late else error, None) for due, error, late in done)
            if valid and request_ready:
                assert 1 <= request.count <= 64
                assert request.line // 64 == (request.line + request.count - 1) // 64, "a burst crosses 4 KiB"
                assert request.line + request.count <= len(self.data), "a write outside the table"
                self.writes.append((request.line, request.count))
                requests.append(request)

    def _write(self, line, beats):
        data = b"".join(data.to_bytes(LINE_BYTES, "little") for data, _ in beats)
        enable = [[bool(enable >> n & 1) for n in range(ENTRIES_PER_LINE)] for _, enable in beats]
        data = np.frombuffer(data, dtype=np.uint8).reshape(-1, LINE_BYTES)
        return int(self.write_lines(line, data, np.array(enable)).any())
