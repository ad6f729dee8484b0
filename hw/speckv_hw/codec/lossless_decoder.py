from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import (
    ESCAPE,
    FIRST_TIER,
    ONES_EXPONENT,
    SECOND_TIER,
    THIRD_TIER,
    VERBATIM,
    ZERO_EXPONENT,
)
from speckv_model.constants import PAGE_ROWS, ROW_VALUES

from ..stream import Fifo, chain, transfer
from ..types import LINE_BITS, DecodeStart, Dtype
from .code_packer import CHUNK_BITS
from .code_unpacker import CODES, CodeUnpacker
from .compactor import prefix_counts
from .float16 import is_bf16
from .lossless_reader import LosslessPage, LosslessReader
from .narrow import Narrow
from .payloads import chunk
from .pipeline import delay
from .rom import rom
from .row_centre import EXPONENT_BITS
from .widen import Widen

__all__ = ["LosslessDecoder"]

HIGH_BITS = 3
_ROOM = 16
"""Beats that fit behind a step of the pipeline: its latency and a few more."""


class LosslessDecoder(wiring.Component):
    """Decodes `lossless` pages (``docs/format.md``); any stored bytes give 64 lines, and none is left over.

    One beat a clock, successive pages without a gap where the middle of a page takes no more lines than that of real
    values does. Empty on reset.

    ::

        stored -> LosslessReader -first-> ranks ----> CodeUnpacker -> ranks ----> CodeUnpacker -> exponents -> lines
                                 -second------------> ^
                                 -third---------------------------------------> ^
                                 -low, high-------------------------------------------------> ^

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
        m.submodules.reader = reader = LosslessReader()
        chain(m, self.start, reader.start)
        chain(m, self.stored, reader.stored)

        context = data.StructLayout({
            "first": 2 * lanes, "second": 2 * lanes, "centre": EXPONENT_BITS, "dtype": Dtype,
            "ranks": _ranks_layout(lanes), "count": range(lanes + 1), "has_second": 1, "has_third": 1, "last": 1})

        # First tier: which values have a code in the second
        m.submodules.first = first = Narrow(LINE_BITS, 2 * lanes)
        chain(m, reader.first, first)
        beat = Signal(context)
        m.submodules.pages = pages = Fifo(LosslessPage, 2)
        chain(m, reader.page, pages)
        issue, room = self._first_beats(m, pages.o, first.o, beat)
        m.submodules.to_second = to_second = Fifo(context, _ROOM)
        self._rank(m, issue, room, beat, self._escapes(beat, beat.first), to_second, "second")

        m.submodules.second_codes = second_codes = CodeUnpacker(2, context)
        chain(m, reader.second, second_codes.i)
        self._ask(m, to_second.o, second_codes, "has_second")

        # Second tier: which have one in the third
        found = second_codes.o.p
        beat = Signal(context)
        masked = self._escapes(found.tag, found.tag.first)
        codes = self._spread(found.data, 2, found.tag.ranks)
        m.d.comb += beat.eq(found.tag)
        m.d.comb += beat.second.eq(Cat(Mux(masked[lane], codes[lane], 0) for lane in range(lanes)))
        issue, room = Signal(), Signal(range(_ROOM + 1), init=_ROOM)
        m.d.comb += [issue.eq(second_codes.o.valid & (room != 0)), second_codes.o.ready.eq(room != 0)]
        m.submodules.to_third = to_third = Fifo(context, _ROOM)
        self._rank(m, issue, room, beat, masked & self._escapes(beat, beat.second), to_third, "third")

        m.submodules.widen_third = wide_third = Widen(CHUNK_BITS, 4 * CODES)
        m.submodules.third_codes = third_codes = CodeUnpacker(4, context)
        chain(m, reader.third, wide_third, third_codes.i)
        self._ask(m, to_third.o, third_codes, "has_third")

        # Third tier, and what is not the exponent
        m.submodules.low = low = Narrow(LINE_BITS, 8 * lanes)
        m.submodules.high = high = _HighBeats(lanes)
        chain(m, reader.low, low)
        chain(m, reader.high, high.i)
        m.submodules.values = values = Fifo(16 * lanes, _ROOM)
        m.submodules.widen = widen = Widen(16 * lanes, LINE_BITS)
        found = third_codes.o.p
        bf16 = is_bf16(found.tag.dtype)
        room, issue = Signal(range(_ROOM + 1), init=_ROOM), Signal()
        m.d.comb += [
            issue.eq(third_codes.o.valid & low.o.valid & (high.o.valid | bf16) & (room != 0)),
            third_codes.o.ready.eq(issue),
            low.o.ready.eq(issue),
            high.o.ready.eq(issue & ~bf16),
        ]
        m.d.sync += room.eq(room - issue + transfer(values.o))
        self._values(m, issue, found, low.o.p.data, high.o.payload, values.i)
        m.d.comb += [
            widen.i.p.data.eq(values.o.payload),
            widen.i.valid.eq(values.o.valid),
            values.o.ready.eq(widen.i.ready),
            self.lines.payload.eq(widen.o.p.data),
            self.lines.valid.eq(widen.o.valid),
            widen.o.ready.eq(self.lines.ready),
        ]
        return m

    def _first_beats(self, m, pages, codes, beat):
        """Beats of first-tier codes with the centre of their row. Returns whether one counts, and the room for more."""
        lanes = self._lanes
        row_beats = ROW_VALUES // lanes
        number = Signal(range(PAGE_ROWS * row_beats))
        centres = Signal.like(pages.p.centres)
        current = Mux(number == 0, pages.p.centres, centres)
        issue, room = Signal(), Signal(range(_ROOM + 1), init=_ROOM)
        last = number == PAGE_ROWS * row_beats - 1
        m.d.comb += [
            issue.eq(pages.valid & codes.valid & (room != 0)),
            codes.ready.eq(issue),
            pages.ready.eq(issue & last),
            beat.first.eq(codes.p.data),
            beat.centre.eq(current[:EXPONENT_BITS]),
            beat.dtype.eq(pages.p.dtype),
            beat.has_second.eq(pages.p.has_second),
            beat.has_third.eq(pages.p.has_third),
            beat.last.eq(last),
        ]
        with m.If(issue):
            m.d.sync += number.eq(number + 1)
            m.d.sync += centres.eq(Mux(number % row_beats == row_beats - 1, current >> EXPONENT_BITS, current))
        return issue, room

    def _escapes(self, beat, codes):
        """Which of a beat's values go on to the next tier: those with an escape, and all of a verbatim row."""
        verbatim = beat.centre == VERBATIM
        return Cat((codes.word_select(lane, 2) == ESCAPE) | verbatim for lane in range(self._lanes))

    def _rank(self, m, issue, room, beat, mask, queue, name):
        """Counts for each value how many before it go on, in a pipeline that never stops, into `queue`."""
        kept, kept_mask = Signal.like(beat, name=f"{name}_beat"), Signal(self._lanes, name=f"{name}_mask")
        m.d.sync += [kept.eq(beat), kept_mask.eq(mask)]
        ranks, total, clocks = prefix_counts(m, kept_mask, f"{name}_ranks")
        m.d.sync += room.eq(room - issue + transfer(queue.o))
        m.d.comb += [
            queue.i.payload.eq(delay(m, kept, clocks)),
            queue.i.p.count.eq(total),
            queue.i.valid.eq(delay(m, issue, clocks + 1)),
        ]
        for lane in range(1, self._lanes):
            m.d.comb += queue.i.p.ranks[f"lane{lane}"].eq(ranks[lane])

    def _ask(self, m, beats, unpacker, body):
        request = unpacker.requests
        m.d.comb += [
            request.p.count.eq(beats.p.count),
            request.p.tag.eq(beats.p),
            request.p.last.eq(beats.p.last),
            request.p.body.eq(beats.p[body]),
            request.valid.eq(beats.valid),
            beats.ready.eq(request.ready),
        ]

    def _spread(self, codes, width, ranks):
        """For each lane the code that has its rank."""
        result = [codes[:width]]
        for lane in range(1, self._lanes):
            choices = Array(codes.word_select(n, width) for n in range(lane + 1))
            result.append(choices[ranks[f"lane{lane}"]])
        return result

    def _values(self, m, issue, found, low, high, values):
        """Exponents from the codes of all tiers, and values from them: three clocks, always in motion."""
        lanes, tag = self._lanes, found.tag
        spread = self._spread(found.data, 4, tag.ranks)
        # What a third-tier code says is far below 256, also where it is negative.
        tiers = [[below % 256 for below in tier] for tier in (FIRST_TIER, SECOND_TIER, THIRD_TIER)]
        third1 = Signal(4 * lanes)
        tag1, low1, high1 = Signal.like(tag), Signal.like(low), Signal.like(high)
        m.d.sync += [third1.eq(Cat(spread)), tag1.eq(tag), low1.eq(low), high1.eq(high)]
        verbatim = tag1.centre == VERBATIM
        bf16 = is_bf16(tag1.dtype)
        bf16_later = delay(m, bf16, 1)
        low2, high2 = delay(m, low1, 1), delay(m, high1, 1)
        for lane in range(lanes):
            first, second = tag1.first.word_select(lane, 2), tag1.second.word_select(lane, 2)
            third = third1.word_select(lane, 4)
            exponent = Signal(8, name=f"exponent{lane}")
            below = Signal(8, name=f"below{lane}")
            ones = Mux(bf16, 0xFF, 0x1F)
            m.d.comb += below.eq(Mux(first != ESCAPE, rom(tiers[0], first),
                                     Mux(second != ESCAPE, rom(tiers[1], second), rom(tiers[2], third))))
            in_third = (first == ESCAPE) & (second == ESCAPE)
            with m.If(verbatim):
                m.d.sync += exponent.eq(Cat(first, second, third) & ones)
            with m.Elif(in_third & (third == ZERO_EXPONENT)):
                m.d.sync += exponent.eq(0)
            with m.Elif(in_third & (third == ONES_EXPONENT)):
                m.d.sync += exponent.eq(ones)
            with m.Else():
                m.d.sync += exponent.eq((tag1.centre - below) & ones)
            low_byte, high_bits = low2.word_select(lane, 8), high2.word_select(lane, HIGH_BITS)
            value = Signal(16, name=f"value{lane}")
            m.d.sync += value.eq(Mux(bf16_later, Cat(low_byte[:7], exponent, low_byte[7]),
                                     Cat(low_byte, high_bits[:2], exponent[:5], high_bits[2])))
            m.d.comb += values.payload.word_select(lane, 16).eq(value)
        m.d.comb += values.valid.eq(delay(m, issue, 3))


