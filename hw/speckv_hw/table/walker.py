"""Carries out the page table requests of one client."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mem.flag_queue import FlagQueue
from speckv_hw.stream import transfer
from speckv_hw.table.check import check_bits
from speckv_hw.table.claims import LINE_WIDTH, Claim
from speckv_hw.table.kept_entries import JobDone, Walk, WalkData
from speckv_hw.table.tlb import TlbOp, TlbRequest, TlbResult
from speckv_hw.table.writer import WriteJob
from speckv_hw.types import (
    Entry,
    PageState,
    TableFault,
    TableOp,
    TableRequest,
    TableResponse,
)
from speckv_model.constants import ENTRIES_PER_LINE
from speckv_model.table.page_table import CLEAR_LINES

__all__ = ["POSTED", "Walker"]

POSTED = 16
"""UPDATEs that wait for DRAM at once."""


class Walker(wiring.Component):
    """Looks entries up (TLB, then DRAM), changes them, clears ranges of them, in order.

    LOOKUP: the TLB's entry; if it has none, one DRAM line, which also goes to the TLB. The entry is judged either way:
    its check bits have to be right, and an EMPTY one all zeros. UPDATE: computes the check bits, brings the TLB up to
    date, and writes 16 bytes. It is answered when they are written; further UPDATEs, up to `POSTED` together, are taken
    before, other requests wait. CLEAR: writes zeros in bursts that end at multiples of 64 lines, then flushes the TLB.
    A response with a fault has a POISONED entry, zero elsewhere; that of an UPDATE without one is zero. A line that
    DRAM would not read or write is not in the TLB when that is answered, nor one of which only a part is up to date.

    A LOOKUP that hits is answered after `latency` clocks if no other walker delays it. Bits of page numbers
    above the window are not looked at, nor is anything written outside of the table. A reset drops the
    requests under way.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    request : In(stream(TableRequest))
    response : Out(stream(TableResponse))
    claim : Out(Claim())
        Held from before the TLB is asked until it is up to date and a write is handed over.
    tlb_request : Out(stream(TlbRequest)), tlb_result : In(stream(TlbResult))
    walk_request : Out(stream(Walk)), walk_data : In(stream(WalkData))
        Reads of a line that is being written are held back outside.
    write_job : Out(stream(WriteJob)), write_done : In(stream(JobDone))
        `write_done` is taken when the TLB has nothing of a line that could not be written.
    hit, miss : Out
        Pulses: a LOOKUP found its entry in the TLB, or did not.
    """

    latency = 6

    request: In(stream.Signature(TableRequest))
    response: Out(stream.Signature(TableResponse))
    claim: Out(Claim())
    tlb_request: Out(stream.Signature(TlbRequest))
    tlb_result: In(stream.Signature(TlbResult))
    walk_request: Out(stream.Signature(Walk))
    walk_data: In(stream.Signature(WalkData))
    write_job: Out(stream.Signature(WriteJob))
    write_done: In(stream.Signature(JobDone))
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
        m.submodules.ends = ends = FlagQueue(POSTED)
        posted = Signal(range(POSTED + 1))
        """UPDATEs that were taken and not answered: the next responses are theirs."""
        is_update = Signal()
        changing = Signal()
        """The TLB is being changed."""
        fails, drops = Signal(), Signal()
        """A line could not be written, and has to leave the TLB, or leaves it."""
        m.d.comb += is_update.eq(posted != 0)

        # The check bits are computed a clock after `entry` changes; they are not looked at earlier.
        entry = Signal(Entry)
        right_check = Signal.like(entry.check)
        stray = Signal()
        """An EMPTY entry is not all zeros."""
        m.d.sync += [
            right_check.eq(check_bits(entry)),
            stray.eq((entry.state == PageState.EMPTY) & entry.as_value().any()),
        ]

        proceed = Signal()
        m.d.comb += [
            proceed.eq(self.claim.held | ~self.claim.blocked),
            self.claim.line.eq(line),
            self.claim.alone.eq(op == TableOp.CLEAR),
            self.claim.changes.eq(op == TableOp.UPDATE),
            to_boundary.eq(CLEAR_LINES - line[:6]),
            self.tlb_request.payload.page.eq(Mux(drops, self.write_done.payload.line << 2, line << 2 | quarter)),
            self.tlb_request.payload.entry.eq(entry),
            self.tlb_request.payload.entry.check.eq(right_check),
            self.tlb_request.payload.line.eq(self.walk_data.payload.data),
            self.walk_request.payload.line.eq(line),
            self.walk_request.payload.quarter.eq(quarter),
            self.write_job.payload.line.eq(line),
            self.write_job.payload.count.eq(burst),
            self.write_job.payload.enable.eq(Mux(op == TableOp.CLEAR, ~0, 1 << quarter)),
            self.write_job.payload.entry.eq(entry),
            self.write_job.payload.entry.check.eq(right_check),
        ]

        fault = Signal(TableFault)
        with m.If(Mux(is_update, ends.o.payload, failed)):
            m.d.comb += fault.eq(TableFault.MEMORY)
        with m.Elif(~is_update & ((right_check != entry.check) | stray)):
            m.d.comb += fault.eq(TableFault.CORRUPT)
        m.d.comb += self.response.payload.fault.eq(fault)
        with m.If(fault != TableFault.NONE):
            m.d.comb += self.response.payload.entry.state.eq(PageState.POISONED)
        with m.Elif(~is_update):
            m.d.comb += self.response.payload.entry.eq(entry)
        with m.If(is_update):
            m.d.comb += [self.response.valid.eq(ends.o.valid), ends.o.ready.eq(self.response.ready)]
        takes_update = transfer(self.request) & (request.op == TableOp.UPDATE)
        m.d.sync += posted.eq(posted + takes_update - (is_update & transfer(self.response)))

        with m.FSM(name="step"):
            with m.State("IDLE"):
                m.d.comb += self.request.ready.eq(
                    ~is_update | ((request.op == TableOp.UPDATE) & (posted != POSTED)))
                m.d.sync += [
                    op.eq(request.op),
                    line.eq(request.page[2:]),
                    quarter.eq(request.page),
                    left.eq(request.count[2:]),
                    entry.eq(request.entry),
                    burst.eq(1),
                    failed.eq(0),
                ]
                with m.If(transfer(self.request)):
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
                with m.Elif(proceed & ~fails):
                    m.next = "CHANGE"

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
                m.d.sync += [entry.eq(self.walk_data.payload.entry), failed.eq(self.walk_data.payload.error)]
                walk = self.walk_data.payload
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
                    with m.If(op == TableOp.CLEAR):
                        m.next = "CLEARED"
                    with m.Else():
                        m.d.sync += self.claim.held.eq(0)
                        m.next = "IDLE"

            with m.State("CLEARED"):
                m.d.comb += self.write_done.ready.eq(1)
                with m.If(self.write_done.valid):
                    m.d.sync += [
                        failed.eq(failed | self.write_done.payload.error),
                        line.eq(line + burst),
                        left.eq(left - burst),
                    ]
                    m.next = "CLEAR"

            with m.State("CHANGE"):
                m.d.comb += [self.claim.waiting.eq(~self.claim.held), self.tlb_request.valid.eq(proceed)]
                m.d.comb += [
                    changing.eq(1),
                    self.tlb_request.payload.op.eq(Mux(op == TableOp.CLEAR, TlbOp.FLUSH, TlbOp.UPDATE)),
                ]
                m.d.sync += self.claim.held.eq(proceed)
                with m.If(transfer(self.tlb_request)):
                    m.next = "CHANGED"

            with m.State("CHANGED"):
                m.d.comb += [changing.eq(1), self.tlb_result.ready.eq(1)]
                with m.If(self.tlb_result.valid):
                    with m.If(op == TableOp.UPDATE):
                        m.next = "WRITE"
                    with m.Else():
                        m.next = "RESPOND"

            with m.State("RESPOND"):
                m.d.comb += self.response.valid.eq(1)
                m.d.sync += self.claim.held.eq(0)
                with m.If(self.response.ready):
                    m.next = "IDLE"

        # Ends of UPDATEs, beside the next ones: those may wait for a claim that waits for such an end.
        m.d.comb += ends.i.payload.eq(self.write_done.payload.error & ~self.write_done.payload.kept)
        with m.FSM(name="end"):
            with m.State("WAIT"):
                with m.If(is_update & self.write_done.valid):
                    with m.If(self.write_done.payload.error):
                        m.d.comb += fails.eq(1)
                        with m.If(~changing):
                            m.next = "DROP"
                    with m.Else():
                        m.d.comb += [self.write_done.ready.eq(1), ends.i.valid.eq(1)]
            with m.State("DROP"):
                m.d.comb += [
                    fails.eq(1),
                    drops.eq(1),
                    self.tlb_request.valid.eq(1),
                    self.tlb_request.payload.op.eq(TlbOp.DROP),
                ]
                with m.If(self.tlb_request.ready):
                    m.next = "DROPPED"
            with m.State("DROPPED"):
                m.d.comb += [fails.eq(1), self.tlb_result.ready.eq(1)]
                with m.If(self.tlb_result.valid):
                    m.d.comb += [self.write_done.ready.eq(1), ends.i.valid.eq(1)]
                    m.next = "WAIT"
        return m
