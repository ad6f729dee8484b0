from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.speckv import INT8
from speckv_model.constants import PAGE_ROWS

from ..stream import transfer
from .payloads import PageHeader, RowSummary, byte_beat, fragment
from .run_splitter import RunSplitter

__all__ = ["RowWriter"]


class RowWriter(wiring.Component):
    """Gives the bodies of a page's rows as fragments, in the form that was chosen for each, and then the
    header.

    One beat a clock for INT8 and raw rows, one pair a clock for the others; order kept. The last fragment of
    a page is `last`; with it the page's header is offered. Empty on reset.

    Parameters
    ----------
    lanes : int
        Bytes in a beat.

    Members
    -------
    i : In(stream(byte_beat))
        Beats of rows.
    rows : In(stream(RowSummary))
        One for each row; a row waits for it.
    o : Out(stream(fragment(lanes // 2)))
    header : Out(stream(PageHeader))
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(byte_beat(lanes))),
            "rows": In(stream.Signature(RowSummary)),
            "o": Out(stream.Signature(fragment(lanes // 2))),
            "header": Out(stream.Signature(PageHeader)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.splitter = splitter = RunSplitter(self._lanes)
        row = Signal(range(PAGE_ROWS))
        last_row = row == PAGE_ROWS - 1
        piece_valid = Signal()
        piece_ready = Signal()
        row_end = Signal()
        split = Signal()
        """The splitter has all beats of its row; the next ones belong to another row."""

        with m.If(self.rows.payload.code < INT8):
            m.d.comb += [
                splitter.i.payload.eq(self.i.payload),
                splitter.i.valid.eq(self.i.valid & self.rows.valid & ~split),
                self.i.ready.eq(splitter.i.ready & self.rows.valid & ~split),
                self.o.payload.data.eq(splitter.o.payload.data),
                self.o.payload.count.eq(1),
                row_end.eq(splitter.o.payload.last),
                piece_valid.eq(splitter.o.valid),
                splitter.o.ready.eq(piece_ready),
            ]
            with m.If(transfer(splitter.i) & splitter.i.payload.last):
                m.d.sync += split.eq(1)
        with m.Else():
            m.d.comb += [
                self.o.payload.data.eq(self.i.payload.bytes),
                self.o.payload.count.eq(self._lanes // 2),
                row_end.eq(self.i.payload.last),
                piece_valid.eq(self.i.valid & self.rows.valid),
                self.i.ready.eq(piece_ready & self.rows.valid),
            ]

        # The page's last fragment waits until the header of the page before is gone.
        held = Signal()
        m.d.comb += [
            held.eq(row_end & last_row & self.header.valid),
            self.o.valid.eq(piece_valid & ~held),
            piece_ready.eq(self.o.ready & ~held),
            self.o.payload.last.eq(row_end & last_row),
            self.rows.ready.eq(transfer(self.o) & row_end),
        ]

        header = self.header.payload
        collected = Signal(PageHeader)
        following = Signal(PageHeader)
        m.d.comb += [
            following.maxima.eq(Cat(collected.maxima.as_value()[16:], self.rows.payload.maximum, 0)),
            following.codes.eq(Cat(collected.codes.as_value()[8:], self.rows.payload.code, 0)),
        ]
        with m.If(transfer(self.header)):
            m.d.sync += self.header.valid.eq(0)
        with m.If(transfer(self.rows)):
            m.d.sync += [collected.eq(following), row.eq(row + 1), split.eq(0)]
            with m.If(last_row):
                m.d.sync += [header.eq(following), self.header.valid.eq(1)]
        return m
