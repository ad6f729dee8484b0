from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .butterfly import exchange, exchanges, group_counts, half_counts
from .pipeline import delay

__all__ = ["TierPacker"]


class TierPacker(wiring.Component):
    """Packs the selected units of beats tightly into chunks of `lanes` units, low bits first.

    One beat a clock, except where a page's rest and the next page's first chunk are due at once: one clock more. A
    chunk comes `latency` clocks after the beat that completes it. A page's last beat gives its last chunk, which may be
    without units; the next page begins a new chunk. A page has at least two beats. Empty on reset.

    Parameters
    ----------
    lanes : int
        Units in a beat and in a chunk, a power of two from 4 on.
    width : int
        Bits of a unit.

    Members
    -------
    i : In(stream)
        `units`, `mask` of those that are selected, and `last` of the page.
    o : Out(stream)
        `data`, `count` of units in it (fewer than `lanes` only in a last chunk, of which the rest is zero) and `last`.
    """

    def __init__(self, lanes, width):
        self._lanes = lanes
        self._width = width
        self._levels = lanes.bit_length() - 1
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                {"units": data.ArrayLayout(width, lanes), "mask": lanes, "last": 1}))),
            "o": Out(stream.Signature(self.chunk_layout(lanes, width))),
        })

    @staticmethod
    def chunk_layout(lanes, width):
        return data.StructLayout({"data": lanes * width, "count": range(lanes + 1), "last": 1})

    @property
    def latency(self):
        return 4 + (self._levels + 1) // 2

    def elaborate(self, platform):
        m = Module()
        lanes, levels = self._lanes, self._levels
        advance = Signal()

        # 1 and 2: count
        mask = self.i.payload.mask
        groups = [Signal(3, name=f"group{n}") for n in range(lanes // 4)]
        halves, count = half_counts(delay(m, mask, 1, enable=advance), groups)
        counted = [[Signal.like(one, name=f"half{level}") for one in row] for level, row in enumerate(halves)]
        total = Signal(levels + 1)
        with m.If(advance):
            m.d.sync += Cat(groups).eq(Cat(one[:3] for one in group_counts(mask)))
            m.d.sync += [signal.eq(one) for row, ones in zip(counted, halves) for signal, one in zip(row, ones)]
            m.d.sync += total.eq(count)
        valid = delay(m, self.i.valid, 2, enable=advance)
        last = delay(m, self.i.payload.last, 2, enable=advance)

        # 3: where the units go
        offset = Signal(levels)
        end = (offset + total)[:levels + 1]
        with m.If(advance & valid):
            m.d.sync += offset.eq(Mux(last, 0, end))
        pairs = [delay(m, one, 1, enable=advance) for one in exchanges(counted, offset)]
        steps = 1 + (levels + 1) // 2
        valid, last, end = (delay(m, one, steps, enable=advance) for one in (valid, last, end))
        fresh = delay(m, Cat(offset <= place for place in range(lanes)), steps, enable=advance)

        # Two levels of the network a clock
        units = [delay(m, self.i.payload.units[n], 3, enable=advance) for n in range(lanes)]
        for level in range(levels):
            units = exchange(units, delay(m, pairs[level], level // 2, enable=advance), level)
            if level % 2 or level == levels - 1:
                units = [delay(m, unit, 1, enable=advance) for unit in units]

        self._merge(m, advance, units, valid, last, end, fresh)
        return m

    def _merge(self, m, advance, units, valid, last, end, fresh):
        """Joins new units with those that wait; a last beat that ends in a second chunk leaves a tail."""
        lanes, width = self._lanes, self._width
        out = self.o.payload
        full = end[-1]
        rest = end[:-1]
        used = Cat(rest > place for place in range(lanes))
        complete = valid & (full | last)
        over = full & (rest != 0)
        held = [Signal(width, name=f"held{n}") for n in range(lanes)]
        tail, tail_count, tail_due = Signal(lanes), Signal.like(rest), Signal()
        free = ~self.o.valid | self.o.ready
        m.d.comb += [
            advance.eq(free & ~(tail_due & complete)),
            self.i.ready.eq(advance),
        ]

        # The tail comes from `held` while the next page's first units, which are all fresh, come into it.
        new = fresh & ~tail_due.replicate(lanes)
        kept = Mux(tail_due, tail, used | (full | ~last).replicate(lanes))
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(complete | tail_due),
                out.last.eq(tail_due | (last & ~over)),
                out.count.eq(Mux(tail_due, tail_count, Mux(full, lanes, rest))),
                out.data.eq(Cat(Mux(kept[n], Mux(new[n], units[n], held[n]), 0) for n in range(lanes))),
                tail_due.eq(0),
            ]
        with m.If(advance):
            m.d.sync += [tail_due.eq(valid & last & over), tail.eq(used), tail_count.eq(rest)]
            with m.If(valid):
                m.d.sync += [held[n].eq(Mux(full | fresh[n], units[n], held[n])) for n in range(lanes)]
