from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.fixed import LOWEST_EXPONENT, SETTINGS
from speckv_model.codec.float16 import bias
from speckv_model.constants import PAGE_ROWS, Dtype

from .float16 import is_bf16, is_finite
from .pipeline import delay
from .quantised_payloads import RowPeak, RowRate

__all__ = ["RowScaler"]

_EXPONENTS = 16 - LOWEST_EXPONENT
"""Exponents that the scale of a `fixed` row can have."""


class RowScaler(wiring.Component):
    """Tells from a row's largest magnitude how its values are quantised. Counts the rows of pages.

    `latency` clocks, one row a clock, order kept, no back-pressure; at the first row of a page on reset.

    Members
    -------
    i : In(stream(RowPeak), always ready)
    o : Out(stream(RowRate), always ready)
    """

    latency = 2

    i: In(stream.Signature(RowPeak, always_ready=True))
    o: Out(stream.Signature(RowRate, always_ready=True))

    def elaborate(self, platform):
        m = Module()
        peak = self.i.payload
        bf16 = is_bf16(peak.dtype)
        low, high = peak.magnitude[7:15], peak.magnitude[10:15]

        # 1: parts of the magnitude
        field = Signal(8)
        fine = Signal(3)
        above = Signal(9)
        """Exponent above the lowest one; wraps where it is below."""
        none, finite = Signal(), Signal()
        m.d.sync += [
            field.eq(Mux(bf16, low, high)),
            fine.eq(Mux(bf16, peak.magnitude[4:7], peak.magnitude[7:10])),
            above.eq(Mux(bf16, low - bias(Dtype.BF16), high - bias(Dtype.FP16)) - LOWEST_EXPONENT),
            none.eq(~peak.magnitude.any()),
            finite.eq(is_finite(peak.magnitude, peak.dtype)),
        ]
        known = delay(m, peak, 1)
        valid = delay(m, self.i.valid, 1)

        # 2: the rate
        row = Signal(range(PAGE_ROWS))
        rate = self.o.payload
        pairs = Signal(3)
        """Settings in steps of two: what adds a bit plane."""
        m.d.comb += pairs.eq((known.setting - SETTINGS[0])[1:])
        m.d.sync += [
            self.o.valid.eq(valid),
            rate.variable.eq(known.variable),
            rate.dtype.eq(known.dtype),
            rate.by_row.eq(known.by_row),
            rate.last.eq(row == PAGE_ROWS - 1),
            rate.field.eq(field),
            rate.ternary.eq(~known.setting[0]),
            rate.slots.eq(pairs + 2),
            rate.zero.eq(none & ~known.variable),
        ]
        with m.If(known.variable):
            m.d.sync += [
                rate.held.eq(finite),
                rate.code.eq(known.setting),
                rate.fine.eq(known.setting[:3]),
                rate.base.eq(known.setting[3:] + Mux(is_bf16(known.dtype), bias(Dtype.BF16) - 9, bias(Dtype.FP16) - 9)),
            ]
        with m.Else():
            m.d.sync += [
                rate.held.eq(none | (above < _EXPONENTS)),
                rate.code.eq(Mux(none, 0, Cat(fine, above[:5]) + 1)),
                rate.fine.eq(fine),
                rate.base.eq(field + 2),
            ]
        with m.If(valid):
            m.d.sync += row.eq(row + 1)
        return m
