from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import CHUNK_BYTES, FIRST_LINES, HEADER_BYTES, LOW_LINES, high_lines
from speckv_model.constants import LINE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_VALUES
from speckv_model.constants import Dtype as ModelDtype

from ..stream import Fifo, Stage, chain, transfer
from ..types import LINE_BITS, Dtype, EncodeResult, StoredLine
from .code_packer import CHUNK_BITS, code_chunk
from .float16 import is_bf16
from .payloads import chunk
from .row_centre import EXPONENT_BITS
from .widen import Widen

__all__ = ["LosslessWriter", "fixed_sections"]

HEADER_WORDS = HEADER_BYTES // CHUNK_BYTES
LINE_WORDS = LINE_BYTES // CHUNK_BYTES
HIGH_BITS = 3
_SECONDS = 16
"""Chunks of second-tier codes that wait while the third tier of the page before is written."""
_THIRDS = 160
"""Chunks of third-tier codes that wait until a page's second tier is complete: all of a page and some of the next."""


def fixed_sections(lanes):
    """Of a beat, what goes to the sections of fixed length, and what goes with it."""
    return data.StructLayout({"low": 8 * lanes, "first": 2 * lanes, "high": HIGH_BITS * lanes, "centre": EXPONENT_BITS,
                              "dtype": Dtype})


