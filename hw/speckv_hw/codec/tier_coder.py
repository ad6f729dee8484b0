from amaranth.hdl import Const, Module, Mux, Signal
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
from .exponent_form import HIGH_BITS, LOW_BITS, exponent_of, high_of, is_ones, low_of
from .float16 import is_bf16
from .pipeline import delay

__all__ = ["TierCoder"]

_BELOW_BITS = 5
"""Enough to tell all distances that have a code from each other."""


class TierCoder(wiring.Component):
    """Turns values into the codes of a `lossless` page: those of three tiers, and the bits that are kept as they are.

    Latency `latency` clocks, one beat a clock, order kept. Empty on reset.

    Parameters
    ----------
    lanes : int
        Values in a beat.

    Members
    -------
    i : In(stream(beat_layout(lanes)))
        `forms` of values (`exponent_form`), their `dtype`, `row_last` and `last` of the page.
    centres : In(stream(8))
        One for each row, or 0; a row waits for it. A row that has one has no value without a code.
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
                "first": 2 * lanes,
                "second": 2 * lanes,
                "third": 4 * lanes,
                "in_second": lanes,
                "in_third": lanes,
                "low": LOW_BITS * lanes,
                "high": HIGH_BITS * lanes,
                "dtype": Dtype,
                "last": 1,
            }))),
        })

    @staticmethod
    def beat_layout(lanes):
        return data.StructLayout(
            {"forms": 16 * lanes, "dtype": Dtype, "row_last": 1, "last": 1})

    def elaborate(self, platform):
        m = Module()
        beat, out = self.i.p, self.o.p
        centre = self.centres.payload
        bf16 = is_bf16(beat.dtype)
        advance = Signal()
        m.d.comb += [
            advance.eq(~self.o.valid | self.o.ready),
            self.i.ready.eq(advance & self.centres.valid),
            self.centres.ready.eq(transfer(self.i) & beat.row_last),
        ]

        def later(value):
            return delay(m, value, 1, enable=advance)

        # Zeros, and infinities and NaNs, have codes of their own unless they are so near that shorter ones say them.
        reach = max(FIRST_TIER + SECOND_TIER)
        zeros_far = later(centre > reach)
        ones_far = later(centre != Mux(bf16, 0xFE, 0x1E))
        verbatim = later(centre == VERBATIM)
        valid, dtype, last = later(transfer(self.i)), later(beat.dtype), later(beat.last)
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(valid), out.dtype.eq(dtype), out.last.eq(last)]

        for lane in range(self._lanes):
            form = beat.forms.word_select(lane, 16)
            field = exponent_of(form, beat.dtype)
            exponent, low, high = later(field), later(low_of(form)), later(high_of(form))
            below = later((centre[:_BELOW_BITS] - field[:_BELOW_BITS])[:_BELOW_BITS])
            zero, ones = later(field == 0), later(is_ones(form, beat.dtype))
            special = (zero & zeros_far) | (ones & ones_far)

            first, in_first = self._code(m, below, FIRST_TIER, f"first{lane}")
            second, in_second = self._code(m, below, SECOND_TIER, f"second{lane}")
            third, _ = self._code(m, below, THIRD_TIER, f"third{lane}")
            ends_in_first = in_first & ~special
            ends_in_second = in_second & ~special
            with m.If(advance):
                m.d.sync += [
                    out.first.word_select(lane, 2).eq(Mux(verbatim, exponent[:2], Mux(ends_in_first, first, ESCAPE))),
                    out.second.word_select(lane, 2).eq(
                        Mux(verbatim, exponent[2:4], Mux(ends_in_second, second, ESCAPE))),
                    out.third.word_select(lane, 4).eq(Mux(verbatim, exponent[4:], Mux(
                        special, Mux(ones, ONES_EXPONENT, ZERO_EXPONENT), third))),
                    out.in_second[lane].eq(verbatim | ~ends_in_first),
                    out.in_third[lane].eq(verbatim | ~(ends_in_first | ends_in_second)),
                    out.low.word_select(lane, LOW_BITS).eq(low),
                    out.high.word_select(lane, HIGH_BITS).eq(high),
                ]
        return m

    def _code(self, m, below, tier, name):
        """The code that says a distance, and whether the tier has one."""
        code, found = Signal(range(len(tier)), name=name), Signal(name=f"in_{name}")
        with m.Switch(below):
            for number, distance in enumerate(tier):
                with m.Case(distance % (1 << _BELOW_BITS)):
                    m.d.comb += [code.eq(number), found.eq(1)]
            with m.Default():
                m.d.comb += code.eq(Const(number, len(code)))
        return code, found
