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

from ..types import Dtype
from .float16 import exponent_ones, is_bf16
from .pipeline import delay

__all__ = ["TierDecoder"]


class TierDecoder(wiring.Component):
    """Makes values of the codes and bits of a `lossless` page: the inverse of `TierCoder`.

    Latency 3 clocks, one beat a clock, order kept. Empty on reset.

    Parameters
    ----------
    lanes : int
        Values in a beat.

    Members
    -------
    i : In(stream)
        `first`, `second`, `third`: codes for each lane, of which those that a lane does not have do not matter;
        `centre`; `dtype`; `low`; `high`, which matters for FP16.
    o : Out(stream(16 * lanes))
    """

    latency = 3

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "first": data.ArrayLayout(2, lanes),
                "second": data.ArrayLayout(2, lanes),
                "third": data.ArrayLayout(4, lanes),
                "centre": 8,
                "dtype": Dtype,
                "low": data.ArrayLayout(8, lanes),
                "high": data.ArrayLayout(3, lanes),
            }))),
            "o": Out(stream.Signature(16 * lanes)),
        })

    def elaborate(self, platform):
        m = Module()
        advance = Signal()
        beat = self.i.payload
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]

        def later(value, clocks=1):
            return delay(m, value, clocks, enable=advance)

        valid = later(self.i.valid, 2)
        with m.If(advance):
            m.d.sync += self.o.valid.eq(valid)
        verbatim, centre = later(beat.centre == VERBATIM), later(beat.centre)
        dtype1 = later(beat.dtype)
        dtype2 = later(dtype1)

        for lane in range(self._lanes):
            first, second, third = beat.first[lane], beat.second[lane], beat.third[lane]
            below = Signal(5)
            """Modulo 32; negative ones extend to 8 bits."""
            zeros, ones = Signal(), Signal()
            with m.If(first != ESCAPE):
                with m.Switch(first):
                    for code, distance in enumerate(FIRST_TIER):
                        with m.Case(code):
                            m.d.comb += below.eq(distance)
            with m.Elif(second != ESCAPE):
                with m.Switch(second):
                    for code, distance in enumerate(SECOND_TIER):
                        with m.Case(code):
                            m.d.comb += below.eq(distance % 32)
            with m.Else():
                m.d.comb += [zeros.eq(third == ZERO_EXPONENT), ones.eq(third == ONES_EXPONENT)]
                with m.Switch(third):
                    for code, distance in enumerate(THIRD_TIER):
                        with m.Case(code):
                            m.d.comb += below.eq(distance % 32)

            # 2: the exponent
            below, zeros, ones = later(below), later(zeros), later(ones)
            kept = later(Cat(first, second, third))
            exponent = Signal(8, name=f"exponent{lane}")
            with m.If(advance):
                m.d.sync += exponent.eq((centre - below.as_signed())[:8])
                with m.If(verbatim):
                    m.d.sync += exponent.eq(kept)
                with m.Elif(zeros):
                    m.d.sync += exponent.eq(0)
                with m.Elif(ones):
                    m.d.sync += exponent.eq(exponent_ones(dtype1))

            # 3: the value
            low, high = later(beat.low[lane], 2), later(beat.high[lane], 2)
            with m.If(advance):
                m.d.sync += self.o.payload.word_select(lane, 16).eq(Mux(
                    is_bf16(dtype2), Cat(low[:7], exponent, low[7]), Cat(low, high[:2], exponent[:5], high[2])))
        return m
