from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import chain
from .butterfly import exchange, exchanges, group_counts, half_counts
from .chunk_queue import ChunkQueue
from .payloads import chunk
from .pipeline import delay

__all__ = ["TierUnpacker"]


class TierUnpacker(wiring.Component):
    """Brings the units of a page's tightly packed chunks to the lanes that ask for one: the inverse of `TierPacker`.

    Latency `latency` clocks, one beat a clock, pages without a gap; order kept. What is asked for beyond a page's
    chunks is zero; chunks that are not asked for are left out. Empty on reset.

    Parameters
    ----------
    lanes : int
        Units in a beat and in a chunk, a power of two from 4 on.
    width : int
        Bits of a unit.
    tag : shape-like
        What goes with a beat.

    Members
    -------
    i : In(stream(chunk(lanes * width)))
        Each page has at least one.
    requests : In(stream)
        `mask` of lanes that get a unit, `tag` and `last` of the page.
    o : Out(stream)
        `units`, meaningless in other lanes, and `tag`.
    """

    def __init__(self, lanes, width, tag):
        self._lanes = lanes
        self._width = width
        self._levels = lanes.bit_length() - 1
        super().__init__({
            "i": In(stream.Signature(chunk(lanes * width))),
            "requests": In(stream.Signature(data.StructLayout({"mask": lanes, "tag": tag, "last": 1}))),
            "o": Out(stream.Signature(data.StructLayout({"units": data.ArrayLayout(width, lanes), "tag": tag}))),
        })

    @property
    def latency(self):
        return 3 + (self._levels + 1) // 2

    def elaborate(self, platform):
        m = Module()
        lanes, width, levels = self._lanes, self._width, self._levels
        m.submodules.queue = queue = ChunkQueue(lanes * width)
        chain(m, self.i, queue)
        advance = Signal()
        step = Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.requests.ready.eq(step),
        ]

        # 1 and 2: count
        request = self.requests.payload
        groups = [Signal(3, name=f"group{n}") for n in range(lanes // 4)]
        halves, count = half_counts(delay(m, request.mask, 1, enable=step), groups)
        counted = [[Signal.like(one, name=f"half{level}") for one in row] for level, row in enumerate(halves)]
        total = Signal(levels + 1)
        with m.If(step):
            m.d.sync += Cat(groups).eq(Cat(one[:3] for one in group_counts(request.mask)))
            m.d.sync += [signal.eq(one) for row, ones in zip(counted, halves) for signal, one in zip(row, ones)]
            m.d.sync += total.eq(count)
        valid = delay(m, self.requests.valid, 2, enable=step)
        last = delay(m, request.last, 2, enable=step)
        tag = delay(m, request.tag, 2, enable=step)

        # 3: bring the units together. `held` is the chunk of which units from `offset` on are left; none if that is 0.
        held = Signal(lanes * width)
        offset = Signal(levels)
        end = (offset + total)[:levels + 1]
        needed = Mux(offset == 0, total != 0, end > lanes)
        incoming = Mux(queue.ended, 0, queue.data)
        going = Signal()
        m.d.comb += [
            step.eq(advance & (~valid | queue.ended | queue.present | (~needed & ~last))),
            going.eq(step & valid),
            queue.take.eq(going & needed & ~queue.ended),
            queue.turn.eq(going & last),
        ]
        with m.If(going):
            m.d.sync += offset.eq(Mux(last, 0, end))
            with m.If(needed):
                m.d.sync += held.eq(incoming)
        ring = Cat(Mux((offset != 0) & (offset <= place), held.word_select(place, width),
                       incoming.word_select(place, width)) for place in range(lanes))
        ring = delay(m, ring, 1, enable=advance)
        pairs = [delay(m, one, 1, enable=advance) for one in exchanges(counted, offset)]

        # Two levels of the network a clock
        stages = (levels + 1) // 2
        units = [ring.word_select(place, width) for place in range(lanes)]
        for done, level in enumerate(reversed(range(levels))):
            units = exchange(units, delay(m, pairs[level], done // 2, enable=advance), level)
            if done % 2 and level:
                units = [delay(m, unit, 1, enable=advance) for unit in units]
        for place, unit in enumerate(units):
            with m.If(advance):
                m.d.sync += self.o.payload.units[place].eq(unit)
        valid = delay(m, going, stages, enable=advance)
        tag = delay(m, tag, stages, enable=advance)
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(valid), self.o.payload.tag.eq(tag)]
        return m
