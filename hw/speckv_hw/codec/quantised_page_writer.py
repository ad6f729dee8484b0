from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.constants import PAGE_LINES

from ..types import LINE_BITS, EncodeResult, StoredLine
from .pipeline import delay
from .quantised_payloads import LINE_ADDRESS_BITS, LINE_WORDS, WORD_BITS, PageEnd

__all__ = ["QuantisedPageWriter"]


class QuantisedPageWriter(wiring.Component):
    """Reads the lines of `fixed` and `variable` pages from where they are packed, and gives their results.

    Line 0 of a page comes last, when all of it is known. One line a clock, 2 clocks after it can be read, and some
    clocks more for each page; successive pages have successive addresses. Empty on reset.

    Members
    -------
    done, ends, address, enable, data
        As in `WordPacker`, the other way.
    begin : Out(8)
        First line that is still needed.
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
    """

    done: In(LINE_ADDRESS_BITS)
    ends: In(stream.Signature(PageEnd))
    address: Out(LINE_ADDRESS_BITS)
    enable: Out(1)
    data: In(LINE_BITS)
    begin: Out(LINE_ADDRESS_BITS)
    stored: Out(stream.Signature(StoredLine))
    result: Out(stream.Signature(EncodeResult))

    def elaborate(self, platform):
        m = Module()
        end = self.ends.payload
        index = Signal(range(PAGE_LINES), init=1)
        following = Signal(range(PAGE_LINES))
        wanted = Signal()
        read_valid, free = Signal(), Signal()
        m.d.comb += [
            free.eq(~self.stored.valid | self.stored.ready),
            self.enable.eq(wanted & (~read_valid | free)),
            self.address.eq(self.begin + index),
            following.eq(index + 1),
            self.result.payload.lines.eq(end.lines),
            self.result.payload.fits.eq(end.fits),
        ]
        with m.FSM(name="page"):
            with m.State("LINES"):
                complete = self.ends.valid & (index == end.lines)
                m.d.comb += wanted.eq(~complete & (self.done != self.begin) & (self.done != self.address))
                with m.If(self.enable):
                    m.d.sync += index.eq(following)
                with m.If(complete):
                    m.d.sync += index.eq(0)
                    m.next = "FIRST"
            with m.State("FIRST"):
                m.d.comb += wanted.eq(1)
                with m.If(self.enable):
                    m.next = "RESULT"
            with m.State("RESULT"):
                m.d.comb += [
                    self.result.valid.eq(~read_valid & ~self.stored.valid),
                    self.ends.ready.eq(self.result.ready & self.result.valid),
                ]
                with m.If(self.ends.ready):
                    m.d.sync += [self.begin.eq(self.begin + end.lines), index.eq(1)]
                    m.next = "LINES"

        # What follows the last words of a page is zero.
        final = self.ends.valid & (following == end.lines) & end.words.any()
        kept = Signal(LINE_WORDS)
        with m.If(self.enable):
            m.d.sync += kept.eq(Cat(~final | (end.words > word) for word in range(LINE_WORDS)))
        index1 = delay(m, index, 1, enable=self.enable)
        with m.If(~read_valid | free):
            m.d.sync += read_valid.eq(self.enable)
        with m.If(free):
            m.d.sync += [self.stored.valid.eq(read_valid), self.stored.payload.index.eq(index1)]
        for number in range(LINE_WORDS):
            # Cleared by its reset input, which the domain's reset would occupy.
            word = Signal(WORD_BITS, name=f"word{number}", reset_less=True)
            with m.If(free):
                m.d.sync += word.eq(Mux(kept[number], self.data.word_select(number, WORD_BITS), 0))
            m.d.comb += self.stored.payload.data.word_select(number, WORD_BITS).eq(word)
        return m
