from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.constants import PAGE_BYTES, ROW_VALUES

from ..stream import Fifo, chain, transfer
from ..types import LINE_BITS, Dtype, EncodeResult, StoredLine
from .exponent_form import HIGH_BITS, LOW_BITS, to_form
from .float16 import is_bf16
from .middle_writer import MiddleWriter
from .narrow import Narrow
from .payloads import PageLine
from .piece_maker import PIECE_BITS, PieceMaker
from .regear import Regear
from .row_centre import EXPONENT_BITS, RowCentre
from .section_writer import SectionWriter
from .tier_coder import TierCoder
from .tier_packer import TierPacker
from .widen import Widen

__all__ = ["LosslessEncoder"]

_QUEUE = 17
"""Payloads of most queues: a memory of 16 and the register at its end."""
_BEATS = 256
"""Beats that fit where they wait for their centres: so many that the memory is block RAM."""
_CHUNKS = 512
"""Chunks of the third tier that fit where they wait for the end of the second: those of a page and some more."""
_SECOND_PLACES, _THIRD_PLACES = 16, 8
"""Codes of a tier that a beat has at most if it takes a single clock: on real values nearly all have no more."""
_PAGE_VALUES = PAGE_BYTES // 2


class LosslessEncoder(wiring.Component):
    """Encodes pages as `lossless` (``docs/format.md``).

    One beat a clock on real values, successive pages without a gap; a beat of 32 values with more than 16 codes of the
    second tier takes two, and one with more than 8 of the third four in a path of its own. Every 64 lines are a page.
    Lines of the next page may come before the result of this one; they are marked `ahead`. Empty on reset.

    ::

        lines -> Narrow -+-> queue ----> TierCoder --low---> Widen -------------------------------> SectionWriter
                         +-> RowCentre --^           first-> Widen, queue, Widen ------------------^    |   |
                                                     high--> queue, Regear, Widen -----------------^    v   v
                                                     second> TierPacker, PieceMaker, queue -v      ^  stored, result
                                                     third-> queue, TierPacker, queue,   MiddleWriter
                                                             PieceMaker --------------------^

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
        m.submodules.values = values = Fifo(TierCoder.beat_layout(lanes), _BEATS)
        m.submodules.centres = centres = Fifo(EXPONENT_BITS, _BEATS * lanes // ROW_VALUES + 2)
        m.submodules.coder = coder = TierCoder(lanes)
        m.submodules.middle = middle = MiddleWriter()
        m.submodules.writer = writer = SectionWriter()
        self._take_lines(m, values.i, centres.i)
        chain(m, values, coder)
        self._keep_centres(m, centres, coder, middle)
        allowed = self._pages(m, coder.o, writer)

        beat = coder.o.p
        low = self._low(m, writer)
        first = self._first(m, writer)
        high = self._high(m, writer)
        second = self._second(m, beat, middle)
        third = self._third(m, beat, middle)
        sinks = (low, first, high, second, third)
        # All take a beat, or none.
        ready = allowed
        for sink in sinks:
            ready = ready & sink.ready
        taken = transfer(coder.o)
        m.d.comb += [
            coder.o.ready.eq(ready),
            low.p.data.eq(beat.low),
            first.p.data.eq(beat.first),
            high.payload.eq(beat.high),
        ]
        m.d.comb += [sink.valid.eq(taken & ~is_bf16(beat.dtype) if sink is high else taken) for sink in sinks]
        chain(m, middle, writer.middle)
        chain(m, writer.stored, self.stored)
        chain(m, writer.result, self.result)
        return m

    def _take_lines(self, m, values, centres):
        lanes = self._lanes
        m.submodules.narrow = narrow = Narrow(LINE_BITS, 16 * lanes)
        m.submodules.finder = finder = RowCentre(lanes)
        dtype = Signal(Dtype)
        place = Signal(range(_PAGE_VALUES // lanes))
        beat = values.p
        m.d.comb += [
            narrow.i.p.data.eq(self.lines.p.data),
            narrow.i.valid.eq(self.lines.valid),
            self.lines.ready.eq(narrow.i.ready),
            beat.forms.eq(Cat(to_form(narrow.o.p.data.word_select(n, 16), dtype) for n in range(lanes))),
            beat.dtype.eq(dtype),
            beat.row_last.eq(place[:(ROW_VALUES // lanes).bit_length() - 1].all()),
            beat.last.eq(place.all()),
            values.valid.eq(narrow.o.valid),
            narrow.o.ready.eq(values.ready),
            finder.i.p.forms.eq(beat.forms),
            finder.i.p.dtype.eq(dtype),
            finder.i.p.last.eq(beat.row_last),
            finder.i.valid.eq(transfer(values)),
            # Room for a centre is certain: the end of the row is in `values`.
            centres.payload.eq(finder.o.payload),
            centres.valid.eq(finder.o.valid),
        ]
        with m.If(transfer(self.lines)):
            m.d.sync += dtype.eq(self.lines.p.dtype)
        with m.If(transfer(values)):
            m.d.sync += place.eq(place + 1)

    def _keep_centres(self, m, centres, coder, middle):
        """A centre goes to the coder and, with others, to the page's header."""
        m.submodules.header = header = Widen(EXPONENT_BITS, PIECE_BITS)
        m.submodules.headers = headers = Fifo(PIECE_BITS, _QUEUE)
        m.d.comb += [
            coder.centres.payload.eq(centres.o.payload),
            coder.centres.valid.eq(centres.o.valid & header.i.ready),
            centres.o.ready.eq(coder.centres.ready),
            header.i.p.data.eq(centres.o.payload),
            header.i.valid.eq(transfer(coder.centres)),
        ]
        self._words(m, header, headers.i)
        chain(m, headers, middle.centres)

    def _pages(self, m, beats, writer):
        """Whether the next beat may go on: it is of the page whose result is next, or of the one after that and of the
        same dtype."""
        ahead = Signal(2)
        dtype = Signal(Dtype)
        taken = transfer(beats)
        m.d.sync += ahead.eq(ahead + (taken & beats.p.last) - transfer(writer.result))
        with m.If(taken):
            m.d.sync += dtype.eq(beats.p.dtype)
        m.d.comb += writer.dtype.eq(dtype)
        return (ahead == 0) | ((ahead == 1) & (beats.p.dtype == dtype))

    def _words(self, m, widen, sink):
        """Connects what `widen` gives, without its marks."""
        m.d.comb += [
            sink.payload.eq(widen.o.p.data),
            sink.valid.eq(widen.o.valid),
            widen.o.ready.eq(sink.ready),
        ]

    def _low(self, m, writer):
        m.submodules.low_lines = lines = Widen(LOW_BITS * self._lanes, LINE_BITS)
        self._words(m, lines, writer.low)
        return lines.i

    def _first(self, m, writer):
        # Two beats in a word: the lines must be made faster than the beats come, for they may have to wait.
        width = 4 * self._lanes
        m.submodules.first_words = words = Widen(width // 2, width)
        m.submodules.first = first = Fifo(width, _QUEUE)
        m.submodules.first_lines = lines = Widen(width, LINE_BITS)
        self._words(m, words, first.i)
        self._into_lines(m, first.o, lines, writer.first)
        return words.i

    def _high(self, m, writer):
        lanes = self._lanes
        m.submodules.high = high = Fifo(HIGH_BITS * lanes, _QUEUE)
        m.submodules.high_words = words = Regear(lanes, HIGH_BITS, HIGH_BITS + 1)
        m.submodules.high_lines = lines = Widen((HIGH_BITS + 1) * lanes, LINE_BITS)
        chain(m, high, words)
        self._into_lines(m, words.o, lines, writer.high)
        return high.i

    def _into_lines(self, m, words, lines, sink):
        m.d.comb += [
            lines.i.p.data.eq(words.payload),
            lines.i.valid.eq(words.valid),
            words.ready.eq(lines.i.ready),
        ]
        self._words(m, lines, sink)

    def _second(self, m, beat, middle):
        places = min(_SECOND_PLACES, self._lanes)
        m.submodules.second_packer = packer = TierPacker(self._lanes, places, 2)
        m.submodules.second_pieces = maker = PieceMaker(places, 2)
        m.submodules.second = queue = Fifo(PieceMaker.piece_layout(), _QUEUE)
        m.d.comb += [
            packer.i.p.units.eq(beat.second),
            packer.i.p.mask.eq(beat.in_second),
            packer.i.p.last.eq(beat.last),
        ]
        chain(m, packer, maker, queue, middle.second)
        return packer.i

    def _third(self, m, beat, middle):
        """Beats without third codes do not go on, which makes up for those that take several clocks."""
        places = _THIRD_PLACES
        m.submodules.third_packer = packer = TierPacker(self._lanes, places, 4)
        m.submodules.third_pieces = maker = PieceMaker(places, 4)
        m.submodules.third_beats = beats = Fifo(packer.i.p.shape(), _QUEUE)
        m.submodules.third = queue = Fifo(TierPacker.chunk_layout(places, 4), _CHUNKS)
        port = stream.Signature(packer.i.p.shape()).create()
        wanted = beat.in_third.any() | beat.last
        m.d.comb += [
            port.p.units.eq(beat.third),
            port.p.mask.eq(beat.in_third),
            port.p.last.eq(beat.last),
            port.ready.eq(beats.i.ready),
            beats.i.payload.eq(port.payload),
            beats.i.valid.eq(port.valid & wanted),
        ]
        chain(m, beats, packer, queue, maker, middle.third)
        return port
