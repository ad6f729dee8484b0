from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import (
    ESCAPE,
    FIRST_TIER,
    ONES_EXPONENT,
    SECOND_TIER,
    THIRD_TIER,
    VERBATIM,
    ZERO_EXPONENT,
)

from ..stream import transfer
from ..types import Dtype
from .float16 import exponent_field, exponent_ones, is_bf16
from .pipeline import delay

__all__ = ["TierCoder"]


class TierCoder(wiring.Component):
    """Turns values into the codes of a `lossless` page: those of three tiers, and the bits that are kept as they are.

    Latency 2 clocks, one beat a clock, order kept. Empty on reset.

    Parameters
    ----------
    lanes : int
        Values in a beat.

    Members
    -------
    i : In(stream)
        `values`, `dtype`, `row_last` and `last` of the page.
    centres : In(stream(8))
        One for each row; a row waits for it.
    o : Out(stream)
        `first`, `second`, `third`: codes for each lane; `in_second`, `in_third`: lanes that have one; `low` and `high`
        (FP16 only): bits that are kept; `dtype`; `last`.
    """

    latency = 2

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(self.beat_layout(lanes))),
            "centres": In(stream.Signature(8)),
            "o": Out(stream.Signature(data.StructLayout({
                "first": data.ArrayLayout(2, lanes),
                "second": data.ArrayLayout(2, lanes),
                "third": data.ArrayLayout(4, lanes),
                "in_second": lanes,
                "in_third": lanes,
                "low": data.ArrayLayout(8, lanes),
                "high": data.ArrayLayout(3, lanes),
                "dtype": Dtype,
                "last": 1,
            }))),
        })

    @staticmethod
    def beat_layout(lanes):
        return data.StructLayout(
            {"values": data.ArrayLayout(16, lanes), "dtype": Dtype, "row_last": 1, "last": 1})

    def elaborate(self, platform):
        m = Module()
        beat, out = self.i.payload, self.o.payload
        centre = self.centres.payload
        advance = Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance & self.centres.valid),
            self.centres.ready.eq(transfer(self.i) & beat.row_last),
        ]

        def later(value):
            return delay(m, value, 1, enable=advance)

        verbatim = later(centre == VERBATIM)
        valid, dtype, last = later(transfer(self.i)), later(beat.dtype), later(beat.last)
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(valid), out.dtype.eq(dtype), out.last.eq(last)]

        for lane in range(self._lanes):
            field = exponent_field(beat.values[lane], beat.dtype)
            value = later(beat.values[lane])
            exponent = later(field)
            below = later((centre - field)[:9])
            special = later((field == 0) | (field == exponent_ones(beat.dtype)))

            first, second, third = Signal(2), Signal(2), Signal(4)
            with m.Switch(below):
                for code, distance in enumerate(FIRST_TIER):
                    with m.Case(distance % 512):
                        m.d.comb += first.eq(code)
                with m.Default():
                    m.d.comb += first.eq(ESCAPE)
            with m.Switch(below):
                for code, distance in enumerate(SECOND_TIER):
                    with m.Case(distance % 512):
                        m.d.comb += second.eq(code)
                with m.Default():
                    m.d.comb += second.eq(ESCAPE)
            # No farther exponent comes here; with fewer bits to look at, this is smaller.
            with m.Switch(below[:5]):
                for code, distance in enumerate(THIRD_TIER):
                    with m.Case(distance % 32):
                        m.d.comb += third.eq(code)
            with m.If(special):
                m.d.comb += third.eq(Mux(exponent[0], ONES_EXPONENT, ZERO_EXPONENT))

            with m.If(advance):
                m.d.sync += [
                    out.first[lane].eq(Mux(verbatim, exponent[:2], first)),
                    out.second[lane].eq(Mux(verbatim, exponent[2:4], second)),
                    out.third[lane].eq(Mux(verbatim, exponent[4:], third)),
                    out.in_second[lane].eq(verbatim | (first == ESCAPE)),
                    out.in_third[lane].eq(verbatim | ((first == ESCAPE) & (second == ESCAPE))),
                    out.low[lane].eq(Mux(is_bf16(dtype), Cat(value[:7], value[15]), value[:8])),
                    out.high[lane].eq(Cat(value[8:10], value[15])),
                ]
        return m
