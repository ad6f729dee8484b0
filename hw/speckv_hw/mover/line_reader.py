"""Reads lines of pages out of the page cache."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import Fifo, Register, chain, transfer
from speckv_hw.types import LINE_BITS, SLOT_WIDTH, SlotLine

__all__ = ["LineReader", "LineRun"]


class LineRun(data.Struct):
    """Lines 0 to `last` of the page in `slot`."""
    slot: SLOT_WIDTH
    last: 6
    base: 1
    """All of them hold content; otherwise those that `written` names do."""
    written: 64


class LineReader(wiring.Component):
    """Reads runs of lines for two users, one run after the other, that of user 1 first where both wait.

    A line a clock and a clock between runs. Lines without content come as zeros. A run begins while the last lines of
    the one before are on their way; a user that does not take its lines holds up both.

    Members
    -------
    run0, run1 : In(stream of LineRun)
    lines0, lines1 : Out(stream of 512 bits)
    line_request, line_data : read port of the page cache
    """

    run0: In(stream.Signature(LineRun))
    run1: In(stream.Signature(LineRun))
    lines0: Out(stream.Signature(LINE_BITS))
    lines1: Out(stream.Signature(LINE_BITS))
    line_request: Out(stream.Signature(SlotLine))
    line_data: In(stream.Signature(LINE_BITS))

    def elaborate(self, platform):
        m = Module()
        m.submodules.stage0 = stage0 = Register(LINE_BITS)
        m.submodules.stage1 = stage1 = Register(LINE_BITS)
        chain(m, stage0, self.lines0)
        chain(m, stage1, self.lines1)
        # Of each line that was asked for: whose it is, and whether it holds content.
        m.submodules.asked = asked = Fifo(data.StructLayout({"user": 1, "holds": 1}), 2)
        run = Signal(LineRun)
        user, reading = Signal(), Signal()
        line = Signal(6)
        m.d.comb += [
            self.line_request.p.slot.eq(run.slot),
            self.line_request.p.line.eq(line),
            self.line_request.valid.eq(reading & asked.i.ready),
            asked.i.p.user.eq(user),
            asked.i.p.holds.eq(run.base | run.written.bit_select(line, 1)),
            asked.i.valid.eq(transfer(self.line_request)),
            self.run1.ready.eq(~reading),
            self.run0.ready.eq(~reading & ~self.run1.valid),
        ]
        with m.If(transfer(self.line_request)):
            m.d.sync += line.eq(line + 1)
            with m.If(line == run.last):
                m.d.sync += reading.eq(0)
        with m.If(~reading):
            m.d.sync += [
                user.eq(self.run1.valid),
                run.eq(Mux(self.run1.valid, self.run1.payload.as_value(), self.run0.payload.as_value())),
                reading.eq(self.run0.valid | self.run1.valid),
                line.eq(0),
            ]
        for number, stage in enumerate((stage0, stage1)):
            mine = asked.o.valid & (asked.o.p.user == number)
            m.d.comb += [
                stage.i.payload.eq(Mux(asked.o.p.holds, self.line_data.payload, 0)),
                stage.i.valid.eq(self.line_data.valid & mine),
            ]
            with m.If(mine):
                m.d.comb += self.line_data.ready.eq(stage.i.ready)
        m.d.comb += asked.o.ready.eq(transfer(self.line_data))
        return m
