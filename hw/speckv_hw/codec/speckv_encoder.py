from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.constants import ROW_VALUES

from ..stream import Fifo, chain, transfer
from ..types import LINE_BITS, EncodeResult, StoredLine
from .narrow import Narrow
from .packer import Packer
from .page_writer import PageWriter
from .payloads import PageLine, RowScale, RowSummary, byte_beat, value_beat
from .quantiser import Quantiser
from .reciprocal import Reciprocal
from .row_maximum import RowMaximumFinder
from .row_writer import RowWriter
from .run_marker import RunMarker
from .widen import Widen

__all__ = ["SpeckvEncoder"]

_BEATS = 64
"""Beats that fit where rows wait for their maximum, and where they wait for their number of runs. Two rows
and the latencies between would do at 32 lanes, a raw row at 8; at this depth block memory pays."""


class SpeckvEncoder(wiring.Component):
    """Encodes pages as `speckv` (``docs/format.md``).

    One beat a clock while rows come out as INT8, successive pages without a gap; a raw row takes two clocks a
    beat, a row of pairs one clock a pair. Lines of the body come in order, then the header, then the result.
    Every 64 lines are a page. Empty on reset.

    ::

        lines -> Narrow -+-> buffer ------------> Quantiser -> RunMarker -> buffer -> RowWriter
                         +-> maximum, reciprocal -^
        RowWriter --bodies-> Packer -> Widen -> PageWriter -> stored, result
                  --header---------------------^

    Parameters
    ----------
    lanes : int
        16-bit values in a beat.

    Members
    -------
    lines : In(stream(PageLine))
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "lines": In(stream.Signature(PageLine)),
            "stored": Out(stream.Signature(StoredLine)),
            "result": Out(stream.Signature(EncodeResult)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        rows = _BEATS * lanes // ROW_VALUES

        # Rows wait in `values` until their maximum is known.
        m.submodules.values = values = Fifo(value_beat(lanes), _BEATS)
        m.submodules.maximum = maximum = RowMaximumFinder(lanes)
        m.submodules.reciprocal = reciprocal = Reciprocal()
        m.submodules.scales = scales = Fifo(RowScale, rows)
        self._take_lines(m, values, maximum)
        self._connect(m, maximum.o, reciprocal.i)
        self._connect(m, reciprocal.o, scales.i)

        # Quantised rows wait in `beats` until it is known how they are kept. The row whose pairs are being
        # written has left `beats`, but its summary is still needed.
        m.submodules.quantiser = quantiser = Quantiser(lanes)
        m.submodules.marker = marker = RunMarker(lanes)
        m.submodules.beats = beats = Fifo(byte_beat(lanes), _BEATS)
        m.submodules.summaries = summaries = Fifo(RowSummary, rows + 1)
        self._issue(m, values, scales, quantiser, beats)
        self._connect(m, quantiser.o, marker.i)
        self._connect(m, marker.o, beats.i)
        self._connect(m, marker.rows, summaries.i)

        m.submodules.rows = rows = RowWriter(lanes)
        m.submodules.packer = packer = Packer(lanes // 2)
        m.submodules.widen = widen = Widen(8 * lanes, LINE_BITS)
        m.submodules.writer = writer = PageWriter()
        chain(m, beats, rows, packer, widen, writer.body)
        chain(m, summaries, rows.rows)
        chain(m, rows.header, writer.header)
        chain(m, writer.stored, self.stored)
        chain(m, writer.result, self.result)
        return m

    def _connect(self, m, source, sink):
        """Connects streams without back-pressure; the FIFOs at their ends have room whenever the row buffers
        have."""
        m.d.comb += [sink.valid.eq(source.valid), sink.payload.eq(source.payload)]

    def _take_lines(self, m, values, maximum):
        m.submodules.narrow = narrow = Narrow(LINE_BITS, 16 * self._lanes)
        dtype = Signal.like(self.lines.payload.dtype)
        place = Signal(range(ROW_VALUES // self._lanes))
        beat = values.i.payload
        m.d.comb += [
            narrow.i.payload.data.eq(self.lines.payload.data),
            narrow.i.valid.eq(self.lines.valid),
            self.lines.ready.eq(narrow.i.ready),
            beat.values.eq(narrow.o.payload.data),
            beat.dtype.eq(dtype),
            beat.last.eq(place == ROW_VALUES // self._lanes - 1),
            values.i.valid.eq(narrow.o.valid),
            narrow.o.ready.eq(values.i.ready),
            maximum.i.payload.eq(beat),
            maximum.i.valid.eq(transfer(values.i)),
        ]
        with m.If(transfer(self.lines)):
            m.d.sync += dtype.eq(self.lines.payload.dtype)
        with m.If(transfer(values.i)):
            m.d.sync += place.eq(place + 1)

    def _issue(self, m, values, scales, quantiser, beats):
        """Sends beats into the quantiser, as many as `beats` has room for at its end; of raw rows each beat
        twice."""
        room = Signal(range(_BEATS + 1), init=_BEATS)
        half = Signal()
        issue = Signal()
        scale = scales.o.payload
        beat_done = ~scale.raw | half
        row_done = beat_done & values.o.payload.last
        m.d.comb += [
            issue.eq(values.o.valid & scales.o.valid & (room != 0)),
            values.o.ready.eq(issue & beat_done),
            scales.o.ready.eq(issue & row_done),
            quantiser.i.valid.eq(issue),
            quantiser.i.payload.values.eq(values.o.payload.values),
            quantiser.i.payload.scale.eq(scale),
            quantiser.i.payload.half.eq(half),
            quantiser.i.payload.last.eq(row_done),
        ]
        m.d.sync += room.eq(room - issue + transfer(beats.o))
        with m.If(issue):
            m.d.sync += half.eq(~beat_done)
        return m
