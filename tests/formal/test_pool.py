"""The pool gives no sector out twice, and keeps frames like a stack."""

from types import SimpleNamespace
from unittest.mock import patch

import pytest
from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from properties import Free, contract, inputs_of, streams_of
from prove import hold_for, prove, refute

from speckv_hw.pool.frame_stack import FrameStack
from speckv_hw.pool.pool_allocator import PoolAllocator
from speckv_hw.pool.run_finder import MAP_BITS, RunFinder
from speckv_hw.pool.superblock_bins import SuperblockBins
from speckv_hw.stream import transfer

POOL = SimpleNamespace(sector_bits=9, pool_sectors=512, contexts=2)
"""What the allocator takes from a configuration: two superblocks."""


def stack_properties(depth):
    """Any one frame is watched on its way."""
    m = Module()
    m.submodules.dut = dut = FrameStack(9, depth)
    watch, watched, above = Signal(), Signal(), Signal(range(depth + 1))
    frame, count = Signal(9), Signal(range(depth + 1))
    m.d.sync += count.eq(count + dut.push - dut.pop)
    m.d.comb += [
        Assume(~(dut.push & dut.full)),
        Assume(~(dut.pop & dut.empty)),
        Assume(~(dut.push & dut.pop)),
        Assert(dut.empty == (count == 0)),
        Assert(dut.full == (count == depth)),
        Assert(~watched | (above < count)),
    ]
    with m.If(dut.push & ~watched & watch):
        m.d.sync += [watched.eq(1), frame.eq(dut.sector), above.eq(0)]
    with m.Elif(watched):
        m.d.sync += above.eq(above + dut.push - dut.pop)
        with m.If(dut.pop & (above == 0)):
            m.d.comb += Assert(dut.top == frame)
            m.d.sync += [watched.eq(0), above.eq(0)]
    return m, [*inputs_of(dut), watch], dut


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_frame_stack(depth):
    prove(*stack_properties(depth)[:2])


def test_frame_stack_is_no_queue():
    m, inputs, dut = stack_properties(3)
    first = Signal(9)
    with m.If(dut.push & dut.empty):
        m.d.sync += first.eq(dut.sector)
    m.d.comb += Assert(~dut.pop | (dut.top == first))
    refute(m, inputs)


def pool_properties(watched, *, right=True):
    """The sector `watched` is freed only while it is held; all else may be freed rightly or wrongly.

    The search is left out: the finder may answer any run that is free, and the bins any superblock that was put into
    them, as `RunFinder` and `SuperblockBins` do it. If not `right` the finder may be wrong.
    """
    finder, bins = Free(RunFinder()), Free(SuperblockBins(1))
    dut = PoolAllocator(POOL)
    m = Module()
    m.submodules.dut = dut
    for component in (dut, finder, bins):
        for name, _, port in streams_of(component):
            if component is dut and name in ("allocate", "free") or component is not dut and name in ("o", "found"):
                contract(m, port, Assume, f"{type(component).__name__}_{name}")

    asked, run, free_there = Signal(), Signal(6), Signal()
    with m.If(transfer(finder.o)):
        m.d.sync += asked.eq(0)
    with m.If(transfer(finder.i)):
        m.d.sync += [asked.eq(1), free_there.eq(finder.i.p.free[watched % MAP_BITS]),
                     run.eq(Mux(finder.i.p.longest, 0, finder.i.p.wanted))]
    position = finder.o.p.position
    covers = (position <= watched % MAP_BITS) & (watched % MAP_BITS < position + run)
    listed = Signal(2)
    with m.If(transfer(bins.move)):
        m.d.sync += listed.bit_select(bins.move.p.superblock, 1).eq(1)
    m.d.comb += [
        Assume(~finder.o.valid | (asked & (position + run <= MAP_BITS) & (~covers | free_there | (not right)))),
        Assume(~(bins.found.valid & bins.found.p.ok) | listed.bit_select(bins.found.p.superblock, 1)),
    ]

    held, wanted, answered = Signal(), Signal(6), Signal()
    freed, given = dut.free.p, dut.allocated.p
    frees = (watched >= freed.sector) & (watched < freed.sector + freed.sectors)
    gives = (watched >= given.sector) & (watched < given.sector + wanted)
    m.d.comb += Assume(~dut.free.valid | ~frees | held)
    m.d.sync += answered.eq(dut.allocated.valid & ~dut.allocated.ready)
    new = dut.allocated.valid & ~answered & given.ok
    with m.If(transfer(dut.allocate)):
        m.d.sync += wanted.eq(dut.allocate.payload)
    with m.If(transfer(dut.free) & frees):
        m.d.sync += held.eq(0)
    with m.If(new):
        m.d.comb += Assert(~(gives & held))
        with m.If(gives):
            m.d.sync += held.eq(1)
    inputs = [*inputs_of(dut), *finder.outputs, *bins.outputs]
    return m, inputs, (finder, bins), (new, gives, held)


def with_parts(parts, verdict, *arguments, **options):
    finder, bins = parts
    with (patch("speckv_hw.pool.pool_allocator.RunFinder", lambda: finder),
          patch("speckv_hw.pool.pool_allocator.SuperblockBins", lambda width: bins)):
        return verdict(*arguments, **options)


CLOCKS = 26
"""Two allocations, or one and a free."""
WATCHED = 37
"""No sector is special; this one is in the first superblock, past the longest run."""


@pytest.mark.deep
def test_no_sector_is_given_out_twice():
    m, inputs, parts, _ = pool_properties(WATCHED)
    with_parts(parts, hold_for, m, inputs, CLOCKS)


@pytest.mark.deep
def test_a_sector_given_out_twice_is_found():
    m, inputs, parts, _ = pool_properties(WATCHED, right=False)
    with_parts(parts, refute, m, inputs, bound=CLOCKS)
