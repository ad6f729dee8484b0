from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from .dequantiser_lane import DequantiserLane
from .float16 import exponent_mantissa
from .payloads import RowForm, RowTag, chunk
from .pipeline import delay

__all__ = ["Dequantiser"]


class Dequantiser(wiring.Component):
    """Turns beats of quantised bytes into beats of values; joins two beats of a raw row's bytes into one.

    `latency` clocks, one beat a clock, order kept; a blocked output stops the whole pipeline. Empty on reset.

    Parameters
    ----------
    lanes : int
        Bytes in a beat and values in a beat.

    Members
    -------
    i : In(stream)
        `data` (a beat of bytes) and `tag` (a `RowTag`).
    o : Out(stream(chunk(16 * lanes)))
        `last` is never set.
    """

    latency = DequantiserLane.latency

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(data.StructLayout({"data": 8 * lanes, "tag": RowTag}))),
            "o": Out(stream.Signature(chunk(16 * lanes))),
        })

    def elaborate(self, platform):
        m = Module()
        advance = Signal()

        def later(value, clocks):
            return delay(m, value, clocks, enable=advance)

        tag = self.i.payload.tag
        exponent, mantissa = exponent_mantissa(tag.maximum, tag.dtype)
        room = Signal(range(8))
        m.d.comb += room.eq(Mux(exponent > 7, 7, exponent - 1))
        room, mantissa = later(room, 1), later(mantissa, 2)
        exponent, dtype = later(exponent, 4), later(tag.dtype, 5)
        values = Signal(16 * self._lanes)
        for n in range(self._lanes):
            m.submodules[f"lane{n}"] = lane = DequantiserLane()
            m.d.comb += [
                lane.advance.eq(advance),
                lane.byte.eq(self.i.payload.data.word_select(n, 8)),
                lane.row_room.eq(room),
                lane.row_mantissa.eq(mantissa),
                lane.row_exponent.eq(exponent),
                lane.dtype.eq(dtype),
                values.word_select(n, 16).eq(lane.o),
            ]

        valid = later(self.i.valid, self.latency)
        raw = later(tag.form == RowForm.RAW, self.latency)
        bytes_ = later(self.i.payload.data, self.latency)
        second = Signal()
        first_half = Signal.like(bytes_)
        incomplete = raw & ~second
        m.d.comb += [
            self.o.valid.eq(valid & ~incomplete),
            self.o.payload.data.eq(Mux(raw, Cat(first_half, bytes_), values)),
            advance.eq(~valid | incomplete | self.o.ready),
            self.i.ready.eq(advance),
        ]
        with m.If(valid & incomplete):
            m.d.sync += [second.eq(1), first_half.eq(bytes_)]
        with m.Elif(transfer(self.o)):
            m.d.sync += second.eq(0)
        return m
