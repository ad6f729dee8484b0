"""Brings pages from the page cache to DRAM: spilled as they are, or sealed."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.codec.page_encoder import PageEncoder
from speckv_hw.config import DeviceConfig
from speckv_hw.mover.checksum import Checksum
from speckv_hw.mover.messages import SpillHeader, first_line
from speckv_hw.mover.seal_finisher import SealFinisher, SealOutcome
from speckv_hw.pool.first_one import first_one
from speckv_hw.stream import Fifo, Stage, chain, transfer
from speckv_hw.table.descriptor import Encoding, EncodingRequest
from speckv_hw.types import (
    LINE_BITS,
    AllocateResponse,
    Codec,
    ErrorKind,
    ErrorRecord,
    FreeRequest,
    PageState,
    SealDone,
    SealJob,
    SealKind,
    SlotLine,
    TableFault,
    TableOp,
    TableRequest,
    TableResponse,
    WriteData,
    WriteDone,
    WriteRequest,
)

__all__ = ["Sealer", "SealerEvents"]

UNFINISHED = 8
"""Pages whose lines are on their way to DRAM while the next one is encoded."""


class SealerEvents(data.Struct):
    """Pulses for the counters."""
    line_in: 1
    """A line of a page that is being sealed left the page cache."""
    line_out: 1
    """A line of a sealed page went to DRAM."""


class Sealer(wiring.Component):
    """Writes pages to DRAM and their entries to the page table, in order.

    SPILL writes a header (`SpillHeader`) and the lines up to the last that holds content into the page's reserved 33
    sectors. SEAL encodes the page into a page buffer, places it, writes it, and gives the reserved sectors back; a page
    that its codec does not shrink is stored as `raw`. The descriptor table says how a page is encoded; it is asked
    while the page's entry is looked up. Where the pool has no room for the sealed page its first sectors are those that
    it had reserved. Lines without content are stored as zeros. While DRAM takes the lines of a page, and the page table
    its entry (`SealFinisher`), the next page is encoded.

    A page with a poisoned line that is sealed becomes POISONED; so does one whose write DRAM refuses (logged as
    MEMORY_WRITE) or whose entry cannot be read (ENTRY_CORRUPT, MEMORY_READ). Where DRAM refuses the entry, the sectors
    of both places stay lost until the device is reset.

    Members
    -------
    job : In(stream of SealJob)
    done : Out(stream of SealDone)
    line_request, line_data : read port of the page cache
    encoding_request, encoding : to and from the descriptor table
    table_request, table_response : client of the page table, to look entries up
    update_request, update_response : client of the page table, to write them
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
            "encoding_request": Out(stream.Signature(EncodingRequest)),
            "encoding": In(stream.Signature(Encoding)),
            "table_request": Out(stream.Signature(TableRequest)),
            "table_response": In(stream.Signature(TableResponse)),
            "update_request": Out(stream.Signature(TableRequest)),
            "update_response": In(stream.Signature(TableResponse)),
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
        m.submodules.outcomes = outcomes = Fifo(SealOutcome, UNFINISHED)
        m.submodules.finisher = finisher = SealFinisher()
        chain(m, write, self.write_data)
        chain(m, outcomes, finisher.outcome)
        chain(m, finisher.table_request, self.update_request)
        chain(m, self.update_response, finisher.table_response)
        chain(m, self.write_done, finisher.write_done)
        for name in ("free", "error", "done"):
            chain(m, getattr(finisher, name), getattr(self, name))
        lines = self._content(m)
        encoding = self._encoding(m)
        stored = self._page_buffer(m, encoder)

        found, fault = self.table_response.p.entry, self.table_response.p.fault
        outcome = Signal(SealOutcome)
        entry = outcome.entry
        written = Signal(7)
        last = self._last_line(m)
        header = Signal(SpillHeader)
        m.d.comb += [
            header.written.eq(job.written),
            header.base.eq(job.base),
            header.poison.eq(job.poison),
            encoder.start.p.codec.eq(encoding.codec),
            encoder.start.p.setting.eq(encoding.setting),
            encoder.start.p.dtype.eq(job.stream.dtype),
            self.table_request.p.op.eq(TableOp.LOOKUP),
            self.table_request.p.page.eq(job.page),
            self.allocate.payload.eq(outcome.sectors()),
            self.write_request.p.line.eq(first_line(self._config, entry.place)),
            self.write_request.p.count.eq(entry.lines),
            write.i.p.enable.eq(~0),
            checksum.line.eq(write.i.p.data),
            checksum.valid.eq(transfer(write.i)),
            outcomes.i.payload.eq(outcome),
            outcomes.i.p.entry.crc.eq(checksum.crc),
            self.events.line_in.eq(transfer(encoder.lines)),
            self.events.line_out.eq(transfer(write.i) & (job.kind == SealKind.SEAL)),
        ]

        with m.FSM():
            with m.State("LOOKUP"):
                m.d.sync += [
                    outcome.eq(0),
                    outcome.kind.eq(job.kind),
                    outcome.slot.eq(job.slot),
                    outcome.page.eq(job.page),
                    entry.context.eq(job.stream.context),
                    entry.codec.eq(job.stream.codec),
                    written.eq(0),
                ]
                m.d.comb += self.table_request.valid.eq(self.job.valid)
                with m.If(transfer(self.table_request)):
                    m.next = "ENTRY"
            with m.State("ENTRY"):
                m.d.comb += [
                    self._ask_encoding.eq(job.kind == SealKind.SEAL),
                    self.table_response.ready.eq(self._asked_encoding | (job.kind == SealKind.SPILL)),
                ]
                m.d.sync += [outcome.reserved.eq(found.place), entry.place.eq(found.place)]
                with m.If(transfer(self.table_response)):
                    with m.If((fault != TableFault.NONE) | (found.state != PageState.OPEN)):
                        m.d.sync += [
                            outcome.failed.eq(Mux(fault == TableFault.MEMORY,
                                                  ErrorKind.MEMORY_READ, ErrorKind.ENTRY_CORRUPT)),
                            entry.state.eq(PageState.POISONED),
                        ]
                        m.next = "FINISH"
                    with m.Elif(job.kind == SealKind.SPILL):
                        m.d.sync += [entry.state.eq(PageState.OPEN), entry.lines.eq(last + 2)]
                        m.next = "WRITE"
                    with m.Elif(job.poison.any()):
                        m.d.sync += [entry.state.eq(PageState.POISONED), entry.place.eq(0)]
                        m.next = "FINISH"
                    with m.Else():
                        m.d.sync += entry.state.eq(PageState.SEALED)
                        m.next = "ENCODE"

            with m.State("ENCODE"):
                m.d.comb += encoder.start.valid.eq(self._has_encoding)
                with m.If(transfer(encoder.start)):
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
                    with m.If(encoder.result.p.fits | (encoding.codec == Codec.RAW)):
                        m.d.sync += [
                            entry.lines.eq(encoder.result.p.lines),
                            entry.codec.eq(encoding.codec),
                            self._first_stored.eq(encoder.result.p.first),
                            self._last_stored.eq(encoder.result.p.lines - 1),
                        ]
                        m.next = "ALLOCATE"
                    with m.Else():
                        m.d.sync += encoding.eq(0)
                        m.next = "ENCODE"
            with m.State("ALLOCATE"):
                m.d.comb += self.allocate.valid.eq(1)
                with m.If(self.allocate.ready):
                    m.next = "PLACE"
            with m.State("PLACE"):
                m.d.comb += self.allocated.ready.eq(1)
                m.d.sync += outcome.stays.eq(~self.allocated.p.ok)
                with m.If(self.allocated.valid):
                    with m.If(self.allocated.p.ok):
                        m.d.sync += entry.place.eq(self.allocated.p.sector)
                    m.next = "WRITE"

            with m.State("WRITE"):
                m.d.comb += [self.write_request.valid.eq(1), checksum.start.eq(1)]
                m.d.sync += outcome.is_written.eq(1)
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
                        m.next = "FINISH"
            with m.State("STORE"):
                m.d.comb += [
                    self._read_stored.eq(1),
                    write.i.p.data.eq(stored.payload),
                    write.i.valid.eq(stored.valid),
                    stored.ready.eq(write.i.ready),
                ]
                with m.If(transfer(write.i)):
                    m.d.sync += written.eq(written + 1)
                    with m.If(written + 1 == entry.lines):
                        m.next = "FINISH"
            with m.State("FINISH"):
                m.d.comb += [outcomes.i.valid.eq(1), self.job.ready.eq(outcomes.i.ready)]
                with m.If(outcomes.i.ready):
                    m.next = "LOOKUP"
        return m

    def _last_line(self, m):
        """Highest line of the job's page that holds content."""
        last = Signal(6)
        any_written, from_the_end = first_one(self.job.p.written[::-1])
        m.d.comb += last.eq(Mux(self.job.p.base, 63, Mux(any_written, 63 - from_the_end, 0)))
        return last

    def _encoding(self, m):
        """How the page is to be encoded, once `_has_encoding`: asked for while `_ask_encoding`, but only once a job."""
        encoding = Signal(Encoding)
        self._ask_encoding = Signal()
        self._asked_encoding = Signal()
        self._has_encoding = Signal()
        waiting = Signal()
        m.d.comb += [
            self.encoding_request.p.page.eq(self.job.p.page),
            self.encoding_request.p.stream.eq(self.job.p.stream),
            self.encoding_request.valid.eq(self._ask_encoding & ~self._asked_encoding & ~waiting),
            self.encoding.ready.eq(1),
            self._has_encoding.eq(~waiting),
        ]
        with m.If(transfer(self.job)):
            m.d.sync += self._asked_encoding.eq(0)
        with m.If(transfer(self.encoding)):
            m.d.sync += [encoding.eq(self.encoding.payload), waiting.eq(0)]
        with m.If(transfer(self.encoding_request)):
            m.d.sync += [self._asked_encoding.eq(1), waiting.eq(1)]
        return encoding

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
        """Takes the encoded page in any order; while `_read_stored` it gives lines `_first_stored` to `_last_stored`,
        then those from 0 on."""
        # What is read while the encoder writes is not used: lines leave only after its result.
        m.submodules.buffer = buffer = memory.Memory(shape=LINE_BITS, depth=64, init=[], attrs={"no_rw_check": 1})
        write_port = buffer.write_port()
        read_port = buffer.read_port()
        self._read_stored = Signal()
        self._first_stored = Signal(6)
        self._last_stored = Signal(6)
        stored = stream.Signature(LINE_BITS).create(path=("stored",))
        index = Signal(6)
        ahead = Signal(6)
        m.d.comb += [
            write_port.addr.eq(encoder.stored.p.index),
            write_port.data.eq(encoder.stored.p.data),
            write_port.en.eq(encoder.stored.valid),
            encoder.stored.ready.eq(1),
            ahead.eq(Mux(transfer(stored), Mux(index == self._last_stored, 0, index + 1), index)),
            read_port.addr.eq(ahead),
            stored.payload.eq(read_port.data),
        ]
        # The first line is read one clock before it is wanted; from then on the next one is always under way.
        m.d.sync += stored.valid.eq(self._read_stored)
        m.d.sync += index.eq(Mux(self._read_stored, ahead, self._first_stored))
        return stored
