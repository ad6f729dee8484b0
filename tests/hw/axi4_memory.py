"""An AXI4 subordinate for the Amaranth simulator, with the golden model's DRAM behind it."""

import random
from collections import defaultdict, deque

import numpy as np
from amaranth.hdl import Const
from streams import SEED


class Axi4Memory:
    """Answers an `Axi4Signature` port and checks what the manager does against the AXI4 specification.

    Answers come in random order between identifiers, read beats interleaved, and in order within each.

    Parameters
    ----------
    axi : Axi4Signature
    dram : speckv_model.mem.dram.Dram
    latency : tuple of int
        Least and most clocks between a burst and its answer.
    stall : float
        Probability that a channel does nothing in a clock.
    bursts_in_flight : int
        Most bursts of each direction that the manager may have in flight.
    reset : Signal, optional
        While it is high, the memory forgets what is in flight.
    """

    def __init__(self, axi, dram, *, latency=(1, 30), stall=0.0, bursts_in_flight=64, reset=None, seed=SEED):
        self._axi = axi
        self._dram = dram
        self._latency = latency
        self._stall = stall
        self._limit = bursts_in_flight
        self._reset = Const(0) if reset is None else reset
        self._rng = random.Random(f"memory {seed}")
        self._clock = 0
        self.silent = set()
        """Lines: bursts that touch them, and those behind with the same identifier, are answered when it is empty."""
        self.most_reads = self.most_writes = 0
        self._forget()

    def _forget(self):
        self._reads = defaultdict(deque)
        """By identifier, bursts as [clock of the answer, beats left]."""
        self._writes = deque()
        """Accepted addresses that miss data: (identifier, first line, lines)."""
        self._beats = []
        """Accepted data of the next burst: (line, enable)."""
        self._answers = defaultdict(deque)
        """By identifier, (clock of the answer, response)."""
        self._waiting = {}
        """By channel, the payload that the manager offered and that was not accepted."""
        self._read = self._answer = None
        """What the R and B channels show."""

    @property
    def idle(self):
        """Whether nothing is in flight."""
        return not (any(self._reads.values()) or any(self._answers.values()) or self._writes or self._beats
                    or self._read or self._answer)

    async def run(self, ctx):
        """The background testbench."""
        axi = self._axi
        channels = {
            "ar": (axi.arid, axi.araddr, axi.arlen, axi.arsize, axi.arburst),
            "aw": (axi.awid, axi.awaddr, axi.awlen, axi.awsize, axi.awburst),
            "w": (axi.wdata, axi.wstrb, axi.wlast),
            "r": (),
            "b": (),
        }
        names = [(name, len(signals)) for name, signals in channels.items()]
        flat = [self._reset]
        for name, signals in channels.items():
            flat += [getattr(axi, f"{name}valid"), getattr(axi, f"{name}ready"), *signals]
        async for _, _, reset, *values in ctx.tick().sample(*flat):
            self._clock += 1
            if reset:
                self._forget()
                ctx.set(axi.rvalid, 0)
                ctx.set(axi.bvalid, 0)
                continue
            now = {}
            for name, count in names:
                (valid, ready, *payload), values = values[:2 + count], values[2 + count:]
                if name in self._waiting:
                    assert valid and payload == self._waiting.pop(name), f"{name} changed while it waited"
                if valid and ready:
                    now[name] = payload
                elif valid and name not in "rb":
                    self._waiting[name] = payload
            if "ar" in now:
                self._start_read(*now["ar"])
            if "aw" in now:
                id, line, count = self._burst(*now["aw"])
                self._writes.append((id, line, count))
            if "w" in now:
                self._take_beat(*now["w"])
            self._finish_writes()
            if "r" in now:
                self._read = None
            if "b" in now:
                self._answer = None
            self._count()

            if self._read is None and (read := self._next_read()) is not None:
                self._read, (id, data, response, last) = read, read
                ctx.set(axi.rid, id)
                ctx.set(axi.rdata, data)
                ctx.set(axi.rresp, response)
                ctx.set(axi.rlast, last)
            if self._answer is None and (answer := self._next_answer()) is not None:
                self._answer, (id, response) = answer, answer
                ctx.set(axi.bid, id)
                ctx.set(axi.bresp, response)
            ctx.set(axi.rvalid, self._read is not None)
            ctx.set(axi.bvalid, self._answer is not None)
            for ready in (axi.arready, axi.awready, axi.wready):
                ctx.set(ready, self._rng.random() >= self._stall)

    def _count(self):
        reads = sum(map(len, self._reads.values())) + (self._read is not None and self._read[-1])
        writes = len(self._writes) + sum(map(len, self._answers.values())) + (self._answer is not None)
        self.most_reads, self.most_writes = max(self.most_reads, reads), max(self.most_writes, writes)
        assert self.silent or max(reads, writes) <= self._limit, "more bursts in flight than the configuration allows"

    def _burst(self, id, address, length, size, burst):
        assert size == 6 and burst == 1 and address % 64 == 0
        assert address // 4096 == (address + 64 * length) // 4096, "burst crosses a 4 KiB boundary"
        return id, address // 64, length + 1

    def _answer_clock(self, line, count):
        """The clock of the answer; infinite where none is to come before `silent` is emptied."""
        silent = any(number in self.silent for number in range(line, line + count))
        return float("inf") if silent else self._clock + self._rng.randint(*self._latency)

    def speak(self):
        """Answers come again, those that were kept back first."""
        self.silent.clear()
        # Bursts that were given up do not count for the manager.
        self._limit = float("inf")
        for queue in (*self._reads.values(), *self._answers.values()):
            for index, (clock, *rest) in enumerate(queue):
                queue[index] = (min(clock, self._clock), *rest)

    def _start_read(self, *burst):
        id, line, count = self._burst(*burst)
        data, error = self._dram.read_lines(line, count)
        beats = deque((int.from_bytes(row.tobytes(), "little"), 2 + self._rng.getrandbits(1) if bad else 0)
                      for row, bad in zip(data, error))
        self._reads[id].append((self._answer_clock(line, count), beats))

    def _next_read(self):
        ready = [id for id, bursts in self._reads.items() if bursts and bursts[0][0] <= self._clock]
        if not ready or self._rng.random() < self._stall:
            return None
        id = self._rng.choice(ready)
        beats = self._reads[id][0][1]
        data, response = beats.popleft()
        if not beats:
            self._reads[id].popleft()
        return id, data, response, not beats

    def _take_beat(self, data, strobe, last):
        quarters = [strobe >> (16 * quarter) & 0xffff for quarter in range(4)]
        assert all(quarter in (0, 0xffff) for quarter in quarters)
        self._beats.append((data, [bool(quarter) for quarter in quarters], last))

    def _finish_writes(self):
        if not self._writes or len(self._beats) < self._writes[0][2]:
            return
        id, line, count = self._writes.popleft()
        burst, self._beats = self._beats[:count], self._beats[count:]
        assert [last for _, _, last in burst] == [0] * (count - 1) + [1]
        data = np.frombuffer(b"".join(beat.to_bytes(64, "little") for beat, _, _ in burst), np.uint8)
        enables = np.array([enable for _, enable, _ in burst])
        error = self._dram.write_lines(line, data.reshape(count, 64), enables)
        response = 2 + self._rng.getrandbits(1) if error.any() else 0
        self._answers[id].append((self._answer_clock(line, count), response))

    def _next_answer(self):
        ready = [id for id, answers in self._answers.items() if answers and answers[0][0] <= self._clock]
        if not ready or self._rng.random() < self._stall:
            return None
        id = self._rng.choice(ready)
        return id, self._answers[id].popleft()[1]
