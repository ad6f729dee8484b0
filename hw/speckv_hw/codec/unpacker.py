from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from .payloads import chunk

__all__ = ["Unpacker"]


class Unpacker(wiring.Component):
    """Cuts a page's tightly packed body into the fragments that are asked for, low bits first.

    Latency 3 clocks, one fragment a clock; order kept. Chunks up to the page's last one are used up whether
    they are asked for or not; what is asked for beyond them is zero. Empty on reset.

    Parameters
    ----------
    halfwords : int
        16-bit units in a chunk and at most in a fragment: 4, 8 or 16.
    tag : shape-like
        What goes with a fragment.

    Members
    -------
    i : In(stream(chunk(16 * halfwords)))
        The `last` one ends the page's body.
    requests : In(stream)
        `count` (from 1 to `halfwords`), `tag`, `last` of the page and `body`: whether the page has any
        chunks.
    o : Out(stream)
        `data`, of which units from the count on are meaningless, and `tag`.
    """

    latency = 3

    def __init__(self, halfwords, tag):
        if halfwords not in (4, 8, 16):
            raise ValueError(f"halfwords must be 4, 8 or 16, not {halfwords!r}")
        self._halfwords = halfwords
        super().__init__({
            "i": In(stream.Signature(chunk(16 * halfwords))),
            "requests": In(stream.Signature(self.request_layout(halfwords, tag))),
            "o": Out(stream.Signature(data.StructLayout({"data": 16 * halfwords, "tag": tag}))),
        })

    @staticmethod
    def request_layout(halfwords, tag):
        return data.StructLayout({"count": range(halfwords + 1), "tag": tag, "last": 1, "body": 1})

    def elaborate(self, platform):
        m = Module()
        size = self._halfwords
        request = self.requests.payload
        advance = Signal()
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)

        # `held` is the chunk of which units from `offset` on are left; none if `offset` is 0.
        held = Signal(16 * size)
        offset = Signal(range(size))
        ended = Signal()
        surplus = Signal()
        end = offset + request.count
        used_up = ended | ~request.body
        needed = (offset == 0) | (end > size)
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

        # 1: bring the units together; 2 and 3: rotate the first one to the front
        valid = Signal(2)
        tags = [Signal.like(request.tag, name=f"tag{n}") for n in range(2)]
        data1, data2 = Signal(16 * size), Signal(16 * size)
        offset1, offset2 = Signal.like(offset), Signal.like(offset)
        with m.If(advance):
            m.d.sync += [
                Cat(valid, self.o.valid).eq(Cat(transfer(self.requests), valid)),
                tags[0].eq(request.tag),
                tags[1].eq(tags[0]),
                self.o.payload.tag.eq(tags[1]),
                offset1.eq(offset),
                offset2.eq(offset1),
                data1.eq(Cat(Mux((offset != 0) & (offset <= unit), held.word_select(unit, 16),
                                 incoming.word_select(unit, 16)) for unit in range(size))),
            ]
            with m.Switch(offset1[:2]):
                for units in range(4):
                    with m.Case(units):
                        m.d.sync += data2.eq(data1.rotate_right(16 * units))
            with m.Switch(offset2[2:]):
                for units in range(0, size, 4):
                    with m.Case(units // 4):
                        m.d.sync += self.o.payload.data.eq(data2.rotate_right(16 * units))
        return m
