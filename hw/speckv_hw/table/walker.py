"""Looks page table entries up for one client."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import transfer
from speckv_hw.table.check import check_bits
from speckv_hw.table.claims import Claim
from speckv_hw.table.kept_entries import Walk, WalkData
from speckv_hw.table.tlb import TlbOp, TlbRequest, TlbResult
from speckv_hw.types import Entry, PageState, TableFault, TableRequest, TableResponse
from speckv_model.constants import ENTRIES_PER_LINE

__all__ = ["Walker"]


class Walker(wiring.Component):
    """Carries out LOOKUPs, one after the other: looks in the TLB, then in DRAM.

    The entry is the TLB's; if it has none, one DRAM line is read, which also goes to the TLB. The entry is judged
    either way: its check bits have to be right, and an EMPTY one all zeros. A response with a fault has a POISONED
    entry, zero elsewhere. A line that DRAM would not read is not in the TLB when that is answered, nor one of which
    only a part is up to date.

    A LOOKUP that hits is answered after `latency` clocks if nobody else delays it; while its response is not taken
    nothing is claimed. Bits of page numbers above the window are not looked at. A reset drops the request under way.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    request : In(stream(TableRequest)), response : Out(stream(TableResponse))
    claim : Out(Claim())
        Held from before the TLB is asked until it is up to date.
    tlb_request : Out(stream(TlbRequest)), tlb_result : In(stream(TlbResult))
    walk_request : Out(stream(Walk)), walk_data : In(stream(WalkData))
        Reads of a line that is being written are held back outside.
    hit, miss : Out
        Pulses: the TLB had the entry, or had not.
    """

    latency = 6

    request: In(stream.Signature(TableRequest))
    response: Out(stream.Signature(TableResponse))
    claim: Out(Claim())
    tlb_request: Out(stream.Signature(TlbRequest))
    tlb_result: In(stream.Signature(TlbResult))
    walk_request: Out(stream.Signature(Walk))
    walk_data: In(stream.Signature(WalkData))
    hit: Out(1)
    miss: Out(1)

    def __init__(self, config):
        self._config = config
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        walk = self.walk_data.payload
        line = Signal(self._config.page_bits - 2)
        quarter = Signal(range(ENTRIES_PER_LINE))
        failed = Signal()
        # What is right is computed a clock after `entry` changes; it is not looked at earlier.
        entry = Signal(Entry)
        right_check = Signal.like(entry.check)
        stray = Signal()
        """An EMPTY entry is not all zeros."""
        m.d.sync += [
            right_check.eq(check_bits(entry)),
            stray.eq((entry.state == PageState.EMPTY) & entry.as_value().any()),
        ]
        m.d.comb += [
            self.claim.line.eq(line),
            self.tlb_request.payload.page.eq(line << 2 | quarter),
            self.tlb_request.payload.line.eq(walk.data),
            self.walk_request.payload.line.eq(line),
            self.walk_request.payload.quarter.eq(quarter),
        ]

        answer = self.response.payload
        with m.If(failed):
            m.d.comb += answer.fault.eq(TableFault.MEMORY)
        with m.Elif((right_check != entry.check) | stray):
            m.d.comb += answer.fault.eq(TableFault.CORRUPT)
        with m.If(answer.fault == TableFault.NONE):
            m.d.comb += answer.entry.eq(entry)
        with m.Else():
            m.d.comb += answer.entry.state.eq(PageState.POISONED)

        with m.FSM(name="step"):
            with m.State("IDLE"):
                m.d.comb += self.request.ready.eq(1)
                m.d.sync += [Cat(quarter, line).eq(self.request.payload.page), failed.eq(0)]
                with m.If(self.request.valid):
                    m.next = "CLAIM"

            with m.State("CLAIM"):
                m.d.comb += self.claim.waiting.eq(1)
                with m.If(~self.claim.blocked):
                    m.d.sync += self.claim.held.eq(1)
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += [
                    self.tlb_request.valid.eq(1),
                    self.tlb_request.payload.op.eq(TlbOp.LOOKUP),
                ]
                with m.If(self.tlb_request.ready):
                    m.next = "FIND"
            with m.State("FIND"):
                m.d.comb += self.tlb_result.ready.eq(1)
                m.d.sync += entry.eq(self.tlb_result.payload.entry)
                with m.If(self.tlb_result.valid):
                    with m.If(self.tlb_result.payload.hit):
                        m.d.comb += self.hit.eq(1)
                        m.next = "JUDGE"
                    with m.Else():
                        m.d.comb += self.miss.eq(1)
                        m.next = "WALK"

            with m.State("WALK"):
                m.d.comb += self.walk_request.valid.eq(1)
                with m.If(self.walk_request.ready):
                    m.next = "FILL"
            with m.State("FILL"):
                m.d.comb += self.tlb_request.payload.op.eq(TlbOp.FILL)
                m.d.sync += [entry.eq(walk.entry), failed.eq(walk.error)]
                with m.If(walk.error | walk.partial):
                    m.d.comb += self.walk_data.ready.eq(1)
                with m.Else():
                    m.d.comb += [
                        self.tlb_request.valid.eq(self.walk_data.valid),
                        self.walk_data.ready.eq(self.tlb_request.ready),
                    ]
                with m.If(transfer(self.walk_data)):
                    with m.If(walk.error):
                        m.next = "RESPOND"
                    with m.Elif(walk.partial):
                        m.next = "JUDGE"
                    with m.Else():
                        m.next = "FILLED"
            with m.State("FILLED"):
                m.d.comb += self.tlb_result.ready.eq(1)
                with m.If(self.tlb_result.valid):
                    m.next = "RESPOND"

            with m.State("JUDGE"):
                m.next = "RESPOND"
            with m.State("RESPOND"):
                m.d.comb += self.response.valid.eq(1)
                m.d.sync += self.claim.held.eq(0)
                with m.If(self.response.ready):
                    m.next = "IDLE"
        return m
