from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.speckv import FULL_SCALE

from ..types import Dtype
from .float16 import EXPONENT_BITS, MANTISSA_BITS, is_bf16
from .pipeline import delay

__all__ = ["DequantiserLane"]


class DequantiserLane(wiring.Component):
    """Turns a quantised byte into a value: RNE(byte * row maximum / 127), exactly, subnormals included.

    `latency` clocks with `advance`, one byte in each of them; in other clocks all stands still. What a row's
    bytes share comes as late as it is used, so that one delay serves all lanes. Nothing here needs a reset:
    the pipeline does not know which bytes count.

    The division by 127 takes no divider. With base-128 digits, n = a * 128^2 + b * 128 + c, the whole part of
    n / 127 is (n >> 7) + (n >> 14) + (a + b + c) / 127, and that last quotient is 0, 1 or 2.

    Members
    -------
    advance : In
    byte : In(8)
        Two's complement; the magnitude of -128 counts as zero.
    row_room : In(3)
        1 clock later: by how much the exponent may be below the row's, 7 at most.
    row_mantissa : In(11)
        2 clocks later.
    row_exponent : In(8)
        4 clocks later.
    dtype : In(Dtype)
        5 clocks later.
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

        def later(value, clocks):
            return delay(m, value, clocks, enable=self.advance)

        # 1: magnitude
        magnitude1 = Signal(7)
        sign = self.byte[7]

        # 2: up to the top of its seven bits, as far as the exponent allows
        zeros = Signal(range(8))
        room = Signal(3)
        magnitude2 = Signal(7)
        m.d.comb += [zeros.eq(7), room.eq(Mux(zeros < self.row_room, zeros, self.row_room))]
        for place in range(7):
            with m.If(magnitude1[place]):
                m.d.comb += zeros.eq(6 - place)

        # 3 to 5: four times the product, divided by 127
        product = Signal(7 + MANTISSA_BITS)
        fourfold = Cat(Const(0, 2), product)
        quotient4 = Signal(len(fourfold) - 7)
        digits4 = Signal(9)
        quarters = Signal.like(quotient4)
        exponent5 = Signal(EXPONENT_BITS)
        twice = digits4 >= 2 * FULL_SCALE
        multiples = Cat((digits4 >= FULL_SCALE) & ~twice, twice)

        # 6: round, one place lower where the leading one is missing and the exponent can go down. There are
        # no ties: 127 is prime, so a product divided by it is either whole or no multiple of one half.
        leading = Mux(is_bf16(self.dtype), quarters[9], quarters[12])
        short = ~leading & (exponent5 != 1)
        halves = Mux(short, quarters[:-1], quarters[1:])
        whole6 = Signal(MANTISSA_BITS)
        up6 = Signal()
        exponent6 = Signal(EXPONENT_BITS)

        # 7: the exponent's lowest bit and the leading one are in the same place
        exponent_field = Mux(is_bf16(later(self.dtype, 1)), exponent6 << 7, exponent6 << 10)[:15]
        bits = (Cat(up6, exponent_field) + Cat(up6, whole6))[1:16]

        with m.If(self.advance):
            m.d.sync += [
                magnitude1.eq(Mux(sign, -self.byte, self.byte)),

                magnitude2.eq(magnitude1 << room),

                product.eq(magnitude2 * self.row_mantissa),

                quotient4.eq((fourfold >> 7) + (fourfold >> 14)),
                digits4.eq(fourfold[:7] + fourfold[7:14] + fourfold[14:]),

                quarters.eq(quotient4 + multiples),
                exponent5.eq(self.row_exponent - later(room, 3)),

                whole6.eq(halves[1:]),
                up6.eq(halves[0]),
                exponent6.eq(exponent5 + Cat(~short, Const(0x7F, 7))),

                self.o.eq(Cat(Mux(later(magnitude1 == 0, 5), 0, bits), later(sign, 6))),
            ]
        return m
