from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..types import Dtype
from .float16 import EXPONENT_BITS, MANTISSA_BITS, exponent_mantissa
from .payloads import RECIPROCAL_BITS
from .pipeline import delay
from .reciprocal import FRACTION_BITS

__all__ = ["QuantiserLane"]

_FARTHEST = 10
"""Exponent distance from which every value quantises to zero."""
_LOW_BITS = 2
"""Bits of the reciprocal that a multiplier of 18 x 18 bits leaves over."""


class QuantiserLane(wiring.Component):
    """Quantises one value: RNE(127 * value / row maximum), exactly; or lets a byte through.

    `latency` clocks, one value a clock, no back-pressure. What a row's values share comes as late as it is
    used, so that one delay serves all lanes. Nothing here needs a reset: the pipeline does not know which
    values count.

    Members
    -------
    value : In(16)
        A finite value, not above the row maximum.
    byte : In(8)
        What to let through instead, if `raw`.
    dtype, row_exponent : In
        With `value`: format and exponent of the row maximum.
    row_shift : In
        1 clock later: see `RowScale.shift`.
    row_reciprocal : In
        2 clocks later: see `RowScale.reciprocal`.
    raw : In
        5 clocks later.
    o : Out(8)
        Two's complement, or the byte.
    """

    latency = 6

    value: In(16)
    byte: In(8)
    dtype: In(Dtype)
    row_exponent: In(EXPONENT_BITS)
    row_shift: In(4)
    row_reciprocal: In(RECIPROCAL_BITS)
    raw: In(1)
    o: Out(8)

    def elaborate(self, platform):
        m = Module()

        # 1: exponent and mantissa; how far the value is below the maximum
        exponent, mantissa = exponent_mantissa(self.value[:15], self.dtype)
        distance = Signal(EXPONENT_BITS)
        mantissa1 = Signal(MANTISSA_BITS)
        distance1 = Signal(range(_FARTHEST + 1))
        m.d.comb += distance.eq(self.row_exponent - exponent)
        m.d.sync += [
            mantissa1.eq(mantissa),
            distance1.eq(Mux(distance > _FARTHEST, _FARTHEST, distance)),
        ]

        # 2: the same place for the leading one of the maximum, whatever its format
        mantissa2 = Signal(MANTISSA_BITS)
        m.d.sync += mantissa2.eq(mantissa1 << self.row_shift)

        # 3, 4: 254 * mantissa / mantissa of the maximum
        low, high = self.row_reciprocal[:_LOW_BITS], self.row_reciprocal[_LOW_BITS:]
        product_low = Signal(MANTISSA_BITS + _LOW_BITS)
        product_high = Signal(MANTISSA_BITS + RECIPROCAL_BITS - _LOW_BITS)
        product = Signal(RECIPROCAL_BITS)
        m.d.sync += [
            product_low.eq(sum(Mux(low[n], mantissa2 << n, 0) for n in range(_LOW_BITS))),
            product_high.eq(mantissa2 * high),
            product.eq(((product_high << _LOW_BITS) + product_low) >> MANTISSA_BITS),
        ]
        fraction, halves = product[:FRACTION_BITS - MANTISSA_BITS], product[FRACTION_BITS - MANTISSA_BITS:]

        # 5: down by the distance; 254 at most is left, in units of one half
        distance4 = delay(m, distance1, 3)
        halves5 = Signal(8)
        inexact5 = Signal()
        with m.Switch(distance4):
            for places in range(_FARTHEST):
                with m.Case(places):
                    m.d.sync += [
                        halves5.eq(halves >> places),
                        inexact5.eq(fraction.any() | halves[:places].any()),
                    ]
            with m.Default():
                m.d.sync += halves5.eq(0)

        # 6: round to even, then the sign: -x is ~x + 1
        sign5 = delay(m, self.value[15], 5)
        byte5 = delay(m, self.byte, 5)
        whole = halves5[1:]
        up = halves5[0] & (inexact5 | whole[0])
        m.d.sync += self.o.eq(Mux(self.raw, byte5, (whole ^ sign5.replicate(8)) + (sign5 ^ up)))
        return m
