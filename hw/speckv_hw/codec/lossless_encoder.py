from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.constants import PAGE_BYTES, ROW_VALUES

from ..stream import Fifo, chain, transfer
from ..types import LINE_BITS, Dtype, EncodeResult, StoredLine
from .float16 import exponent_field, exponent_ones, is_bf16
from .middle_writer import MiddleWriter
from .narrow import Narrow
from .payloads import PageLine
from .piece_maker import PIECE_BITS, PieceMaker
from .pipeline import delay
from .regear import Regear
from .row_centre import RowCentreFinder
from .section_writer import SectionWriter
from .tier_coder import TierCoder
from .tier_packer import TierPacker
from .widen import Widen

__all__ = ["LosslessEncoder"]

_QUEUE = 17
"""Payloads of most queues: a memory of 16 and the register at its end."""
_LONG_QUEUE = 33
_PAGE_VALUES = PAGE_BYTES // 2


class LosslessEncoder(wiring.Component):
    """Encodes pages as `lossless` (``docs/format.md``).

    One beat a clock and successive pages without a gap, unless their codes are so many that the middle of a page takes
    longer than the page. Lines come in any order, each page's before its result. Every 64 lines are a page. Empty on
    reset.

    ::

        lines -> Narrow -+-> delay -> queue --> TierCoder --low---> Widen, queue --------------> SectionWriter
                         +-> RowCentreFinder ---^        --first--> queue, Widen ---------------^  |  |
                                                         --high---> queue, Regear, Widen -------^  |  v
                                                         --second-> TierPacker -> MiddleWriter -^  |  result
                                                         --third--> TierPacker ---^                v stored

    Parameters
    ----------
    lanes : int
        16-bit values in a beat: 8, 16 or 32.

    Members
    -------
    lines : In(stream(PageLine))
        `setting` does not matter.
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
    """

    def __init__(self, lanes):
        if lanes not in (8, 16, 32):
            raise ValueError(f"lanes must be 8, 16 or 32, not {lanes!r}")
        self._lanes = lanes
        super().__init__({
            "lines": In(stream.Signature(PageLine)),
            "stored": Out(stream.Signature(StoredLine)),
            "result": Out(stream.Signature(EncodeResult)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        # A row, and the clocks from its end to its centre
        m.submodules.values = values = Fifo(TierCoder.beat_layout(lanes), _QUEUE if lanes == 32 else _LONG_QUEUE)
        m.submodules.centres = centres = Fifo(8, 8)
        m.submodules.pages = pages = Fifo(Dtype, 4)
        m.submodules.coder = coder = TierCoder(lanes)
        m.submodules.writer = writer = SectionWriter()
        m.submodules.middle = middle = MiddleWriter()
        self._take_lines(m, values, centres, pages)
        chain(m, values, coder)
        chain(m, pages, writer.pages)
        self._keep_centres(m, centres, coder, middle)

        sinks = [self._low(m, coder, writer), self._first(m, coder, writer)]
        high, wanted = self._high(m, coder, writer), ~is_bf16(coder.o.payload.dtype)
        # A page's whole third tier waits for the end of its second.
        sinks += [self._tier(m, coder, name, width, chunks, getattr(middle, name))
                  for name, width, chunks in (("second", 2, _QUEUE), ("third", 4, _PAGE_VALUES // lanes))]
        # All take a beat, or none.
        ready = high.ready
        for sink in sinks:
            ready = ready & sink.ready
        m.d.comb += [coder.o.ready.eq(ready), high.valid.eq(transfer(coder.o) & wanted)]
        m.d.comb += [sink.valid.eq(transfer(coder.o)) for sink in sinks]
        chain(m, middle, writer.middle)
        chain(m, writer.stored, self.stored)
        chain(m, writer.result, self.result)
        return m

    def _take_lines(self, m, values, centres, pages):
        """Beats go into `values` late, so that they wait there no longer than necessary for the centres."""
        lanes = self._lanes
        m.submodules.narrow = narrow = Narrow(LINE_BITS, 16 * lanes)
        m.submodules.finder = finder = RowCentreFinder(lanes)
        dtype = Signal(Dtype)
        place = Signal(range(_PAGE_VALUES // lanes))
        begins = place == 0
        beat = Signal(TierCoder.beat_layout(lanes))
        enter = Signal()
        advance = values.i.ready
        m.d.comb += [
            narrow.i.payload.data.eq(self.lines.payload.data),
            narrow.i.valid.eq(self.lines.valid),
            self.lines.ready.eq(narrow.i.ready),
            beat.values.eq(narrow.o.payload.data),
            beat.dtype.eq(dtype),
            beat.row_last.eq(place[:(ROW_VALUES // lanes).bit_length() - 1].all()),
            beat.last.eq(place.all()),
            enter.eq(narrow.o.valid & (pages.i.ready | ~begins)),
            narrow.o.ready.eq(advance & (pages.i.ready | ~begins)),
            pages.i.payload.eq(dtype),
            pages.i.valid.eq(narrow.o.valid & begins & advance),
            finder.advance.eq(advance),
            finder.i.valid.eq(enter),
            finder.i.payload.last.eq(beat.row_last),
            # Room for a centre is certain: the row, or the end of it, is in `values`.
            centres.i.payload.eq(finder.o.payload),
            centres.i.valid.eq(finder.o.valid & advance),
        ]
        for lane in range(lanes):
            exponent = exponent_field(beat.values[lane], dtype)
            m.d.comb += [
                finder.i.payload.exponents[lane].eq(exponent),
                finder.i.payload.ones[lane].eq(exponent == exponent_ones(dtype)),
            ]
        with m.If(transfer(self.lines)):
            m.d.sync += dtype.eq(self.lines.payload.dtype)
        with m.If(transfer(narrow.o)):
            m.d.sync += place.eq(place + 1)

        early = lanes.bit_length()
        m.d.comb += [
            values.i.payload.eq(delay(m, beat, early, enable=advance)),
            values.i.valid.eq(delay(m, enter, early, enable=advance)),
        ]

    def _keep_centres(self, m, centres, coder, middle):
        """A centre goes to the coder and, with others, to the page's header."""
        m.submodules.header = header = Widen(8, PIECE_BITS)
        m.submodules.headers = headers = Fifo(PIECE_BITS, 4)
        m.d.comb += [
            coder.centres.payload.eq(centres.o.payload),
            coder.centres.valid.eq(centres.o.valid & header.i.ready),
            centres.o.ready.eq(coder.centres.ready),
            header.i.payload.data.eq(centres.o.payload),
            header.i.valid.eq(transfer(coder.centres)),
        ]
        self._words(m, header, headers.i)
        chain(m, headers, middle.centres)

    def _words(self, m, widen, sink):
        """Connects what `widen` gives, without its marks."""
        m.d.comb += [
            sink.payload.eq(widen.o.payload.data),
            sink.valid.eq(widen.o.valid),
            widen.o.ready.eq(sink.ready),
        ]

    def _low(self, m, coder, writer):
        m.submodules.low_lines = lines = Widen(8 * self._lanes, LINE_BITS)
        m.submodules.low = low = Fifo(LINE_BITS, _QUEUE)
        m.d.comb += lines.i.payload.data.eq(coder.o.payload.low)
        self._words(m, lines, low.i)
        chain(m, low, writer.low)
        return lines.i

    def _first(self, m, coder, writer):
        m.submodules.first = first = Fifo(2 * self._lanes, _LONG_QUEUE)
        m.submodules.first_lines = lines = Widen(2 * self._lanes, LINE_BITS)
        m.d.comb += [
            first.i.payload.eq(coder.o.payload.first),
            lines.i.payload.data.eq(first.o.payload),
            lines.i.valid.eq(first.o.valid),
            first.o.ready.eq(lines.i.ready),
        ]
        self._words(m, lines, writer.first)
        return first.i

    def _high(self, m, coder, writer):
        lanes = self._lanes
        m.submodules.high = high = Fifo(3 * lanes, _LONG_QUEUE)
        m.submodules.high_words = words = Regear(lanes, 3, 4)
        m.submodules.high_lines = lines = Widen(4 * lanes, LINE_BITS)
        chain(m, high, words)
        m.d.comb += [
            high.i.payload.eq(coder.o.payload.high),
            lines.i.payload.data.eq(words.o.payload),
            lines.i.valid.eq(words.o.valid),
            words.o.ready.eq(lines.i.ready),
        ]
        self._words(m, lines, writer.high)
        return high.i

    def _tier(self, m, coder, name, width, chunks, sink):
        lanes = self._lanes
        m.submodules[f"{name}_packer"] = packer = TierPacker(lanes, width)
        m.submodules[f"{name}_pieces"] = maker = PieceMaker(lanes, width)
        m.submodules[name] = queue = Fifo(TierPacker.chunk_layout(lanes, width), chunks)
        m.d.comb += [
            packer.i.payload.units.eq(coder.o.payload[name]),
            packer.i.payload.mask.eq(coder.o.payload[f"in_{name}"]),
            packer.i.payload.last.eq(coder.o.payload.last),
        ]
        chain(m, packer, queue, maker, sink)
        return packer.i
