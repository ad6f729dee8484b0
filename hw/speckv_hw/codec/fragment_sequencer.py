from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from .quantised_payloads import FRAGMENT_WORDS, WORD_BITS, Item, PageWidths, word_fragment

__all__ = ["FragmentSequencer"]

_HEAD_WORDS = 6, 8
"""Of a `fixed` row, without and with base-3 digits."""
_PLANE_WORDS = 4


class FragmentSequencer(wiring.Component):
    """Tells how much of each fragment counts, puts the check bytes in, and collects the widths of `variable` pages.

    Latency 0 clocks, one fragment a clock, order kept. The last fragment of a `variable` page waits until the header
    of the page before is taken. Empty on reset.

    Members
    -------
    planes : In(stream(384))
        Fragments, as `PlaneCollector` gives them.
    items : In(stream(Item))
        What they belong to.
    o : Out(stream(word_fragment))
    header : Out(stream(PageWidths))
        Of each `variable` page, 1 clock after its last fragment.
    """

    planes: In(stream.Signature(WORD_BITS * FRAGMENT_WORDS))
    items: In(stream.Signature(Item))
    o: Out(stream.Signature(word_fragment()))
    header: Out(stream.Signature(PageWidths))

    def elaborate(self, platform):
        m = Module()
        item = self.items.payload
        part = Signal(2)
        high = Signal(3)
        """Bit planes of the third fragment."""
        done = Signal()
        held_up = Signal()
        bad = Signal()
        fragment = self.o.payload
        m.d.comb += [
            high.eq(Mux(item.size > 3, item.size - 3, 0)),
            held_up.eq(item.variable & item.last & self.header.valid),
            self.o.valid.eq(self.planes.valid & self.items.valid & ~held_up),
            self.planes.ready.eq(self.items.valid & self.o.ready & ~held_up),
            self.items.ready.eq(self.planes.valid & self.o.ready & ~held_up & done),
            fragment.data.eq(self.planes.payload),
            fragment.last.eq(item.last & done),
            fragment.end.variable.eq(item.variable),
            fragment.end.bad.eq(bad | item.bad),
        ]
        with m.If(item.variable):
            m.d.comb += [fragment.count.eq(item.size), done.eq(1)]
        with m.Else():
            with m.Switch(part):
                with m.Case(0):
                    m.d.comb += [
                        fragment.count.eq(Mux(item.ternary, _HEAD_WORDS[1], _HEAD_WORDS[0])),
                        fragment.data[8:16].eq(item.check),
                    ]
                with m.Case(1):
                    m.d.comb += [fragment.count.eq(_PLANE_WORDS * Mux(high != 0, 3, item.size[:2])), done.eq(high == 0)]
                with m.Default():
                    m.d.comb += [fragment.count.eq(_PLANE_WORDS * high[:2]), done.eq(1)]
        with m.If(transfer(self.o)):
            m.d.sync += [part.eq(Mux(done, 0, part + 1)), bad.eq(fragment.end.bad & ~fragment.last)]

        widths = Signal.like(self.header.payload.widths)
        following = Cat(widths[4:], item.size)
        with m.If(transfer(self.header)):
            m.d.sync += self.header.valid.eq(0)
        with m.If(transfer(self.o) & item.variable):
            m.d.sync += widths.eq(following)
            with m.If(item.last):
                m.d.sync += [
                    self.header.payload.widths.eq(following),
                    self.header.payload.setting.eq(item.setting),
                    self.header.valid.eq(1),
                ]
        return m
