"""Device DRAM at an AXI4 port of 512 bits, as contrary as AXI4 allows."""

import random
from collections import defaultdict, deque

from runner import SEED

__all__ = ["AxiMemory"]

LINE_BYTES = 64


class AxiMemory:
    """An agent that answers the AXI4 manager `axi` of the design and checks what it does.

    Bursts are answered in any order between identifiers, with read beats interleaved, and in order within
    each. A read gets what is there when it is accepted or when it is answered, a write is carried out when it
    is complete or when it is answered, so that a manager that does not wait for the end of its writes is
    found out.

    Parameters
    ----------
    bench : Bench
    config : DeviceConfig
        The size, and the most bursts of each direction that may be in flight.
    latency : tuple of int
        Least and most clocks between a burst and its answer.
    pause : float
        Probability that a channel does nothing in a clock.
    """

    def __init__(self, bench, config, *, latency=(1, 60), pause=0.0, axi="axi"):
        self._config = config
        self._latency = latency
        self._pause = pause
        self._rng = random.Random(f"memory {SEED}")
        self._noise = self._rng.getrandbits(64)
        self._lines = {}
        self._clock = 0
        self._ports = {name: getattr(bench.dut, f"{axi}__{name}") for name in (
            "awvalid", "awready", "awid", "awaddr", "awlen", "awsize", "awburst", "wvalid", "wready", "wdata",
            "wstrb", "wlast", "bvalid", "bready", "bid", "bresp", "arvalid", "arready", "arid", "araddr", "arlen",
            "arsize", "arburst", "rvalid", "rready", "rid", "rdata", "rresp", "rlast")}
        self.reset()

    def reset(self):
        """Forgets what is in flight; the content stays."""
        self._reads, self._answers = defaultdict(deque), defaultdict(deque)
        self._writes, self._beats = deque(), []
        self._shown = {"r": False, "b": False}
        self._ready = {"ar": False, "aw": False, "w": False}
        self._waiting = {}
        for name in ("rvalid", "bvalid", "arready", "awready", "wready"):
            self._ports[name].value = 0

    @property
    def busy(self):
        """Something is in flight or offered."""
        return bool(any(self._reads.values()) or any(self._answers.values()) or self._writes or self._beats
                    or any(self._shown.values()) or self._waiting)

    def read(self, line):
        """Content of a line, as an int: what was written there, else noise that depends on the seed."""
        if line not in self._lines:
            self._lines[line] = random.Random(f"{self._noise} {line}").getrandbits(8 * LINE_BYTES)
        return self._lines[line]

    def write(self, line, value):
        self._lines[line] = value

    def step(self):
        self._clock += 1
        for channel, take in (("ar", self._take_read), ("aw", self._take_write), ("w", self._take_beat)):
            self._receive(channel, take)
        while self._writes and len(self._beats) >= self._writes[0][2]:
            self._complete_write()
        self._show("r", self._next_beat)
        self._show("b", self._next_answer)

    def _receive(self, channel, take):
        ports = self._ports
        if ports[f"{channel}valid"].value:
            fields = ("data", "strb", "last") if channel == "w" else ("id", "addr", "len", "size", "burst")
            payload = [int(ports[channel + field].value) for field in fields]
            assert self._waiting.pop(channel, payload) == payload, f"{channel} changed while it waited"
            if self._ready[channel]:
                take(*payload)
            else:
                self._waiting[channel] = payload
        else:
            assert channel not in self._waiting, f"{channel} was withdrawn"
        ready = self._rng.random() >= self._pause
        if ready != self._ready[channel]:
            self._ready[channel] = ready
            ports[f"{channel}ready"].value = ready

    def _burst(self, address, length, size, burst):
        """First line and lines of a burst."""
        assert size == 6 and burst == 1 and address % LINE_BYTES == 0
        line, count = address // LINE_BYTES, length + 1
        assert line // 64 == (line + length) // 64, "a burst crosses 4 KiB"
        assert line + count <= self._config.dram_bytes // LINE_BYTES, "a burst ends beyond DRAM"
        return line, count

    def _due(self):
        return self._clock + self._rng.randint(*self._latency)

    def _take_read(self, id, *burst):
        line, count = self._burst(*burst)
        early = self._rng.random() < 0.5
        beats = deque((place, self.read(place) if early else None) for place in range(line, line + count))
        self._reads[id].append((self._due(), beats))
        assert sum(map(len, self._reads.values())) <= self._config.bursts_in_flight, "too many reads"

    def _take_write(self, id, *burst):
        self._writes.append((id, *self._burst(*burst)))
        writes = len(self._writes) + sum(map(len, self._answers.values()))
        assert writes <= self._config.bursts_in_flight, "too many writes"

    def _take_beat(self, data, strobe, last):
        self._beats.append((data, strobe, last))

    def _complete_write(self):
        id, line, count = self._writes.popleft()
        beats, self._beats = self._beats[:count], self._beats[count:]
        assert [last for *_, last in beats] == [0] * (count - 1) + [1], "wlast"
        job = line, beats
        if self._rng.random() < 0.5:
            # Writes of one identifier are carried out in order.
            for _, earlier in self._answers[id]:
                self._store(*earlier)
            self._answers[id] = deque((due, (line, [])) for due, (line, _) in self._answers[id])
            self._store(*job)
            job = line, []
        self._answers[id].append((self._due(), job))

    def _store(self, line, beats):
        for place, (data, strobe, _) in enumerate(beats, line):
            mask = int.from_bytes(bytes(255 * (strobe >> n & 1) for n in range(LINE_BYTES)), "little")
            self._lines[place] = self.read(place) & ~mask | data & mask

    def _show(self, channel, following):
        """The answer side of a channel: keeps an answer until it is taken."""
        ports, was_shown = self._ports, self._shown[channel]
        if was_shown and not ports[f"{channel}ready"].value:
            return
        answer = following() if self._rng.random() >= self._pause else None
        if answer:
            for field, value in answer.items():
                ports[channel + field].value = value
        if bool(answer) != was_shown:
            self._shown[channel] = bool(answer)
            ports[f"{channel}valid"].value = bool(answer)

    def _choose(self, bursts):
        """An identifier whose first burst is due."""
        due = [id for id, queue in bursts.items() if queue and queue[0][0] <= self._clock]
        return self._rng.choice(due) if due else None

    def _next_beat(self):
        id = self._choose(self._reads)
        if id is None:
            return None
        _, beats = self._reads[id][0]
        line, data = beats.popleft()
        if not beats:
            self._reads[id].popleft()
        return {"id": id, "data": self.read(line) if data is None else data, "resp": 0, "last": not beats}

    def _next_answer(self):
        id = self._choose(self._answers)
        if id is None:
            return None
        _, job = self._answers[id].popleft()
        self._store(*job)
        return {"id": id, "resp": 0}
