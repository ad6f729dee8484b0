"""Changes what a page holds in the pool without moving its lines."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.config import DeviceConfig
from speckv_hw.mover.messages import sectors_of
from speckv_hw.stream import transfer
from speckv_hw.types import (
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


class Opener(wiring.Component):
    """Opens, frees and poisons pages: page table entry and pool, one job at a time, answered in order.

    OPEN takes 33 sectors, hands the entry to the page table and answers, then gives back what the page held; without
    room an EMPTY page becomes POISONED, any other stays as it is, and the answer says `refused`. FREE and POISON write
    the entry first, give back what the page held, and then answer. Where the old entry cannot be read (ENTRY_CORRUPT,
    MEMORY_READ) or the new one not be written (MEMORY_WRITE) that is logged, and the sectors concerned stay lost until
    the device is reset; a page that was to be opened is POISONED then, at once or when the sealer finds no entry.

    Members
    -------
    job : In(stream of OpenJob)
    done : Out(stream of OpenDone)
    table_request, table_response : client of the page table
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
            "allocate": Out(stream.Signature(6)),
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
        answered = Signal()
        found, fault = self.table_response.p.entry, self.table_response.p.fault
        is_foreign = found.has_place() & (found.context != job.stream.context)
        bad = (fault != TableFault.NONE) | is_foreign
        m.d.comb += [
            self.table_request.p.page.eq(job.page),
            self.allocate.payload.eq(OPEN_SECTORS),
            self.free.p.sector.eq(old.place),
            self.free.p.sectors.eq(sectors_of(old)),
            self.error.p.address.eq(job.page << 12),
            self.error.p.kind.eq(Mux(fault == TableFault.MEMORY, ErrorKind.MEMORY_READ, ErrorKind.ENTRY_CORRUPT)),
            done.kind.eq(job.kind),
            done.slot.eq(job.slot),
            done.state.eq(new.state),
        ]
        with m.FSM():
            with m.State("LOOKUP"):
                m.d.sync += [new.eq(0), done.refused.eq(0), answered.eq(0)]
                m.d.comb += [
                    self.table_request.valid.eq(self.job.valid),
                    self.table_request.p.op.eq(TableOp.LOOKUP),
                ]
                with m.If(transfer(self.table_request)):
                    m.next = "ENTRY"
            with m.State("ENTRY"):
                m.d.sync += [old.eq(found), gives_back.eq(~bad & found.has_place())]
                with m.If(bad):
                    m.d.comb += [
                        self.error.valid.eq(self.table_response.valid),
                        self.table_response.ready.eq(self.error.ready),
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
                    self.table_request.valid.eq(1),
                    self.table_request.p.op.eq(TableOp.UPDATE),
                    self.table_request.p.entry.eq(new),
                ]
                with m.If(self.table_request.ready):
                    with m.If(new.state == PageState.OPEN):
                        m.next = "OPENED"
                    with m.Else():
                        m.next = "UPDATED"
            with m.State("OPENED"):
                # The write that waits for this need not wait for DRAM: whoever looks the entry up will.
                m.d.comb += self.done.valid.eq(1)
                with m.If(self.done.ready):
                    m.d.sync += answered.eq(1)
                    m.next = "UPDATED"
            with m.State("UPDATED"):
                with m.If(fault != TableFault.NONE):
                    # Which entry DRAM holds now is not known, so neither place may be given away.
                    m.d.comb += [
                        self.error.valid.eq(self.table_response.valid),
                        self.error.p.kind.eq(ErrorKind.MEMORY_WRITE),
                        self.table_response.ready.eq(self.error.ready),
                    ]
                with m.Else():
                    m.d.comb += self.table_response.ready.eq(1)
                with m.If(transfer(self.table_response)):
                    with m.If(fault != TableFault.NONE):
                        m.d.sync += new.state.eq(PageState.POISONED)
                        m.next = "DONE"
                    with m.Elif(gives_back):
                        m.next = "GIVE_BACK"
                    with m.Else():
                        m.next = "DONE"
            with m.State("GIVE_BACK"):
                m.d.comb += self.free.valid.eq(1)
                with m.If(self.free.ready):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [self.done.valid.eq(~answered), self.job.ready.eq(answered | self.done.ready)]
                with m.If(self.job.ready):
                    m.next = "LOOKUP"
        return m
