from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .payloads import RowScale
from .pipeline import delay
from .quantiser_lane import QuantiserLane

__all__ = ["Quantiser"]


class Quantiser(wiring.Component):
    """Quantises a beat of values; of a raw row, lets one half of the beat's bytes through.

    `latency` clocks, one beat a clock, order kept, no back-pressure; idle on reset.

    Parameters
    ----------
    lanes : int
        Values in a beat.

    Members
    -------
    i : In(stream, always ready)
        `values` as bits, the `scale` of their row, `half` (which half of a raw row's bytes is meant), `last`
        of the row.
    o : Out(stream, always ready)
        `bytes`, `raw`, `maximum` and `last`.
    """

    latency = 1 + QuantiserLane.latency

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({
                "values": data.ArrayLayout(16, lanes), "scale": RowScale, "half": 1, "last": 1,
            }), always_ready=True)),
            "o": Out(stream.Signature(self.output_layout(lanes), always_ready=True)),
        })

    @staticmethod
    def output_layout(lanes):
        return data.StructLayout({
            "bytes": data.ArrayLayout(8, lanes), "raw": 1, "maximum": 15, "last": 1})

    def elaborate(self, platform):
        m = Module()
        taken = Signal.like(self.i.payload)
        m.d.sync += taken.eq(self.i.payload)

        all_bits = taken.values.as_value()
        half = Mux(taken.half, all_bits[len(all_bits) // 2:], all_bits[:len(all_bits) // 2])
        shift = delay(m, taken.scale.shift, 1)
        reciprocal = delay(m, taken.scale.reciprocal, 2)
        raw = delay(m, taken.scale.raw, QuantiserLane.latency - 1)
        for n in range(self._lanes):
            m.submodules[f"lane{n}"] = lane = QuantiserLane()
            m.d.comb += [
                lane.value.eq(taken.values[n]),
                lane.byte.eq(half[8 * n:8 * n + 8]),
                lane.dtype.eq(taken.scale.dtype),
                lane.row_exponent.eq(taken.scale.exponent),
                lane.row_shift.eq(shift),
                lane.row_reciprocal.eq(reciprocal),
                lane.raw.eq(raw),
                self.o.payload.bytes[n].eq(lane.o),
            ]
        through = delay(m, Cat(taken.scale.maximum, taken.last), QuantiserLane.latency)
        m.d.comb += [
            Cat(self.o.payload.maximum, self.o.payload.last).eq(through),
            self.o.payload.raw.eq(delay(m, raw, 1)),
            self.o.valid.eq(delay(m, self.i.valid, self.latency)),
        ]
        return m
