"""A request that waits comes out once, in order, of the list of its slot."""

from types import SimpleNamespace

from amaranth.hdl import Array, Assert, Assume, Module, Mux, Signal
from properties import inputs_of
from prove import hold_for, refute

from speckv_hw.cache.wait_lists import WaitLists

SMALL = SimpleNamespace(cache_pages=2, requests_in_flight=3)
"""What the lists take from a configuration; smaller than the smallest device."""
CLOCKS = 8


def list_properties():
    """One request, any, is marked. The surroundings push or follow only where there is room, and wake a slot that has
    requests only when it has neither its turn nor one to come."""
    m = Module()
    m.submodules.dut = dut = WaitLists(SMALL, 1)
    slots, places = SMALL.cache_pages, SMALL.requests_in_flight
    counts = Array(Signal(range(places + 1), name=f"count{n}") for n in range(slots))
    woken = Signal(slots)
    watch, watched, slot = Signal(), Signal(), Signal.like(dut.slot)
    before = Signal(range(places + 1))
    joined, target = Signal.like(dut.slot), Signal.like(dut.slot)
    appends = dut.push | dut.follow
    marks = appends & watch & ~watched
    with m.If(appends):
        m.d.sync += joined.eq(target)
    m.d.comb += [
        target.eq(Mux(dut.follow, joined, dut.slot)),
        Assume(~dut.push | dut.room),
        Assume(~dut.follow | dut.can_follow),
        Assume(~(dut.push & dut.follow)),
        Assert(~dut.can_follow | (counts[joined] != 0)),
        Assume(~(dut.pop | dut.leave) | dut.valid),
        Assume(~(dut.push & dut.leave)),
        Assume(~dut.wake.valid | ((counts[dut.wake.p.slot] != 0) & ~woken.bit_select(dut.wake.p.slot, 1))),
        Assume(dut.pushed == marks),
        Assert(dut.wake.ready),
        Assert(dut.waits == (counts[dut.asked] != 0)),
        Assert(~dut.valid | ((counts[dut.of] != 0) & woken.bit_select(dut.of, 1))),
        Assert(~dut.valid | (dut.last == (counts[dut.of] == 1))),
    ]
    for n in range(slots):
        pushes, pops = appends & (target == n), dut.pop & (dut.of == n)
        m.d.sync += counts[n].eq(counts[n] + pushes - pops)
        ends = dut.valid & (dut.of == n) & (dut.leave | (dut.pop & dut.last))
        m.d.sync += woken[n].eq(Mux(ends, 0, woken[n] | (dut.wake.valid & (dut.wake.p.slot == n))))
    mine = watched & dut.valid & (dut.of == slot)
    with m.If(dut.valid):
        m.d.comb += Assert(dut.payload == (mine & (before == 0)))
    with m.If(marks):
        m.d.sync += [watched.eq(1), slot.eq(target), before.eq(counts[target] - (dut.pop & (dut.of == target)))]
    with m.If(mine & dut.pop):
        m.d.sync += before.eq(before - 1)
        with m.If(before == 0):
            m.d.sync += watched.eq(0)
    m.d.comb += Assert(~watched | (before < counts[slot]))
    return m, [*inputs_of(dut), watch], (mine & dut.pop, before, dut)


def test_marked_request():
    m, inputs, _ = list_properties()
    hold_for(m, inputs, CLOCKS)


def test_the_marked_request_comes_out_behind_another():
    m, inputs, (pops, before, _) = list_properties()
    second = Signal()
    with m.If(pops & (before == 1)):
        m.d.sync += second.eq(1)
    m.d.comb += Assert(~(second & pops & (before == 0)))
    assert refute(m, inputs) < CLOCKS


def test_the_marked_request_follows_another():
    m, inputs, (pops, before, dut) = list_properties()
    followed = Signal()
    with m.If(dut.follow & dut.pushed):
        m.d.sync += followed.eq(1)
    m.d.comb += Assert(~(followed & pops & (before == 0)))
    assert refute(m, inputs) < CLOCKS


def test_a_request_that_overtakes_is_found():
    m, inputs, (pops, before, dut) = list_properties()
    # Of two requests in a list the later one would have to come first.
    m.d.comb += Assert(~(pops & (before != 0)))
    assert refute(m, inputs) < CLOCKS
