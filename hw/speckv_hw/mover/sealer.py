"""Brings pages from the page cache to DRAM: spilled as they are, or sealed."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.codec.page_encoder import PageEncoder
from speckv_hw.config import DeviceConfig
from speckv_hw.mover.checksum import Checksum
from speckv_hw.mover.messages import SpillHeader, first_line
from speckv_hw.stream import Stage, chain, transfer
from speckv_hw.types import (LINE_BITS, AllocateResponse, Codec, Entry, ErrorKind, ErrorRecord, FreeRequest, PageState,
                             SealDone, SealJob, SealKind, SlotLine, TableFault, TableOp, TableRequest, TableResponse,
                             WriteData, WriteDone, WriteRequest)
from speckv_model.constants import OPEN_SECTORS

__all__ = ["Sealer", "SealerEvents"]


class SealerEvents(data.Struct):
    """Pulses for the counters."""
    line_in: 1
    """A line of a page that is being sealed left the page cache."""
    line_out: 1
    """A line of a sealed page went to DRAM."""


class Sealer(wiring.Component):
    """Writes pages to DRAM and their entries to the page table, one job at a time, answered in order.

    SPILL writes a header (`SpillHeader`) and the lines up to the last that holds content into the page's reserved 33
    sectors. SEAL encodes the page into a page buffer, places it, writes it, and gives the reserved sectors back; a page
    that its codec does not shrink is stored as `raw`. Where the pool has no room for the sealed page its first sectors
    are those that it had reserved. Lines without content are stored as zeros.

    A page with a poisoned line that is sealed becomes POISONED; so does one whose write DRAM refuses (logged as
    MEMORY_WRITE) or whose entry cannot be read (ENTRY_CORRUPT, MEMORY_READ). Where DRAM refuses the entry, the sectors
    of both places stay lost until the device is reset.

    Members
    -------
    job : In(stream of SealJob)
    done : Out(stream of SealDone)
    line_request, line_data : read port of the page cache
    table_request, table_response : client of the page table
    allocate, allocated, free : client of the pool
    write_request, write_data, write_done : client of the memory port
    error : Out(stream of ErrorRecord)
    events : Out(SealerEvents)
    """

    def __init__(self, config: DeviceConfig):
        self._config = config
        super().__init__({
            "job": In(stream.Signature(SealJob)),
            "done": Out(stream.Signature(SealDone)),
            "line_request": Out(stream.Signature(SlotLine)),
            "line_data": In(stream.Signature(LINE_BITS)),
            "table_request": Out(stream.Signature(TableRequest)),
            "table_response": In(stream.Signature(TableResponse)),
            "allocate": Out(stream.Signature(6)),
            "allocated": In(stream.Signature(AllocateResponse)),
            "free": Out(stream.Signature(FreeRequest)),
            "write_request": Out(stream.Signature(WriteRequest)),
            "write_data": Out(stream.Signature(WriteData)),
            "write_done": In(stream.Signature(WriteDone)),
            "error": Out(stream.Signature(ErrorRecord)),
            "events": Out(SealerEvents),
        })

    def elaborate(self, platform):
        m = Module()
        job = self.job.p
        m.submodules.encoder = encoder = PageEncoder(self._config)
        m.submodules.checksum = checksum = Checksum()
        m.submodules.write_stage = write = Stage(WriteData)
        chain(m, write, self.write_data)
        lines = self._content(m)
        stored = self._page_buffer(m, encoder)

        old = Signal(Entry)
        new = Signal(Entry)
        codec = Signal(Codec)
        failed = Signal(ErrorKind)
        own_room = Signal()
        written = Signal(7)
        last = self._last_line(m)
        sectors = (new.lines + 1) >> 1
        header = Signal(SpillHeader)
        m.d.comb += [
            header.written.eq(job.written),
            header.base.eq(job.base),
            header.poison.eq(job.poison),
            encoder.start.p.codec.eq(codec),
            encoder.start.p.dtype.eq(job.stream.dtype),
            self.table_request.p.page.eq(job.page),
            self.table_request.p.entry.eq(new),
            self.table_request.p.entry.crc.eq(checksum.crc),
            self.allocate.payload.eq(sectors),
            self.write_request.p.line.eq(first_line(self._config, new.place)),
            self.write_request.p.count.eq(new.lines),
            write.i.p.enable.eq(~0),
            checksum.line.eq(write.i.p.data),
            checksum.valid.eq(transfer(write.i)),
            self.error.p.kind.eq(failed),
            self.error.p.address.eq(job.page << 12),
            self.done.p.kind.eq(job.kind),
            self.done.p.slot.eq(job.slot),
            self.done.p.state.eq(new.state),
            self.events.line_in.eq(transfer(encoder.lines)),
            self.events.line_out.eq(transfer(write.i) & (job.kind == SealKind.SEAL)),
        ]

        with m.FSM():
            with m.State("LOOKUP"):
                m.d.sync += [
                    new.eq(0),
                    new.context.eq(job.stream.context),
                    new.codec.eq(job.stream.codec),
                    codec.eq(job.stream.codec),
                    failed.eq(ErrorKind.NONE),
                    own_room.eq(0),
                    written.eq(0),
                ]
                m.d.comb += [
                    self.table_request.valid.eq(self.job.valid),
                    self.table_request.p.op.eq(TableOp.LOOKUP),
                ]
                with m.If(transfer(self.table_request)):
                    m.next = "ENTRY"
            with m.State("ENTRY"):
                fault = self.table_response.p.fault
                m.d.comb += self.table_response.ready.eq(1)
                m.d.sync += [old.eq(self.table_response.p.entry), new.place.eq(self.table_response.p.entry.place)]
                with m.If(self.table_response.valid):
                    with m.If((fault != TableFault.NONE) | (self.table_response.p.entry.state != PageState.OPEN)):
                        m.d.sync += [
                            failed.eq(Mux(fault == TableFault.MEMORY, ErrorKind.MEMORY_READ, ErrorKind.ENTRY_CORRUPT)),
                            new.state.eq(PageState.POISONED),
                        ]
                        m.next = "LOG"
                    with m.Elif(job.kind == SealKind.SPILL):
                        m.d.sync += [new.state.eq(PageState.OPEN), new.lines.eq(last + 2)]
                        m.next = "WRITE"
                    with m.Elif(job.poison.any()):
                        m.d.sync += [new.state.eq(PageState.POISONED), new.place.eq(0)]
                        m.next = "UPDATE"
                    with m.Else():
                        m.d.sync += new.state.eq(PageState.SEALED)
                        m.next = "ENCODE"

            with m.State("ENCODE"):
                m.d.comb += encoder.start.valid.eq(1)
                with m.If(encoder.start.ready):
                    m.next = "ENCODING"
            with m.State("ENCODING"):
                m.d.comb += [
                    self._start_lines.eq(~self._started),
                    self._last_wanted.eq(63),
                    encoder.lines.payload.eq(lines.payload),
                    encoder.lines.valid.eq(lines.valid),
                    lines.ready.eq(encoder.lines.ready),
                    encoder.result.ready.eq(1),
                ]
                with m.If(encoder.result.valid):
                    m.d.comb += self._reset_lines.eq(1)
                    with m.If(encoder.result.p.fits | (codec == Codec.RAW)):
                        m.d.sync += [new.lines.eq(encoder.result.p.lines), new.codec.eq(codec)]
                        m.next = "ALLOCATE"
                    with m.Else():
                        m.d.sync += codec.eq(Codec.RAW)
                        m.next = "ENCODE"
            with m.State("ALLOCATE"):
                m.d.comb += self.allocate.valid.eq(1)
                with m.If(self.allocate.ready):
                    m.next = "PLACE"
            with m.State("PLACE"):
                m.d.comb += self.allocated.ready.eq(1)
                m.d.sync += own_room.eq(~self.allocated.p.ok)
                with m.If(self.allocated.valid):
                    with m.If(self.allocated.p.ok):
                        m.d.sync += new.place.eq(self.allocated.p.sector)
                    m.next = "WRITE"

            with m.State("WRITE"):
                m.d.comb += [self.write_request.valid.eq(1), checksum.start.eq(1)]
                with m.If(self.write_request.ready):
                    with m.If(job.kind == SealKind.SPILL):
                        m.next = "HEADER"
                    with m.Else():
                        m.next = "STORE"
            with m.State("HEADER"):
                m.d.comb += [write.i.p.data.eq(header), write.i.valid.eq(1)]
                with m.If(write.i.ready):
                    m.next = "SPILL"
            with m.State("SPILL"):
                m.d.comb += [
                    self._start_lines.eq(~self._started),
                    self._last_wanted.eq(last),
                    write.i.p.data.eq(lines.payload),
                    write.i.valid.eq(lines.valid),
                    lines.ready.eq(write.i.ready),
                ]
                with m.If(transfer(write.i)):
                    m.d.sync += written.eq(written + 1)
                    with m.If(written == last):
                        m.d.comb += self._reset_lines.eq(1)
                        m.next = "WRITTEN"
            with m.State("STORE"):
                m.d.comb += [
                    self._read_stored.eq(1),
                    write.i.p.data.eq(stored.payload),
                    write.i.valid.eq(stored.valid),
                    stored.ready.eq(write.i.ready),
                ]
                with m.If(transfer(write.i)):
                    m.d.sync += written.eq(written + 1)
                    with m.If(written + 1 == new.lines):
                        m.next = "WRITTEN"
            with m.State("WRITTEN"):
                m.d.comb += self.write_done.ready.eq(1)
                with m.If(self.write_done.valid):
                    with m.If(self.write_done.p.error):
                        m.d.sync += [
                            failed.eq(ErrorKind.MEMORY_WRITE),
                            new.state.eq(PageState.POISONED),
                        ]
                    m.next = "UPDATE"

            with m.State("UPDATE"):
                m.d.comb += [self.table_request.valid.eq(1), self.table_request.p.op.eq(TableOp.UPDATE)]
                with m.If(self.table_request.ready):
                    m.next = "UPDATED"
            with m.State("UPDATED"):
                m.d.comb += self.table_response.ready.eq(1)
                with m.If(self.table_response.valid):
                    with m.If(self.table_response.p.fault != TableFault.NONE):
                        # Which entry DRAM holds now is not known, so no place may be given away.
                        m.d.sync += [failed.eq(ErrorKind.MEMORY_WRITE), new.state.eq(PageState.POISONED)]
                        m.next = "LOG"
                    with m.Elif(new.state == PageState.OPEN):
                        m.next = "DONE"
                    with m.Else():
                        m.next = "GIVE_BACK"
            with m.State("GIVE_BACK"):
                # The reserved room, or what of it the sealed page does not take.
                keeps = own_room & (new.state == PageState.SEALED)
                m.d.comb += [
                    self.free.valid.eq(1),
                    self.free.p.sector.eq(Mux(keeps, old.place + sectors, old.place)),
                    self.free.p.sectors.eq(Mux(keeps, OPEN_SECTORS - sectors, OPEN_SECTORS)),
                ]
                with m.If(self.free.ready):
                    with m.If((failed != ErrorKind.NONE) & (job.kind == SealKind.SEAL) & ~own_room):
                        m.next = "GIVE_BACK_NEW"
                    with m.Elif(failed != ErrorKind.NONE):
                        m.next = "LOG"
                    with m.Else():
                        m.next = "DONE"
            with m.State("GIVE_BACK_NEW"):
                m.d.comb += [
                    self.free.valid.eq(1),
                    self.free.p.sector.eq(new.place),
                    self.free.p.sectors.eq(sectors),
                ]
                with m.If(self.free.ready):
                    m.next = "LOG"
            with m.State("LOG"):
                m.d.comb += self.error.valid.eq(1)
                with m.If(self.error.ready):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [self.done.valid.eq(1), self.job.ready.eq(self.done.ready)]
                with m.If(self.done.ready):
                    m.next = "LOOKUP"
        return m

    def _last_line(self, m):
        """Highest line of the job's page that holds content."""
        last = Signal(6)
        for line in range(64):
            with m.If(self.job.p.written[line] | self.job.p.base):
                m.d.comb += last.eq(line)
        return last

    def _content(self, m):
        """The page's lines 0 to `_last_wanted`, in order, zeros where there is no content.

        `_start_lines` begins a run; `_reset_lines` ends it after its last line was taken.
        """
        job = self.job.p
        m.submodules.content = content = Stage(LINE_BITS)
        self._start_lines = Signal()
        self._reset_lines = Signal()
        self._started = Signal()
        self._last_wanted = Signal(6)
        asking = Signal()
        asked = Signal(6)
        answered = Signal(6)
        m.d.comb += [
            self.line_request.valid.eq(asking),
            self.line_request.p.slot.eq(job.slot),
            self.line_request.p.line.eq(asked),
            content.i.payload.eq(Mux(job.base | job.written.bit_select(answered, 1), self.line_data.payload, 0)),
            content.i.valid.eq(self.line_data.valid),
            self.line_data.ready.eq(content.i.ready),
        ]
        with m.If(self._start_lines):
            m.d.sync += [asking.eq(1), self._started.eq(1), asked.eq(0), answered.eq(0)]
        with m.If(transfer(self.line_request)):
            m.d.sync += asked.eq(asked + 1)
            with m.If(asked == self._last_wanted):
                m.d.sync += asking.eq(0)
        with m.If(transfer(self.line_data)):
            m.d.sync += answered.eq(answered + 1)
        with m.If(self._reset_lines):
            m.d.sync += self._started.eq(0)
        return content.o

    def _page_buffer(self, m, encoder):
        """Takes the encoded page in any order; while `_read_stored` it gives its lines in order."""
        m.submodules.buffer = buffer = memory.Memory(shape=LINE_BITS, depth=64, init=[])
        write_port = buffer.write_port()
        read_port = buffer.read_port()
        self._read_stored = Signal()
        stored = stream.Signature(LINE_BITS).create(path=("stored",))
        index = Signal(6)
        ahead = Signal(6)
        m.d.comb += [
            write_port.addr.eq(encoder.stored.p.index),
            write_port.data.eq(encoder.stored.p.data),
            write_port.en.eq(encoder.stored.valid),
            encoder.stored.ready.eq(1),
            ahead.eq(Mux(transfer(stored), index + 1, index)),
            read_port.addr.eq(ahead),
            stored.payload.eq(read_port.data),
        ]
        # The first line is read one clock before it is wanted; from then on the next one is always under way.
        m.d.sync += stored.valid.eq(self._read_stored)
        m.d.sync += index.eq(Mux(self._read_stored, ahead, 0))
        return stored
