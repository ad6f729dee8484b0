"""Brings pages from DRAM into the page cache."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.codec.page_decoder import PageDecoder
from speckv_hw.config import DeviceConfig
from speckv_hw.mover.checksum import Checksum
from speckv_hw.mover.look_ahead import CLIENTS, LookAhead
from speckv_hw.mover.messages import MAX_STORED_LINES, SpillHeader, first_line
from speckv_hw.stream import BypassFifo, Fifo, Stage, chain, transfer
from speckv_hw.types import (
    LINE_BITS,
    PAGE_WIDTH,
    SLOT_WIDTH,
    Codec,
    DecodeStart,
    ErrorKind,
    ErrorRecord,
    FetchDone,
    FetchJob,
    FillLine,
    PageState,
    ReadData,
    ReadRequest,
    StreamInfo,
    SurePage,
    TableFault,
    TableOp,
    TableRequest,
    TableResponse,
)
from speckv_model.codec.fixed import SETTINGS
from speckv_model.constants import PAGE_LINES, ROW_LINES

__all__ = ["Fetcher", "FetcherEvents"]

DECODED_PAGES = 3
"""Pages whose lines go into the decoder while those before them come out."""
STORED_LINES = 18
"""Lines that wait for the decoder: those of a page that is four times smaller, so that its CRC is known early."""


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


class _Verdict(data.Struct):
    """What came with the stored lines of a page."""
    right: 1
    """Their CRC is that of the entry."""
    any_error: 1
    line_errors: 64
    """Lines of the page that are lost to errors of DRAM."""


class Fetcher(wiring.Component):
    """Looks a page up in the page table, reads what is stored of it, checks and decodes it, and fills a cache slot.

    `fetches_in_flight` pages, one that waits to be noted and those in the decoder are on their way at once; they are
    delivered in order, SEALED ones at a line a clock, and a clock more where a page is not known right by its end.
    A page's `done` comes after its last line was handed to the cache and its CRC was judged; `sure` says as soon as
    that is known to be right. EMPTY and POISONED pages need no DRAM access.

    With the first page of each table line the next ones are looked up too (`LookAhead`), so that a sequence of pages
    does not wait for walks.

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
    sure : Out(SurePage)
        That of the lines that come next, if it is known to be right.
    table_request, table_response : client of the page table
    ahead_request0, ahead_response0, ... : clients of the page table, which are only to bring entries into the TLB
    read_request, read_data : client of the memory port
    error : Out(stream of ErrorRecord)
    events : Out(FetcherEvents)
    """

    def __init__(self, config: DeviceConfig):
        self._config = config
        ahead = {}
        for n in range(CLIENTS):
            ahead[f"ahead_request{n}"] = Out(stream.Signature(TableRequest))
            ahead[f"ahead_response{n}"] = In(stream.Signature(TableResponse))
        super().__init__(ahead | {
            "job": In(stream.Signature(FetchJob)),
            "done": Out(stream.Signature(FetchDone)),
            "fill": Out(stream.Signature(FillLine)),
            "sure": Out(SurePage),
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
        found = self._request_pages(m, pending.i)
        self._look_ahead(m, found, transfer(pending.i))
        m.submodules.decoder = decoder = PageDecoder(self._config)
        m.submodules.pages = pages = Fifo(_Pending, DECODED_PAGES)
        m.submodules.verdicts = verdicts = Fifo(_Verdict, DECODED_PAGES)
        open_page = self._take_stored(m, pending.o, decoder, pages.i, verdicts.i)
        self._deliver(m, pages.o, verdicts.o, decoder, open_page, error.i)
        return m

    def _request_pages(self, m, pending):
        """First half: from the job to the burst that reads the stored page. Returns what `pending` takes in the end."""
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
        return found

    def _look_ahead(self, m, found, passes):
        m.submodules.look_ahead = look_ahead = LookAhead()
        m.d.comb += [
            look_ahead.page.eq(self.job.p.page),
            look_ahead.looked_up.eq(transfer(self.table_request)),
            look_ahead.sealed.eq(passes & (found.state == PageState.SEALED)),
        ]
        for n in range(CLIENTS):
            chain(m, getattr(look_ahead, f"request{n}"), getattr(self, f"ahead_request{n}"))
            chain(m, getattr(self, f"ahead_response{n}"), getattr(look_ahead, f"response{n}"))

    def _take_stored(self, m, pending, decoder, pages, verdicts):
        """From the stored lines of SEALED pages to the decoder, page after page, with a verdict on each.

        The lines of an OPEN page are left to `_deliver`. Returns them, how many there were, what is known of them, and
        the signal that the page has ended.
        """
        m.submodules.checksum = checksum = Checksum()
        stored = self.read_data
        # Lines wait here so that their CRC need not.
        m.submodules.starts = starts = Fifo(DecodeStart, DECODED_PAGES)
        m.submodules.lines = lines = BypassFifo(LINE_BITS, STORED_LINES)
        chain(m, starts, decoder.start)
        chain(m, lines, decoder.stored)
        page = pending.p
        received = Signal(7)
        verdict = Signal(_Verdict)
        open_ends = Signal()
        has_lines = (page.bad == ErrorKind.NONE) & (page.lines != 0)
        m.d.comb += [
            checksum.line.eq(stored.p.data),
            checksum.valid.eq(transfer(stored)),
            self.events.line_in.eq(transfer(stored)),
            pages.payload.eq(page),
            verdicts.payload.eq(verdict),
            verdicts.p.right.eq(checksum.crc == page.crc),
            starts.i.p.codec.eq(page.codec),
            starts.i.p.dtype.eq(page.stream.dtype),
            starts.i.p.by_row.eq(page.stream.by_row),
            starts.i.p.lines.eq(page.lines),
            starts.i.p.single.eq(page.single),
            starts.i.p.rate.eq(page.rate),
            starts.i.p.skip.eq(page.skip),
            lines.i.payload.eq(stored.p.data),
        ]
        with m.If(transfer(stored)):
            m.d.sync += [received.eq(received + 1), verdict.any_error.eq(verdict.any_error | stored.p.error)]
        with m.FSM(name="stored"):
            with m.State("PAGE"):
                m.d.comb += checksum.start.eq(1)
                m.d.sync += [received.eq(0), verdict.eq(0)]
                with m.If(~has_lines):
                    m.d.comb += [pages.valid.eq(pending.valid), pending.ready.eq(pages.ready)]
                with m.Elif(page.state == PageState.OPEN):
                    m.d.comb += pages.valid.eq(pending.valid)
                    with m.If(transfer(pages)):
                        m.next = "OPEN"
                with m.Else():
                    m.d.comb += [
                        pages.valid.eq(pending.valid & starts.i.ready),
                        starts.i.valid.eq(pending.valid & pages.ready),
                    ]
                    with m.If(transfer(pages)):
                        m.next = "SEALED"
            with m.State("SEALED"):
                wanted = received != page.lines
                m.d.comb += [
                    lines.i.valid.eq(stored.valid & wanted),
                    stored.ready.eq(lines.i.ready & wanted),
                    verdicts.valid.eq(~wanted & ~checksum.summing),
                    pending.ready.eq(transfer(verdicts)),
                ]
                with m.If(transfer(stored) & stored.p.error):
                    with m.If(page.codec != Codec.RAW):
                        m.d.sync += verdict.line_errors.eq(~0)
                    with m.Elif(~received[6]):
                        m.d.sync += verdict.line_errors.bit_select(received[:6], 1).eq(1)
                with m.If(transfer(verdicts)):
                    m.next = "PAGE"
            with m.State("OPEN"):
                m.d.comb += pending.ready.eq(open_ends)
                with m.If(open_ends):
                    m.next = "PAGE"
        return stored, received, verdicts.p, open_ends

    def _deliver(self, m, page_port, verdict_port, decoder, open_page, error):
        """From the decoder to the slot, and the end of each page."""
        stored, received, open_verdict, open_ends = open_page
        m.submodules.done_stage = done = Stage(FetchDone)
        chain(m, done, self.done)
        page, outcome = page_port.p, done.i.p
        filled = Signal(7)
        line_errors = Signal(64)
        verdict = Signal(_Verdict)
        header = data.View(SpillHeader, stored.p.data)
        # Of an OPEN page.
        kept, lost = Signal(SpillHeader), Signal()
        is_open = page.state == PageState.OPEN
        # Lines that a SEALED page gets.
        here = Signal(64)
        problem = Signal(ErrorKind)
        ends = Signal()
        m.d.comb += [
            here.eq(Mux(page.single, Const(0xF, 64) << (page.row << 2), ~0)),
            self.events.line_out.eq(transfer(self.fill)),
            self.fill.p.slot.eq(page.slot),
            self.fill.p.line.eq(Mux(page.single, Cat(filled[:2], page.row), filled)),
            outcome.slot.eq(page.slot),
            outcome.single.eq(page.single),
            outcome.state.eq(page.state),
            error.p.address.eq(page.page << 12),
            error.p.kind.eq(problem),
            error.valid.eq(ends & (problem != ErrorKind.NONE) & done.i.ready),
            done.i.valid.eq(ends & ((problem == ErrorKind.NONE) | error.ready)),
            page_port.ready.eq(transfer(done.i)),
        ]
        with m.If(transfer(self.fill)):
            m.d.sync += filled.eq(filled + 1)
        with m.FSM(name="deliver"):
            with m.State("PAGE"):
                m.d.comb += self.fill.p.data.eq(decoder.lines.payload)
                m.d.sync += line_errors.eq(0)
                with m.If(page_port.valid):
                    with m.If((page.bad != ErrorKind.NONE) | (page.lines == 0)):
                        m.d.comb += [ends.eq(1), problem.eq(page.bad)]
                        with m.If(page.bad != ErrorKind.NONE):
                            m.d.comb += outcome.state.eq(PageState.POISONED)
                    with m.Elif(is_open):
                        m.next = "HEADER"
                    with m.Else():
                        m.d.comb += [
                            self.fill.valid.eq(decoder.lines.valid),
                            self.sure.valid.eq(verdict_port.valid & verdict_port.p.right
                                               & ~verdict_port.p.any_error & ~page.single),
                            self.sure.slot.eq(page.slot),
                            decoder.lines.ready.eq(self.fill.ready),
                        ]
                        with m.If(transfer(self.fill) & (filled == Mux(page.single, ROW_LINES, PAGE_LINES) - 1)):
                            with m.If(self.sure.valid & done.i.ready):
                                m.d.comb += [ends.eq(1), outcome.written.eq(~0), verdict_port.ready.eq(1)]
                                m.d.sync += filled.eq(0)
                            with m.Else():
                                m.next = "JUDGE"
            with m.State("HEADER"):
                m.d.comb += stored.ready.eq(1)
                m.d.sync += [kept.eq(header), lost.eq(stored.p.error)]
                with m.If(stored.valid):
                    m.next = "OPEN"
            with m.State("OPEN"):
                wanted = received != page.lines
                m.d.comb += [
                    self.fill.p.data.eq(stored.p.data),
                    self.fill.valid.eq(stored.valid & wanted),
                    stored.ready.eq(self.fill.ready & wanted),
                ]
                with m.If(transfer(stored) & stored.p.error):
                    m.d.sync += line_errors.bit_select(filled[:6], 1).eq(1)
                with m.If(~wanted):
                    m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.comb += [
                    ends.eq(is_open | verdict_port.valid),
                    verdict_port.ready.eq(transfer(done.i) & ~is_open),
                    open_ends.eq(transfer(done.i) & is_open),
                    verdict.eq(Mux(is_open, open_verdict.as_value(), verdict_port.payload.as_value())),
                    outcome.written.eq(Mux(is_open, kept.written, here)),
                    outcome.base.eq(is_open & kept.base),
                    outcome.poison.eq(Mux(is_open, kept.poison | line_errors, verdict.line_errors & here)),
                ]
                with m.If(is_open & lost):
                    m.d.comb += outcome.state.eq(PageState.POISONED)
                with m.If(verdict.any_error):
                    m.d.comb += problem.eq(ErrorKind.MEMORY_READ)
                with m.Elif(page.single):
                    with m.If(decoder.bad_row):
                        m.d.comb += [problem.eq(ErrorKind.PAGE_CORRUPT), outcome.poison.eq(here)]
                with m.Elif(~verdict.right):
                    m.d.comb += [problem.eq(ErrorKind.PAGE_CORRUPT), outcome.state.eq(PageState.POISONED)]
                with m.If(transfer(done.i)):
                    m.d.sync += filled.eq(0)
                    m.next = "PAGE"
