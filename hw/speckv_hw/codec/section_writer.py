from amaranth.hdl import Cat, Module, Mux, Signal
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
_SECTIONS = {"low": LOW_LINES, "high": _HIGH_LINES, "first": FIRST_LINES}
"""Whose lines can wait the least comes first."""
_FIRST_AT = LOW_LINES
_HIGH_AT = _FIRST_AT + FIRST_LINES


class SectionWriter(wiring.Component):
    """Numbers the lines of a `lossless` page's sections, in whatever order they come, and gives the result.

    Latency 1 clock, one line a clock; of several, that of low bits goes: they come every second clock and have no room
    to wait. The section of low bits has the indices from 0 on, so that the length of the middle, which is known last,
    moves no other line: it is stored last, after the highest index. Lines above index 63 are dropped. Sections of fixed
    length may be one page ahead of the next result, but not two; they wait then. Empty on reset.

    Members
    -------
    dtype : In(Dtype)
        Of all pages whose lines are there and whose result is not.
    low, first, high : In(stream(512))
        32, 8 and 12 lines of a page; `high` only of FP16 pages.
    middle : In(stream)
        As from `MiddleWriter`.
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
        After a page's last line.
    """

    dtype: In(Dtype)
    low: In(stream.Signature(LINE_BITS))
    first: In(stream.Signature(LINE_BITS))
    high: In(stream.Signature(LINE_BITS))
    middle: In(stream.Signature(data.StructLayout({"data": LINE_BITS, "first": 1})))
    stored: Out(stream.Signature(StoredLine))
    result: Out(stream.Signature(EncodeResult))

    def elaborate(self, platform):
        m = Module()
        bf16 = is_bf16(self.dtype)
        finished = transfer(self.result)
        places = {name: Signal(range(lines), name=f"{name}_place") for name, lines in _SECTIONS.items()}
        aheads = {name: Signal(2, name=f"{name}_ahead") for name in _SECTIONS}
        """How many pages of a section are complete of which there is no result yet."""
        body = Signal(5, init=1)
        """Lines of the middle, its first one counted from the beginning."""
        due = Signal()
        """The middle is complete."""
        middle_at = Mux(bf16, _HIGH_AT, _HIGH_AT + _HIGH_LINES)
        stored = self.stored.p
        complete = (aheads["low"] != 0) & (aheads["first"] != 0) & ((aheads["high"] != 0) | bf16)
        ended = due & complete
        # A line that waits would change its mark with the result.
        free = (~self.stored.valid | self.stored.ready) & ~(self.result.valid & ~self.result.ready)
        allowed = {name: aheads[name] != 2 for name in _SECTIONS} | {"middle": ~due}
        for name in ("first", "high"):
            allowed[name] &= ~ended
        index = {"low": places["low"], "high": _HIGH_AT + places["high"], "first": _FIRST_AT + places["first"],
                 "middle": (middle_at + Mux(self.middle.p.first, 0, body))[:7]}
        offers = [Signal(name=f"{name}_offer") for name in index]
        with m.If(free):
            m.d.sync += self.stored.valid.eq(0)
        for n, name in enumerate(index):
            port = getattr(self, name)
            mark = 0 if name == "middle" else aheads[name] != finished
            chosen = free & ~Cat(offers[:n]).any()
            m.d.comb += [offers[n].eq(port.valid & allowed[name]), port.ready.eq(chosen & allowed[name])]
            with m.If(chosen & offers[n]):
                m.d.sync += [
                    self.stored.valid.eq(index[name] < PAGE_LINES),
                    stored.index.eq(index[name]),
                    stored.ahead.eq(mark),
                ]

        # A register for each section, all but one of them zero: no logic before them, and a LUT a bit behind.
        sources = (self.low.payload, self.high.payload, self.first.payload, self.middle.p.data)
        lines = [Signal(LINE_BITS, name=f"{name}_line", reset_less=True) for name in index]
        with m.If(free):
            for n, line in enumerate(lines):
                m.d.sync += line.eq(Mux(offers[n] & ~Cat(offers[:n]).any(), sources[n], 0))
        m.d.comb += stored.data.eq(lines[0] | lines[1] | lines[2] | lines[3])

        for name, lines in _SECTIONS.items():
            sent = transfer(getattr(self, name))
            ends = sent & (places[name] == lines - 1)
            with m.If(sent):
                m.d.sync += places[name].eq(Mux(ends, 0, places[name] + 1))
            # BF16 pages have no high bits.
            m.d.sync += aheads[name].eq(aheads[name] + ends - (finished & ~bf16 if name == "high" else finished))
        m.d.comb += [
            self.result.valid.eq(ended & ~self.stored.valid),
            self.result.p.lines.eq(middle_at + body),
            self.result.p.fits.eq(middle_at + body < PAGE_LINES),
            self.result.p.first.eq(_FIRST_AT),
        ]
        with m.If(transfer(self.middle)):
            m.d.sync += due.eq(self.middle.p.first)
            with m.If(~self.middle.p.first):
                m.d.sync += body.eq(body + 1)
        with m.If(finished):
            m.d.sync += [body.eq(1), due.eq(0)]
        return m
