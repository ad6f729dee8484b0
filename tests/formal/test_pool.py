"""The pool never has a sector twice, counts what is free, and keeps frames like a stack."""

from types import SimpleNamespace

from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from amaranth.lib.wiring import In
from properties import contract, inputs_of, streams_of
from prove import prove, refute

from speckv_hw.pool.frame_stack import FrameStack
from speckv_hw.stream import transfer
from speckv_model.constants import OPEN_SECTORS

MAP_BITS = 256
POOL = SimpleNamespace(sector_bits=9, pool_sectors=512)
"""What the allocator takes from a configuration: two superblocks."""


def stack_properties(depth):
    """Any one frame is watched, and any one sector; frames go in that overlap none of those that are in."""
    m = Module()
    m.submodules.dut = dut = FrameStack(9, depth)
    watch, watched, above = Signal(), Signal(), Signal(range(depth + 1))
    frame, sector, chosen = Signal(9), Signal(9), Signal(9)
    count, inside, begun = Signal(range(depth + 1)), Signal(), Signal()
    m.d.sync += [begun.eq(1), count.eq(count + dut.push - dut.pop)]
    with m.If(~begun):
        m.d.sync += sector.eq(chosen)

    def has(first):
        return (sector >= first) & (sector < first + OPEN_SECTORS)

    m.d.comb += [
        Assume(begun | ~(dut.push | dut.pop)),
        Assume(~(dut.push & (dut.full | dut.overlaps))),
        Assume(~(dut.pop & dut.empty)),
        Assume(~(dut.push & dut.pop)),
        Assume(~dut.push | ((dut.sectors == OPEN_SECTORS) & (dut.sector[:8] <= MAP_BITS - OPEN_SECTORS))),
        Assert(dut.empty == (count == 0)),
        Assert(dut.full == (count == depth)),
        Assert(~(dut.push & inside & has(dut.sector))),
        Assert(~(dut.pop & has(dut.top)) | inside),
    ]
    with m.If(dut.push & has(dut.sector)):
        m.d.sync += inside.eq(1)
    with m.If(dut.pop & has(dut.top)):
        m.d.sync += inside.eq(0)
    with m.If(dut.push & ~watched & watch):
        m.d.sync += [watched.eq(1), frame.eq(dut.sector), above.eq(0)]
    with m.Elif(watched):
        m.d.sync += above.eq(above + dut.push - dut.pop)
        with m.If(dut.pop & (above == 0)):
            m.d.comb += Assert(dut.top == frame)
            m.d.sync += [watched.eq(0), above.eq(0)]
    return m, [*inputs_of(dut), watch, chosen], dut


def test_frame_stack():
    prove(*stack_properties(2)[:2], steps=12)


def test_frame_stack_fills():
    m, inputs, dut = stack_properties(4)
    m.d.comb += Assert(~(dut.full & dut.overlaps))
    refute(m, inputs, bound=8)


def pool_properties(dut):
    """Any one sector is watched. It is freed only while it is held; all else may be freed rightly or wrongly."""
    m = Module()
    m.submodules.dut = dut
    for name, flow, port in streams_of(dut):
        if flow == In:
            contract(m, port, Assume, name)
    sector, chosen, begun, held = Signal(9), Signal(9), Signal(), Signal()
    wanted, given_back = Signal(6), Signal(6)
    expected = Signal(10, init=POOL.pool_sectors)
    answered = Signal()
    m.d.sync += begun.eq(1)
    with m.If(~begun):
        m.d.sync += sector.eq(chosen)
    freed, given = dut.free.p, dut.allocated.p
    frees = (sector >= freed.sector) & (sector < freed.sector + freed.sectors)
    gives = (sector >= given.sector) & (sector < given.sector + wanted)
    m.d.comb += [
        Assume(begun | ~(dut.allocate.valid | dut.free.valid)),
        Assume(~dut.free.valid | ~frees | held),
    ]
    # An answer is new in the clock after its predecessor was taken, or after none was offered.
    m.d.sync += answered.eq(dut.allocated.valid & ~dut.allocated.ready)
    new = dut.allocated.valid & ~answered & given.ok
    with m.If(transfer(dut.allocate)):
        m.d.sync += wanted.eq(dut.allocate.payload)
    with m.If(new):
        m.d.comb += [Assert(~(gives & held)), Assert(given.sector + wanted <= POOL.pool_sectors)]
        with m.If(gives):
            m.d.sync += held.eq(1)
        m.d.sync += expected.eq(expected - wanted)
    with m.If(transfer(dut.free) & frees):
        m.d.sync += held.eq(0)
    # What a free has done is known when the next request is taken.
    with m.If(transfer(dut.free) | transfer(dut.allocate)):
        m.d.comb += Assert(dut.free_sectors == expected - Mux(new, wanted, 0) + given_back)
        m.d.sync += [
            given_back.eq(Mux(transfer(dut.free), freed.sectors, 0)),
            expected.eq(expected - Mux(new, wanted, 0) + given_back),
        ]
    with m.If(dut.bad_free):
        m.d.sync += given_back.eq(0)
    return m, [*inputs_of(dut), chosen], (new, gives, held)
