from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import FIRST_LINES, LOW_LINES, high_lines
from speckv_model.constants import PAGE_LINES
from speckv_model.constants import Dtype as ModelDtype

from ..stream import transfer
from ..types import LINE_BITS, Dtype, EncodeResult, StoredLine
from .float16 import is_bf16

__all__ = ["SectionWriter"]

_HIGH_LINES = high_lines(ModelDtype.FP16)
_FIRST_AT = LOW_LINES
_HIGH_AT = _FIRST_AT + FIRST_LINES


class SectionWriter(wiring.Component):
    """Numbers the lines of a `lossless` page's sections, in whatever order they come, and gives the result.

    Latency 1 clock, one line a clock; three clocks for the result of each page. The section of low bits has the indices
    from 0 on, so that the length of the middle, which is known last, moves no other line: it is stored last, after the
    highest index. Lines above index 63 are dropped. Lines of low bits come when no others do. Empty on reset.

    Members
    -------
    pages : In(stream(Dtype))
        For each page, before its lines.
    low, first, high : In(stream(512))
        32, 8 and 12 lines of a page; `high` only of FP16 pages.
    middle : In(stream)
        As from `MiddleWriter`.
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
        After a page's last line.
    """

    pages: In(stream.Signature(Dtype))
    low: In(stream.Signature(LINE_BITS))
    first: In(stream.Signature(LINE_BITS))
    high: In(stream.Signature(LINE_BITS))
    middle: In(stream.Signature(data.StructLayout({"data": LINE_BITS, "first": 1})))
    stored: Out(stream.Signature(StoredLine))
    result: Out(stream.Signature(EncodeResult))

    def elaborate(self, platform):
        m = Module()
        bf16 = is_bf16(self.pages.payload)
        lines = {"low": Signal(range(LOW_LINES + 1)), "first": Signal(range(FIRST_LINES + 1)),
                 "high": Signal(range(_HIGH_LINES + 1))}
        body = Signal(5, init=1)
        """Lines of the middle, its first one counted from the beginning."""
        middle_done = Signal()
        done = {
            "low": lines["low"] == LOW_LINES,
            "first": lines["first"] == FIRST_LINES,
            "high": (lines["high"] == _HIGH_LINES) | bf16,
            "middle": middle_done,
        }
        middle_at = Mux(bf16, _HIGH_AT, _HIGH_AT + _HIGH_LINES)
        place = {
            "low": lines["low"],
            "first": _FIRST_AT + lines["first"],
            "high": _HIGH_AT + lines["high"],
            "middle": middle_at + Mux(self.middle.payload.first, 0, body),
        }
        order = ("middle", "high", "first", "low")
        free = ~self.stored.valid | self.stored.ready
        stored = self.stored.payload
        index = Signal(7)
        taken = Signal()
        m.d.comb += index.eq(place["low"])
        busy = Const(0)
        for name in order:
            port = getattr(self, name)
            wants = Signal(name=f"{name}_wants")
            m.d.comb += wants.eq(port.valid & self.pages.valid & ~done[name])
            m.d.comb += port.ready.eq(free & self.pages.valid & ~done[name] & ~busy)
            with m.If(wants & ~busy):
                m.d.comb += index.eq(place[name])
            busy = busy | wants
        m.d.comb += taken.eq(free & busy)

        # Selected by what wants, not by what is taken: cheap for 512 bits.
        data_of = self.low.payload
        for name, payload in (("first", self.first.payload), ("high", self.high.payload),
                              ("middle", self.middle.payload.data)):
            data_of = Mux(getattr(self, name).valid & ~done[name], payload, data_of)
        with m.If(free):
            m.d.sync += [
                self.stored.valid.eq(taken & (index < PAGE_LINES)),
                stored.index.eq(index),
                stored.data.eq(data_of),
            ]

        ended = done["low"] & done["first"] & done["high"] & done["middle"]
        m.d.comb += [
            self.result.valid.eq(ended & ~self.stored.valid),
            self.result.payload.lines.eq(middle_at + body),
            self.result.payload.fits.eq(middle_at + body < PAGE_LINES),
            self.result.payload.first.eq(_FIRST_AT),
            self.pages.ready.eq(transfer(self.result)),
        ]
        for name, count in lines.items():
            with m.If(transfer(getattr(self, name))):
                m.d.sync += count.eq(count + 1)
        with m.If(transfer(self.middle)):
            m.d.sync += middle_done.eq(self.middle.payload.first)
            with m.If(~self.middle.payload.first):
                m.d.sync += body.eq(body + 1)
        with m.If(transfer(self.result)):
            m.d.sync += [*(count.eq(0) for count in lines.values()), body.eq(1), middle_done.eq(0)]
        return m
