from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..types import Dtype
from .float16 import EXPONENT_BITS, MANTISSA_BITS, is_bf16
from .pipeline import delay

__all__ = ["DequantiserLane"]


class DequantiserLane(wiring.Component):
    """Turns a quantised byte into a value: RNE(byte * row maximum / 127), exactly, subnormals included.

    `latency` clocks with `advance`, one byte in each of them; all stand still in other clocks. What a row's bytes
    share comes as late as it is used, so that one delay serves all lanes. Nothing here needs a reset.

    With base-128 digits, N = a * 128^2 + b * 128 + c, the quotient N / 127 is (N >> 7) + (N >> 14) +
    (a + b + c) / 127: no division.

    Members
    -------
    advance : In
    byte : In(8)
        Two's complement; the magnitude of -128 counts as zero.
    row_room : In(3)
        1 clock later: how far the row's exponent may go down, 7 at most.
    row_mantissa : In(11)
        2 clocks later.
    row_exponent : In(8)
        4 clocks later.
    dtype : In(Dtype)
        5 and 6 clocks later.
    o : Out(16)
    """

    latency = 7

    advance: In(1)
    byte: In(8)
    row_room: In(3)
    row_mantissa: In(MANTISSA_BITS)
    row_exponent: In(EXPONENT_BITS)
    dtype: In(Dtype)
    o: Out(16)

    def elaborate(self, platform):
        m = Module()
        magnitude1 = Signal(7)
        magnitude2 = Signal(7)
        room2 = Signal(3)
        product = Signal(7 + MANTISSA_BITS)
        quotient4 = Signal(13)
        digits4 = Signal(9)
        quarters = Signal(13)
        inexact = Signal()
        exponent5 = Signal(EXPONENT_BITS)
        whole6 = Signal(MANTISSA_BITS)
        up6 = Signal()
        exponent6 = Signal(EXPONENT_BITS)

        def later(value, clocks):
            return delay(m, value, clocks, enable=self.advance)

        # 2: up to the top of seven bits, as far as the exponent allows
        zeros = Signal(3)
        room = Signal(3)
        m.d.comb += zeros.eq(7)
        for place in range(7):
            with m.If(magnitude1[place]):
                m.d.comb += zeros.eq(6 - place)
        m.d.comb += room.eq(Mux(zeros < self.row_room, zeros, self.row_room))

        # 4: the quotient of four times the product by 127, up to what its digits' sum adds
        fourfold = Cat(0, 0, product).as_unsigned() if False else Cat(product[:0], 0, 0, product)
        digits = fourfold[:7] + fourfold[7:14] + fourfold[14:]

        # 6: rounding, one bit lower if there is no leading one and the exponent can still go down
        short = Signal()
        leading = Mux(is_bf16(self.dtype), quarters[9], quarters[12])
        halves = Mux(short, quarters[:12], quarters[1:])
        whole = halves[1:]
        m.d.comb += short.eq(~leading & (exponent5 != 1))

        # 7: exponent and mantissa overlap in the leading one
        zero6 = later(magnitude1 == 0, 5)
        sign6 = later(self.byte[7], 6)
        below = Mux(is_bf16(later_dtype(self.dtype)), exponent6 << 7, exponent6 << 10) if False else 0

        return m
