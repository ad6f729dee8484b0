"""Changes what a page holds in the pool without moving its lines."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.config import DeviceConfig
from speckv_hw.mover.messages import sectors_of
from speckv_hw.stream import Arbiter, Fifo, chain, transfer
from speckv_hw.types import (
    PAGE_WIDTH,
    AllocateRequest,
    AllocateResponse,
    Entry,
    ErrorKind,
    ErrorRecord,
    FreeRequest,
    OpenDone,
    OpenJob,
    OpenKind,
    PageState,
    TableFault,
    TableOp,
    TableRequest,
    TableResponse,
)
from speckv_model.constants import OPEN_SECTORS

__all__ = ["Opener"]

UNFINISHED = 8
"""Entries on their way to DRAM."""


class _Update(data.Struct):
    """An entry on its way to DRAM, and what the page held before."""
    page: PAGE_WIDTH
    gives_back: 1
    old: FreeRequest


class Opener(wiring.Component):
    """Opens, frees and poisons pages: page table entry and pool; jobs are answered in order.

    OPEN takes 33 sectors, hands the entry to the page table and answers; what the page held is given back when DRAM has
    the entry, up to `UNFINISHED` pages after it are opened meanwhile. Without room an EMPTY page becomes POISONED, any
    other stays as it is, and the answer says `refused`. FREE and POISON write the entry first, give back what the page
    held, and then answer. Where the old entry cannot be read (ENTRY_CORRUPT, MEMORY_READ) or the page table loses the
    new one (MEMORY_WRITE) that is logged, and the sectors concerned stay lost until the device is reset; a page that
    was to be opened is POISONED then, at once or when the sealer finds no entry.

    Members
    -------
    job : In(stream of OpenJob)
    done : Out(stream of OpenDone)
    table_request, table_response : client of the page table, to look entries up
    update_request, update_response : client of the page table, to write them
    allocate, allocated, free : client of the pool
    error : Out(stream of ErrorRecord)
    """

    def __init__(self, config: DeviceConfig):
        self._config = config
        super().__init__({
            "job": In(stream.Signature(OpenJob)),
            "done": Out(stream.Signature(OpenDone)),
            "table_request": Out(stream.Signature(TableRequest)),
            "table_response": In(stream.Signature(TableResponse)),
            "update_request": Out(stream.Signature(TableRequest)),
            "update_response": In(stream.Signature(TableResponse)),
            "allocate": Out(stream.Signature(AllocateRequest)),
            "allocated": In(stream.Signature(AllocateResponse)),
            "free": Out(stream.Signature(FreeRequest)),
            "error": Out(stream.Signature(ErrorRecord)),
        })

    def elaborate(self, platform):
        m = Module()
        job, done = self.job.p, self.done.p
        old = Signal(Entry)
        new = Signal(Entry)
        gives_back = Signal()
        m.submodules.errors = errors = Arbiter(ErrorRecord, 2)
        chain(m, errors, self.error)
        error = errors.inputs[0]
        m.submodules.updates = updates = Fifo(_Update, UNFINISHED)
        unfinished, failed = self._end_updates(m, updates, errors.inputs[1])
        found, fault = self.table_response.p.entry, self.table_response.p.fault
        is_foreign = found.has_place() & (found.context != job.stream.context)
        bad = (fault != TableFault.NONE) | is_foreign
        m.d.comb += [
            self.table_request.p.page.eq(job.page),
            self.allocate.p.sectors.eq(OPEN_SECTORS),
            self.allocate.p.context.eq(job.stream.context),
            self.table_request.p.op.eq(TableOp.LOOKUP),
            self.update_request.p.op.eq(TableOp.UPDATE),
            self.update_request.p.page.eq(job.page),
            self.update_request.p.entry.eq(new),
            updates.i.p.page.eq(job.page),
            updates.i.p.gives_back.eq(gives_back),
            updates.i.p.old.sector.eq(old.place),
            updates.i.p.old.sectors.eq(sectors_of(old)),
            error.p.address.eq(job.page << 12),
            error.p.kind.eq(Mux(fault == TableFault.MEMORY, ErrorKind.MEMORY_READ, ErrorKind.ENTRY_CORRUPT)),
            done.kind.eq(job.kind),
            done.slot.eq(job.slot),
            done.state.eq(new.state),
        ]
        with m.FSM():
            with m.State("LOOKUP"):
                m.d.sync += [new.eq(0), done.refused.eq(0)]
                m.d.comb += self.table_request.valid.eq(self.job.valid)
                with m.If(transfer(self.table_request)):
                    m.next = "ENTRY"
            with m.State("ENTRY"):
                m.d.sync += [old.eq(found), gives_back.eq(~bad & found.has_place())]
                with m.If(bad):
                    m.d.comb += [
                        error.valid.eq(self.table_response.valid),
                        self.table_response.ready.eq(error.ready),
                    ]
                with m.Else():
                    m.d.comb += self.table_response.ready.eq(1)
                with m.If(transfer(self.table_response)):
                    with m.Switch(job.kind):
                        with m.Case(OpenKind.OPEN):
                            with m.If(bad):
                                m.d.sync += new.state.eq(PageState.POISONED)
                                m.next = "DONE"
                            with m.Else():
                                m.next = "ALLOCATE"
                        with m.Case(OpenKind.POISON):
                            m.d.sync += [
                                new.state.eq(PageState.POISONED),
                                new.context.eq(job.stream.context),
                            ]
                            m.next = "UPDATE"
                        with m.Default():
                            m.next = "UPDATE"
            with m.State("ALLOCATE"):
                m.d.comb += self.allocate.valid.eq(1)
                with m.If(self.allocate.ready):
                    m.next = "PLACE"
            with m.State("PLACE"):
                m.d.comb += self.allocated.ready.eq(1)
                with m.If(self.allocated.valid):
                    with m.If(self.allocated.p.ok):
                        m.d.sync += [
                            new.state.eq(PageState.OPEN),
                            new.codec.eq(job.stream.codec),
                            new.context.eq(job.stream.context),
                            new.place.eq(self.allocated.p.sector),
                        ]
                        m.next = "UPDATE"
                    with m.Else():
                        m.d.sync += done.refused.eq(1)
                        with m.If(old.state == PageState.EMPTY):
                            m.d.sync += [
                                new.state.eq(PageState.POISONED),
                                new.context.eq(job.stream.context),
                            ]
                            m.next = "UPDATE"
                        with m.Else():
                            m.d.sync += new.state.eq(old.state)
                            m.next = "DONE"
            with m.State("UPDATE"):
                m.d.comb += [
                    self.update_request.valid.eq(updates.i.ready),
                    updates.i.valid.eq(self.update_request.ready),
                ]
                with m.If(transfer(self.update_request)):
                    with m.If(new.state == PageState.OPEN):
                        # The write that waits for this need not wait for DRAM.
                        m.next = "DONE"
                    with m.Else():
                        m.next = "UPDATED"
            with m.State("UPDATED"):
                with m.If(unfinished == 0):
                    with m.If(failed):
                        m.d.sync += new.state.eq(PageState.POISONED)
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [self.done.valid.eq(1), self.job.ready.eq(self.done.ready)]
                with m.If(self.job.ready):
                    m.next = "LOOKUP"
        return m

    def _end_updates(self, m, updates, error):
        """What follows when DRAM has an entry or refused it. How many have not come so far, and what became of the
        last one that has."""
        unfinished = Signal(range(UNFINISHED + 1))
        failed = Signal()
        update, end = updates.o.p, self.update_response
        refused = end.p.fault != TableFault.NONE
        comes = end.valid & updates.o.valid
        m.d.comb += [
            self.free.payload.eq(update.old),
            error.p.kind.eq(ErrorKind.MEMORY_WRITE),
            error.p.address.eq(update.page << 12),
            # Which entry DRAM holds after an error is not known, so neither place may be given away.
            error.valid.eq(comes & refused),
            self.free.valid.eq(comes & ~refused & update.gives_back),
            end.ready.eq(updates.o.valid & Mux(refused, error.ready, self.free.ready | ~update.gives_back)),
            updates.o.ready.eq(transfer(end)),
        ]
        m.d.sync += unfinished.eq(unfinished + transfer(updates.i) - transfer(end))
        with m.If(transfer(end)):
            m.d.sync += failed.eq(refused)
        return unfinished, failed
