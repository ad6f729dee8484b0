"""Changes page table entries for one client."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mem.flag_queue import FlagQueue
from speckv_hw.stream import transfer
from speckv_hw.table.check import check_bits
from speckv_hw.table.claims import Claim
from speckv_hw.table.kept_entries import JobDone
from speckv_hw.table.tlb import TlbOp, TlbRequest, TlbResult
from speckv_hw.table.writer import WriteJob
from speckv_hw.types import Entry, PageState, TableFault, TableRequest, TableResponse
from speckv_model.constants import ENTRIES_PER_LINE

__all__ = ["POSTED", "EntryUpdater"]

POSTED = 16
"""UPDATEs that wait for DRAM at once."""


class EntryUpdater(wiring.Component):
    """Carries out UPDATEs: computes the check bits, brings the TLB up to date, and writes 16 bytes.

    An UPDATE is answered, in order, when its bytes are written; further ones, up to `POSTED` together, are taken
    before. The response is zero, or where DRAM would not write has the fault and a POISONED entry; then the line is not
    in the TLB when that is answered. Bits of page numbers above the window are not looked at. A reset drops what is
    under way.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    request : In(stream(TableRequest)), response : Out(stream(TableResponse))
    claim : Out(Claim())
        Held from before the TLB is asked until the write is handed over.
    tlb_request : Out(stream(TlbRequest)), tlb_result : In(stream(TlbResult))
    write_job : Out(stream(WriteJob)), write_done : In(stream(JobDone))
        `write_done` is taken when the TLB has nothing of a line that could not be written.
    """

    request: In(stream.Signature(TableRequest))
    response: Out(stream.Signature(TableResponse))
    claim: Out(Claim())
    tlb_request: Out(stream.Signature(TlbRequest))
    tlb_result: In(stream.Signature(TlbResult))
    write_job: Out(stream.Signature(WriteJob))
    write_done: In(stream.Signature(JobDone))

    def __init__(self, config):
        self._config = config
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.ends = ends = FlagQueue(POSTED)
        line = Signal(self._config.page_bits - 2)
        quarter = Signal(range(ENTRIES_PER_LINE))
        entry = Signal(Entry)
        check = Signal.like(entry.check)
        posted = Signal(range(POSTED + 1))
        """UPDATEs that were taken and not answered."""
        proceed = Signal()
        changing = Signal()
        """The TLB is being changed."""
        fails, drops = Signal(), Signal()
        """A line could not be written, and has to leave the TLB, or leaves it."""
        # The check bits are there a clock after `entry`; nobody looks at them earlier.
        m.d.sync += [
            check.eq(check_bits(entry)),
            posted.eq(posted + transfer(self.request) - transfer(self.response)),
        ]
        m.d.comb += [
            proceed.eq(self.claim.held | ~self.claim.blocked),
            self.claim.line.eq(line),
            self.claim.changes.eq(1),
            self.tlb_request.payload.page.eq(Mux(drops, self.write_done.payload.line << 2, Cat(quarter, line))),
            self.tlb_request.payload.entry.eq(entry),
            self.tlb_request.payload.entry.check.eq(check),
            self.write_job.payload.line.eq(line),
            self.write_job.payload.count.eq(1),
            self.write_job.payload.enable.eq(1 << quarter),
            self.write_job.payload.entry.eq(entry),
            self.write_job.payload.entry.check.eq(check),
            ends.i.payload.eq(self.write_done.payload.error & ~self.write_done.payload.kept),
            self.response.valid.eq(ends.o.valid),
            ends.o.ready.eq(self.response.ready),
        ]
        with m.If(ends.o.payload):
            m.d.comb += [
                self.response.payload.fault.eq(TableFault.MEMORY),
                self.response.payload.entry.state.eq(PageState.POISONED),
            ]

        with m.FSM(name="step"):
            with m.State("IDLE"):
                m.d.comb += self.request.ready.eq(posted != POSTED)
                m.d.sync += [Cat(quarter, line).eq(self.request.payload.page), entry.eq(self.request.payload.entry)]
                with m.If(transfer(self.request)):
                    m.next = "CLAIM"
            with m.State("CLAIM"):
                m.d.comb += self.claim.waiting.eq(~self.claim.held)
                m.d.sync += self.claim.held.eq(proceed)
                with m.If(proceed & ~fails):
                    m.next = "CHANGE"
            with m.State("CHANGE"):
                m.d.comb += [
                    changing.eq(1),
                    self.tlb_request.valid.eq(1),
                    self.tlb_request.payload.op.eq(TlbOp.UPDATE),
                ]
                with m.If(self.tlb_request.ready):
                    m.next = "CHANGED"
            with m.State("CHANGED"):
                m.d.comb += [changing.eq(1), self.tlb_result.ready.eq(1)]
                with m.If(self.tlb_result.valid):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.write_job.valid.eq(1)
                with m.If(self.write_job.ready):
                    m.d.sync += self.claim.held.eq(0)
                    m.next = "IDLE"

        # Beside the next ones: those may wait for a claim that waits for such an end.
        with m.FSM(name="end"):
            with m.State("WAIT"):
                with m.If(self.write_done.valid):
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
