"""The bit of a line that is kept in a register is the one that the copy of the slot has."""

from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from properties import inputs_of
from prove import prove, refute

from speckv_hw.cache.list_copy import ListCopy


def bit_is_right(*, line_may_change):
    m = Module()
    m.submodules.dut = dut = ListCopy()
    line = Signal.like(dut.line)
    loaded, starts_bare = Signal(), Signal()
    m.d.sync += [
        line.eq(Mux(dut.loads, dut.loaded, dut.line)),
        loaded.eq(1),
        starts_bare.eq(dut.starts & ~dut.loads),
    ]
    if not line_may_change:
        m.d.comb += Assume(~loaded | (dut.line == line))
    m.d.comb += [
        Assume(~dut.wrote | (dut.valid & ~dut.fetched & ~dut.is_current & ~dut.is_next)),
        # Where a turn starts without its first request, its line is not there yet.
        Assert(~dut.valid | starts_bare | (dut.written == dut.slot.written.bit_select(dut.line, 1))),
    ]
    return m, inputs_of(dut)


def test_bit_of_the_line():
    prove(*bit_is_right(line_may_change=False))


def test_another_line_is_found_out():
    refute(*bit_is_right(line_may_change=True))
