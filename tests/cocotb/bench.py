"""Clocked testbenches for cocotb: agents at the ports of a design, which act once a clock.

One coroutine calls all of them, because in the time that waiting for a trigger takes they do all their work.
"""

import random
from collections import deque

import cocotb
from amaranth.lib import data
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge
from runner import SEED

__all__ = ["Bench", "Source", "Sink", "Packing"]


class Packing:
    """Turns values of a payload shape into integers and back, for `shape`, an Amaranth layout or structure."""

    def __init__(self, shape):
        self._fields = {name: (field.offset, (1 << field.width) - 1) for name, field in data.Layout.cast(shape)}

    def pack(self, **fields):
        """The payload with these `fields`, ints; all others zero."""
        bits = 0
        for name, value in fields.items():
            offset, mask = self._fields[name]
            assert 0 <= value <= mask, f"{name} must fit, not {value!r}"
            bits |= value << offset
        return bits

    def unpack(self, bits):
        """Dictionary of the fields of the payload `bits`, as ints."""
        return {name: bits >> offset & mask for name, (offset, mask) in self._fields.items()}


class Source:
    """Sends to the stream `name` of the design.

    Parameters
    ----------
    idle : float
        Probability that nothing is offered in a clock in which it could be.
    supply : callable, optional
        Returns the next payload, an int, or None where there is none now. Without it, `queue` is sent.
    accepted : callable, optional
        Called with each payload in the clock in which the design takes it.
    """

    def __init__(self, bench, name, *, idle=0.0, supply=None, accepted=None):
        self._payload, self._valid, self._ready = bench.stream(name)
        self._rng = random.Random(f"source {name} {SEED}")
        self._supply = supply or (lambda: self.queue.popleft() if self.queue else None)
        self._accepted = accepted or (lambda payload: None)
        self.idle = idle
        self.queue = deque()
        self.reset()

    @property
    def busy(self):
        """Something is not sent yet."""
        return bool(self.queue) or self._offered is not None

    def reset(self):
        self.queue.clear()
        self._offered = None
        self._valid.value = 0

    def step(self):
        offered = self._offered
        if offered is not None:
            if not self._ready.value:
                return
            self._accepted(offered)
        self._offered = None
        if self._rng.random() >= self.idle and (payload := self._supply()) is not None:
            self._offered = payload
            self._payload.value = payload
            self._valid.value = 1
        elif offered is not None:
            self._valid.value = 0


class Sink:
    """Receives from the stream `name` of the design, and checks that what waits does not change.

    Parameters
    ----------
    stall : float
        Probability that it is not ready in a clock; 1 holds the stream up.
    take : callable, optional
        Called with each payload, an int. Without it, payloads are kept in `queue`.
    """

    def __init__(self, bench, name, *, stall=0.0, take=None):
        self._name = name
        self._payload, self._valid, self._ready = bench.stream(name)
        self._rng = random.Random(f"sink {name} {SEED}")
        self.stall = stall
        self.queue = deque()
        self._take = take or self.queue.append
        self.reset()

    @property
    def busy(self):
        """Something waits to be taken."""
        return self._waiting is not None

    def reset(self):
        self.queue.clear()
        self._waiting = None
        self._accepts = False
        self._ready.value = 0

    def step(self):
        if self._valid.value:
            payload = int(self._payload.value)
            assert self._waiting in (None, payload), f"{self._name} changed while it waited"
            self._waiting = None if self._accepts else payload
            if self._accepts:
                self._take(payload)
        else:
            assert self._waiting is None, f"{self._name} was withdrawn"
        accepts = self._rng.random() >= self.stall
        if accepts != self._accepts:
            self._accepts = accepts
            self._ready.value = accepts


class Bench:
    """The clock, the reset and the agents of `dut`.

    Attributes
    ----------
    clock : int
        Clocks since the start.
    """

    def __init__(self, dut):
        self.dut = dut
        self.clock = 0
        self._agents = []
        self._edge = RisingEdge(dut.clk)
        cocotb.log.info("SPECKV_SEED=%d", SEED)

    def stream(self, name):
        """Handles of payload, valid and ready of a stream."""
        return [getattr(self.dut, f"{name}__{part}") for part in ("payload", "valid", "ready")]

    def add(self, agent):
        """Has `step()` of `agent` called in each clock, with the outputs that the clock's edge sees, and
        `reset()` in a reset. Returns it."""
        self._agents.append(agent)
        return agent

    def source(self, name, **options):
        return self.add(Source(self, name, **options))

    def sink(self, name, **options):
        return self.add(Sink(self, name, **options))

    async def start(self):
        """Starts the clock and resets the design. Agents must have been added, for what their ports get."""
        cocotb.start_soon(Clock(self.dut.clk, 10, unit="ns").start())
        await self.reset()

    async def reset(self, clocks=3):
        """Resets the design and all agents."""
        self.dut.rst.value = 1
        for agent in self._agents:
            agent.reset()
        for _ in range(clocks):
            await self._edge
        self.dut.rst.value = 0

    async def tick(self, clocks=1):
        """Lets `clocks` clocks pass."""
        for _ in range(clocks):
            await self._edge
            self.clock += 1
            for agent in self._agents:
                agent.step()

    async def until(self, condition, clocks, what="the end"):
        """Lets clocks pass until `condition()`, at most `clocks`."""
        for _ in range(clocks):
            if condition():
                return
            await self.tick()
        raise AssertionError(f"{what} was not reached within {clocks} clocks")
