from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from .payloads import chunk

__all__ = ["CodeUnpacker", "CODES"]

CODES = 32
"""Codes of a chunk, and most of a fragment."""


class CodeUnpacker(wiring.Component):
    """Cuts the tightly packed codes of a page into the fragments that are asked for, low bits first.

    Latency 3 clocks, one fragment a clock; order kept. Chunks up to the page's last one are used up whether they are
    asked for or not; what is asked for beyond them is zero. Empty on reset.

    Parameters
    ----------
    width : int
        Bits of a code.
    tag : shape-like
        What goes with a fragment.

    Members
    -------
    i : In(stream(chunk(32 * width)))
        The `last` one ends the page's codes.
    requests : In(stream)
        `count` (0 to 32), `tag`, `last` of the page and `body`: whether the page has any chunks.
    o : Out(stream)
        `data`, of which codes from the count on are meaningless, and `tag`.
    """

    latency = 3

    def __init__(self, width, tag):
        self._width = width
        super().__init__({
            "i": In(stream.Signature(chunk(CODES * width))),
            "requests": In(stream.Signature(data.StructLayout({
                "count": range(CODES + 1), "tag": tag, "last": 1, "body": 1}))),
            "o": Out(stream.Signature(data.StructLayout({"data": CODES * width, "tag": tag}))),
        })

    def elaborate(self, platform):
        m = Module()
        width = self._width
        request = self.requests.payload
        advance = Signal()
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)

        # `held` is the chunk of which codes from `offset` on are left; none if `offset` is 0.
        held = Signal(CODES * width)
        offset = Signal(range(CODES))
        ended = Signal()
        surplus = Signal()
        end = offset + request.count
        used_up = ended | ~request.body
        needed = (request.count != 0) & ((offset == 0) | (end > CODES))
        take = needed & ~used_up
        incoming = Mux(used_up, 0, self.i.payload.data)
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
                offset.eq(Mux(request.last, 0, end)),
                ended.eq(all_taken & ~request.last),
                surplus.eq(~all_taken & request.last),
            ]
            with m.If(needed):
                m.d.sync += held.eq(incoming)

        # 1: bring the codes together; 2 and 3: rotate the first one to the front
        valid = Signal(2)
        tags = [Signal.like(request.tag, name=f"tag{n}") for n in range(2)]
        data1, data2 = Signal.like(held), Signal.like(held)
        offset1, offset2 = Signal.like(offset), Signal.like(offset)
        with m.If(advance):
            m.d.sync += [
                Cat(valid, self.o.valid).eq(Cat(transfer(self.requests), valid)),
                tags[0].eq(request.tag),
                tags[1].eq(tags[0]),
                self.o.payload.tag.eq(tags[1]),
                offset1.eq(offset),
                offset2.eq(offset1),
                data1.eq(Cat(Mux((offset != 0) & (offset <= code), held.word_select(code, width),
                                 incoming.word_select(code, width)) for code in range(CODES))),
            ]
            with m.Switch(offset1[:2]):
                for codes in range(4):
                    with m.Case(codes):
                        m.d.sync += data2.eq(data1.rotate_right(width * codes))
            with m.Switch(offset2[2:]):
                for codes in range(0, CODES, 4):
                    with m.Case(codes // 4):
                        m.d.sync += self.o.payload.data.eq(data2.rotate_right(width * codes))
        return m
