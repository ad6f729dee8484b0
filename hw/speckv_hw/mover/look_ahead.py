"""Brings page table entries into the TLB before they are needed."""

from itertools import pairwise

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import Fifo, transfer
from speckv_hw.types import PAGE_WIDTH, TableOp, TableRequest, TableResponse

__all__ = ["CLIENTS", "LINES", "LookAhead"]

CLIENTS = 2
"""LOOKUPs at once."""
RECENT = 4
"""Lines that were asked for last and are not asked for again: to wait for their walks would take up clients."""
LINES = 32
"""Look-ups that wait for their turn; what does not fit is left out."""


class _Wanted(data.Struct):
    line: PAGE_WIDTH - 2
    far: 1
    """The line after the next one is wanted, and not the next one."""


class LookAhead(wiring.Component):
    """With the first page of a table line, looks up the next line; with a SEALED one the line after that too.

    So a sequence of pages does not wait for walks: a table line is used up in 256 clocks at a line a clock, so that two
    lines and `CLIENTS` walks at once hide some 500 clocks. Where pages are written one line ahead is far enough, and
    more would drive others out of the TLB. What was asked for just before is not asked for again. All look-ups wait for
    their turn here, since many streams that are written together come to their next lines together; answers are
    dropped. Nothing waits on reset.

    Members
    -------
    page : In
    looked_up, sealed : In
        `page` is looked up in this clock, by somebody else; it was found SEALED. Not both in one clock.
    request0, request1, ... : Out(stream(TableRequest)), response0, response1, ... : In(stream(TableResponse))
        Clients of the page table.
    """

    def __init__(self):
        members = {"page": In(PAGE_WIDTH), "looked_up": In(1), "sealed": In(1)}
        for n in range(CLIENTS):
            members[f"request{n}"] = Out(stream.Signature(TableRequest))
            members[f"response{n}"] = In(stream.Signature(TableResponse))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.wanted = wanted = Fifo(_Wanted, LINES)
        line = Signal(PAGE_WIDTH - 2)
        recent = [Signal(PAGE_WIDTH - 2, name=f"recent{n}") for n in range(RECENT)]
        filled = Signal(RECENT)
        client = Signal(range(CLIENTS))
        offers, taken = Signal(), Signal(CLIENTS)
        busy = Signal(CLIENTS)
        """The client's last look-up has not been answered."""
        m.d.comb += [
            wanted.i.payload.line.eq(self.page[2:]),
            wanted.i.payload.far.eq(self.sealed),
            wanted.i.valid.eq((self.looked_up | self.sealed) & (self.page[:2] == 0)),
        ]
        known = Cat((line == other) & has for other, has in zip(recent, filled, strict=True)).any()
        with m.FSM(name="step"):
            with m.State("NEXT"):
                m.d.comb += wanted.o.ready.eq(1)
                m.d.sync += line.eq(wanted.o.payload.line + 1 + wanted.o.payload.far)
                with m.If(wanted.o.valid):
                    m.next = "CHOOSE"
            with m.State("CHOOSE"):
                for n in reversed(range(CLIENTS)):
                    with m.If(~busy[n]):
                        m.d.sync += client.eq(n)
                with m.If(known):
                    m.next = "NEXT"
                with m.Elif(~busy.all()):
                    m.d.sync += [recent[0].eq(line), *(new.eq(old) for old, new in pairwise(recent))]
                    m.d.sync += filled.eq(filled << 1 | 1)
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.comb += offers.eq(1)
                with m.If(taken.any()):
                    m.next = "NEXT"
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
