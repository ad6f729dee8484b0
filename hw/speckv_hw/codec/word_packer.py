from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from ..types import LINE_BITS
from .payloads import chunk
from .word_unpacker import LINE_WORDS, WORD_BITS

__all__ = ["WordPacker"]


class WordPacker(wiring.Component):
    """Packs fragments of 32-bit words tightly into the lines of a page.

    Latency 3 clocks from the fragment that completes a line; one fragment a clock (one clock more where a page's last
    fragment ends in a second line). The page's last fragment completes its line with zeros; the first one begins as
    many words into a line as it says, after zeros. Empty on reset.

    Members
    -------
    i : In(stream)
        `data`, `count` of its words, `first`, `skip` (words, of a first one) and `last`.
    o : Out(stream(chunk(512)))
        `last` of a page's last line, unless the last fragment has no words and the line before is full.
    """

    latency = 3

    fragment = data.StructLayout({
        "data": LINE_BITS, "count": range(LINE_WORDS + 1), "first": 1, "skip": range(LINE_WORDS), "last": 1})

    i: In(stream.Signature(fragment))
    o: Out(stream.Signature(chunk(LINE_BITS)))

    def elaborate(self, platform):
        m = Module()
        advance = Signal()
        tail_due = Signal()
        m.d.comb += [
            advance.eq((~self.o.valid | self.o.ready) & ~tail_due),
            self.i.ready.eq(advance),
        ]
        words = range(LINE_WORDS)

        # 1: rotate by 0 to 3 words
        at, offset = Signal(range(LINE_WORDS)), Signal(range(LINE_WORDS))
        m.d.comb += offset.eq(Mux(self.i.p.first, self.i.p.skip, at))
        end = offset + self.i.p.count
        valid1, last1, first1 = Signal(), Signal(), Signal()
        data1, offset1, end1 = Signal(LINE_BITS), Signal.like(offset), Signal(range(2 * LINE_WORDS))
        with m.If(advance):
            m.d.sync += [valid1.eq(self.i.valid), last1.eq(self.i.p.last), first1.eq(self.i.p.first)]
            m.d.sync += [offset1.eq(offset), end1.eq(end)]
            with m.Switch(offset[:2]):
                for count in range(4):
                    with m.Case(count):
                        m.d.sync += data1.eq(self.i.p.data.rotate_left(WORD_BITS * count))
        with m.If(transfer(self.i)):
            m.d.sync += at.eq(end)

        # 2: rotate by the rest of the offset
        valid2, last2, first2 = Signal(), Signal(), Signal()
        data2, end2 = Signal(LINE_BITS), Signal.like(end1)
        fresh = Signal(LINE_WORDS)
        with m.If(advance):
            m.d.sync += [valid2.eq(valid1), last2.eq(last1), first2.eq(first1), end2.eq(end1)]
            m.d.sync += fresh.eq(Cat(offset1 <= word for word in words))
            with m.Switch(offset1[2:]):
                for count in range(0, LINE_WORDS, 4):
                    with m.Case(count // 4):
                        m.d.sync += data2.eq(data1.rotate_left(WORD_BITS * count))

        # 3: merge with what is already there
        held = Signal(LINE_BITS)
        before = Mux(first2, 0, held)
        merged = Cat(Mux(fresh[word], data2.word_select(word, WORD_BITS), before.word_select(word, WORD_BITS))
                     for word in words)
        full = end2[-1]
        over = full & (end2[:-1] != 0)
        used = Cat(end2[:-1] > word for word in words)
        tail = Signal(LINE_WORDS)

        def only(bits, chosen):
            return Cat(Mux(chosen[word], bits.word_select(word, WORD_BITS), 0) for word in words)

        with m.If(advance):
            m.d.sync += [
                self.o.valid.eq(valid2 & (full | (last2 & (end2 != 0)))),
                self.o.p.last.eq(last2 & ~over),
                self.o.p.data.eq(Mux(full, merged, only(merged, used))),
                tail.eq(used),
                tail_due.eq(valid2 & last2 & over),
            ]
            with m.If(valid2):
                m.d.sync += held.eq(Mux(full, data2, merged))
        with m.Elif(tail_due & self.o.ready):
            m.d.sync += [
                self.o.p.last.eq(1),
                self.o.p.data.eq(only(held, tail)),
                tail_due.eq(0),
            ]
        return m
