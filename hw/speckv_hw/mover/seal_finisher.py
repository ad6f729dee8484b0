"""The end of every spill and seal: what follows when the page's lines are on their way to DRAM."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mem.flag_queue import FlagQueue
from speckv_hw.stream import Fifo, transfer
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


UPDATED = 8
"""Pages whose entry is on its way to DRAM."""


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
    """Waits until DRAM has the lines, writes the entry, waits for it too, gives sectors back, and answers, in order.

    While DRAM takes the entry of a page, those of up to `UPDATED` pages after it are written. A page whose lines DRAM
    refused becomes POISONED and gives back all that it held. Where the page table loses the entry (DRAM refuses it, and
    it cannot be kept either) nothing is given back, since it is not known what DRAM holds. Both are logged as
    MEMORY_WRITE.

    Members
    -------
    outcome : In(stream of SealOutcome)
    write_done : In(stream of WriteDone)
        One for each outcome that `is_written`, in order.
    table_request, table_response : client of the page table
        A response is taken at once, whoever does not take what comes out here.
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
        m.submodules.updated = updated = Fifo(SealOutcome, UPDATED)
        self._update(m, updated.i)
        self._answer(m, updated.o)
        return m

    def _update(self, m, updated):
        """From an outcome to its update; what came of its lines changes `failed` and the state."""
        outcome = Signal(SealOutcome)
        m.d.comb += [
            self.table_request.p.op.eq(TableOp.UPDATE),
            self.table_request.p.page.eq(outcome.page),
            self.table_request.p.entry.eq(outcome.entry),
            updated.payload.eq(outcome),
        ]
        with m.FSM(name="update"):
            with m.State("IDLE"):
                m.d.comb += self.outcome.ready.eq(1)
                m.d.sync += outcome.eq(self.outcome.payload)
                with m.If(self.outcome.valid):
                    with m.If(self.outcome.p.failed != ErrorKind.NONE):
                        m.next = "PASS"
                    with m.Elif(self.outcome.p.is_written):
                        m.next = "WRITING"
                    with m.Else():
                        m.next = "UPDATE"
            with m.State("WRITING"):
                m.d.comb += self.write_done.ready.eq(1)
                with m.If(self.write_done.valid):
                    with m.If(self.write_done.p.error):
                        m.d.sync += [
                            outcome.failed.eq(ErrorKind.MEMORY_WRITE),
                            outcome.entry.state.eq(PageState.POISONED),
                        ]
                    m.next = "UPDATE"
            with m.State("UPDATE"):
                m.d.comb += [
                    self.table_request.valid.eq(updated.ready),
                    updated.valid.eq(self.table_request.ready),
                ]
                with m.If(transfer(updated)):
                    m.next = "IDLE"
            with m.State("PASS"):
                m.d.comb += updated.valid.eq(1)
                with m.If(updated.ready):
                    m.next = "IDLE"

    def _answer(self, m, updated):
        """From the end of an update to the answer."""
        outcome = updated.p
        failed = Signal(ErrorKind)
        state = Signal(PageState)
        m.submodules.faults = faults = FlagQueue(UPDATED)
        remainder = (state == PageState.SEALED) & outcome.stays
        m.d.comb += [
            faults.i.payload.eq(self.table_response.p.fault != TableFault.NONE),
            faults.i.valid.eq(self.table_response.valid),
            self.table_response.ready.eq(faults.i.ready),
            self.error.p.kind.eq(failed),
            self.error.p.address.eq(outcome.page << 12),
            self.done.p.kind.eq(outcome.kind),
            self.done.p.slot.eq(outcome.slot),
            self.done.p.state.eq(state),
        ]
        with m.FSM(name="answer"):
            with m.State("UPDATED"):
                m.d.sync += [failed.eq(outcome.failed), state.eq(outcome.entry.state)]
                with m.If((outcome.failed != ErrorKind.NONE) & (outcome.failed != ErrorKind.MEMORY_WRITE)):
                    # There was no update.
                    with m.If(updated.valid):
                        m.next = "LOG"
                with m.Else():
                    m.d.comb += faults.o.ready.eq(updated.valid)
                    with m.If(transfer(faults.o)):
                        with m.If(faults.o.payload):
                            m.d.sync += [failed.eq(ErrorKind.MEMORY_WRITE), state.eq(PageState.POISONED)]
                            m.next = "LOG"
                        with m.Elif(outcome.entry.state == PageState.OPEN):
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
                m.d.comb += [self.done.valid.eq(1), updated.ready.eq(self.done.ready)]
                with m.If(transfer(self.done)):
                    m.next = "UPDATED"
