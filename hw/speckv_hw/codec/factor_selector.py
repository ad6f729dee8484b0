from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.fixed import FRACTIONS, GROUP_VALUES, INVERSE_BITS, inverses

from .float16 import EXPONENT_BITS, MANTISSA_BITS, exponent_mantissa, is_bf16
from .pipeline import delay
from .quantised_payloads import FACTOR_BITS, RowRate, peak_beat

__all__ = ["FactorSelector", "STEP_FACTOR_BITS", "edges", "factors"]

STEP_FACTOR_BITS = FACTOR_BITS - 1
"""Fraction bits of the factors of `variable` pages."""
_NEAR = 3
"""Exponents below the row's largest in which a group can have another fraction than the smallest."""
_EDGE_BITS = MANTISSA_BITS + _NEAR - 1


def edges(ternary, fine):
    """Peaks from which on a group keeps each fraction but the smallest, as mantissas of `MANTISSA_BITS` at an
    exponent two below the row's. List of int.

    The model compares the peak's cell, mantissa * inverse >> shift, with `Rate.edge`, which is 5/2 or 3/4 of
    2^(planes - 1): the bound of the mantissa is the same for all planes.
    """
    bound = 5 << 1 if ternary else 3
    shift = MANTISSA_BITS - 1 + INVERSE_BITS
    return [-(-(bound << shift) // int(inverse)) for inverse in inverses(ternary)[fine][:FRACTIONS - 1]]


def factors(variable, ternary, fine):
    """What mantissas are multiplied by for each of the group codes, twice an inverse of the model. List of int.

    Of a `variable` page 1 / step's mantissa, rounded up, which is one for all.
    """
    if variable:
        return [-(-(8 << STEP_FACTOR_BITS) // (8 + fine))] * FRACTIONS
    return (2 * inverses(ternary)[fine]).tolist()


def _table(m, name, entries, index):
    """The entry (int lists of equal length) that `index` names, as a list of expressions."""
    rows = list(zip(*entries))
    found = [Signal(max(max(row) for row in rows).bit_length(), name=f"{name}{n}") for n in range(len(rows))]
    with m.Switch(index):
        for value, entry in enumerate(entries):
            with m.Case(value):
                m.d.sync += [one.eq(number) for one, number in zip(found, entry)]
    return found


class FactorSelector(wiring.Component):
    """Chooses the fraction of each group of eight values and the factor that belongs to it.

    Group codes come after `code_latency` clocks, factors after `latency`; a beat a clock, no back-pressure. Nothing
    here needs a reset.

    Parameters
    ----------
    lanes : int
        Values in a beat.

    Members
    -------
    peaks : In(peak_beat)
    rate : In(RowRate)
    codes, factors : Out, one for each group
    """

    code_latency = 3
    latency = 4

    def __init__(self, lanes):
        self._groups = lanes // GROUP_VALUES
        super().__init__({
            "peaks": In(peak_beat(lanes)),
            "rate": In(RowRate),
            "codes": Out(data.ArrayLayout(2, self._groups)),
            "factors": Out(data.ArrayLayout(FACTOR_BITS, self._groups)),
        })

    def elaborate(self, platform):
        m = Module()
        row = Cat(self.rate.fine, self.rate.ternary)
        edge = _table(m, "edge", [edges(ternary, fine) for ternary in range(2) for fine in range(8)], delay(m, row, 1))
        factor = _table(
            m, "factor",
            [factors(variable, ternary, fine) for variable in range(2) for ternary in range(2) for fine in range(8)],
            delay(m, Cat(row, self.rate.variable), 2))
        row_field = delay(m, self.rate.field, 1)
        zero = delay(m, self.rate.zero, 2)
        for n in range(self._groups):
            # 1: exponent and mantissa
            exponent, mantissa = exponent_mantissa(self.peaks[n], self.rate.dtype)
            exponent1, mantissa1 = Signal(EXPONENT_BITS), Signal(MANTISSA_BITS)
            bf16_shift = Mux(is_bf16(self.rate.dtype), mantissa << 3, mantissa)
            m.d.sync += [exponent1.eq(exponent), mantissa1.eq(bf16_shift)]

            # 2: the same exponent for all groups
            distance = Signal(EXPONENT_BITS)
            aligned = Signal(_EDGE_BITS)
            far = Signal()
            m.d.comb += distance.eq(row_field - exponent1)
            m.d.sync += [
                far.eq(distance >= _NEAR),
                aligned.eq(Array([mantissa1 << 2, mantissa1 << 1, mantissa1, mantissa1])[distance[:2]]),
            ]

            # 3: a smaller fraction as long as the peak is below the edge
            smaller = [Signal(name=f"smaller{n}_{code}") for code in range(FRACTIONS - 1)]
            m.d.comb += [one.eq((far | (aligned < bound)) & ~zero) for one, bound in zip(smaller, edge)]
            m.d.sync += self.codes[n].eq(Mux(smaller[1], Cat(smaller[2], Const(1, 1)), Cat(smaller[0], Const(0, 1))))

            # 4: its factor
            m.d.sync += self.factors[n].eq(Array(factor)[self.codes[n]])
        return m
