from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.speckv import INT8, RAW
from speckv_model.constants import PAGE_ROWS

from ..stream import transfer
from ..types import Dtype
from .payloads import PageHeader, RowForm, RowTag, row_beats
from .unpacker import Unpacker

__all__ = ["RowReader"]


class RowReader(wiring.Component):
    """Asks for the bytes of a page's 16 rows, beat by beat or pair by pair, as the page's header says.

    Latency 1 clock, one request a clock without a gap between pages. A length code that no encoder writes
    counts as INT8. Empty on reset.

    Parameters
    ----------
    lanes : int
        Bytes in a beat.

    Members
    -------
    header : In(stream)
        `header` (a `PageHeader`), `dtype` and `body`: whether more than the header is stored.
    o : Out(stream(Unpacker.request_layout))
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "header": In(stream.Signature(self.header_layout())),
            "o": Out(stream.Signature(Unpacker.request_layout(lanes // 2, RowTag))),
        })

    @staticmethod
    def header_layout():
        return data.StructLayout({"header": PageHeader, "dtype": Dtype, "body": 1})

    def elaborate(self, platform):
        m = Module()
        page = Signal.like(self.header.payload)
        row = Signal(range(PAGE_ROWS))
        piece = Signal(range(row_beats(self._lanes, raw=True) + INT8))
        code = page.header.codes[0]
        request = self.o.payload
        pieces = Signal.like(piece)

        m.d.comb += pieces.eq(row_beats(self._lanes))
        with m.If(code == RAW):
            m.d.comb += [request.tag.form.eq(RowForm.RAW), pieces.eq(row_beats(self._lanes, raw=True))]
        with m.Elif((code != 0) & (code < INT8)):
            m.d.comb += [request.tag.form.eq(RowForm.PAIRS), pieces.eq(code)]
        m.d.comb += [
            request.count.eq(Mux(request.tag.form == RowForm.PAIRS, 1, self._lanes // 2)),
            request.tag.maximum.eq(page.header.maxima[0]),
            request.tag.dtype.eq(page.dtype),
            request.tag.last.eq(piece == pieces - 1),
            request.last.eq(request.tag.last & (row == PAGE_ROWS - 1)),
            request.body.eq(page.body),
            self.header.ready.eq(~self.o.valid | (self.o.ready & request.last)),
        ]
        with m.If(transfer(self.o)):
            m.d.sync += piece.eq(piece + 1)
            with m.If(request.tag.last):
                m.d.sync += [piece.eq(0), row.eq(row + 1)]
            with m.If(request.last):
                m.d.sync += self.o.valid.eq(0)
        with m.If(transfer(self.header)):
            m.d.sync += [page.dtype.eq(self.header.payload.dtype), page.body.eq(self.header.payload.body)]
            m.d.sync += self.o.valid.eq(1)
        refill = ~self.o.valid | (row == PAGE_ROWS - 1)
        following = Mux(refill, self.header.payload.header, Cat(
            page.header.maxima.as_value()[16:], Const(0, 16), page.header.codes.as_value()[8:], Const(0, 8)))
        with m.If(transfer(self.header) | (transfer(self.o) & request.tag.last)):
            m.d.sync += page.header.eq(following)
        return m
