"""Writes of page table entries to device DRAM."""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import transfer
from speckv_hw.types import DRAM_LINE_WIDTH, Entry, WriteData, WriteDone, WriteRequest
from speckv_model.constants import ENTRIES_PER_LINE

__all__ = ["EndedJob", "EntryWriter", "WriteJob"]

WRITING = 16
"""Jobs whose end can be waited for at once."""


class WriteJob(data.Struct):
    """`entry` goes to the quarters `enable` of `count` table lines from `line` on."""
    line: DRAM_LINE_WIDTH
    count: 7
    enable: ENTRIES_PER_LINE
    entry: Entry


class EndedJob(data.Struct):
    job: WriteJob
    error: 1
    """Memory has refused a part of it."""


class EntryWriter(wiring.Component):
    """Writes an entry to one place in DRAM, or the same entry to many.

    A job is taken when its last line is handed over: 1 + `count` clocks at best. Up to `WRITING` jobs may follow
    before their writes are done; `ended` says of each, in order, how it did. A reset drops all jobs.

    Members
    -------
    job : In(stream(WriteJob))
        1 <= `count` <= 64.
    ended : Out(stream(EndedJob))
    line, writes : In, Out
        Whether a job that writes part of `line` was taken and its end was not. Whole lines are left out: who
        clears lets others read meanwhile.
    write_request : Out(stream(WriteRequest))
    write_data : Out(stream(WriteData))
        Offered after the request that it belongs to was accepted.
    write_done : In(stream(WriteDone))
    """

    job: In(stream.Signature(WriteJob))
    ended: Out(stream.Signature(EndedJob))
    line: In(DRAM_LINE_WIDTH)
    writes: Out(1)
    write_request: Out(stream.Signature(WriteRequest))
    write_data: Out(stream.Signature(WriteData))
    write_done: In(stream.Signature(WriteDone))

    def elaborate(self, platform):
        m = Module()
        job = self.job.payload
        room = self._remember(m)
        sent = Signal(7)
        last = Signal()
        m.d.comb += [
            self.write_request.payload.line.eq(job.line),
            self.write_request.payload.count.eq(job.count),
            self.write_data.payload.data.eq(Cat([job.entry] * ENTRIES_PER_LINE)),
            self.write_data.payload.enable.eq(job.enable),
            last.eq(sent + 1 == job.count),
        ]
        with m.FSM(name="step"):
            with m.State("REQUEST"):
                m.d.comb += self.write_request.valid.eq(self.job.valid & room)
                m.d.sync += sent.eq(0)
                with m.If(transfer(self.write_request)):
                    m.next = "DATA"
            with m.State("DATA"):
                m.d.comb += [self.write_data.valid.eq(1), self.job.ready.eq(self.write_data.ready & last)]
                with m.If(transfer(self.write_data)):
                    m.d.sync += sent.eq(sent + 1)
                    with m.If(last):
                        m.next = "REQUEST"
        return m

    def _remember(self, m):
        """Keeps each job until its end. Whether there is room for another one."""
        m.submodules.jobs = jobs = Memory(shape=WriteJob, depth=WRITING, init=[])
        read, write = jobs.read_port(domain="comb"), jobs.write_port()
        lines = Array(Signal(DRAM_LINE_WIDTH, name=f"line{n}") for n in range(WRITING))
        used, partial = Signal(WRITING), Signal(WRITING)
        newest, oldest = Signal(range(WRITING)), Signal(range(WRITING))
        m.d.comb += [
            read.addr.eq(oldest),
            write.addr.eq(newest),
            write.data.eq(self.job.payload),
            write.en.eq(transfer(self.job)),
            self.ended.payload.job.eq(read.data),
            self.ended.payload.error.eq(self.write_done.payload.error),
            self.ended.valid.eq(self.write_done.valid),
            self.write_done.ready.eq(self.ended.ready),
            self.writes.eq((Cat(line == self.line for line in lines) & used & partial).any()),
        ]
        with m.If(transfer(self.ended)):
            m.d.sync += [used.bit_select(oldest, 1).eq(0), oldest.eq(oldest + 1)]
        with m.If(transfer(self.job)):
            m.d.sync += [
                lines[newest].eq(self.job.payload.line),
                used.bit_select(newest, 1).eq(1),
                partial.bit_select(newest, 1).eq(~self.job.payload.enable.all()),
                newest.eq(newest + 1),
            ]
        return ~used.bit_select(newest, 1)
