"""Zeros ranges of page table entries for one client."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.table.claims import LINE_WIDTH, Claim
from speckv_hw.table.kept_entries import JobDone
from speckv_hw.table.tlb import TlbOp, TlbRequest, TlbResult
from speckv_hw.table.writer import WriteJob
from speckv_hw.types import PageState, TableFault, TableRequest, TableResponse
from speckv_model.table.page_table import CLEAR_LINES

__all__ = ["RangeClearer"]


class RangeClearer(wiring.Component):
    """Carries out CLEARs, one after the other: writes zeros, then flushes the TLB.

    The bursts end at multiples of 64 lines. The response is zero, or where DRAM would not write some of it has the
    fault and a POISONED entry; the rest is cleared all the same. Nothing is written outside of the table. A reset drops
    the request under way.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    request : In(stream(TableRequest)), response : Out(stream(TableResponse))
    claim : Out(Claim())
        Of the whole table, while the TLB is flushed.
    tlb_request : Out(stream(TlbRequest)), tlb_result : In(stream(TlbResult))
    write_job : Out(stream(WriteJob)), write_done : In(stream(JobDone))
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
        line = Signal(self._config.page_bits - 2)
        left = Signal(LINE_WIDTH + 1)
        burst = Signal(range(CLEAR_LINES + 1))
        to_boundary = Signal.like(burst)
        failed = Signal()
        m.d.comb += [
            to_boundary.eq(CLEAR_LINES - line[:6]),
            self.claim.line.eq(line),
            self.claim.alone.eq(1),
            self.tlb_request.payload.op.eq(TlbOp.FLUSH),
            self.write_job.payload.line.eq(line),
            self.write_job.payload.count.eq(burst),
            self.write_job.payload.enable.eq(~0),
        ]
        with m.If(failed):
            m.d.comb += [
                self.response.payload.fault.eq(TableFault.MEMORY),
                self.response.payload.entry.state.eq(PageState.POISONED),
            ]

        with m.FSM(name="step"):
            with m.State("IDLE"):
                m.d.comb += self.request.ready.eq(1)
                m.d.sync += [
                    line.eq(self.request.payload.page[2:]),
                    left.eq(self.request.payload.count[2:]),
                    failed.eq(0),
                ]
                with m.If(self.request.valid):
                    m.next = "MEASURE"
            with m.State("MEASURE"):
                m.d.sync += burst.eq(Mux(left < to_boundary, left, to_boundary))
                with m.If(left == 0):
                    m.next = "CLAIM"
                with m.Else():
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.write_job.valid.eq(1)
                with m.If(self.write_job.ready):
                    m.next = "WRITTEN"
            with m.State("WRITTEN"):
                m.d.comb += self.write_done.ready.eq(1)
                with m.If(self.write_done.valid):
                    m.d.sync += [
                        failed.eq(failed | self.write_done.payload.error),
                        line.eq(line + burst),
                        left.eq(left - burst),
                    ]
                    m.next = "MEASURE"

            with m.State("CLAIM"):
                m.d.comb += self.claim.waiting.eq(1)
                with m.If(~self.claim.blocked):
                    m.d.sync += self.claim.held.eq(1)
                    m.next = "FLUSH"
            with m.State("FLUSH"):
                m.d.comb += self.tlb_request.valid.eq(1)
                with m.If(self.tlb_request.ready):
                    m.next = "FLUSHED"
            with m.State("FLUSHED"):
                m.d.comb += self.tlb_result.ready.eq(1)
                with m.If(self.tlb_result.valid):
                    m.next = "RESPOND"
            with m.State("RESPOND"):
                m.d.comb += self.response.valid.eq(1)
                m.d.sync += self.claim.held.eq(0)
                with m.If(self.response.ready):
                    m.next = "IDLE"
        return m
