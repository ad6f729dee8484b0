"""The begin of every spill and seal: what must be known of the page."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mover.seal_finisher import SealOutcome
from speckv_hw.pool.first_one import first_one
from speckv_hw.stream import transfer
from speckv_hw.table.descriptor import Encoding, EncodingRequest
from speckv_hw.types import (
    Dtype,
    ErrorKind,
    PageState,
    SealJob,
    SealKind,
    TableFault,
    TableOp,
    TableRequest,
    TableResponse,
)

__all__ = ["SealLookup", "SealPage"]


class SealPage(data.Struct):
    """A page on its way through the sealer."""
    outcome: SealOutcome
    """What is known of it so far: from the beginning why it fails, or the state that it gets."""
    encoding: Encoding
    """How it is encoded, where it becomes SEALED."""
    dtype: Dtype
    by_row: 1
    base: 1
    written: 64
    poison: 64


class SealLookup(wiring.Component):
    """Looks a page's entry up, and how it is encoded, before it is its turn; in order.

    About 12 clocks a page if the TLB has the entry.

    Members
    -------
    job : In(stream of SealJob)
    page : Out(stream of SealPage)
    encoding_request, encoding : to and from the descriptor table
    table_request, table_response : client of the page table
    """

    def __init__(self):
        super().__init__({
            "job": In(stream.Signature(SealJob)),
            "page": Out(stream.Signature(SealPage)),
            "encoding_request": Out(stream.Signature(EncodingRequest)),
            "encoding": In(stream.Signature(Encoding)),
            "table_request": Out(stream.Signature(TableRequest)),
            "table_response": In(stream.Signature(TableResponse)),
        })

    def elaborate(self, platform):
        m = Module()
        job, page = self.job.p, self.page.p
        outcome, found, fault = page.outcome, self.table_response.p.entry, self.table_response.p.fault
        asks, needs_encoding, needs_entry = Signal(), Signal(), Signal()
        last = Signal(6)
        any_written, from_the_end = first_one(job.written[::-1])
        m.d.comb += [
            last.eq(Mux(job.base, 63, Mux(any_written, 63 - from_the_end, 0))),
            self.table_request.p.op.eq(TableOp.LOOKUP),
            self.table_request.p.page.eq(job.page),
            self.encoding_request.p.page.eq(job.page),
            self.encoding_request.p.stream.eq(job.stream),
        ]
        with m.FSM():
            with m.State("LOOKUP"):
                m.d.comb += self.table_request.valid.eq(self.job.valid)
                m.d.sync += [
                    needs_entry.eq(1),
                    asks.eq(job.kind == SealKind.SEAL),
                    needs_encoding.eq(job.kind == SealKind.SEAL),
                    page.eq(0),
                    page.dtype.eq(job.stream.dtype),
                    page.by_row.eq(job.stream.by_row),
                    page.base.eq(job.base),
                    page.written.eq(job.written),
                    page.poison.eq(job.poison),
                    outcome.kind.eq(job.kind),
                    outcome.slot.eq(job.slot),
                    outcome.page.eq(job.page),
                    outcome.entry.context.eq(job.stream.context),
                    outcome.entry.codec.eq(job.stream.codec),
                ]
                with m.If(transfer(self.table_request)):
                    m.next = "WAIT"
            with m.State("WAIT"):
                m.d.comb += [
                    self.encoding_request.valid.eq(asks),
                    self.encoding.ready.eq(1),
                    self.table_response.ready.eq(needs_entry),
                ]
                with m.If(transfer(self.encoding_request)):
                    m.d.sync += asks.eq(0)
                with m.If(transfer(self.encoding)):
                    m.d.sync += [page.encoding.eq(self.encoding.payload), needs_encoding.eq(0)]
                with m.If(transfer(self.table_response)):
                    m.d.sync += [
                        needs_entry.eq(0),
                        outcome.reserved.eq(found.place),
                        outcome.entry.place.eq(found.place),
                    ]
                    with m.If((fault != TableFault.NONE) | (found.state != PageState.OPEN)):
                        m.d.sync += [
                            outcome.failed.eq(Mux(fault == TableFault.MEMORY,
                                                  ErrorKind.MEMORY_READ, ErrorKind.ENTRY_CORRUPT)),
                            outcome.entry.state.eq(PageState.POISONED),
                        ]
                    with m.Elif(job.kind == SealKind.SPILL):
                        m.d.sync += [outcome.entry.state.eq(PageState.OPEN), outcome.entry.lines.eq(last + 2)]
                    with m.Elif(job.poison.any()):
                        m.d.sync += [outcome.entry.state.eq(PageState.POISONED), outcome.entry.place.eq(0)]
                    with m.Else():
                        m.d.sync += outcome.entry.state.eq(PageState.SEALED)
                with m.If(~needs_entry & ~needs_encoding):
                    m.next = "PASS"
            with m.State("PASS"):
                m.d.comb += [self.page.valid.eq(1), self.job.ready.eq(self.page.ready)]
                with m.If(self.page.ready):
                    m.next = "LOOKUP"
        return m
