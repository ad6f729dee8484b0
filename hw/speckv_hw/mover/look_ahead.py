"""Brings page table entries into the TLB before they are needed."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import Fifo, transfer
from speckv_hw.types import PAGE_WIDTH, TableOp, TableRequest, TableResponse

__all__ = ["CLIENTS", "DISTANCE", "LINES", "LookAhead"]

CLIENTS = 2
"""LOOKUPs at once."""
DISTANCE = 2
"""Table lines that are looked up ahead."""
RECENT = 4
"""Lines that were asked for last and are not asked for again: to wait for their walks would take up clients."""
LINES = 32
"""Table lines whose next ones wait to be looked up; what does not fit is left out."""


class LookAhead(wiring.Component):
    """With the first page of each table line, looks up the next lines too.

    So a sequence of pages does not wait for walks: a table line is used up in 256 clocks at a line a clock, so that
    `DISTANCE` lines and `CLIENTS` walks at once hide some 500 clocks. What was asked for just before is not asked for
    again. All look-ups wait for their turn here, since many
    streams that are written together come to their next lines together; answers are dropped. Nothing waits on reset.

    Members
    -------
    page : In
    looked_up : In
        `page` is looked up in this clock, by somebody else.
    request0, request1, ... : Out(stream(TableRequest)), response0, response1, ... : In(stream(TableResponse))
        Clients of the page table.
    """

    def __init__(self):
        members = {"page": In(PAGE_WIDTH), "looked_up": In(1)}
        for n in range(CLIENTS):
            members[f"request{n}"] = Out(stream.Signature(TableRequest))
            members[f"response{n}"] = In(stream.Signature(TableResponse))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.lines = lines = Fifo(PAGE_WIDTH - 2, LINES)
        distance = Signal(range(DISTANCE))
        """One less than that of the next look-up."""
        line = Signal(PAGE_WIDTH - 2)
        recent = [Signal(PAGE_WIDTH - 2, name=f"recent{n}") for n in range(RECENT)]
        filled = Signal(RECENT)
        ends = Signal()
        """The line needs nothing more than to be offered."""
        client = Signal(range(CLIENTS))
        offers, taken = Signal(), Signal(CLIENTS)
        busy = Signal(CLIENTS)
        """The client's last look-up has not been answered."""
        m.d.comb += [
            lines.i.payload.eq(self.page[2:]),
            lines.i.valid.eq(self.looked_up & (self.page[:2] == 0)),
        ]
        known = Cat((line == other) & has for other, has in zip(recent, filled, strict=True)).any()
        with m.FSM(name="step"):
            with m.State("NEXT"):
                m.d.sync += line.eq(lines.o.payload + distance + 1)
                with m.If(lines.o.valid):
                    m.next = "CHOOSE"
            with m.State("CHOOSE"):
                for n in reversed(range(CLIENTS)):
                    with m.If(~busy[n]):
                        m.d.sync += client.eq(n)
                with m.If(known):
                    m.d.comb += ends.eq(1)
                    m.next = "NEXT"
                with m.Elif(~busy.all()):
                    m.d.sync += [recent[0].eq(line), *(new.eq(old) for old, new in pairwise(recent))]
                    m.d.sync += filled.eq(filled << 1 | 1)
                    m.d.comb += ends.eq(1)
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += offers.eq(1)
                with m.If(taken.any()):
                    m.next = "NEXT"
        m.d.comb += lines.o.ready.eq(ends & (distance == DISTANCE - 1))
        with m.If(ends):
            m.d.sync += distance.eq(Mux(distance == DISTANCE - 1, 0, distance + 1))
        for n in range(CLIENTS):
            request, response = getattr(self, f"request{n}"), getattr(self, f"response{n}")
            m.d.comb += [
                request.payload.op.eq(TableOp.LOOKUP),
                request.payload.page.eq(line << 2),
                request.valid.eq(offers & (client == n)),
                taken[n].eq(transfer(request)),
                response.ready.eq(1),
            ]
            with m.If(transfer(response)):
                m.d.sync += busy[n].eq(0)
            with m.If(taken[n]):
                m.d.sync += busy[n].eq(1)
        return m
