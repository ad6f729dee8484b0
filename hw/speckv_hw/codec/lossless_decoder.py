from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import ESCAPE, VERBATIM
from speckv_model.constants import PAGE_ROWS, ROW_VALUES

from ..stream import Fifo, chain, transfer
from ..types import LINE_BITS, DecodeStart, Dtype
from .float16 import is_bf16
from .line_cutter import LineCutter
from .narrow import Narrow
from .piece_maker import PIECE_BITS
from .piece_reader import PieceReader
from .regear import Regear
from .section_reader import SectionReader
from .tier_decoder import TierDecoder
from .tier_unpacker import TierUnpacker
from .widen import Widen

__all__ = ["LosslessDecoder"]

_QUEUE = 17
"""Lines in a queue: a memory of 16 and the register at its end."""
_LOW_QUEUE = 33
"""A page's whole section of low bits, so that what is stored before those of the next page comes in in time."""


class LosslessDecoder(wiring.Component):
    """Decodes `lossless` pages (``docs/format.md``); any stored bytes give 64 lines, and none is left over.

    One beat a clock, successive pages without a gap, where a page's middle is not much longer than usual. Empty on
    reset.

    ::

        stored -> SectionReader -header, first----------> TierUnpacker -> TierUnpacker -> TierDecoder -> lines
                                -second-> PieceReader ----^               ^               ^
                                -third--> PieceReader --------------------+               |
                                -low, high------------------------------------------------+

    Parameters
    ----------
    lanes : int
        16-bit values in a beat: 8, 16 or 32.

    Members
    -------
    start : In(stream(DecodeStart))
        `codec` does not matter.
    stored : In(stream(512))
        The stored lines in order.
    lines : Out(stream(512))
        The 64 lines of the page in order.
    """

    def __init__(self, lanes):
        if lanes not in (8, 16, 32):
            raise ValueError(f"lanes must be 8, 16 or 32, not {lanes!r}")
        self._lanes = lanes
        super().__init__({
            "start": In(stream.Signature(DecodeStart)),
            "stored": In(stream.Signature(LINE_BITS)),
            "lines": Out(stream.Signature(LINE_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        first_tag = data.StructLayout(
            {"first": data.ArrayLayout(2, lanes), "centre": 8, "dtype": Dtype, "last": 1})
        second_tag = data.StructLayout({"beat": first_tag, "second": data.ArrayLayout(2, lanes)})
        m.submodules.sections = sections = SectionReader()
        m.submodules.second = second = TierUnpacker(lanes, 2, first_tag)
        m.submodules.third = third = TierUnpacker(lanes, 4, second_tag)
        m.submodules.decoder = decoder = TierDecoder(lanes)
        m.submodules.widen = widen = Widen(16 * lanes, LINE_BITS)
        chain(m, self.start, sections.start)
        chain(m, self.stored, sections.stored)
        self._pieces(m, "second", sections.second_page, sections.second, second)
        self._pieces(m, "third", sections.third_page, sections.third, third)

        self._ask_second(m, sections, second.requests)
        codes = second.o.payload
        beat = codes.tag
        request = third.requests.payload
        verbatim = beat.centre == VERBATIM
        m.d.comb += [
            request.mask.eq(Cat(verbatim | ((beat.first[n] == ESCAPE) & (codes.units[n] == ESCAPE))
                                for n in range(lanes))),
            request.tag.beat.eq(beat),
            request.tag.second.eq(codes.units),
            request.last.eq(beat.last),
            third.requests.valid.eq(second.o.valid),
            second.o.ready.eq(third.requests.ready),
        ]
        self._join(m, sections, third, decoder)
        m.d.comb += [
            widen.i.payload.data.eq(decoder.o.payload),
            widen.i.valid.eq(decoder.o.valid),
            decoder.o.ready.eq(widen.i.ready),
            self.lines.payload.eq(widen.o.payload.data),
            self.lines.valid.eq(widen.o.valid),
            widen.o.ready.eq(self.lines.ready),
        ]
        return m

    def _pieces(self, m, name, pages, lines, unpacker):
        """From the lines of a tier to its unpacker."""
        m.submodules[f"{name}_pages"] = waiting = Fifo(PieceReader.page_layout(), 2)
        m.submodules[f"{name}_lines"] = queue = Fifo(LINE_BITS, _QUEUE)
        m.submodules[f"{name}_pieces"] = pieces = PieceReader()
        chain(m, pages, waiting, pieces.pages)
        chain(m, lines, queue, pieces.lines)
        width = len(unpacker.i.payload.data)
        if width == PIECE_BITS:
            chain(m, pieces, unpacker)
            return
        m.submodules[f"{name}_chunks"] = chunks = (Narrow if width < PIECE_BITS else Widen)(PIECE_BITS, width)
        chain(m, pieces, chunks, unpacker)

    def _ask_second(self, m, sections, requests):
        """Goes through the codes of the first tier, row by row."""
        lanes = self._lanes
        m.submodules.first_lines = lines = Fifo(LINE_BITS, _QUEUE)
        m.submodules.first = first = LineCutter(2 * lanes)
        m.submodules.headers = headers = Fifo(SectionReader.header_layout(), 1)
        chain(m, sections.first, lines, first)
        chain(m, sections.header, headers)
        page = Signal(SectionReader.header_layout())
        busy = Signal()
        row = Signal(range(PAGE_ROWS))
        beat = Signal(range(ROW_VALUES // lanes))
        row_last = beat == ROW_VALUES // lanes - 1
        last = row_last & (row == PAGE_ROWS - 1)
        request = requests.payload
        m.d.comb += [
            request.tag.first.eq(first.o.payload),
            request.tag.centre.eq(page.centres[0]),
            request.tag.dtype.eq(page.dtype),
            request.tag.last.eq(last),
            request.last.eq(last),
            request.mask.eq(Cat((page.centres[0] == VERBATIM) | (request.tag.first[n] == ESCAPE)
                                for n in range(lanes))),
            requests.valid.eq(first.o.valid & busy),
            first.o.ready.eq(requests.ready & busy),
            headers.o.ready.eq(~busy | (transfer(requests) & last)),
        ]
        with m.If(transfer(requests)):
            m.d.sync += beat.eq(beat + 1)
            with m.If(row_last):
                m.d.sync += [beat.eq(0), row.eq(row + 1), page.centres.eq(page.centres.as_value()[8:])]
        with m.If(headers.o.ready):
            m.d.sync += [page.eq(headers.o.payload), busy.eq(headers.o.valid)]

    def _join(self, m, sections, third, decoder):
        """Brings codes and kept bits of a beat together."""
        lanes = self._lanes
        m.submodules.low_lines = low_lines = Fifo(LINE_BITS, _LOW_QUEUE)
        m.submodules.low = low = LineCutter(8 * lanes)
        m.submodules.high_lines = high_lines = Fifo(LINE_BITS, _QUEUE)
        m.submodules.high_words = words = LineCutter(4 * lanes)
        m.submodules.high = high = Regear(lanes, 4, 3)
        chain(m, sections.low, low_lines, low)
        chain(m, sections.high, high_lines, words, high)
        codes = third.o.payload
        beat = codes.tag.beat
        bf16 = is_bf16(beat.dtype)
        go = Signal()
        m.d.comb += [
            decoder.i.payload.first.eq(beat.first),
            decoder.i.payload.second.eq(codes.tag.second),
            decoder.i.payload.third.eq(codes.units),
            decoder.i.payload.centre.eq(beat.centre),
            decoder.i.payload.dtype.eq(beat.dtype),
            decoder.i.payload.low.eq(low.o.payload),
            decoder.i.payload.high.eq(high.o.payload),
            decoder.i.valid.eq(third.o.valid & low.o.valid & (high.o.valid | bf16)),
            go.eq(transfer(decoder.i)),
            third.o.ready.eq(go),
            low.o.ready.eq(go),
            high.o.ready.eq(go & ~bf16),
        ]
