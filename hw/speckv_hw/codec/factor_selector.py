from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.fixed import CODES, FRACTIONS, GROUP_VALUES, INVERSE_BITS, inverses

from .choose import choose
from .float16 import EXPONENT_BITS, MANTISSA_BITS, exponent_mantissa, is_bf16
from .pipeline import delay
from .quantised_payloads import CODE_BITS, FACTOR_BITS, RowRate, peak_beat
from .rom import rom

__all__ = ["FactorSelector", "STEP_FACTOR_BITS", "edges", "factors", "step_factor"]

STEP_FACTOR_BITS = FACTOR_BITS - 1
"""Fraction bits of the factors of `variable` pages."""
_NEAR = 4
"""Exponents below the row's largest in which a group can have another fraction than the smallest."""
_EDGE_BITS = MANTISSA_BITS + _NEAR - 1


def edges(ternary, width, fine):
    """Peaks from which on a group whose code has `width` bits keeps each fraction but the smallest, as mantissas of
    `MANTISSA_BITS` at an exponent `_NEAR` - 1 below the row's. List of int.

    The model compares the peak's cell, mantissa * inverse >> shift, with one of `Rate.edges`, which is some number
    times 2^(planes - 1): the bound of the mantissa is the same for all planes.
    """
    own = CODES[ternary, width]
    thirds = 3 if ternary else 1
    unit = 1 << MANTISSA_BITS - 1 + INVERSE_BITS + _NEAR - 1
    bounds = []
    for large, small in zip(own, own[1:]):
        ratio = FRACTIONS[ternary][small] / FRACTIONS[ternary][large]
        bounds.append(int(-(-(thirds * ratio * unit) // int(inverses(ternary)[fine, large]))))
    return bounds


def factors(ternary, width, fine):
    """What mantissas are multiplied by for each of the codes of `width` bits: inverses of the model. List of int."""
    return [int(inverses(ternary)[fine, index]) for index in CODES[ternary, width]]


def step_factor(fine):
    """Of a `variable` page: 1 / step's mantissa, rounded up."""
    return -(-(8 << STEP_FACTOR_BITS) // (8 + fine))


def _rows(numbers, code, width):
    """What `edges` or `factors` say of a code by the scale's mantissa and whether rows are ternary; such rows' codes
    have `width` bits."""
    return [numbers(ternary, width if ternary else CODE_BITS, fine)[code]
            for ternary in (False, True) for fine in range(8)]


class FactorSelector(wiring.Component):
    """Chooses the fraction of each group of eight values and the factor that belongs to it.

    Group codes come after `code_latency` clocks, factors after `latency`; a beat a clock, no back-pressure. Of a
    `variable` page the codes are zero. Nothing here needs a reset.

    Parameters
    ----------
    lanes : int
        Values in a beat.

    Members
    -------
    peaks : In(peak_beat)
    rate : In(RowRate)
    half : In
        The beat is of the row's second half.
    codes, factors : Out, one for each group
    """

    code_latency = 3
    latency = 4

    def __init__(self, lanes):
        self._groups = lanes // GROUP_VALUES
        super().__init__({
            "peaks": In(peak_beat(lanes)),
            "rate": In(RowRate),
            "half": In(1),
            "codes": Out(data.ArrayLayout(CODE_BITS, self._groups)),
            "factors": Out(data.ArrayLayout(FACTOR_BITS, self._groups)),
        })

    def elaborate(self, platform):
        m = Module()
        rate = self.rate
        # What a code is wide
        one, two = Signal(), Signal()
        narrow = rate.by_row & self.half
        m.d.sync += [
            one.eq(rate.ternary & narrow),
            two.eq(Mux(rate.ternary, rate.by_row ^ self.half, narrow)),
        ]
        row1 = delay(m, Cat(rate.fine, rate.ternary), 1)
        row2, one2, two2 = (delay(m, value, 1) for value in (row1, one, two))
        edge = self._tables(m, "edge", edges, row1, {0: (one, _rows(edges, 0, 1)), 2: (two, _rows(edges, 2, 2))})
        factor = self._tables(m, "factor", factors, row2, {
            0: (delay(m, rate.variable, 2), [step_factor(fine) for fine in range(8)] * 2),
            1: (one2, _rows(factors, 1, 1)), 3: (two2, _rows(factors, 3, 2))})
        wide2 = delay(m, ~one & ~two, 1)
        row_field = delay(m, rate.field, 1)
        none = delay(m, rate.zero | rate.variable, 2)
        for n in range(self._groups):
            # 1: exponent and mantissa
            exponent, mantissa = exponent_mantissa(self.peaks[n], rate.dtype)
            exponent1, mantissa1 = Signal(EXPONENT_BITS), Signal(MANTISSA_BITS)
            bf16_shift = Mux(is_bf16(rate.dtype), mantissa << 3, mantissa)
            m.d.sync += [exponent1.eq(exponent), mantissa1.eq(bf16_shift)]

            # 2: the same exponent for all groups; zero if far below
            distance = Signal(EXPONENT_BITS)
            aligned = Signal(_EDGE_BITS)
            placed = [(mantissa1 << _NEAR - 1 - places)[:_EDGE_BITS] for places in range(_NEAR)]
            m.d.comb += distance.eq(row_field - exponent1)
            m.d.sync += aligned.eq(Mux(distance >= _NEAR, 0, Array(placed)[distance[:2]]))

            # 3: a smaller fraction as long as the peak is below the edge
            smaller = [Signal(name=f"smaller{n}_{code}") for code in range(len(edge))]
            m.d.comb += [below.eq(aligned < bound) for below, bound in zip(smaller, edge)]
            upper, middle = smaller[3] & wide2, smaller[1] & ~one2
            code = Cat(Mux(upper, Mux(smaller[5], smaller[6], smaller[4]), Mux(middle, smaller[2], smaller[0])),
                       Mux(upper, smaller[5], middle), upper)
            m.d.sync += self.codes[n].eq(Mux(none, 0, code))

            # 4: its factor
            m.d.sync += self.factors[n].eq(choose(self.codes[n], factor))
        return m

    def _tables(self, m, name, numbers, row, others):
        """Entries of `numbers` for each code, 1 clock later. `others` gives for some codes a flag and the entries that
        count where it is set."""
        found = []
        for code in range(len(numbers(True, CODE_BITS, 0))):
            flag, entries = others.get(code, (Const(0, 0), []))
            entry = Signal(FACTOR_BITS, name=f"{name}{code}")
            m.d.sync += entry.eq(rom(_rows(numbers, code, CODE_BITS) + entries, Cat(row, flag)))
            found.append(entry)
        return found
