from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .butterfly import GROUP, exchange, exchanges, group_counts, half_counts
from .pipeline import delay

__all__ = ["TierPacker"]


class TierPacker(wiring.Component):
    """Packs the selected units of beats tightly into chunks of `places` units, low bits first.

    One beat a clock, if no more than `places` of its units are selected; others are taken apart into blocks of
    `places` lanes, with a clock for each. A chunk comes `latency` clocks after the beat that completes it. A page's
    last beat gives its last chunk, which may be without units; if that is the second one, it comes a clock later. The
    next page begins a new chunk. Empty on reset.

    Parameters
    ----------
    lanes : int
        Units in a beat, a power of two.
    places : int
        Units in a chunk, at least 4: `lanes`, or a half or a quarter of that.
    width : int
        Bits of a unit.

    Members
    -------
    i : In(stream)
        `units`, `mask` of those that are selected, and `last` of the page.
    o : Out(stream(chunk_layout(places, width)))
        `data`, `empty` (a last chunk without units) and `last`. What a last chunk does not fill is zero.
    """

    def __init__(self, lanes, places, width):
        if lanes // places not in (1, 2, 4):
            raise ValueError(f"places must be lanes ({lanes}), or a half or a quarter of that, not {places!r}")
        self._lanes = lanes
        self._places = places
        self._blocks = lanes // places
        self._levels = places.bit_length() - 1
        self._width = width
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                {"units": width * lanes, "mask": lanes, "last": 1}))),
            "o": Out(stream.Signature(self.chunk_layout(places, width))),
        })

    @staticmethod
    def chunk_layout(places, width):
        return data.StructLayout({"data": places * width, "empty": 1, "last": 1})

    @property
    def latency(self):
        return 6 + self._levels + (self._blocks > 1)

    def elaborate(self, platform):
        m = Module()
        lanes, places, blocks, levels = self._lanes, self._places, self._blocks, self._levels
        advance, step = Signal(), Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(step)]

        def before(value, clocks=1):
            return delay(m, value, clocks, enable=step, reset=False)

        def after(value, clocks=1):
            return delay(m, value, clocks, enable=advance, reset=False)

        # 1 to 3: count the selected units: of groups; up to the middle of each stretch of lanes that the network joins;
        # of the blocks before
        mask = self.i.p.mask
        mask1 = before(mask)
        groups = [before(one) for one in group_counts(mask)]
        halves, counts = [], []
        for block in range(blocks):
            part = slice(block * places // GROUP, (block + 1) * places // GROUP)
            found, count = half_counts(mask1[block * places:(block + 1) * places], groups[part])
            halves.append([[before(one, 2) for one in row] for row in found])
            counts.append(count)
        sums = [before(a + b) for a, b in zip(counts[0::2], counts[1::2])]
        counts = [before(count) for count in counts]
        starts = [Const(0, levels), *counts[:1], *sums[:1], *((sums[0] + counts[2])[:levels] for _ in sums[1:])]
        starts = [before(start[:levels]) for start in starts[:blocks]]
        total = counts[0] if blocks == 1 else sums[0] if blocks == 2 else sums[0] + sums[1]
        dense = before(total > places) if blocks > 1 else Const(0)
        total = before(total[:levels + 1])
        counts = [before(count) for count in counts]
        valid = delay(m, self.i.valid, 3, enable=step)
        last, chosen = before(self.i.p.last, 3), before(mask1, 2)
        units = [before(self.i.p.units.word_select(n, self._width), 3) for n in range(lanes)]

        # 4: where the units go. Of a beat with too many of them, one block after the other. If a page's last beat
        # begins another chunk, that one leaves with the next step, or before it where that completes a chunk too.
        block = Signal(range(max(blocks, 2)))
        tail = Signal()
        offset = Signal(levels)
        amount = Signal(levels + 1)
        m.d.comb += amount.eq(total)
        if blocks > 1:
            with m.If(dense):
                with m.Switch(block):
                    for n, count in enumerate(counts):
                        with m.Case(n):
                            m.d.comb += amount.eq(count)
        block_last = ~dense | (block == blocks - 1)
        end = (offset + amount)[:levels + 1]
        full, rest = end[-1], end[:-1].any()
        final = last & block_last
        go = valid & ~(tail & (full | final))
        m.d.comb += step.eq(advance & (~valid | (go & block_last)))
        with m.If(advance):
            m.d.sync += tail.eq(go & final & full & rest)
            with m.If(go):
                m.d.sync += [offset.eq(Mux(final, 0, end)), block.eq(Mux(block_last, 0, block + 1))]
        bases = [after((offset + Mux(dense, 0, start))[:levels]) for start in starts]
        going = [after(go & (~dense | (block == n))) for n in range(blocks)]
        halves = [[[after(one) for one in row] for row in found] for found in halves]
        units, chosen = [after(unit) for unit in units], after(chosen)

        # 5: those that go, and the network's exchanges
        units = [after(Mux(chosen[n] & going[n // places], unit, 0)) for n, unit in enumerate(units)]
        pairs = []
        for level in range(levels):
            begins = [after((count + base)[:level + 1]) for found, base in zip(halves, bases) for count in found[level]]
            pairs.append(Cat(exchanges(begin) for begin in begins) if level == 0 else
                         after(Cat(exchanges(after(begin, level - 1)) for begin in begins)))

        # A level of the network a clock, all blocks at once; where one has a unit, the others have zero.
        for level in range(levels):
            units = [after(unit) for unit in exchange(units, pairs[level], level)]
        if blocks > 1:
            units = [after(_any(units[place::places])) for place in range(places)]

        # Joined with those that wait in `held`, which is zero where none does
        steps = 2 + levels + (blocks > 1)
        fresh = Cat(~tail & (offset <= place) for place in range(places))
        later = Cat(Mux(full, offset > place, ~final) for place in range(places))
        valid = delay(m, valid | tail, steps, enable=advance)
        complete, keep = after(full | final | tail, steps), after(~(full | final | tail), steps)
        ends, empty = after(tail | (final & ~(full & rest)), steps), after(~(full | rest | tail), steps)
        fresh, later = after(fresh, steps), after(later, steps)
        width, out = self._width, self.o.p
        held = [Signal(width, name=f"held{n}") for n in range(places)]
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(valid & complete), out.last.eq(ends), out.empty.eq(empty)]
            m.d.sync += out.data.eq(Cat(held[n] | Mux(fresh[n], units[n], 0) for n in range(places)))
            with m.If(valid):
                m.d.sync += [held[n].eq(Mux(keep, held[n], 0) | Mux(later[n], units[n], 0)) for n in range(places)]
        return m


def _any(values):
    result = values[0]
    for value in values[1:]:
        result = result | value
    return result
