"""Hands the lines of every page to the memory port."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.config import DeviceConfig
from speckv_hw.mover.checksum import Checksum
from speckv_hw.mover.line_reader import LineRun
from speckv_hw.mover.messages import SpillHeader, first_line
from speckv_hw.mover.seal_finisher import SealOutcome
from speckv_hw.mover.seal_placer import PlacedPage
from speckv_hw.stream import Register, chain, transfer
from speckv_hw.types import LINE_BITS, PageState, SealKind, WriteData, WriteRequest

__all__ = ["SealStorer"]


class SealStorer(wiring.Component):
    """Writes pages to DRAM and computes their CRC: encoded ones from the page buffer, others from the page cache.

    A spilled page is its header (`SpillHeader`) and its lines up to the last that holds content. Five clocks and one
    for each line; in order.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    placed : In(stream of PlacedPage)
    outcome : Out(stream of SealOutcome)
        When the last line was handed over.
    first, last, read, left, stored : to and from the page buffer
    run, lines : user of the line reader
    write_request, write_data : client of the memory port
    line_out : Out
        Pulse: a line of a SEALED page was handed over.
    """

    def __init__(self, config: DeviceConfig):
        self._config = config
        super().__init__({
            "placed": In(stream.Signature(PlacedPage)),
            "outcome": Out(stream.Signature(SealOutcome)),
            "first": Out(6),
            "last": Out(6),
            "read": Out(1),
            "left": Out(1),
            "stored": In(stream.Signature(LINE_BITS)),
            "run": Out(stream.Signature(LineRun)),
            "lines": In(stream.Signature(LINE_BITS)),
            "write_request": Out(stream.Signature(WriteRequest)),
            "write_data": Out(stream.Signature(WriteData)),
            "line_out": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        page = self.placed.p.page
        outcome = page.outcome
        entry = outcome.entry
        m.submodules.checksum = checksum = Checksum()
        m.submodules.write_register = write = Register(WriteData)
        chain(m, write, self.write_data)
        # Lines are summed from the register, in the first clock that they are there.
        is_new = Signal()
        m.d.sync += is_new.eq(transfer(write.i))
        is_spilled = outcome.kind == SealKind.SPILL
        is_encoded = entry.state == PageState.SEALED
        written = Signal(7)
        header = Signal(SpillHeader)
        m.d.comb += [
            header.written.eq(page.written),
            header.base.eq(page.base),
            header.poison.eq(page.poison),
            self.first.eq(self.placed.p.first),
            self.last.eq(entry.lines - 1),
            self.run.p.slot.eq(outcome.slot),
            self.run.p.base.eq(page.base),
            self.run.p.written.eq(page.written),
            # Before the lines of a spilled page comes its header.
            self.run.p.last.eq(entry.lines - 1 - is_spilled),
            self.write_request.p.line.eq(first_line(self._config, entry.place)),
            self.write_request.p.count.eq(entry.lines),
            write.i.p.enable.eq(~0),
            checksum.line.eq(write.o.p.data),
            checksum.valid.eq(is_new),
            self.line_out.eq(transfer(write.i) & ~is_spilled),
            self.outcome.payload.eq(outcome),
            self.outcome.p.entry.crc.eq(checksum.crc),
        ]
        with m.If(transfer(write.i)):
            m.d.sync += written.eq(written + 1)
        with m.FSM():
            with m.State("PAGE"):
                m.d.comb += checksum.start.eq(1)
                m.d.sync += written.eq(0)
                with m.If(self.placed.valid):
                    with m.If(entry.state == PageState.POISONED):
                        m.next = "FINISH"
                    with m.Else():
                        m.d.comb += self.write_request.valid.eq(1)
                        with m.If(self.write_request.ready):
                            with m.If(is_spilled):
                                m.next = "HEADER"
                            with m.Elif(self.placed.p.as_it_is):
                                m.next = "RUN"
                            with m.Else():
                                m.next = "STORED"
            with m.State("HEADER"):
                m.d.comb += [write.i.p.data.eq(header), write.i.valid.eq(1)]
                with m.If(write.i.ready):
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += self.run.valid.eq(1)
                with m.If(self.run.ready):
                    m.next = "LINES"
            for state, lines in (("LINES", self.lines), ("STORED", self.stored)):
                with m.State(state):
                    m.d.comb += [
                        write.i.p.data.eq(lines.payload),
                        write.i.valid.eq(lines.valid),
                        lines.ready.eq(write.i.ready),
                    ]
                    if state == "STORED":
                        m.d.comb += self.read.eq(1)
                    with m.If(transfer(write.i) & (written + 1 == entry.lines)):
                        m.next = "FINISH"
            with m.State("FINISH"):
                m.d.comb += [
                    self.outcome.valid.eq(~is_new & ~checksum.summing),
                    self.outcome.p.is_written.eq(entry.state != PageState.POISONED),
                    self.placed.ready.eq(transfer(self.outcome)),
                    self.left.eq(transfer(self.outcome) & is_encoded),
                ]
                with m.If(transfer(self.outcome)):
                    m.next = "PAGE"
        return m