class LosslessWriter(wiring.Component):
    """Makes the lines of `lossless` pages: four sections side by side, each with its place in the page.

    Index 0 to 31 the low bits, from 32 on the first tier, then the high bits (FP16), then the middle: header, second
    tier, third tier. One beat a clock; the middle's first line comes when its header is complete, then the result.
    Lines of the next page, but of no later one, may come before that. Lines above 63 are dropped. Empty on reset.

    Parameters
    ----------
    lanes : int
        Values in a beat.

    Members
    -------
    sections : In(stream(fixed_sections(lanes)))
    second, third : In(stream(code_chunk))
        Of each page at least one chunk, the last of them `last`.
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "sections": In(stream.Signature(fixed_sections(lanes))),
            "second": In(stream.Signature(code_chunk)),
            "third": In(stream.Signature(code_chunk)),
            "stored": Out(stream.Signature(StoredLine)),
            "result": Out(stream.Signature(EncodeResult)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        beat = self.sections.p
        bf16 = is_bf16(beat.dtype)
        beats = PAGE_ROWS * ROW_VALUES // lanes
        number = Signal(range(beats))
        # Which page the beats belong to, counted from the one whose result is next: 0, 1, or 2 (then they wait).
        ahead = Signal(2)
        finished = transfer(self.result)
        taken = transfer(self.sections)

        m.submodules.low = low = Widen(8 * lanes, LINE_BITS)
        m.submodules.first = first = Widen(2 * lanes, LINE_BITS)
        m.submodules.high = high = _HighLines(lanes)
        m.submodules.pages = pages = Fifo(8 * PAGE_ROWS, 2)
        m.submodules.dtypes = dtypes = Fifo(Dtype, 2)
        page_last = number == beats - 1
        row_last = number % (ROW_VALUES // lanes) == ROW_VALUES // lanes - 1
        centres = Signal(8 * PAGE_ROWS)
        following = Cat(centres[8:], beat.centre)
        # Pages of different dtypes have different sections: the first must be through.
        dtype = Signal(Dtype)
        fits_in = (ahead == 0) | ((ahead == 1) & (beat.dtype == dtype))
        ready = low.i.ready & first.i.ready & (high.i.ready | bf16) & fits_in & (~page_last | pages.i.ready) & (
            (number != 0) | dtypes.i.ready)
        m.d.comb += [
            self.sections.ready.eq(ready),
            low.i.payload.data.eq(beat.low),
            first.i.payload.data.eq(beat.first),
            high.i.payload.eq(beat.high),
            low.i.valid.eq(taken),
            first.i.valid.eq(taken),
            high.i.valid.eq(taken & ~bf16),
            pages.i.payload.eq(following),
            pages.i.valid.eq(taken & page_last),
            dtypes.i.payload.eq(beat.dtype),
            dtypes.i.valid.eq(taken & (number == 0)),
        ]
        with m.If(taken):
            m.d.sync += [number.eq(number + 1), dtype.eq(beat.dtype)]
            with m.If(row_last):
                m.d.sync += centres.eq(following)
        m.d.sync += ahead.eq(ahead + (taken & page_last) - finished)

        m.d.comb += [pages.o.ready.eq(finished), dtypes.o.ready.eq(finished)]
        middle = self._middle(m, pages.o, dtypes.o)
        # A line of codes may wait while one of low bits goes: both are complete with the same beat.
        m.submodules.first_lines = first_lines = Stage(chunk(LINE_BITS))
        chain(m, first, first_lines)
        self._store(m, (low.o, first_lines.o, high.o), middle, finished)
        return m

    def _middle(self, m, pages, dtypes):
        """Second tier, then third, in lines; the first line comes last, with the header.

        Returns what `_store` needs.
        """
        m.submodules.thirds = thirds = Fifo(code_chunk, _THIRDS)
        m.submodules.seconds = seconds = Fifo(code_chunk, _SECONDS)
        chain(m, self.third, thirds)
        chain(m, self.second, seconds)
        line, opening = Signal(LINE_BITS), Signal(LINE_BITS)
        at = Signal(range(LINE_WORDS), init=HEADER_WORDS)
        chunks, third_chunks = Signal(8), Signal(8)
        lines = Signal(6)
        full = Signal()
        ended = Signal()
        word = Signal(CHUNK_BITS)
        take = Signal()
        from_third = Signal()
        done = Signal()
        chunk = Mux(from_third, thirds.o.payload.as_value(), seconds.o.payload.as_value())
        chunk = data.View(code_chunk, chunk)
        valid = Mux(from_third, thirds.o.valid, seconds.o.valid)
        go = ~full & ~ended
        m.d.comb += [
            word.eq(chunk.data),
            take.eq(valid & go & ~chunk.empty),
            seconds.o.ready.eq(go & ~from_third),
            thirds.o.ready.eq(go & from_third),
        ]
        with m.If(take):
            m.d.sync += at.eq(at + 1)
            with m.Switch(at):
                for n in range(LINE_WORDS):
                    with m.Case(n):
                        # What is behind belongs to the page before, unless this is the line's last word.
                        m.d.sync += line[CHUNK_BITS * n:].eq(word)
            with m.If(at == LINE_WORDS - 1):
                m.d.sync += full.eq(1)
            with m.If(from_third):
                m.d.sync += third_chunks.eq(third_chunks + 1)
            with m.Else():
                m.d.sync += chunks.eq(chunks + 1)
        with m.If(valid & go & chunk.last):
            m.d.sync += [from_third.eq(~from_third), ended.eq(from_third)]

        # A full line, or the last one that has words, goes on; the first of a page waits for the end.
        partial = ended & ~full & (at != 0) & ~done
        is_opening = lines == 0
        header = Signal(8 * HEADER_BYTES)
        m.d.comb += header.eq(Cat(pages.payload, chunks, third_chunks))
        offer = Signal()
        offer_line = Signal(LINE_BITS)
        sent = Signal()
        page_sent = Signal()
        m.d.comb += offer_line.eq(line)
        with m.If((full | partial) & is_opening):
            m.d.sync += [opening.eq(line), full.eq(0), lines.eq(1), done.eq(partial)]
        with m.Elif(full | partial):
            m.d.comb += offer.eq(1)
            with m.If(sent):
                m.d.sync += [full.eq(0), lines.eq(lines + 1), done.eq(partial)]
        with m.Elif(ended & pages.valid):
            m.d.comb += [offer.eq(1), offer_line.eq(Cat(header, opening[8 * HEADER_BYTES:])), page_sent.eq(1)]
        index = Signal(7)
        base = Mux(is_bf16(dtypes.payload), LOW_LINES + FIRST_LINES + high_lines(ModelDtype.BF16),
                   LOW_LINES + FIRST_LINES + high_lines(ModelDtype.FP16))
        m.d.comb += index.eq(base + Mux(page_sent, 0, lines))
        return dict(offer=offer & dtypes.valid, line=offer_line, index=index, sent=sent, ends=page_sent, lines=lines,
                    base=base, dtype=dtypes.payload,
                    restart=[at.eq(HEADER_WORDS), chunks.eq(0), third_chunks.eq(0), lines.eq(0), ended.eq(0),
                             done.eq(0)])

    def _store(self, m, sections, middle, finished):
        """One line a clock from the section that has one; a section is never two pages ahead."""
        stored = self.stored.p
        chosen = Signal(range(4))
        held = Signal()
        lengths = (LOW_LINES, FIRST_LINES, high_lines(ModelDtype.FP16))
        bases = (0, LOW_LINES, LOW_LINES + FIRST_LINES)
        bf16 = is_bf16(middle["dtype"])
        places, aheads, offers = [], [], []
        for n, (section, length) in enumerate(zip(sections, lengths)):
            place, ahead = Signal(range(length), name=f"place{n}"), Signal(2, name=f"ahead{n}")
            places.append(place)
            aheads.append(ahead)
            offers.append(section.valid & (ahead != 2) & ~self.result.valid)
            sent = section.valid & section.ready
            ends = sent & (place == length - 1)
            with m.If(sent):
                m.d.sync += place.eq(Mux(place == length - 1, 0, place + 1))
            # BF16 pages have no high bits.
            m.d.sync += ahead.eq(ahead + ends - (finished & ~bf16 if n == 2 else finished))
        complete = (aheads[0] != 0) & (aheads[1] != 0) & ((aheads[2] != 0) | bf16)
        result_due = Signal()
        middle_offer = middle["offer"] & ~result_due

        # The low bits first: they have a line every second clock and no room for another.
        for n, offer in reversed(list(enumerate((*offers, middle_offer)))):
            with m.If(offer):
                m.d.comb += chosen.eq(n)
        # What is offered stays until it is taken.
        before = Signal.like(chosen)
        with m.If(held):
            m.d.comb += chosen.eq(before)
        m.d.sync += [held.eq(self.stored.valid & ~self.stored.ready), before.eq(chosen)]
        with m.Switch(chosen):
            for n in range(3):
                with m.Case(n):
                    section = sections[n]
                    payload = section.payload.data if hasattr(section.payload, "data") else section.payload
                    m.d.comb += [
                        stored.index.eq(bases[n] + places[n]),
                        stored.ahead.eq(aheads[n] != 0),
                        stored.data.eq(payload),
                        self.stored.valid.eq(offers[n]),
                        section.ready.eq(self.stored.ready & offers[n]),
                    ]
            with m.Case(3):
                dropped = middle["index"] >= PAGE_LINES
                m.d.comb += [
                    stored.index.eq(middle["index"]),
                    stored.data.eq(middle["line"]),
                    self.stored.valid.eq(middle_offer & ~dropped),
                    middle["sent"].eq(middle_offer & (self.stored.ready | dropped)),
                ]
        with m.If(middle["sent"] & middle["ends"]):
            m.d.sync += result_due.eq(1)
        total = middle["base"] + middle["lines"]
        m.d.comb += [
            self.result.p.lines.eq(total),
            self.result.p.fits.eq(total < PAGE_LINES),
            self.result.p.first.eq(LOW_LINES),
            # A line that waits would change its mark `ahead` with the result.
            self.result.valid.eq(result_due & complete & ~held),
        ]
        with m.If(finished):
            m.d.sync += [result_due.eq(0), *middle["restart"]]


class _HighLines(wiring.Component):
    """Joins the high bits of beats to lines: three lines for each 16 beats of 32 values."""

    def __init__(self, lanes):
        self._beat = HIGH_BITS * lanes
        super().__init__({"i": In(stream.Signature(self._beat)), "o": Out(stream.Signature(LINE_BITS))})

    def elaborate(self, platform):
        m = Module()
        lines = 3
        beats = lines * LINE_BITS // self._beat
        bits = Signal(lines * LINE_BITS)
        beat = Signal(range(beats))
        complete = Signal(lines)
        turn = Signal(range(lines))
        # The beat that completes line n; a line may be written again once it has left.
        ends = [-(-LINE_BITS * (n + 1) // self._beat) - 1 for n in range(lines)]
        starts = [LINE_BITS * n // self._beat for n in range(lines)]
        blocked = Signal()
        for n in range(lines):
            with m.If(complete[n] & (beat >= starts[n]) & (beat <= ends[n])):
                m.d.comb += blocked.eq(1)
        m.d.comb += [
            self.i.ready.eq(~blocked),
            self.o.valid.eq(complete.bit_select(turn, 1)),
            self.o.payload.eq(bits.word_select(turn, LINE_BITS)),
        ]
        with m.If(transfer(self.o)):
            m.d.sync += [complete.bit_select(turn, 1).eq(0), turn.eq(Mux(turn == lines - 1, 0, turn + 1))]
        with m.If(transfer(self.i)):
            m.d.sync += [bits.word_select(beat, self._beat).eq(self.i.payload),
                         beat.eq(Mux(beat == beats - 1, 0, beat + 1))]
            for n in range(lines):
                with m.If(beat == ends[n]):
                    m.d.sync += complete[n].eq(1)
        return m
