"""The end of every spill and seal: what follows when the page's lines are on their way to DRAM."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import transfer
from speckv_hw.types import (
    PAGE_WIDTH,
    SECTOR_WIDTH,
    SLOT_WIDTH,
    Entry,
    ErrorKind,
    ErrorRecord,
    FreeRequest,
    PageState,
    SealDone,
    SealKind,
    TableFault,
    TableOp,
    TableRequest,
    TableResponse,
    WriteDone,
)
from speckv_model.constants import OPEN_SECTORS

__all__ = ["SealFinisher", "SealOutcome"]


class SealOutcome(data.Struct):
    """A page that was handed to the memory port, or one that could not be."""
    kind: SealKind
    slot: SLOT_WIDTH
    page: PAGE_WIDTH
    entry: Entry
    """What the page table shall say."""
    reserved: SECTOR_WIDTH
    """First of the sectors that the OPEN page had."""
    stays: 1
    """The sealed page lies in the first of those sectors."""
    is_written: 1
    """Its lines are on their way."""
    failed: ErrorKind
    """Why it could not be written, and the page table is left alone; NONE if it could."""

    def sectors(self):
        return (self.entry.lines + 1) >> 1


class SealFinisher(wiring.Component):
    """Waits until DRAM has the lines, writes the entry, gives sectors back, and answers; one page at a time, in order.

    A page whose lines DRAM refused becomes POISONED and gives back all that it held. Where the entry cannot be written
    nothing is given back, since it is not known what DRAM holds. Both are logged as MEMORY_WRITE.

    Members
    -------
    outcome : In(stream of SealOutcome)
    write_done : In(stream of WriteDone)
        One for each outcome that `is_written`, in order.
    table_request, table_response : client of the page table
    free : Out(stream of FreeRequest)
    error : Out(stream of ErrorRecord)
    done : Out(stream of SealDone)
    """

    def __init__(self):
        super().__init__({
            "outcome": In(stream.Signature(SealOutcome)),
            "write_done": In(stream.Signature(WriteDone)),
            "table_request": Out(stream.Signature(TableRequest)),
            "table_response": In(stream.Signature(TableResponse)),
            "free": Out(stream.Signature(FreeRequest)),
            "error": Out(stream.Signature(ErrorRecord)),
            "done": Out(stream.Signature(SealDone)),
        })

    def elaborate(self, platform):
        m = Module()
        outcome = self.outcome.p
        failed = Signal(ErrorKind)
        state = Signal(PageState)
        is_sealed = state == PageState.SEALED
        remainder = is_sealed & outcome.stays
        m.d.comb += [
            self.table_request.p.op.eq(TableOp.UPDATE),
            self.table_request.p.page.eq(outcome.page),
            self.table_request.p.entry.eq(outcome.entry),
            self.table_request.p.entry.state.eq(state),
            self.error.p.kind.eq(failed),
            self.error.p.address.eq(outcome.page << 12),
            self.done.p.kind.eq(outcome.kind),
            self.done.p.slot.eq(outcome.slot),
            self.done.p.state.eq(state),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += [failed.eq(outcome.failed), state.eq(outcome.entry.state)]
                with m.If(self.outcome.valid):
                    with m.If(outcome.failed != ErrorKind.NONE):
                        m.next = "LOG"
                    with m.Elif(outcome.is_written):
                        m.next = "WRITING"
                    with m.Else():
                        m.next = "UPDATE"
            with m.State("WRITING"):
                m.d.comb += self.write_done.ready.eq(1)
                with m.If(self.write_done.valid):
                    with m.If(self.write_done.p.error):
                        m.d.sync += [failed.eq(ErrorKind.MEMORY_WRITE), state.eq(PageState.POISONED)]
                    m.next = "UPDATE"
            with m.State("UPDATE"):
                m.d.comb += self.table_request.valid.eq(1)
                with m.If(self.table_request.ready):
                    m.next = "UPDATED"
            with m.State("UPDATED"):
                m.d.comb += self.table_response.ready.eq(1)
                with m.If(self.table_response.valid):
                    with m.If(self.table_response.p.fault != TableFault.NONE):
                        m.d.sync += [failed.eq(ErrorKind.MEMORY_WRITE), state.eq(PageState.POISONED)]
                        m.next = "LOG"
                    with m.Elif(state == PageState.OPEN):
                        m.next = "DONE"
                    with m.Else():
                        m.next = "GIVE_BACK"
            with m.State("GIVE_BACK"):
                # The reserved sectors, or what of them the sealed page does not take.
                m.d.comb += [
                    self.free.valid.eq(1),
                    self.free.p.sector.eq(Mux(remainder, outcome.reserved + outcome.sectors(), outcome.reserved)),
                    self.free.p.sectors.eq(Mux(remainder, OPEN_SECTORS - outcome.sectors(), OPEN_SECTORS)),
                ]
                with m.If(self.free.ready):
                    with m.If((failed != ErrorKind.NONE) & (outcome.kind == SealKind.SEAL) & ~outcome.stays):
                        m.next = "GIVE_BACK_NEW"
                    with m.Elif(failed != ErrorKind.NONE):
                        m.next = "LOG"
                    with m.Else():
                        m.next = "DONE"
            with m.State("GIVE_BACK_NEW"):
                m.d.comb += [
                    self.free.valid.eq(1),
                    self.free.p.sector.eq(outcome.entry.place),
                    self.free.p.sectors.eq(outcome.sectors()),
                ]
                with m.If(self.free.ready):
                    m.next = "LOG"
            with m.State("LOG"):
                m.d.comb += self.error.valid.eq(1)
                with m.If(self.error.ready):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [self.done.valid.eq(1), self.outcome.ready.eq(self.done.ready)]
                with m.If(transfer(self.done)):
                    m.next = "IDLE"
        return m
