from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.fixed import GROUP_DIGIT_BITS, GROUP_VALUES

__all__ = ["DigitEncoder"]


class DigitEncoder(wiring.Component):
    """Packs the base-3 digits of eight values: five into eight bits, three into five.

    `latency` clocks, a group a clock, no back-pressure. Nothing here needs a reset.

    Members
    -------
    digits : In
        From 0 to 2 each.
    o : Out(13)
    """

    latency = 2

    digits: In(data.ArrayLayout(2, GROUP_VALUES))
    o: Out(GROUP_DIGIT_BITS)

    def elaborate(self, platform):
        m = Module()
        digits = self.digits
        pairs = []
        for low, high in ((0, 1), (2, 3), (5, 6)):
            pair = Signal(range(9), name=f"pair{low}")
            m.d.sync += pair.eq(digits[low] + digits[high] + (digits[high] << 1))
            pairs.append(pair)
        fifth, eighth = Signal(2), Signal(2)
        m.d.sync += [fifth.eq(digits[4]), eighth.eq(digits[7])]

        five, three = Signal(8), Signal(GROUP_DIGIT_BITS - 8)
        m.d.sync += [
            five.eq(pairs[0] + self._times(m, pairs[1], range(9), 9) + self._times(m, fifth, range(3), 81)),
            three.eq(pairs[2] + self._times(m, eighth, range(3), 9)),
        ]
        m.d.comb += self.o.eq(Cat(five, three))
        return m

    def _times(self, m, value, values, factor):
        """A table: cheaper than adders for so few values."""
        product = Signal(range(factor * values[-1] + 1))
        with m.Switch(value):
            for number in values:
                with m.Case(number):
                    m.d.comb += product.eq(factor * number)
        return product
