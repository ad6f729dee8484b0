from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .butterfly import GROUP, exchange, exchanges, group_counts, half_counts
from .payloads import chunk
from .piece_maker import PIECE_BITS
from .pipeline import delay

__all__ = ["TierUnpacker"]


class TierUnpacker(wiring.Component):
    """Brings the units of a page's tightly packed pieces to the lanes that ask for one: the inverse of `TierPacker`.

    Latency `latency` clocks, one beat a clock if no more than `places` of its lanes ask; others are taken apart into
    blocks of `places` lanes, with a clock for each. Pages without a gap, order kept. What is asked for beyond a page's
    pieces is zero; pieces that are not asked for are left out, a clock for each but the last. Empty on reset.

    Parameters
    ----------
    lanes : int
        Units in a beat, a power of two.
    places : int
        Units that are looked at in a clock, at least 4: `lanes`, or a half or a quarter of that.
    width : int
        Bits of a unit.
    tag : shape-like
        What goes with a beat.

    Members
    -------
    i : In(stream(chunk(64)))
        Each page has at least one.
    requests : In(stream)
        `mask` of lanes that get a unit, `tag` and `last` of the page.
    o : Out(stream)
        `units`, meaningless in other lanes, and `tag`.
    """

    def __init__(self, lanes, places, width, tag):
        if lanes // places not in (1, 2, 4):
            raise ValueError(f"places must be lanes ({lanes}), or a half or a quarter of that, not {places!r}")
        self._lanes = lanes
        self._places = places
        self._blocks = lanes // places
        self._levels = places.bit_length() - 1
        self._width = width
        super().__init__({
            "i": In(stream.Signature(chunk(PIECE_BITS))),
            "requests": In(stream.Signature(data.StructLayout({"mask": lanes, "tag": tag, "last": 1}))),
            "o": Out(stream.Signature(data.StructLayout({"units": width * lanes, "tag": tag}))),
        })

    @property
    def latency(self):
        return 6 + self._levels

    def elaborate(self, platform):
        m = Module()
        places, blocks, levels, width = self._places, self._blocks, self._levels, self._width
        advance, step = Signal(), Signal()
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.requests.ready.eq(step)]

        def before(value, clocks=1):
            return delay(m, value, clocks, enable=step, reset=False)

        def after(value, clocks=1):
            return delay(m, value, clocks, enable=advance, reset=False)

        # 1 to 3: count the lanes that ask, as in `TierPacker`
        mask = self.requests.p.mask
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
        valid = delay(m, self.requests.valid, 3, enable=step)
        last, tag = before(self.requests.p.last, 3), before(self.requests.p.tag, 3)

        # 4: the units. `held` is the chunk of which those from `offset` on are left; none if that is 0.
        incoming, present, leaving, take, turn = self._chunks(m)
        block = Signal(range(max(blocks, 2)))
        block_last = ~dense | (block == blocks - 1)
        held = Signal(places * width, reset_less=True)
        offset = Signal(levels)
        amount = Signal(levels + 1)
        m.d.comb += amount.eq(total)
        if blocks > 1:
            with m.If(dense):
                with m.Switch(block):
                    for n, count in enumerate(counts):
                        with m.Case(n):
                            m.d.comb += amount.eq(count)
        end = (offset + amount)[:levels + 1]
        needed = Mux(offset == 0, amount != 0, end > places)
        go = Signal()
        m.d.comb += [
            go.eq(advance & valid & (present | ~needed) & ~(last & leaving)),
            step.eq(advance & ~valid | go & block_last),
            take.eq(go & needed),
            turn.eq(go & last & block_last),
        ]
        with m.If(go):
            m.d.sync += [offset.eq(Mux(last & block_last, 0, end)), block.eq(Mux(block_last, 0, block + 1))]
            with m.If(needed):
                m.d.sync += held.eq(incoming)
        ring = after(Cat(Mux((offset != 0) & (offset <= place), held.word_select(place, width),
                             incoming.word_select(place, width)) for place in range(places)))
        bases = [after((offset + Mux(dense, 0, start))[:levels]) for start in starts]
        going = [after(~dense | (block == n)) for n in range(blocks)]
        valid = delay(m, go & block_last, levels + 2, enable=advance)
        tag = after(tag, levels + 2)
        halves = [[[after(one) for one in row] for row in found] for found in halves]

        # 5 and 6: the network's exchanges
        pairs = []
        for level in range(levels):
            begins = [after((count + base)[:level + 1]) for found, base in zip(halves, bases) for count in found[level]]
            pairs.append(after(Cat(exchanges(after(begin, levels - 1 - level)) for begin in begins)))

        # A level of the network a clock, of all blocks at once; those of another step keep what they have.
        ring = after(ring, 2)
        units = [ring.word_select(place, width) for place in range(places)] * blocks
        for level in reversed(range(levels)):
            units = exchange(units, pairs[level], level)
            if level:
                units = [after(unit) for unit in units]
        going = [after(one, levels + 1) for one in going]
        for n, unit in enumerate(units):
            kept = Signal(width, name=f"unit{n}", reset_less=True)
            with m.If(advance & going[n // places]):
                m.d.sync += kept.eq(unit)
            m.d.comb += self.o.p.units.word_select(n, width).eq(kept)
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(valid), self.o.p.tag.eq(tag)]
        return m

    def _chunks(self, m):
        """Chunks of `places` units of a page, zero behind its pieces.

        Returns the next one, whether it is there, whether the page before is still being left, and signals by which the
        chunk is taken and its page left (with it or later).
        """
        bits = self._places * self._width
        parts = PIECE_BITS // bits
        part = Signal(range(max(parts, 2)))
        ended, leaving = Signal(), Signal()
        take, turn = Signal(), Signal()
        piece = self.i.p
        present = ended | (self.i.valid & ~leaving)
        incoming = Mux(ended, 0, piece.data.word_select(part, bits) if parts > 1 else piece.data)
        taken = take & ~ended
        used = taken & (part == parts - 1)
        with m.If(taken):
            m.d.sync += part.eq(Mux(part == parts - 1, 0, part + 1))
        with m.If(used & piece.last):
            m.d.sync += ended.eq(1)
        m.d.comb += self.i.ready.eq(used | leaving)
        with m.If(turn):
            m.d.sync += [part.eq(0), ended.eq(0)]
            with m.If(~ended):
                # What is left of the page's last piece leaves at once.
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += leaving.eq(~(self.i.valid & piece.last))
        with m.If(leaving & self.i.valid & piece.last):
            m.d.sync += leaving.eq(0)
        return incoming, present, leaving, take, turn
