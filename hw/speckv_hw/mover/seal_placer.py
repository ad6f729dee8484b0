"""Finds a place for every page that was encoded."""

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mover.seal_lookup import SealPage
from speckv_hw.types import AllocateRequest, AllocateResponse, Codec, EncodeResult, PageState
from speckv_model.constants import PAGE_LINES

__all__ = ["PlacedPage", "SealPlacer"]


class PlacedPage(data.Struct):
    """A page that can be written."""
    page: SealPage
    first: 6
    """Of a page that was encoded, the line that is stored first."""
    as_it_is: 1
    """It was encoded, but is stored as `raw`, because that is not longer."""


class SealPlacer(wiring.Component):
    """Waits for the encoder's result of a page that becomes SEALED and asks the pool for room; other pages pass by.

    Where the pool has no room the page's place is the first of the sectors that it had reserved. In order.

    Members
    -------
    page : In(stream of SealPage)
    result : In(stream of EncodeResult)
    allocate, allocated : client of the pool
    placed : Out(stream of PlacedPage)
    """

    def __init__(self):
        super().__init__({
            "page": In(stream.Signature(SealPage)),
            "result": In(stream.Signature(EncodeResult)),
            "allocate": Out(stream.Signature(AllocateRequest)),
            "allocated": In(stream.Signature(AllocateResponse)),
            "placed": Out(stream.Signature(PlacedPage)),
        })

    def elaborate(self, platform):
        m = Module()
        placed, result = self.placed.p, self.result.p
        outcome = placed.page.outcome
        m.d.comb += [
            self.allocate.p.sectors.eq(outcome.sectors()),
            self.allocate.p.context.eq(outcome.entry.context),
        ]
        with m.FSM():
            with m.State("PAGE"):
                m.d.comb += self.page.ready.eq(1)
                m.d.sync += [placed.page.eq(self.page.payload), placed.as_it_is.eq(0)]
                with m.If(self.page.valid):
                    with m.If(self.page.p.outcome.entry.state == PageState.SEALED):
                        m.next = "RESULT"
                    with m.Else():
                        m.next = "PASS"
            with m.State("RESULT"):
                m.d.comb += self.result.ready.eq(1)
                with m.If(result.fits | (placed.page.encoding.codec == Codec.RAW)):
                    m.d.sync += [
                        outcome.entry.lines.eq(result.lines),
                        outcome.entry.codec.eq(placed.page.encoding.codec),
                        placed.first.eq(result.first),
                        placed.as_it_is.eq(0),
                    ]
                with m.Else():
                    m.d.sync += [
                        outcome.entry.lines.eq(PAGE_LINES),
                        outcome.entry.codec.eq(Codec.RAW),
                        placed.as_it_is.eq(1),
                    ]
                with m.If(self.result.valid):
                    m.next = "ALLOCATE"
            with m.State("ALLOCATE"):
                m.d.comb += self.allocate.valid.eq(1)
                with m.If(self.allocate.ready):
                    m.next = "PLACE"
            with m.State("PLACE"):
                m.d.comb += self.allocated.ready.eq(1)
                with m.If(self.allocated.valid):
                    m.d.sync += outcome.stays.eq(~self.allocated.p.ok)
                    with m.If(self.allocated.p.ok):
                        m.d.sync += outcome.entry.place.eq(self.allocated.p.sector)
                    m.next = "PASS"
            with m.State("PASS"):
                m.d.comb += self.placed.valid.eq(1)
                with m.If(self.placed.ready):
                    m.next = "PAGE"
        return m
