"""Brings pages from DRAM into the page cache."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.codec.page_decoder import PageDecoder
from speckv_hw.config import DeviceConfig
from speckv_hw.mover.checksum import Checksum
from speckv_hw.mover.messages import MAX_STORED_LINES, SpillHeader, first_line
from speckv_hw.stream import Fifo, Stage, chain, transfer
from speckv_hw.types import (
    PAGE_WIDTH,
    SLOT_WIDTH,
    Codec,
    ErrorKind,
    ErrorRecord,
    FetchDone,
    FetchJob,
    FillLine,
    PageState,
    ReadData,
    ReadRequest,
    StreamInfo,
    TableFault,
    TableOp,
    TableRequest,
    TableResponse,
)
from speckv_model.codec.fixed import SETTINGS

__all__ = ["Fetcher", "FetcherEvents"]


class FetcherEvents(data.Struct):
    """Pulses for the counters."""
    line_in: 1
    """A stored line arrived from DRAM."""
    line_out: 1
    """A line went to the page cache."""


class _Pending(data.Struct):
    """A fetch whose lines are on their way."""
    slot: SLOT_WIDTH
    page: PAGE_WIDTH
    state: PageState
    codec: Codec
    stream: StreamInfo
    single: 1
    """Only row `row` is on its way."""
    row: 4
    rate: 5
    """Of a single row, its length in units of 8 bytes; it begins `skip` of them into the first line."""
    skip: 3
    lines: 7
    """0 where nothing is stored."""
    crc: 32
    bad: ErrorKind
    """Why the entry cannot be used; NONE if it can."""


class Fetcher(wiring.Component):
    """Looks a page up in the page table, reads what is stored of it, checks and decodes it, and fills a cache slot.

    `fetches_in_flight` pages, and one that waits to be noted, are on their way at once; they are delivered in order. A
    page's `done` comes after its last line was handed to the cache and its CRC was judged. EMPTY and POISONED pages
    need no DRAM access.

    A single row of a `fixed` page is read, checked by its own check and decoded alone, where the job wants that.

    What goes wrong makes the page POISONED in the cache, and an error record: check bits or owner of the entry
    (ENTRY_CORRUPT), CRC of what is stored (PAGE_CORRUPT). Where DRAM answers with an error (MEMORY_READ) the
    lines concerned are poison: one by one for `raw` and OPEN pages, all for other codecs. So are those of a single row
    whose check is wrong (PAGE_CORRUPT).

    Members
    -------
    job : In(stream of FetchJob)
    done : Out(stream of FetchDone)
    fill : Out(stream of FillLine)
    table_request, table_response : client of the page table
    read_request, read_data : client of the memory port
    error : Out(stream of ErrorRecord)
    events : Out(FetcherEvents)
    """

    def __init__(self, config: DeviceConfig):
        self._config = config
        super().__init__({
            "job": In(stream.Signature(FetchJob)),
            "done": Out(stream.Signature(FetchDone)),
            "fill": Out(stream.Signature(FillLine)),
            "table_request": Out(stream.Signature(TableRequest)),
            "table_response": In(stream.Signature(TableResponse)),
            "read_request": Out(stream.Signature(ReadRequest)),
            "read_data": In(stream.Signature(ReadData)),
            "error": Out(stream.Signature(ErrorRecord)),
            "events": Out(FetcherEvents),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.pending = pending = Fifo(_Pending, self._config.fetches_in_flight)
        m.submodules.error_stage = error = Stage(ErrorRecord)
        chain(m, error, self.error)
        self._request_pages(m, pending.i)
        self._receive_pages(m, pending.o, error.i)
        return m

    def _request_pages(self, m, pending):
        """First half: from the job to the burst that reads the stored page."""
        entry, fault = self.table_response.p.entry, self.table_response.p.fault
        info = self.job.p.stream
        found = Signal(_Pending)
        bad = Signal(ErrorKind)
        alone = self.job.p.single & (entry.state == PageState.SEALED) & (entry.codec == Codec.FIXED)
        rate = Mux(entry.lines[1:] < SETTINGS.start, SETTINGS.start,
                   Mux(entry.lines[1:] > SETTINGS[-1], SETTINGS[-1], entry.lines[1:]))
        # In units of 8 bytes, of which a line has eight.
        begin, end = Signal(9), Signal(9)
        m.d.comb += [begin.eq(self.job.p.row * rate), end.eq(begin + rate)]
        has_length = (entry.lines != 0) & (entry.lines <= MAX_STORED_LINES)
        with m.If(fault == TableFault.MEMORY):
            m.d.comb += bad.eq(ErrorKind.MEMORY_READ)
        with m.Elif((fault == TableFault.CORRUPT) | (entry.has_place() & (
                (entry.context != info.context) | ~has_length))):
            m.d.comb += bad.eq(ErrorKind.ENTRY_CORRUPT)
        with m.FSM(name="request"):
            with m.State("LOOKUP"):
                m.d.comb += [
                    self.table_request.valid.eq(self.job.valid),
                    self.table_request.p.op.eq(TableOp.LOOKUP),
                    self.table_request.p.page.eq(self.job.p.page),
                ]
                with m.If(transfer(self.table_request)):
                    m.next = "ENTRY"
            with m.State("ENTRY"):
                m.d.comb += self.table_response.ready.eq(1)
                m.d.sync += [
                    found.slot.eq(self.job.p.slot),
                    found.page.eq(self.job.p.page),
                    found.stream.eq(info),
                    found.codec.eq(entry.codec),
                    found.crc.eq(entry.crc),
                    found.lines.eq(Mux((bad == ErrorKind.NONE) & entry.has_place(), entry.lines, 0)),
                    found.state.eq(entry.state),
                    found.bad.eq(bad),
                    found.single.eq(0),
                    found.row.eq(self.job.p.row),
                    found.rate.eq(rate),
                    found.skip.eq(begin[:3]),
                    self.read_request.p.line.eq(first_line(self._config, entry.place)),
                    self.read_request.p.count.eq(entry.lines),
                ]
                with m.If((bad == ErrorKind.NONE) & alone):
                    m.d.sync += [
                        found.single.eq(1),
                        found.lines.eq((end + 7 >> 3) - begin[3:]),
                        self.read_request.p.line.eq(first_line(self._config, entry.place) + begin[3:]),
                        self.read_request.p.count.eq((end + 7 >> 3) - begin[3:]),
                    ]
                with m.If(self.table_response.valid):
                    with m.If((bad == ErrorKind.NONE) & entry.has_place()):
                        m.next = "READ"
                    with m.Else():
                        m.next = "PASS"
            with m.State("READ"):
                m.d.comb += self.read_request.valid.eq(1)
                with m.If(self.read_request.ready):
                    m.next = "PASS"
            with m.State("PASS"):
                m.d.comb += [pending.payload.eq(found), pending.valid.eq(1), self.job.ready.eq(pending.ready)]
                with m.If(pending.ready):
                    m.next = "LOOKUP"

    def _receive_pages(self, m, pending, error):
        """Second half: from the stored lines to the filled slot."""
        m.submodules.decoder = decoder = PageDecoder(self._config)
        m.submodules.checksum = checksum = Checksum()
        m.submodules.stored = stored = Stage(ReadData)
        chain(m, self.read_data, stored)
        page = pending.p
        line_errors = Signal(64)
        any_error = Signal()
        received = Signal(7)
        filled = Signal(7)
        outcome = Signal(FetchDone)
        header = data.View(SpillHeader, stored.o.p.data)
        # Lines that a SEALED page gets.
        here = Signal(64)
        m.d.comb += here.eq(Mux(page.single, Const(0xF, 64) << (page.row << 2), ~0))
        m.d.comb += [
            checksum.line.eq(stored.o.p.data),
            checksum.valid.eq(transfer(stored.o)),
            self.events.line_in.eq(transfer(stored.o)),
            self.events.line_out.eq(transfer(self.fill)),
            self.fill.p.slot.eq(page.slot),
            self.fill.p.line.eq(Mux(page.single, Cat(filled[:2], page.row), filled)),
            error.p.address.eq(page.page << 12),
            self.done.payload.eq(outcome),
        ]
        with m.If(transfer(stored.o)):
            m.d.sync += [received.eq(received + 1), any_error.eq(any_error | stored.o.p.error)]
        with m.If(transfer(self.fill)):
            m.d.sync += filled.eq(filled + 1)

        with m.FSM(name="receive"):
            with m.State("IDLE"):
                m.d.comb += checksum.start.eq(1)
                m.d.sync += [
                    received.eq(0),
                    filled.eq(0),
                    any_error.eq(0),
                    line_errors.eq(0),
                    outcome.eq(0),
                    outcome.slot.eq(page.slot),
                    outcome.state.eq(page.state),
                    outcome.single.eq(page.single),
                ]
                with m.If(pending.valid):
                    with m.If(page.bad != ErrorKind.NONE):
                        m.next = "BAD_ENTRY"
                    with m.Elif(page.lines == 0):
                        m.next = "DONE"
                    with m.Elif(page.state == PageState.OPEN):
                        m.next = "HEADER"
                    with m.Else():
                        m.d.comb += [
                            decoder.start.valid.eq(1),
                            decoder.start.p.codec.eq(page.codec),
                            decoder.start.p.dtype.eq(page.stream.dtype),
                            decoder.start.p.lines.eq(page.lines),
                            decoder.start.p.single.eq(page.single),
                            decoder.start.p.rate.eq(page.rate),
                            decoder.start.p.skip.eq(page.skip),
                        ]
                        with m.If(decoder.start.ready):
                            m.next = "SEALED"

            with m.State("HEADER"):
                m.d.comb += stored.o.ready.eq(1)
                m.d.sync += [
                    outcome.written.eq(header.written),
                    outcome.base.eq(header.base),
                    line_errors.eq(header.poison),
                ]
                with m.If(stored.o.valid):
                    with m.If(stored.o.p.error):
                        m.d.sync += outcome.state.eq(PageState.POISONED)
                    m.next = "OPEN"
            with m.State("OPEN"):
                m.d.comb += [
                    self.fill.p.data.eq(stored.o.p.data),
                    self.fill.valid.eq(stored.o.valid & (received != page.lines)),
                    stored.o.ready.eq(self.fill.ready & (received != page.lines)),
                ]
                with m.If(transfer(stored.o) & stored.o.p.error):
                    m.d.sync += line_errors.bit_select(filled[:6], 1).eq(1)
                with m.If(received == page.lines):
                    m.next = "JUDGE"

            with m.State("SEALED"):
                m.d.comb += [
                    decoder.stored.payload.eq(stored.o.p.data),
                    decoder.stored.valid.eq(stored.o.valid & (received != page.lines)),
                    stored.o.ready.eq(decoder.stored.ready & (received != page.lines)),
                    self.fill.p.data.eq(decoder.lines.payload),
                    self.fill.valid.eq(decoder.lines.valid),
                    decoder.lines.ready.eq(self.fill.ready),
                ]
                with m.If(transfer(stored.o) & stored.o.p.error):
                    with m.If(page.codec != Codec.RAW):
                        m.d.sync += line_errors.eq(~0)
                    with m.Elif(~received[6]):
                        m.d.sync += line_errors.bit_select(received[:6], 1).eq(1)
                with m.If((received == page.lines) & Mux(page.single, filled[2], filled[6])):
                    m.d.sync += outcome.written.eq(here)
                    m.next = "JUDGE"

            with m.State("JUDGE"):
                m.d.sync += outcome.poison.eq(line_errors & here)
                with m.If(any_error):
                    m.d.comb += [error.valid.eq(1), error.p.kind.eq(ErrorKind.MEMORY_READ)]
                    with m.If(error.ready):
                        m.next = "DONE"
                with m.Elif(page.single):
                    m.d.comb += [error.valid.eq(decoder.bad_row), error.p.kind.eq(ErrorKind.PAGE_CORRUPT)]
                    m.d.sync += outcome.poison.eq(here & decoder.bad_row.replicate(64))
                    with m.If(error.ready | ~decoder.bad_row):
                        m.next = "DONE"
                with m.Elif(checksum.crc != page.crc):
                    m.d.comb += [error.valid.eq(1), error.p.kind.eq(ErrorKind.PAGE_CORRUPT)]
                    m.d.sync += outcome.state.eq(PageState.POISONED)
                    with m.If(error.ready):
                        m.next = "DONE"
                with m.Else():
                    m.next = "DONE"
            with m.State("BAD_ENTRY"):
                m.d.comb += [error.valid.eq(1), error.p.kind.eq(page.bad)]
                m.d.sync += outcome.state.eq(PageState.POISONED)
                with m.If(error.ready):
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += [self.done.valid.eq(1), pending.ready.eq(self.done.ready)]
                with m.If(self.done.ready):
                    m.next = "IDLE"
