from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["CodePacker", "CHUNK_BITS", "code_chunk"]

CHUNK_BITS = 64

code_chunk = data.StructLayout({"data": CHUNK_BITS, "last": 1, "empty": 1})
"""64 bits of a longer piece; `last` ends it, and is `empty` if the piece ended with the chunk before."""


class CodePacker(wiring.Component):
    """Packs fragments of short codes tightly into chunks of 64 bits, low bits first.

    Latency 3 clocks from the fragment that completes a chunk; one fragment a clock (one clock more where a last
    fragment ends in a second chunk). A last fragment completes its chunk with zeros. Empty on reset.

    Parameters
    ----------
    width : int
        Bits of a code: 2 or 4.

    Members
    -------
    i : In(stream)
        `data`, `count` of its codes (0 to 64 / width) and `last`.
    o : Out(stream(code_chunk))
    """

    latency = 3

    def __init__(self, width):
        if width not in (2, 4):
            raise ValueError(f"width must be 2 or 4, not {width!r}")
        self._width = width
        self._size = CHUNK_BITS // width
        super().__init__({"i": In(stream.Signature(self.fragment(width))), "o": Out(stream.Signature(code_chunk))})

    @staticmethod
    def fragment(width):
        return data.StructLayout({"data": CHUNK_BITS, "count": range(CHUNK_BITS // width + 1), "last": 1})

    def elaborate(self, platform):
        m = Module()
        size, width = self._size, self._width
        advance = Signal()
        tail_due = Signal()
        m.d.comb += [
            advance.eq((~self.o.valid | self.o.ready) & ~tail_due),
            self.i.ready.eq(advance),
        ]

        # 1: rotate by 0 to 3 codes
        offset = Signal(range(size))
        end = offset + self.i.p.count
        valid1, last1 = Signal(), Signal()
        data1, offset1, end1 = Signal(CHUNK_BITS), Signal.like(offset), Signal(range(2 * size))
        with m.If(advance):
            m.d.sync += [valid1.eq(self.i.valid), last1.eq(self.i.p.last), offset1.eq(offset), end1.eq(end)]
            with m.Switch(offset[:2]):
                for codes in range(4):
                    with m.Case(codes):
                        m.d.sync += data1.eq(self.i.p.data.rotate_left(width * codes))
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += offset.eq(Mux(self.i.p.last, 0, end))

        # 2: rotate by the rest of the offset
        valid2, last2 = Signal(), Signal()
        data2, end2 = Signal(CHUNK_BITS), Signal.like(end1)
        fresh = Signal(size)
        with m.If(advance):
            m.d.sync += [valid2.eq(valid1), last2.eq(last1), end2.eq(end1)]
            m.d.sync += fresh.eq(Cat(offset1 <= code for code in range(size)))
            with m.Switch(offset1[2:]):
                for codes in range(0, size, 4):
                    with m.Case(codes // 4):
                        m.d.sync += data2.eq(data1.rotate_left(width * codes))

        # 3: merge with what is already there
        held = Signal(CHUNK_BITS)
        merged = Cat(Mux(fresh[code], data2.word_select(code, width), held.word_select(code, width))
                     for code in range(size))
        full = end2[-1]
        over = full & (end2[:-1] != 0)
        used = Cat(end2[:-1] > code for code in range(size))
        tail = Signal(size)

        def only(bits, codes):
            return Cat(Mux(codes[code], bits.word_select(code, width), 0) for code in range(size))

        with m.If(advance):
            m.d.sync += [
                self.o.valid.eq(valid2 & (full | last2)),
                self.o.p.last.eq(last2 & ~over),
                self.o.p.empty.eq(end2 == 0),
                self.o.p.data.eq(Mux(full, merged, only(merged, used))),
                tail.eq(used),
                tail_due.eq(valid2 & last2 & over),
            ]
            with m.If(valid2):
                m.d.sync += held.eq(Mux(full, data2, merged))
        with m.Elif(tail_due & self.o.ready):
            m.d.sync += [
                self.o.p.last.eq(1),
                self.o.p.data.eq(only(held, tail)),
                tail_due.eq(0),
            ]
        return m
