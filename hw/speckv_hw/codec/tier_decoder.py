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
from .exponent_form import HIGH_BITS, LOW_BITS, from_form
from .float16 import is_bf16
from .pipeline import delay
from .rom import rom

__all__ = ["TierDecoder"]

_BELOW_BITS = 5
"""Of a distance below the centre, modulo 32; negative ones are extended."""


class TierDecoder(wiring.Component):
    """Makes values of the codes and bits of a `lossless` page: the inverse of `TierCoder`.

    Latency `latency` clocks, one beat a clock, order kept. Empty on reset.

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

    latency = 4

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "first": 2 * lanes,
                "second": 2 * lanes,
                "third": 4 * lanes,
                "centre": 8,
                "dtype": Dtype,
                "low": LOW_BITS * lanes,
                "high": HIGH_BITS * lanes,
            }))),
            "o": Out(stream.Signature(16 * lanes)),
        })

    def elaborate(self, platform):
        m = Module()
        advance = Signal()
        beat = self.i.p
        m.d.comb += [advance.eq(~self.o.valid | self.o.ready), self.i.ready.eq(advance)]

        def later(value, clocks=1):
            return delay(m, value, clocks, enable=advance, reset=False)

        valid = delay(m, self.i.valid, 3, enable=advance)
        with m.If(advance):
            m.d.sync += self.o.valid.eq(valid)
        verbatim = later(beat.centre == VERBATIM)
        centre2 = later(beat.centre, 2)
        dtype = later(beat.dtype, 3)
        high = later(beat.high, 3)
        near = [below % (1 << _BELOW_BITS) for second in SECOND_TIER + (0,) for below in FIRST_TIER + (second,)]
        far = [below % (1 << _BELOW_BITS) for below in THIRD_TIER]

        for lane in range(self._lanes):
            first, second = beat.first.word_select(lane, 2), beat.second.word_select(lane, 2)
            third = beat.third.word_select(lane, 4)
            # 1: what the codes say, each kind by itself
            near1, far1 = later(rom(near, Cat(first, second))), later(rom(far, third))
            in_third, raw = later((first == ESCAPE) & (second == ESCAPE)), later(Cat(first, second, third))
            special = later((third == ZERO_EXPONENT) | (third == ONES_EXPONENT))
            ones = later(third == ONES_EXPONENT)

            # 2: the distance, and what it is from: a verbatim row has centre 0, and a special value none
            special1 = special & in_third & ~verbatim
            below = later(Mux(verbatim | special1, 0, Mux(in_third, far1, near1)))
            kept = later(Mux(verbatim, raw, 0))
            special2, ones2 = later(special1), later(ones)

            # 3: the exponent
            base = Mux(special2, ones2.replicate(8), kept | centre2)
            exponent = later((base - below.as_signed())[:8])

            # 4: the value
            low = later(beat.low.word_select(lane, LOW_BITS), 3)
            form = Cat(low, exponent[:5], Mux(is_bf16(dtype), exponent[5:], high.word_select(lane, HIGH_BITS)))
            value = Signal(16, name=f"value{lane}", reset_less=True)
            with m.If(advance):
                m.d.sync += value.eq(from_form(form, dtype))
            m.d.comb += self.o.payload.word_select(lane, 16).eq(value)
        return m
