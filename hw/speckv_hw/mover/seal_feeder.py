"""Sends pages into the encoder."""

from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mover.line_reader import LineRun
from speckv_hw.mover.page_buffer import PAGES
from speckv_hw.mover.seal_lookup import SealPage
from speckv_hw.stream import transfer
from speckv_hw.types import EncodeStart, PageState
from speckv_model.constants import PAGE_LINES

__all__ = ["SealFeeder"]


class SealFeeder(wiring.Component):
    """Starts the encoder for each page that becomes SEALED, and has its lines read; other pages pass by. In order.

    At most `PAGES` pages, of either kind, are between here and their end. With that every line that is read for the
    encoder finds room, whatever is held up behind it, and the storer's turn to read comes.

    Members
    -------
    page : In(stream of SealPage)
    fed : Out(stream of SealPage)
        Must be ready while less than `PAGES` pages are under way.
    run : Out(stream of LineRun)
    start : Out(stream of EncodeStart)
    ended : In
        A page has ended.
    """

    def __init__(self):
        super().__init__({
            "page": In(stream.Signature(SealPage)),
            "fed": Out(stream.Signature(SealPage)),
            "run": Out(stream.Signature(LineRun)),
            "start": Out(stream.Signature(EncodeStart)),
            "ended": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        page = self.page.p
        room = Signal(range(PAGES + 1), init=PAGES)
        m.d.comb += [
            self.run.p.slot.eq(page.outcome.slot),
            self.run.p.base.eq(page.base),
            self.run.p.written.eq(page.written),
            self.run.p.last.eq(PAGE_LINES - 1),
            self.start.p.codec.eq(page.encoding.codec),
            self.start.p.setting.eq(page.encoding.setting),
            self.start.p.dtype.eq(page.dtype),
            self.start.p.by_row.eq(page.by_row),
            self.fed.payload.eq(self.page.payload),
            self.page.ready.eq(transfer(self.fed)),
        ]
        m.d.sync += room.eq(room - transfer(self.fed) + self.ended)
        with m.FSM():
            with m.State("PAGE"):
                with m.If(self.page.valid & (room != 0)):
                    with m.If(page.outcome.entry.state == PageState.SEALED):
                        m.d.comb += self.run.valid.eq(1)
                        with m.If(self.run.ready):
                            m.next = "START"
                    with m.Else():
                        m.d.comb += self.fed.valid.eq(1)
            with m.State("START"):
                # Its first lines are read while the last ones of the page before go in.
                m.d.comb += [self.start.valid.eq(self.fed.ready), self.fed.valid.eq(self.start.ready)]
                with m.If(transfer(self.start)):
                    m.next = "PAGE"
        return m
