from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from .pipeline import delay
from .quantised_payloads import HEADER_WORDS, LINE_WORDS, WORD_BITS, PageEnd, page_line, word_fragment
from .shallow_fifo import ShallowFifo

__all__ = ["WordPacker"]

_LINES = 16
"""That fit into the queue at the end."""


class WordPacker(wiring.Component):
    """Packs fragments of 32-bit words tightly into the lines of a page, low bits first.

    Latency 6 clocks from the fragment that completes a line; one fragment a clock, one clock more where a page's last
    one ends in a second line. A last fragment completes its line with zeros. Of the first line of a `variable` page
    the first words are left free and are meaningless. A fragment comes in only if the queue at the end has room for
    what it completes, so nothing between is ever held up. Empty on reset.

    Members
    -------
    i : In(stream(word_fragment))
    o : Out(stream(page_line))
    """

    latency = 4 + ShallowFifo.latency

    i: In(stream.Signature(word_fragment()))
    o: Out(stream.Signature(page_line()))

    def elaborate(self, platform):
        m = Module()
        m.submodules.lines = lines = ShallowFifo(page_line(), _LINES)
        m.d.comb += [self.o.valid.eq(lines.o.valid), self.o.payload.eq(lines.o.payload), lines.o.ready.eq(self.o.ready)]

        # 1: where the fragment begins and ends
        fragment = self.i.payload
        first = Signal(init=1)
        place, offset = Signal(4), Signal(4)
        end = Signal(5)
        full = end[4]
        over = full & fragment.last & (end[:4] != 0)
        tail = Signal()
        """The page ends with what is left of its last fragment, in this clock."""
        room = Signal(range(_LINES + 1), init=_LINES)
        m.d.comb += [
            offset.eq(Mux(first, Mux(fragment.end.variable, HEADER_WORDS, 0), place)),
            end.eq(offset + fragment.count),
            self.i.ready.eq((room >= 2) & ~tail),
        ]
        taken = transfer(self.i)
        m.d.sync += [
            tail.eq(taken & over),
            room.eq(room - (taken & (full | fragment.last)) - (taken & over) + transfer(lines.o)),
        ]
        with m.If(taken):
            m.d.sync += [first.eq(fragment.last), place.eq(end[:4])]
        data1 = delay(m, fragment.data, 1)
        offset1, end1 = delay(m, offset, 1), delay(m, end, 1, enable=~tail)
        state1 = delay(m, Cat(taken, taken & full, taken & fragment.last, over), 1)
        page_end = delay(m, fragment.end, 3)

        # 2, 3: rotate, by single words and by fours
        data2, data3 = Signal(WORD_BITS * LINE_WORDS), Signal(WORD_BITS * LINE_WORDS)
        with m.Switch(offset1[:2]):
            for words in range(4):
                with m.Case(words):
                    m.d.sync += data2.eq(data1 << WORD_BITS * words)
        with m.Switch(delay(m, offset1[2:], 1)):
            for fours in range(4):
                with m.Case(fours):
                    m.d.sync += data3.eq(data2.rotate_left(4 * WORD_BITS * fours))

        # 4: merge with what is already there
        offset2, end2, state2 = (delay(m, value, 1) for value in (offset1, end1, state1))
        fresh, used = Signal(LINE_WORDS), Signal(LINE_WORDS)
        """Words of the line that come from the fragment, and those that count at all."""
        valid, full3, last, over3 = delay(m, state2, 1)
        tail2 = delay(m, tail, 2)
        tail3 = delay(m, tail2, 1)
        m.d.sync += [
            fresh.eq(Cat(offset2 <= word for word in range(LINE_WORDS)) & (~tail2).replicate(LINE_WORDS)),
            used.eq(Cat((end2[:4] > word) | state2[1] for word in range(LINE_WORDS))),
        ]
        held = Signal(WORD_BITS * LINE_WORDS)
        line = Signal(WORD_BITS * LINE_WORDS)
        kept = fresh | full3.replicate(LINE_WORDS)
        for word in range(LINE_WORDS):
            new, old = data3.word_select(word, WORD_BITS), held.word_select(word, WORD_BITS)
            m.d.comb += line.word_select(word, WORD_BITS).eq(Mux(used[word], Mux(fresh[word], new, old), 0))
            with m.If(valid & kept[word]):
                m.d.sync += old.eq(new)
        ended = Signal(PageEnd)
        m.d.sync += ended.eq(page_end)
        m.d.comb += [
            lines.i.valid.eq((valid & (full3 | last)) | tail3),
            lines.i.payload.data.eq(line),
            lines.i.payload.last.eq((last & ~over3) | tail3),
            lines.i.payload.end.eq(Mux(tail3, ended, page_end)),
        ]
        return m
