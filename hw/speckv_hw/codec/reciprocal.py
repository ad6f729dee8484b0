from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.speckv import FULL_SCALE

from .float16 import EXPONENT_BITS, MANTISSA_BITS, exponent_mantissa, is_finite
from .payloads import RECIPROCAL_BITS, RowMaximum, RowScale
from .pipeline import delay

__all__ = ["Reciprocal"]

FRACTION_BITS = 2 * MANTISSA_BITS
"""So many that a product of a mantissa and the reciprocal errs by less than 2^-11 upwards. The exact quotient
of two 11-bit mantissas is whole or at least 1/2047 away from every whole number; so the 11 top fraction bits
of the product are zero just where the exact quotient is whole, and its whole part is right."""

_LEADING = 1 << MANTISSA_BITS - 1


class Reciprocal(wiring.Component):
    """Turns the maximum of a row into what the quantiser multiplies with: a table look-up.

    `latency` clocks, one row a clock, no back-pressure; idle on reset.

    Members
    -------
    i : In(stream(RowMaximum), always ready)
    o : Out(stream(RowScale), always ready)
    """

    latency = 3

    i: In(stream.Signature(RowMaximum, always_ready=True))
    o: Out(stream.Signature(RowScale, always_ready=True))

    def elaborate(self, platform):
        m = Module()
        numerator = 2 * FULL_SCALE << FRACTION_BITS
        m.submodules.table = table = memory.Memory(
            shape=RECIPROCAL_BITS, depth=_LEADING,
            init=[-(-numerator // (_LEADING + fraction)) for fraction in range(_LEADING)])
        read = table.read_port()

        # 1: take the maximum apart
        exponent = Signal(EXPONENT_BITS)
        mantissa = Signal(MANTISSA_BITS)
        parts = exponent_mantissa(self.i.payload.magnitude, self.i.payload.dtype)
        m.d.sync += [exponent.eq(parts[0]), mantissa.eq(parts[1])]

        # 2: move the leading one to the top
        shift = Signal(range(MANTISSA_BITS))
        upper = Signal(MANTISSA_BITS)
        for place in range(MANTISSA_BITS):
            with m.If(mantissa[place]):
                m.d.comb += shift.eq(MANTISSA_BITS - 1 - place)
        m.d.sync += upper.eq(mantissa << shift)

        # 3: look up
        m.d.comb += [
            read.addr.eq(upper[:-1]),
            self.o.payload.reciprocal.eq(read.data),
        ]
        finite = is_finite(self.i.payload.magnitude, self.i.payload.dtype)
        raw = delay(m, ~finite, self.latency)
        m.d.comb += [
            self.o.valid.eq(delay(m, self.i.valid, self.latency)),
            self.o.payload.raw.eq(raw),
            self.o.payload.maximum.eq(Mux(raw, 0, delay(m, self.i.payload.magnitude, self.latency))),
            self.o.payload.dtype.eq(delay(m, self.i.payload.dtype, self.latency)),
            self.o.payload.exponent.eq(delay(m, exponent, self.latency - 1)),
            self.o.payload.shift.eq(delay(m, shift, self.latency - 1)),
        ]
        return m
