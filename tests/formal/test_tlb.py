"""The TLB never returns a stale entry: what a LOOKUP gives is what the last UPDATE or FILL of the page said."""

from types import SimpleNamespace

import pytest
from amaranth.hdl import Assert, Assume, Module, Signal
from amaranth.lib.wiring import In
from properties import contract, inputs_of, streams_of
from prove import prove, refute

from speckv_hw.stream import transfer
from speckv_hw.table.tlb import Tlb, TlbOp
from speckv_model.constants import ENTRIES_PER_LINE

SMALL = SimpleNamespace(page_bits=5, tlb_sets=2, tlb_ways=2)
"""What the TLB takes from a configuration; smaller than the smallest device."""
BITS = 1
"""Of an entry, those that are watched: entries move in one piece."""


def tlb_properties(dut):
    """Any one page is watched; `entry` is what DRAM holds of it, and is written through by an UPDATE.

    DRAM may change whenever the line is not cached for sure: after a DROP or a FLUSH. A line is filled only after a
    LOOKUP has missed it, and then with what DRAM holds, as the walkers do it under their claims.
    """
    m = Module()
    m.submodules.dut = dut
    for name, flow, port in streams_of(dut):
        if flow == In:
            contract(m, port, Assume, name)
    page_bits = SMALL.page_bits
    chosen, change = Signal(page_bits), Signal(BITS)
    begun, page, entry = Signal(), Signal(page_bits), Signal(BITS)
    m.d.sync += begun.eq(1)
    with m.If(~begun):
        m.d.sync += [page.eq(chosen), entry.eq(change)]
    request = dut.request.p
    asked = request.page[:page_bits]
    line = asked[2:] == page[2:]
    missed, looked = Signal(), Signal()
    filled = request.line.word_select(page[:2], len(request.line) // ENTRIES_PER_LINE)[:BITS]
    m.d.comb += Assume(begun | ~dut.request.valid)
    with m.If(transfer(dut.request)):
        m.d.sync += looked.eq((request.op == TlbOp.LOOKUP) & (asked == page))
        with m.Switch(request.op):
            with m.Case(TlbOp.FILL):
                with m.If(line):
                    m.d.comb += [Assume(missed), Assume(filled == entry)]
                    m.d.sync += missed.eq(0)
            with m.Case(TlbOp.UPDATE):
                with m.If(asked == page):
                    m.d.sync += entry.eq(request.entry.as_value()[:BITS])
            with m.Case(TlbOp.DROP):
                with m.If(line):
                    m.d.sync += entry.eq(change)
            with m.Case(TlbOp.FLUSH):
                m.d.sync += entry.eq(change)
    hit = dut.result.valid & looked & dut.result.p.hit
    with m.If(dut.result.valid & looked & ~dut.result.p.hit):
        m.d.sync += missed.eq(1)
    m.d.comb += Assert(~hit | (dut.result.p.entry.as_value()[:BITS] == entry))
    return m, [*inputs_of(dut), chosen, change], hit


@pytest.mark.parametrize("sets, ways", [(1, 2), (2, 1)])
def test_no_stale_entry(sets, ways):
    m, inputs, _ = tlb_properties(Tlb(SimpleNamespace(page_bits=5, tlb_sets=sets, tlb_ways=ways)))
    prove(m, inputs)


def test_hits_happen():
    m, inputs, hit = tlb_properties(Tlb(SMALL))
    m.d.comb += Assert(~hit)
    refute(m, inputs)


class DeafTlb(Tlb):
    """A TLB with the mistake that it does not hear the operation `op`."""

    def __init__(self, config, op):
        super().__init__(config)
        self._deaf_to = op

    def elaborate(self, platform):
        m = Module()
        m.submodules.tlb = tlb = Tlb(self._config)
        m.d.comb += [
            tlb.request.payload.eq(self.request.payload),
            tlb.request.valid.eq(self.request.valid),
            self.request.ready.eq(tlb.request.ready),
            self.result.payload.eq(tlb.result.payload),
            self.result.valid.eq(tlb.result.valid),
            tlb.result.ready.eq(self.result.ready),
        ]
        with m.If(self.request.p.op == self._deaf_to):
            m.d.comb += tlb.request.p.op.eq(TlbOp.LOOKUP)
        return m


@pytest.mark.parametrize("op", [TlbOp.UPDATE, TlbOp.DROP, TlbOp.FLUSH])
def test_a_stale_entry_is_found(op):
    m, inputs, _ = tlb_properties(DeafTlb(SMALL, op))
    refute(m, inputs)
