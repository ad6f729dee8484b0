from amaranth.hdl import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from ..types import LINE_BITS

__all__ = ["LineCutter"]


class LineCutter(wiring.Component):
    """Cuts lines into words, low bits first, without a register for the line: it waits at the input.

    Latency 1 clock, one word a clock; order kept. Empty on reset.

    Parameters
    ----------
    width : int
        Bits of a word; divides 512.

    Members
    -------
    i : In(stream(512))
    o : Out(stream(width))
    """

    latency = 1

    def __init__(self, width):
        if LINE_BITS % width:
            raise ValueError(f"width must divide {LINE_BITS}, not {width!r}")
        self._width = width
        super().__init__({"i": In(stream.Signature(LINE_BITS)), "o": Out(stream.Signature(width))})

    def elaborate(self, platform):
        m = Module()
        words = LINE_BITS // self._width
        word = Signal(range(max(words, 2)))
        last = word == words - 1
        free = ~self.o.valid | self.o.ready
        m.d.comb += self.i.ready.eq(free & last)
        with m.If(free):
            m.d.sync += self.o.valid.eq(self.i.valid)
            m.d.sync += self.o.payload.eq(self.i.payload.word_select(word, self._width))
            with m.If(self.i.valid):
                m.d.sync += word.eq(word + 1)
                with m.If(transfer(self.i)):
                    m.d.sync += word.eq(0)
        return m
