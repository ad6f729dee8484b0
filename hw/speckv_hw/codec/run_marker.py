from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.speckv import INT8, RAW
from speckv_model.constants import ROW_VALUES

from .payloads import RowSummary, byte_beat
from .pipeline import delay
from .quantiser import Quantiser

__all__ = ["RunMarker"]

_GROUP = 8


class RunMarker(wiring.Component):
    """Marks where runs of equal deltas begin, and decides from their number how the row is kept.

    `latency` clocks from a beat to the marked beat, and 2 more to the summary after a row's last beat; one
    beat a clock, no back-pressure; idle on reset.

    Parameters
    ----------
    lanes : int
        Bytes in a beat.

    Members
    -------
    i : In(stream(Quantiser.output_layout), always ready)
    o : Out(stream(byte_beat), always ready)
    rows : Out(stream(RowSummary), always ready)
    """

    latency = 2

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(Quantiser.output_layout(lanes), always_ready=True)),
            "o": Out(stream.Signature(byte_beat(lanes), always_ready=True)),
            "rows": Out(stream.Signature(RowSummary, always_ready=True)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        taken = self.i.payload

        # 1: deltas; the row's first is from zero
        before = Signal(8)
        more = Signal()
        first = Signal()
        deltas = [Signal(8, name=f"delta{n}") for n in range(lanes)]
        with m.If(self.i.valid):
            m.d.sync += [
                before.eq(Mux(taken.last, 0, taken.bytes[lanes - 1])),
                more.eq(~taken.last),
                first.eq(~more),
            ]
            m.d.sync += [
                delta.eq(byte - earlier)
                for delta, byte, earlier in zip(deltas, taken.bytes, [before, *taken.bytes])
            ]

        # 2: a run begins where the delta changes
        valid1 = delay(m, self.i.valid, 1)
        delta_before = Signal(8)
        with m.If(valid1):
            m.d.sync += delta_before.eq(deltas[-1])
        marks = Cat(delta != earlier for delta, earlier in zip(deltas, [delta_before, *deltas]))
        m.d.sync += self.o.payload.marks.eq(marks | first)
        m.d.comb += [
            self.o.payload.bytes.eq(delay(m, taken.bytes, self.latency)),
            self.o.payload.last.eq(delay(m, taken.last, self.latency)),
            self.o.valid.eq(delay(m, valid1, 1)),
        ]

        # 3, 4: count the runs of the row
        groups = [Signal(range(_GROUP + 1), name=f"group{n}") for n in range(lanes // _GROUP)]
        m.d.sync += [
            group.eq(sum(self.o.payload.marks[_GROUP * n + place] for place in range(_GROUP)))
            for n, group in enumerate(groups)
        ]
        runs = Signal(range(ROW_VALUES + 1))
        total = Signal(range(ROW_VALUES + 1))
        valid3 = delay(m, self.o.valid, 1)
        last3 = delay(m, self.o.payload.last, 1)
        raw3 = delay(m, taken.raw, self.latency + 1)
        summary = self.rows.payload
        m.d.comb += total.eq(runs + sum(groups))
        m.d.sync += [
            self.rows.valid.eq(valid3 & last3),
            summary.maximum.eq(delay(m, taken.maximum, self.latency + 1)),
            summary.code.eq(Mux(raw3, RAW, Mux(total >= INT8, INT8, total))),
        ]
        with m.If(valid3):
            m.d.sync += runs.eq(Mux(last3, 0, total))
        return m
