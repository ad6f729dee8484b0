from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from .payloads import chunk, fragment

__all__ = ["Packer"]


class Packer(wiring.Component):
    """Packs fragments of 16-bit units tightly into chunks, low bits first.

    Latency 3 clocks from the fragment that completes a chunk; one fragment a clock (one clock more where a
    last fragment ends in a second chunk). A last fragment completes its chunk with zeros, and the next one
    begins a new chunk. Fragments have at least one unit. Empty on reset.

    Parameters
    ----------
    halfwords : int
        16-bit units in a chunk and at most in a fragment: 4, 8 or 16.

    Members
    -------
    i : In(stream(fragment(halfwords)))
    o : Out(stream(chunk(16 * halfwords)))
    """

    latency = 3

    def __init__(self, halfwords):
        if halfwords not in (4, 8, 16):
            raise ValueError(f"halfwords must be 4, 8 or 16, not {halfwords!r}")
        self._halfwords = halfwords
        super().__init__({
            "i": In(stream.Signature(fragment(halfwords))),
            "o": Out(stream.Signature(chunk(16 * halfwords))),
        })

    def elaborate(self, platform):
        m = Module()
        size = self._halfwords
        advance = Signal()
        tail_due = Signal()
        m.d.comb += [
            advance.eq((~self.o.valid | self.o.ready) & ~tail_due),
            self.i.ready.eq(advance),
        ]

        # 1: rotate by 0 to 3 units
        offset = Signal(range(size))
        end = offset + self.i.payload.count
        valid1, last1 = Signal(), Signal()
        data1, offset1, end1 = Signal(16 * size), Signal(range(size)), Signal(range(2 * size))
        with m.If(advance):
            m.d.sync += [valid1.eq(self.i.valid), last1.eq(self.i.payload.last)]
            m.d.sync += [offset1.eq(offset), end1.eq(end)]
            with m.Switch(offset[:2]):
                for units in range(4):
                    with m.Case(units):
                        m.d.sync += data1.eq(self.i.payload.data.rotate_left(16 * units))
        with m.If(transfer(self.i)):
            m.d.sync += offset.eq(Mux(self.i.payload.last, 0, end))

        # 2: rotate by the rest of the offset
        valid2, last2 = Signal(), Signal()
        data2, end2 = Signal(16 * size), Signal(range(2 * size))
        fresh = Signal(size)
        with m.If(advance):
            m.d.sync += [valid2.eq(valid1), last2.eq(last1), end2.eq(end1)]
            m.d.sync += fresh.eq(Cat(offset1 <= unit for unit in range(size)))
            with m.Switch(offset1[2:]):
                for units in range(0, size, 4):
                    with m.Case(units // 4):
                        m.d.sync += data2.eq(data1.rotate_left(16 * units))

        # 3: merge with what is already there
        held = Signal(16 * size)
        merged = Cat(Mux(fresh[unit], data2.word_select(unit, 16), held.word_select(unit, 16))
                     for unit in range(size))
        full = end2[-1]
        over = full & (end2[:-1] != 0)
        used = Cat((end2[:-1] > unit) for unit in range(size))
        tail = Signal(size)

        def only(bits, units):
            return Cat(Mux(units[unit], bits.word_select(unit, 16), 0) for unit in range(size))

        with m.If(advance):
            m.d.sync += [
                self.o.valid.eq(valid2 & (full | last2)),
                self.o.payload.last.eq(last2 & ~over),
                self.o.payload.data.eq(Mux(full, merged, only(merged, used))),
                tail.eq(used),
                tail_due.eq(valid2 & last2 & over),
            ]
            with m.If(valid2):
                m.d.sync += held.eq(Mux(full, data2, merged))
        with m.Elif(tail_due & self.o.ready):
            m.d.sync += [
                self.o.payload.last.eq(1),
                self.o.payload.data.eq(only(held, tail)),
                tail_due.eq(0),
            ]
        return m
