from functools import reduce
from operator import or_

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.constants import ROW_VALUES

from .payloads import byte_beat, fragment

__all__ = ["RunSplitter"]


class RunSplitter(wiring.Component):
    """Turns a row of marked bytes into pairs: the delta of a run and, in the upper byte, its length less one.

    One pair a clock, two clocks more for each beat and one for each row. The last pair of a row is `last`.
    Empty on reset.

    Parameters
    ----------
    lanes : int
        Bytes in a beat.

    Members
    -------
    i : In(stream(byte_beat))
    o : Out(stream(fragment(1)))
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(byte_beat(lanes))),
            "o": Out(stream.Signature(fragment(1))),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        beat = self.i.payload
        advance = Signal()
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)

        # 1: find the marks of the beat, lowest first; the beat stays until the last of them is picked
        marks = Signal(lanes)
        lowest = Signal(lanes)
        left = Signal(lanes)
        found = Signal(lanes)
        row_end = Signal()
        before = Signal(8)
        base = Signal(range(ROW_VALUES))
        m.d.comb += [lowest.eq(marks & -marks), left.eq(marks & ~lowest)]

        def use_up_beat():
            m.d.comb += self.i.ready.eq(1)
            m.d.sync += [before.eq(Mux(beat.last, 0, beat.bytes[lanes - 1])), base.eq(base + lanes)]
            m.next = "LOAD"
            with m.If(beat.last):
                m.next = "END"

        with m.If(advance):
            m.d.sync += found.eq(0)
            with m.FSM(name="beat"):
                with m.State("LOAD"):
                    m.d.sync += marks.eq(beat.marks)
                    with m.If(self.i.valid):
                        m.next = "FIND"
                with m.State("FIND"):
                    m.d.sync += [found.eq(lowest), marks.eq(left)]
                    with m.If(marks == 0):
                        use_up_beat()
                    with m.Elif(left == 0):
                        m.next = "PICK"
                with m.State("PICK"):
                    use_up_beat()
                with m.State("END"):
                    m.d.comb += row_end.eq(1)
                    m.next = "LOAD"

        # 2: pick the byte and the one before it
        pairs = [Cat(beat.bytes[n - 1] if n else before, beat.bytes[n]) for n in range(lanes)]
        picked = Signal(16)
        position = Signal(range(ROW_VALUES))
        picked_valid = Signal()
        picked_end = Signal()
        with m.If(advance):
            m.d.sync += [
                picked.eq(reduce(or_, (Mux(found[n], pair, 0) for n, pair in enumerate(pairs)))),
                position.eq(base | reduce(or_, (Mux(found[n], n, 0) for n in range(lanes)))),
                picked_valid.eq(found.any()),
                picked_end.eq(row_end),
            ]

        # 3: a run ends where the next one, or the next row, begins
        pending = Signal()
        delta = Signal(8)
        start = Signal.like(position)
        next_start = Mux(picked_end, ROW_VALUES, position)
        with m.If(advance):
            m.d.sync += [
                self.o.valid.eq(pending & (picked_valid | picked_end)),
                self.o.payload.data.eq(Cat(delta, (next_start - start - 1)[:8])),
                self.o.payload.count.eq(1),
                self.o.payload.last.eq(picked_end),
            ]
            with m.If(picked_valid):
                m.d.sync += [pending.eq(1), delta.eq(picked[8:] - picked[:8]), start.eq(position)]
            with m.Elif(picked_end):
                m.d.sync += pending.eq(0)
        return m
