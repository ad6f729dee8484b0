"""Entries that device DRAM has refused, until it takes them."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import Fifo, transfer
from speckv_hw.table.claims import Claim
from speckv_hw.table.writer import EndedJob, WriteJob
from speckv_hw.types import (
    DRAM_LINE_WIDTH,
    LINE_BITS,
    Entry,
    ErrorKind,
    ErrorRecord,
    ReadData,
    ReadRequest,
)
from speckv_model.constants import ENTRIES_PER_LINE, PAGE_BITS
from speckv_model.table.page_table import KEPT

__all__ = ["JobDone", "KeptEntries", "Walk", "WalkData"]

RETRY_CLOCKS = 1024
"""From one attempt to write an entry again to the next."""
READS = 8
"""Lines that are read from DRAM at once."""


class Walk(data.Struct):
    """The table line of an entry is wanted."""
    line: DRAM_LINE_WIDTH
    quarter: range(ENTRIES_PER_LINE)


class WalkData(data.Struct):
    entry: Entry
    """The one that was asked for."""
    data: LINE_BITS
    """The line, unless `partial`."""
    error: 1
    partial: 1
    """Other entries of the line may be out of date: nothing for the TLB."""


class JobDone(data.Struct):
    """A job has ended that began with `line`."""
    line: DRAM_LINE_WIDTH
    error: 1
    """DRAM has refused it."""
    kept: 1
    """The entry counts all the same."""


class _Slot(data.Struct):
    line: DRAM_LINE_WIDTH
    quarter: range(ENTRIES_PER_LINE)
    entry: Entry


class KeptEntries(wiring.Component):
    """Keeps up to `slots` entries that DRAM would not take, answers walks from them, and tries to write them again.

    Stands between the walkers and DRAM. An entry is kept until a write of its place succeeds, or a CLEAR of it was
    tried; each that begins to be kept is logged as MEMORY_WRITE. Slots are looked through one a clock, by one search at
    a time, and only where there are any: else a job's end passes at once and a walk in `latency` clocks. Where there is
    no slot for an entry that was refused, what DRAM holds can be trusted no more, and every walk ends as an error until
    the next reset, which empties all slots.

    Parameters
    ----------
    slots : int
        Power of two.
    retry_clocks : int
        Power of two: from one attempt to write an entry to the next.

    Members
    -------
    ended : In(stream(EndedJob))
    done : Out(stream(JobDone))
        One for each job, in order.
    walk : In(stream(Walk))
        Walks of lines that a job is writing in part are held back outside.
    walked : Out(stream(WalkData))
    read_request : Out(stream(ReadRequest)), read_data : In(stream(ReadData))
    claim : Out(Claim())
        Held from before an entry is written again until the job is handed over.
    writing_line, writing : Out, In
        Whether a job that writes part of that line is under way; looked at while the claim is held.
    retry : Out(stream(WriteJob))
    retried : In(stream(JobDone))
    error : Out(stream(ErrorRecord))
    """

    latency = 1

    def __init__(self, slots=KEPT, retry_clocks=RETRY_CLOCKS):
        if not isinstance(slots, int) or slots < 2 or slots & (slots - 1):
            raise ValueError(f"slots must be a power of two of at least 2, not {slots!r}")
        if not isinstance(retry_clocks, int) or retry_clocks < 2 or retry_clocks & (retry_clocks - 1):
            raise ValueError(f"retry_clocks must be a power of two of at least 2, not {retry_clocks!r}")
        self._slots = slots
        self._retry_clocks = retry_clocks
        super().__init__({
            "ended": In(stream.Signature(EndedJob)),
            "done": Out(stream.Signature(JobDone)),
            "walk": In(stream.Signature(Walk)),
            "walked": Out(stream.Signature(WalkData)),
            "read_request": Out(stream.Signature(ReadRequest)),
            "read_data": In(stream.Signature(ReadData)),
            "claim": Out(Claim()),
            "writing_line": Out(DRAM_LINE_WIDTH),
            "writing": In(1),
            "retry": Out(stream.Signature(WriteJob)),
            "retried": In(stream.Signature(JobDone)),
            "error": Out(stream.Signature(ErrorRecord)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.slots = slots = Memory(shape=_Slot, depth=self._slots, init=[])
        # One read port: that of the search, and while there is none of who writes entries again.
        read = slots.read_port(domain="comb")
        used = Signal(self._slots)
        searches = Signal()
        """A search is under way."""
        lost = Signal()
        """An entry was refused and there was no slot for it."""
        search = self._search(m, slots.write_port(), read, used, lost, searches)
        self._walk(m, used, lost, search)
        self._try_again(m, read, used, searches)
        return m

    def _search(self, m, write, read, used, lost, searches):
        """Looks the slots through, for jobs that end and for walks that want it, and changes them."""
        search = Signal(data.StructLayout({
            "walk": Walk, "wanted": 1, "done": 1, "same_line": 1, "same_entry": 1, "entry": Entry}))
        # Slot `index` is looked at, and the one at `ahead` read.
        ahead, index, place = (Signal(range(self._slots)) for _ in range(3))
        slot = Signal(_Slot)
        found, free, is_new, kept = Signal(), Signal(), Signal(), Signal()
        is_used = used.bit_select(index, 1)
        error, job = self.ended.p.error, self.ended.p.job
        is_entry = ~job.enable.all()
        is_same = (slot.line == job.line) & job.enable.bit_select(slot.quarter, 1)
        is_cleared = (slot.line - job.line)[:len(job.line)] < job.count
        covered = Mux(is_entry, is_same, is_cleared) & is_used
        passes = ~error & ~used.any()
        with m.If(searches):
            m.d.comb += read.addr.eq(ahead)
        m.d.sync += [slot.eq(read.data), index.eq(ahead), ahead.eq(ahead + 1)]
        m.d.comb += [
            write.addr.eq(place),
            write.data.line.eq(job.line),
            write.data.quarter.eq(Cat(job.enable[1] | job.enable[3], job.enable[2] | job.enable[3])),
            write.data.entry.eq(job.entry),
            self.done.p.line.eq(job.line),
            self.done.p.error.eq(error),
            self.done.p.kept.eq(kept),
            self.error.p.kind.eq(ErrorKind.MEMORY_WRITE),
            self.error.p.address.eq(Cat(write.data.quarter, job.line) << PAGE_BITS),
        ]
        with m.FSM(name="search") as steps:
            m.d.comb += searches.eq(~steps.ongoing("IDLE"))
            with m.State("IDLE"):
                m.d.comb += [
                    self.done.valid.eq(self.ended.valid & passes),
                    self.ended.ready.eq(self.done.ready & passes),
                ]
                m.d.sync += [ahead.eq(0), found.eq(0), free.eq(0), is_new.eq(0), kept.eq(0)]
                m.d.sync += [search.same_line.eq(0), search.same_entry.eq(0)]
                with m.If(self.ended.valid):
                    with m.If(~passes):
                        m.next = "READ"
                with m.Elif(search.wanted):
                    m.next = "READ"
            with m.State("READ"):
                with m.If(self.ended.valid):
                    m.next = "END"
                with m.Else():
                    m.next = "WALK"
            with m.State("WALK"):
                with m.If(is_used & (slot.line == search.walk.line)):
                    m.d.sync += search.same_line.eq(1)
                    with m.If(slot.quarter == search.walk.quarter):
                        m.d.sync += [search.same_entry.eq(1), search.entry.eq(slot.entry)]
                with m.If(index == self._slots - 1):
                    m.next = "WALKED"
            with m.State("WALKED"):
                m.d.comb += search.done.eq(1)
                m.next = "IDLE"

            with m.State("END"):
                with m.If(~is_used & ~free):
                    m.d.sync += [free.eq(1), place.eq(index)]
                with m.If(covered & ~(error & is_entry)):
                    m.d.sync += used.bit_select(index, 1).eq(0)
                with m.If(covered & error & is_entry):
                    m.d.sync += [found.eq(1), place.eq(index)]
                    m.next = "KEEP"
                with m.Elif(index == self._slots - 1):
                    m.next = "KEEP"
            with m.State("KEEP"):
                with m.If(error & is_entry):
                    with m.If(found | free):
                        m.d.comb += write.en.eq(1)
                        m.d.sync += [used.bit_select(write.addr, 1).eq(1), kept.eq(1), is_new.eq(~found)]
                    with m.Else():
                        m.d.sync += lost.eq(1)
                m.next = "LOG"
            with m.State("LOG"):
                m.d.comb += self.error.valid.eq(is_new)
                with m.If(~is_new | self.error.ready):
                    m.next = "ENDED"
            with m.State("ENDED"):
                m.d.comb += [self.done.valid.eq(1), self.ended.ready.eq(self.done.ready)]
                with m.If(self.done.ready):
                    m.next = "IDLE"
        return search

    def _walk(self, m, used, lost, search):
        """Walks overlap in DRAM while nothing is kept, and go one by one else."""
        partial, gives, fails = Signal(), Signal(), Signal()
        reading = Signal(range(READS + 1))
        m.submodules.asked = asked = Fifo(data.StructLayout({"partial": 1, "quarter": range(ENTRIES_PER_LINE)}), READS)
        answers = ~gives & asked.o.valid
        entries = self.read_data.p.data.word_select(asked.o.p.quarter, LINE_BITS // ENTRIES_PER_LINE)
        m.d.sync += reading.eq(reading + transfer(self.read_request) - transfer(self.read_data))
        m.d.comb += [
            self.read_request.p.line.eq(search.walk.line),
            self.read_request.p.count.eq(1),
            asked.i.p.partial.eq(partial),
            asked.i.p.quarter.eq(search.walk.quarter),
            asked.i.valid.eq(transfer(self.read_request)),
            asked.o.ready.eq(transfer(self.read_data)),
            self.walked.valid.eq(gives | (answers & self.read_data.valid)),
            self.walked.p.entry.eq(Mux(gives, search.entry.as_value(), entries)),
            self.walked.p.data.eq(self.read_data.p.data),
            self.walked.p.error.eq(Mux(gives, fails, self.read_data.p.error)),
            self.walked.p.partial.eq(gives | asked.o.p.partial),
            self.read_data.ready.eq(answers & self.walked.ready),
        ]
        with m.FSM(name="walk"):
            with m.State("TAKE"):
                is_plain = ~used.any() & ~lost
                m.d.comb += self.walk.ready.eq(is_plain | (reading == 0))
                m.d.sync += [search.walk.eq(self.walk.p), partial.eq(0)]
                with m.If(transfer(self.walk)):
                    with m.If(is_plain):
                        m.next = "READ"
                    with m.Else():
                        m.next = "LOOK"
            with m.State("LOOK"):
                m.d.comb += search.wanted.eq(~search.done & ~lost)
                m.d.sync += [partial.eq(search.same_line), fails.eq(lost)]
                with m.If(lost | (search.done & search.same_entry)):
                    m.next = "GIVE"
                with m.Elif(search.done):
                    m.next = "READ"
            with m.State("READ"):
                m.d.comb += self.read_request.valid.eq(reading != READS)
                with m.If(transfer(self.read_request)):
                    m.next = "TAKE"
            with m.State("GIVE"):
                m.d.comb += gives.eq(1)
                with m.If(self.walked.ready):
                    m.next = "TAKE"

    def _try_again(self, m, read, used, searches):
        """Writes one kept entry after the other, unless somebody else is about to."""
        clocks = Signal(range(self._retry_clocks))
        index = Signal(range(self._slots))
        line = Signal(DRAM_LINE_WIDTH)
        again = Signal(_Slot)
        slot, is_used = read.data, used.bit_select(index, 1)
        job, claim = self.retry.p, self.claim
        m.d.sync += clocks.eq(clocks + 1)
        with m.If(~searches):
            m.d.comb += read.addr.eq(index)
        m.d.comb += [
            claim.line.eq(line),
            self.writing_line.eq(line),
            job.line.eq(line),
            job.count.eq(1),
            job.enable.eq(1 << again.quarter),
            job.entry.eq(again.entry),
        ]
        with m.FSM(name="retry"):
            with m.State("WAIT"):
                m.d.sync += line.eq(slot.line)
                with m.If(~is_used):
                    m.d.sync += index.eq(index + 1)
                with m.Elif(clocks.all() & ~searches):
                    m.next = "CLAIM"
            with m.State("CLAIM"):
                m.d.comb += claim.waiting.eq(1)
                with m.If(~claim.blocked):
                    m.d.sync += claim.held.eq(1)
                    m.next = "LOOK"
            with m.State("LOOK"):
                # Whatever the slot has now stays there until somebody writes the entry, and nobody does.
                m.d.sync += again.eq(slot)
                with m.If(~searches):
                    with m.If(is_used & (slot.line == line) & ~self.writing):
                        m.next = "WRITE"
                    with m.Else():
                        m.d.sync += claim.held.eq(0)
                        m.next = "NEXT"
            with m.State("WRITE"):
                m.d.comb += self.retry.valid.eq(1)
                with m.If(self.retry.ready):
                    m.d.sync += claim.held.eq(0)
                    m.next = "WRITING"
            with m.State("WRITING"):
                m.d.comb += self.retried.ready.eq(1)
                with m.If(self.retried.valid):
                    m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += index.eq(index + 1)
                m.next = "WAIT"
