from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import ESCAPE, VERBATIM
from speckv_model.constants import PAGE_ROWS, ROW_VALUES

from ..stream import chain, transfer
from ..types import LINE_BITS, DecodeStart, Dtype
from .exponent_form import HIGH_BITS
from .float16 import is_bf16
from .regear import Regear
from .row_centre import EXPONENT_BITS
from .section_reader import SectionReader, page_layout
from .tier_decoder import TierDecoder
from .tier_unpacker import TierUnpacker
from .widen import Widen

__all__ = ["LosslessDecoder"]

_PLACES = 16
"""Codes of a tier that a beat has at most if it takes a single clock: on real values nearly all have no more."""


class LosslessDecoder(wiring.Component):
    """Decodes `lossless` pages (``docs/format.md``); any stored bytes give 64 lines, and none is left over.

    One beat a clock on real values, successive pages without a gap; a beat of 32 values with more than 16 codes of the
    second or third tier takes two. Empty on reset.

    ::

        stored -> SectionReader -page, first---> TierUnpacker ---> TierUnpacker ---> TierDecoder -> Widen -> lines
                                 second--------> ^                 ^                 ^
                                 third---------------------------> ^                 |
                                 low, high -> Regear---------------------------------+

    Parameters
    ----------
    lanes : int
        16-bit values in a beat: 8, 16 or 32.

    Members
    -------
    start : In(stream(DecodeStart))
        `codec` does not matter.
    stored : In(stream(512))
        Exactly as many lines as the start says, in order.
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
        first_tag = data.StructLayout({"first": 2 * lanes, "centre": EXPONENT_BITS, "dtype": Dtype, "last": 1})
        second_tag = data.StructLayout({"beat": first_tag, "second": 2 * lanes})
        m.submodules.reader = reader = SectionReader(lanes)
        m.submodules.second = second = TierUnpacker(lanes, min(_PLACES, lanes), 2, first_tag)
        m.submodules.third = third = TierUnpacker(lanes, min(_PLACES, lanes), 4, second_tag)
        m.submodules.decoder = decoder = TierDecoder(lanes)
        m.submodules.widen = widen = Widen(16 * lanes, LINE_BITS)
        chain(m, self.start, reader.start)
        chain(m, self.stored, reader.stored)
        chain(m, reader.second, second.i)
        chain(m, reader.third, third.i)

        self._ask_second(m, reader, second.requests)
        codes, request = second.o.p, third.requests.p
        m.d.comb += [
            request.mask.eq(self._escapes(codes.tag, codes.tag.first, codes.units)),
            request.tag.beat.eq(codes.tag),
            request.tag.second.eq(codes.units),
            request.last.eq(codes.tag.last),
            third.requests.valid.eq(second.o.valid),
            second.o.ready.eq(third.requests.ready),
        ]
        self._join(m, reader, third, decoder)
        m.d.comb += [
            widen.i.p.data.eq(decoder.o.payload),
            widen.i.valid.eq(decoder.o.valid),
            decoder.o.ready.eq(widen.i.ready),
            self.lines.payload.eq(widen.o.p.data),
            self.lines.valid.eq(widen.o.valid),
            widen.o.ready.eq(self.lines.ready),
        ]
        return m

    def _escapes(self, beat, *tiers):
        """Lanes whose codes of all these tiers send them to the next."""
        verbatim = beat.centre == VERBATIM
        return Cat(verbatim | Cat(codes.word_select(lane, 2) == ESCAPE for codes in tiers).all()
                   for lane in range(self._lanes))

    def _ask_second(self, m, reader, requests):
        """Goes through the codes of the first tier, row by row."""
        row_beats = ROW_VALUES // self._lanes
        page = Signal(page_layout())
        busy = Signal()
        beat = Signal(range(PAGE_ROWS * row_beats))
        row_last = beat % row_beats == row_beats - 1
        last = beat == PAGE_ROWS * row_beats - 1
        tag = requests.p.tag
        m.d.comb += [
            tag.first.eq(reader.first.payload),
            tag.centre.eq(page.centres[:EXPONENT_BITS]),
            tag.dtype.eq(page.dtype),
            tag.last.eq(last),
            requests.p.last.eq(last),
            requests.p.mask.eq(self._escapes(tag, tag.first)),
            requests.valid.eq(reader.first.valid & busy),
            reader.first.ready.eq(requests.ready & busy),
            reader.page.ready.eq(~busy | (transfer(requests) & last)),
        ]
        with m.If(transfer(requests)):
            m.d.sync += beat.eq(beat + 1)
            with m.If(row_last):
                m.d.sync += page.centres.eq(page.centres[EXPONENT_BITS:])
        with m.If(reader.page.ready):
            m.d.sync += [page.eq(reader.page.payload), busy.eq(reader.page.valid)]

    def _join(self, m, reader, third, decoder):
        """Brings codes and kept bits of a beat together."""
        m.submodules.high = high = Regear(self._lanes, HIGH_BITS + 1, HIGH_BITS)
        chain(m, reader.high, high)
        codes = third.o.p
        beat = codes.tag.beat
        bf16 = is_bf16(beat.dtype)
        go = Signal()
        m.d.comb += [
            decoder.i.p.first.eq(beat.first),
            decoder.i.p.second.eq(codes.tag.second),
            decoder.i.p.third.eq(codes.units),
            decoder.i.p.centre.eq(beat.centre),
            decoder.i.p.dtype.eq(beat.dtype),
            decoder.i.p.low.eq(reader.low.payload),
            decoder.i.p.high.eq(high.o.payload),
            decoder.i.valid.eq(third.o.valid & reader.low.valid & (high.o.valid | bf16)),
            go.eq(transfer(decoder.i)),
            third.o.ready.eq(go),
            reader.low.ready.eq(go),
            high.o.ready.eq(go & ~bf16),
            reader.done.eq(go & beat.last),
        ]
