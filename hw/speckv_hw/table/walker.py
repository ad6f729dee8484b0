"""Carries out the page table requests of one client."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import transfer
from speckv_hw.table.check import check_bits
from speckv_hw.table.claims import LINE_WIDTH, Claim
from speckv_hw.table.tlb import TlbOp, TlbRequest, TlbResult
from speckv_hw.table.writer import WriteJob
from speckv_hw.types import (
    Entry,
    PageState,
    ReadData,
    ReadRequest,
    TableFault,
    TableOp,
    TableRequest,
    TableResponse,
    WriteDone,
)
from speckv_model.constants import ENTRIES_PER_LINE
from speckv_model.table.page_table import CLEAR_LINES

__all__ = ["Walker"]


class Walker(wiring.Component):
    """Looks entries up (TLB, then DRAM), writes them through, clears ranges of them: one request at a time.

    LOOKUP: the TLB's entry; if it has none, one DRAM line, which also goes to the TLB. The check bits are
    judged either way. UPDATE: computes the check bits, writes 16 bytes, and when they are written brings the
    TLB up to date. CLEAR: writes zeros in bursts that end at multiples of 64 lines, then flushes the TLB. A
    response with a fault has a POISONED entry, zero elsewhere. A line with a DRAM error is never in the TLB.

    A LOOKUP that hits is answered after `latency` clocks if no other walker delays it. Bits of page numbers
    above the window are not looked at, nor is anything written outside of the table. A reset drops the
    request under way.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    request : In(stream(TableRequest))
    response : Out(stream(TableResponse))
    claim : Out(Claim())
        Held from before the TLB is asked until it is up to date.
    tlb_request : Out(stream(TlbRequest)), tlb_result : In(stream(TlbResult))
    walk_request : Out(stream(ReadRequest)), walk_data : In(stream(ReadData))
    write_job : Out(stream(WriteJob)), write_done : In(stream(WriteDone))
    hit, miss : Out
        Pulses: a LOOKUP found its entry in the TLB, or did not.
    """

    latency = 6

    request: In(stream.Signature(TableRequest))
    response: Out(stream.Signature(TableResponse))
    claim: Out(Claim())
    tlb_request: Out(stream.Signature(TlbRequest))
    tlb_result: In(stream.Signature(TlbResult))
    walk_request: Out(stream.Signature(ReadRequest))
    walk_data: In(stream.Signature(ReadData))
    write_job: Out(stream.Signature(WriteJob))
    write_done: In(stream.Signature(WriteDone))
    hit: Out(1)
    miss: Out(1)

    def __init__(self, config):
        self._config = config
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        request = self.request.payload
        op = Signal(TableOp)
        line = Signal(self._config.page_bits - 2)
        quarter = Signal(range(ENTRIES_PER_LINE))
        left = Signal(LINE_WIDTH + 1)
        burst = Signal(range(CLEAR_LINES + 1))
        to_boundary = Signal.like(burst)
        failed = Signal()

        # The check bits are computed a clock after `entry` changes; they are not looked at earlier.
        entry = Signal(Entry)
        right_check = Signal.like(entry.check)
        m.d.sync += right_check.eq(check_bits(entry))
        walked = self.walk_data.payload.data.word_select(quarter, Entry.as_shape().size)

        proceed = Signal()
        m.d.comb += [
            proceed.eq(self.claim.held | ~self.claim.blocked),
            self.claim.line.eq(line),
            self.claim.alone.eq(op == TableOp.CLEAR),
            to_boundary.eq(CLEAR_LINES - line[:6]),
            self.tlb_request.payload.page.eq(line << 2 | quarter),
            self.tlb_request.payload.entry.eq(entry),
            self.tlb_request.payload.line.eq(self.walk_data.payload.data),
            self.walk_request.payload.line.eq(line),
            self.walk_request.payload.count.eq(1),
            self.write_job.payload.line.eq(line),
            self.write_job.payload.count.eq(burst),
            self.write_job.payload.enable.eq(Mux(op == TableOp.CLEAR, ~0, 1 << quarter)),
            self.write_job.payload.entry.eq(entry),
            self.write_job.payload.entry.check.eq(right_check),
        ]

        fault = Signal(TableFault)
        with m.If(failed):
            m.d.comb += fault.eq(TableFault.MEMORY)
        with m.Elif(right_check != entry.check):
            m.d.comb += fault.eq(TableFault.CORRUPT)
        m.d.comb += self.response.payload.fault.eq(fault)
        with m.If(fault == TableFault.NONE):
            m.d.comb += self.response.payload.entry.eq(entry)
        with m.Else():
            m.d.comb += self.response.payload.entry.state.eq(PageState.POISONED)

        with m.FSM(name="step"):
            with m.State("IDLE"):
                m.d.comb += self.request.ready.eq(1)
                m.d.sync += [
                    op.eq(request.op),
                    line.eq(request.page[2:]),
                    quarter.eq(request.page),
                    left.eq(request.count[2:]),
                    entry.eq(request.entry),
                    burst.eq(1),
                    failed.eq(0),
                ]
                with m.If(self.request.valid):
                    with m.If(request.op == TableOp.CLEAR):
                        m.d.sync += entry.eq(0)
                        m.next = "CLEAR"
                    with m.Else():
                        m.next = "CLAIM"

            with m.State("CLAIM"):
                m.d.comb += self.claim.waiting.eq(~self.claim.held)
                m.d.sync += self.claim.held.eq(proceed)
                with m.If(op == TableOp.LOOKUP):
                    m.d.comb += self.tlb_request.valid.eq(proceed)
                    m.d.comb += self.tlb_request.payload.op.eq(TlbOp.LOOKUP)
                    with m.If(transfer(self.tlb_request)):
                        m.next = "FIND"
                with m.Elif(proceed):
                    m.next = "WRITE"

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

            with m.State("JUDGE"):
                m.next = "RESPOND"

            with m.State("WALK"):
                m.d.comb += self.walk_request.valid.eq(1)
                with m.If(self.walk_request.ready):
                    m.next = "FILL"

            with m.State("FILL"):
                m.d.comb += self.tlb_request.payload.op.eq(TlbOp.FILL)
                m.d.sync += [entry.eq(walked), failed.eq(self.walk_data.payload.error)]
                with m.If(self.walk_data.payload.error):
                    m.d.comb += self.walk_data.ready.eq(1)
                with m.Else():
                    m.d.comb += [
                        self.tlb_request.valid.eq(self.walk_data.valid),
                        self.walk_data.ready.eq(self.tlb_request.ready),
                    ]
                with m.If(transfer(self.walk_data)):
                    with m.If(self.walk_data.payload.error):
                        m.next = "RESPOND"
                    with m.Else():
                        m.next = "CHANGED"

            with m.State("CLEAR"):
                m.d.sync += burst.eq(Mux(left < to_boundary, left, to_boundary))
                with m.If(left == 0):
                    m.next = "CHANGE"
                with m.Else():
                    m.next = "WRITE"

            with m.State("WRITE"):
                m.d.comb += self.write_job.valid.eq(1)
                with m.If(self.write_job.ready):
                    m.next = "WRITTEN"

            with m.State("WRITTEN"):
                m.d.comb += self.write_done.ready.eq(1)
                m.d.sync += entry.check.eq(right_check)
                with m.If(self.write_done.valid):
                    m.d.sync += failed.eq(failed | self.write_done.payload.error)
                    with m.If(op == TableOp.CLEAR):
                        m.d.sync += [line.eq(line + burst), left.eq(left - burst)]
                        m.next = "CLEAR"
                    with m.Else():
                        m.next = "CHANGE"

            with m.State("CHANGE"):
                m.d.comb += [self.claim.waiting.eq(~self.claim.held), self.tlb_request.valid.eq(proceed)]
                m.d.sync += self.claim.held.eq(proceed)
                with m.If(op == TableOp.CLEAR):
                    m.d.comb += self.tlb_request.payload.op.eq(TlbOp.FLUSH)
                with m.Elif(failed):
                    m.d.comb += self.tlb_request.payload.op.eq(TlbOp.DROP)
                with m.Else():
                    m.d.comb += self.tlb_request.payload.op.eq(TlbOp.UPDATE)
                with m.If(transfer(self.tlb_request)):
                    m.next = "CHANGED"

            with m.State("CHANGED"):
                m.d.comb += self.tlb_result.ready.eq(1)
                with m.If(self.tlb_result.valid):
                    m.next = "RESPOND"

            with m.State("RESPOND"):
                m.d.comb += self.response.valid.eq(1)
                m.d.sync += self.claim.held.eq(0)
                with m.If(self.response.ready):
                    m.next = "IDLE"
        return m
