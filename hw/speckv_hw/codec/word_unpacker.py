from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from ..types import LINE_BITS
from .choose import choose
from .payloads import chunk

__all__ = ["WordUnpacker"]

WORD_BITS = 32
LINE_WORDS = LINE_BITS // WORD_BITS


class WordUnpacker(wiring.Component):
    """Cuts the lines of a page into fragments of 32-bit words.

    Latency 3 clocks, one fragment a clock; order kept. A page's first request says how many words of its first line are
    skipped, and takes that line, if the page has any; where its fragment would reach into the second line, a first
    request that is `empty` must come before it. Lines up to the page's last one are used up whether they are asked for
    or not; what is asked for beyond them is zero. Empty on reset.

    Parameters
    ----------
    tag : shape-like
        What goes with a fragment.
    words : int
        Words of a fragment at most, a multiple of 4 up to 16.

    Members
    -------
    i : In(stream(chunk(512)))
        The `last` line ends the page.
    requests : In(stream)
        `count` (words, from 0), `place` (output word where they begin), `tag`, `first` and `last` of the page; of
        a first one `skip` and `body`: whether the page has any lines; `empty`: no fragment is wanted, only the first
        line.
    o : Out(stream)
        `data`, whose words before the place are zero and those behind the fragment meaningless, and `tag`.
    """

    latency = 3

    def __init__(self, tag, words=LINE_WORDS):
        if words % 4 or not 0 < words <= LINE_WORDS:
            raise ValueError(f"words must be a multiple of 4 up to {LINE_WORDS}, not {words!r}")
        self._words = words
        super().__init__({
            "i": In(stream.Signature(chunk(LINE_BITS))),
            "requests": In(stream.Signature(self.request_layout(tag))),
            "o": Out(stream.Signature(data.StructLayout({"data": WORD_BITS * words, "tag": tag}))),
        })

    @staticmethod
    def request_layout(tag):
        return data.StructLayout({"count": range(LINE_WORDS + 1), "place": range(LINE_WORDS), "tag": tag, "first": 1,
                                  "last": 1, "skip": range(LINE_WORDS), "body": 1, "empty": 1})

    def elaborate(self, platform):
        m = Module()
        request = self.requests.payload
        advance = Signal()
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)

        # `held` is the line of which words from `at` on are left, if `has_held`.
        held = Signal(LINE_BITS, reset_less=True)
        at = Signal(range(LINE_WORDS))
        has_held = Signal()
        ended = Signal()
        surplus = Signal()
        offset = Signal.like(at)
        m.d.comb += offset.eq(Mux(request.first, request.skip, at))
        has_some = has_held & ~request.first
        used_up = Mux(request.first, ~request.body, ended)
        end = offset + request.count
        needed = request.first | ((request.count != 0) & (~has_some | (end > LINE_WORDS)))
        take = needed & ~used_up
        with m.If(surplus):
            m.d.comb += self.i.ready.eq(1)
            with m.If(transfer(self.i) & self.i.payload.last):
                m.d.sync += surplus.eq(0)
        with m.Else():
            m.d.comb += [
                self.requests.ready.eq(advance & (self.i.valid | ~take)),
                self.i.ready.eq(advance & self.requests.valid & take),
            ]
        with m.If(transfer(self.requests)):
            all_taken = used_up | (take & self.i.payload.last)
            m.d.sync += [
                at.eq(end),
                ended.eq(all_taken),
                surplus.eq(~all_taken & request.last),
                # A line that ends with the fragment is used up; one of which nothing was wanted yet is not.
                has_held.eq((has_some | needed) & ((end[:4] != 0) | (end == 0))),
            ]
            with m.If(needed):
                m.d.sync += held.eq(self.i.payload.data)
                with m.If(used_up):
                    m.d.sync += held.eq(0)

        # 1: bring the words together; 2 and 3: rotate the first one to its place
        valid = Signal(2)
        tags = [Signal.like(request.tag, name=f"tag{n}") for n in range(2)]
        # Words that become zero do so by their registers' reset, so that they need no logic in front of them.
        data1 = Signal(LINE_BITS, reset_less=True)
        data2 = Signal(WORD_BITS * min(self._words + 3, LINE_WORDS), reset_less=True)
        data3 = Signal(WORD_BITS * self._words, reset_less=True)
        rotate1, place1 = Signal.like(offset), Signal.like(offset)
        rotate2, place2 = Signal(2), Signal.like(offset)
        with m.If(advance):
            m.d.sync += [
                Cat(valid, self.o.valid).eq(Cat(transfer(self.requests) & ~request.empty, valid)),
                tags[0].eq(request.tag),
                tags[1].eq(tags[0]),
                self.o.payload.tag.eq(tags[1]),
                rotate1.eq(offset - request.place),
                rotate2.eq(rotate1),
                place1.eq(request.place),
                place2.eq(place1),
                data1.eq(Cat(Mux(has_some & (offset <= word), held.word_select(word, WORD_BITS),
                                 Mux(used_up, 0, self.i.payload.data.word_select(word, WORD_BITS)))
                             for word in range(LINE_WORDS))),
                data2.eq(choose(rotate1[2:], [data1.rotate_right(4 * WORD_BITS * n) for n in range(4)])),
                data3.eq(choose(rotate2, [data2.rotate_right(WORD_BITS * n) for n in range(4)])),
            ]
            for word in range(self._words):
                with m.If(place2 > word):
                    m.d.sync += data3.word_select(word, WORD_BITS).eq(0)
        m.d.comb += self.o.payload.data.eq(data3)
        return m