class _HighBeats(wiring.Component):
    """Gives out lines of high bits by beats: 16 beats of 32 values from three lines."""

    def __init__(self, lanes):
        self._beat = HIGH_BITS * lanes
        super().__init__({"i": In(stream.Signature(chunk(LINE_BITS))), "o": Out(stream.Signature(self._beat))})

    def elaborate(self, platform):
        m = Module()
        lines = 3
        beats = lines * LINE_BITS // self._beat
        bits = Signal(lines * LINE_BITS)
        present = Signal(lines)
        turn = Signal(range(lines))
        beat = Signal(range(beats))
        missing = Signal()
        ends = [-(-LINE_BITS * (n + 1) // self._beat) - 1 for n in range(lines)]
        for n in range(lines):
            with m.If(~present[n] & (beat >= LINE_BITS * n // self._beat) & (beat <= ends[n])):
                m.d.comb += missing.eq(1)
        m.d.comb += [
            self.i.ready.eq(~present.bit_select(turn, 1)),
            self.o.valid.eq(~missing),
            self.o.payload.eq(bits.word_select(beat, self._beat)),
        ]
        with m.If(transfer(self.o)):
            m.d.sync += beat.eq(Mux(beat == beats - 1, 0, beat + 1))
            for n in range(lines):
                with m.If(beat == ends[n]):
                    m.d.sync += present[n].eq(0)
        with m.If(transfer(self.i)):
            m.d.sync += [bits.word_select(turn, LINE_BITS).eq(self.i.p.data), present.bit_select(turn, 1).eq(1),
                         turn.eq(Mux(turn == lines - 1, 0, turn + 1))]
        return m


def _ranks_layout(lanes):
    """For each lane but the first, how many of those before it are chosen."""
    return data.StructLayout({f"lane{lane}": range(lane + 1) for lane in range(1, lanes)})
