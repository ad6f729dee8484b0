"""Writes of page table entries to device DRAM."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import transfer
from speckv_hw.types import DRAM_LINE_WIDTH, Entry, WriteData, WriteDone, WriteRequest
from speckv_model.constants import ENTRIES_PER_LINE

__all__ = ["EntryWriter", "WriteJob"]


class WriteJob(data.Struct):
    """`entry` goes to the quarters `enable` of `count` table lines from `line` on."""
    line: DRAM_LINE_WIDTH
    count: 7
    enable: ENTRIES_PER_LINE
    entry: Entry


class EntryWriter(wiring.Component):
    """Writes an entry to one place in DRAM, or the same entry to many.

    A job is taken when its last line is handed over: 1 + `count` clocks at best. Jobs may follow before
    their writes are done; `done` passes through, one for each job in order. A reset drops the job under way.

    Members
    -------
    job : In(stream(WriteJob))
        1 <= `count` <= 64.
    done : Out(stream(WriteDone))
    write_request : Out(stream(WriteRequest))
    write_data : Out(stream(WriteData))
        Offered after the request that it belongs to was accepted.
    write_done : In(stream(WriteDone))
    """

    job: In(stream.Signature(WriteJob))
    done: Out(stream.Signature(WriteDone))
    write_request: Out(stream.Signature(WriteRequest))
    write_data: Out(stream.Signature(WriteData))
    write_done: In(stream.Signature(WriteDone))

    def elaborate(self, platform):
        m = Module()
        wiring.connect(m, wiring.flipped(self.write_done), wiring.flipped(self.done))
        job = self.job.payload
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
                m.d.comb += self.write_request.valid.eq(self.job.valid)
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
