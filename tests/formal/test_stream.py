"""The stream contract, order and progress of the stream pieces, proven for all traffic.

Payloads have one bit: the pieces move them without looking, so that one that is lost, doubled or overtaken
shows with one bit too. Any one payload is watched on its way: when as many have left as were before it, the
next to leave must be it.
"""

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from prove import ProofFailed, prove

from speckv_hw.stream import Arbiter, BypassFifo, Fifo, Register, Stage, transfer


def contract(m, port, claim, name):
    """Claims (`Assert` or `Assume`) that `port` keeps what it offers until it is accepted."""
    held = Signal(name=f"{name}_held")
    payload = Signal.like(port.payload, name=f"{name}_payload")
    m.d.sync += [held.eq(port.valid & ~port.ready), payload.eq(port.payload)]
    with m.If(held):
        m.d.comb += [claim(port.valid), claim(port.payload == payload)]


def soon(m, condition, clocks, name):
    """Asserts that `condition` is never false for more than `clocks` clocks in a row."""
    false = Signal(range(clocks + 1), name=f"{name}_false")
    m.d.sync += false.eq(Mux(condition, 0, false + 1))
    m.d.comb += Assert(condition | (false < clocks))


def queue_properties(dut, capacity, wait):
    """Module, free inputs and count of payloads inside for a component `dut` with `i` and `o`.

    Asserts that it keeps the contract; does not lose, double or reorder payloads; holds `capacity` at most;
    offers one within `wait` clocks of having one, and takes one within `wait` clocks of having room.
    """
    m = Module()
    m.submodules.dut = dut
    i, o = dut.i, dut.o
    contract(m, i, Assume, "i")
    contract(m, o, Assert, "o")

    level = Signal(range(capacity + 2))
    m.d.sync += level.eq(level + transfer(i) - transfer(o))
    m.d.comb += [Assert(level <= capacity), Assert(~o.valid | (level != 0))]
    soon(m, (level == 0) | o.valid, wait, "offer")
    soon(m, (level == capacity) | i.ready, wait, "accept")

    watch = Signal()
    watched = Signal()
    payload = Signal.like(i.payload)
    before = Signal(range(capacity + 1))
    with m.If(watched & transfer(o)):
        m.d.sync += before.eq(before - 1)
        with m.If(before == 0):
            m.d.comb += Assert(o.payload == payload)
            m.d.sync += watched.eq(0)
    with m.Elif(~watched & watch & transfer(i)):
        m.d.sync += [watched.eq(1), payload.eq(i.payload), before.eq(level - transfer(o))]
    m.d.comb += Assert(~watched | (before < level))
    return m, [i.valid, i.payload, o.ready, watch], level


def test_stage():
    dut = Stage(1)
    m, ports, level = queue_properties(dut, capacity=2, wait=0)
    m.d.comb += Assert(level == dut.o.valid + ~dut.i.ready)
    prove(m, ports)


def test_register():
    dut = Register(1)
    m, ports, level = queue_properties(dut, capacity=1, wait=0)
    m.d.comb += Assert(level == dut.o.valid)
    prove(m, ports)


@pytest.mark.parametrize("depth", [1, 2])
def test_fifo_in_registers(depth):
    dut = Fifo(1, depth)
    m, ports, level = queue_properties(dut, depth, wait=1)
    m.d.comb += Assert(level == dut.level)
    prove(m, ports)


def ring_properties(m, queue, stored, places):
    """Signals of `queue`'s pointers (probes of `prove`), which agree with the count of payloads in its memory.

    What links the pointers to the level cannot be seen from outside.
    """
    produce = Signal(range(places))
    consume = Signal(range(places))
    m.d.comb += [
        Assert((produce < places) & (consume < places)),
        Assert(Mux(produce >= consume, produce - consume, places + produce - consume)
               == Mux(stored == places, 0, stored)),
    ]
    return [(produce, f"{queue}.produce"), (consume, f"{queue}.consume")]


@pytest.mark.parametrize("depth", [3, 4])
def test_fifo_in_memory(depth):
    dut = Fifo(1, depth)
    m, ports, level = queue_properties(dut, depth, wait=1)
    m.d.comb += Assert(level == dut.level)
    # The memory has a place less than the queue, whose output register is the last.
    stored = Signal(range(depth))
    m.d.comb += stored.eq(level - dut.o.valid)
    prove(m, ports, probes=ring_properties(m, "dut", stored, depth - 1))


@pytest.mark.parametrize("depth", [4, 5])
def test_bypass_fifo(depth):
    dut = BypassFifo(1, depth)
    m, ports, level = queue_properties(dut, depth, wait=2)
    m.d.comb += Assert(level == dut.level)
    stored = Signal(range(depth - 1))
    fetched = Signal()
    m.d.comb += stored.eq(level - dut.o.valid - fetched)
    prove(m, ports, probes=[*ring_properties(m, "dut.queue", stored, depth - 2), (fetched, "dut.queue.o__valid")])


@pytest.mark.parametrize("ports", [1, 2, 3])
def test_arbiter(ports):
    m = Module()
    m.submodules.dut = dut = Arbiter(1, ports)
    for n, port in enumerate(dut.inputs):
        contract(m, port, Assume, f"i{n}")
    contract(m, dut.o, Assert, "o")
    m.d.comb += [
        Assert(dut.o.valid == Cat(port.valid for port in dut.inputs).any()),
        Assert(dut.port < ports),
    ]
    for n, port in enumerate(dut.inputs):
        with m.If(dut.port == n):
            m.d.comb += [
                Assert(port.ready == dut.o.ready),
                Assert(dut.o.valid == port.valid),
                Assert(dut.o.payload == port.payload),
            ]
        with m.Else():
            m.d.comb += Assert(~transfer(port))
        others = Signal(range(ports + 1), name=f"others{n}")
        with m.If(~port.valid | transfer(port)):
            m.d.sync += others.eq(0)
        with m.Elif(transfer(dut.o)):
            m.d.sync += others.eq(others + 1)
        m.d.comb += Assert(others < ports)
    prove(m, [signal for port in dut.inputs for signal in (port.valid, port.payload)] + [dut.o.ready])


class ForgetfulStage(wiring.Component):
    """A register stage with the mistake of taking a payload while it has no room."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(1)), "o": Out(stream.Signature(1))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(1)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload)]
        return m


def test_a_mistake_is_found():
    m, ports, _ = queue_properties(ForgetfulStage(), capacity=2, wait=0)
    with pytest.raises(ProofFailed) as failure:
        prove(m, ports)
    assert "i__valid" in failure.value.counterexample


def test_assumptions_let_payloads_through():
    dut = Stage(1)
    m, ports, level = queue_properties(dut, capacity=2, wait=0)
    passed = Signal(2)
    with m.If(transfer(dut.o) & (passed != 3)):
        m.d.sync += passed.eq(passed + 1)
    m.d.comb += Assert(~((passed == 3) & (level == 2)))
    with pytest.raises(ProofFailed) as failure:
        prove(m, ports)
    assert failure.value.counterexample
