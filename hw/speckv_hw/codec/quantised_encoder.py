from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec import fixed, variable
from speckv_model.codec.fixed import GROUP_DIGIT_BITS, GROUP_VALUES, SETTINGS, Rate
from speckv_model.codec.float16 import bias
from speckv_model.constants import ROW_VALUES
from speckv_model.constants import Dtype as ModelDtype

from ..stream import Fifo, Stage, chain, transfer
from ..types import LINE_BITS, Codec, Dtype, EncodeResult, StoredLine
from .float16 import exponent_mantissa, is_bf16, is_finite
from .narrow import Narrow
from .payloads import PageLine, chunk, value_beat
from .pipeline import delay
from .quantised_packer import QuantisedPacker, quantised_beat
from .quantised_writer import QuantisedWriter
from .rom import rom
from .row_maximum import RowMaximumFinder
from .scaling_lane import DROPPED_BITS, SHIFT_BITS, ScalingLane
from .word_packer import WordPacker

__all__ = ["QuantisedEncoder", "thresholds", "step_inverses"]

_BEATS = 64
"""Beats that fit where rows wait for their maximum."""
_ROOM = 32
"""Beats that fit behind the lanes: their latency and more."""
_DISTANCES = 3
"""So many exponents from the scale's down can belong to a peak that is too large for a smaller fraction."""
_NEAREST = 4
"""Shift from which a multiple of the step can be one that is held."""


def thresholds(ternary):
    """Smallest mantissa of a group's peak with which the group does not have the next fraction, by scale mantissa,
    group code and by how much the peak's exponent is below the scale's: from there on none does. int (8, 3, 3)."""
    rate = Rate(SETTINGS[-2 if not ternary else -1])
    shift = 10 + fixed.INVERSE_BITS - (rate.planes - 1)
    return [[[-(-(rate.edge << shift + distance) // int(fixed.inverses(ternary)[mantissa, code]))
              for distance in range(_DISTANCES)] for code in range(fixed.FRACTIONS - 1)] for mantissa in range(8)]


def step_inverses():
    """8 / (8 + j) in units of 2^-17, rounded up, by j.

    A product with a mantissa errs by less than 2^11 units, and an exact one that is not whole is farther than that from
    every whole number.
    """
    return [-(-(8 << 17) // (8 + j)) for j in range(8)]


class QuantisedEncoder(wiring.Component):
    """Encodes pages as `fixed` or `variable` (``docs/format.md``).

    One beat a clock, successive pages without a gap. Every 64 lines are a page; those of a page name the same codec,
    dtype and setting. Stored lines come in order of their index, but that with index 0 last, and then the result. Empty
    on reset.

    ::

        lines -> Narrow -+-> buffer ------------> lanes -> buffer -> QuantisedPacker -> WordPacker -> QuantisedWriter
                         +-> maximum of the row -^                          --page's header and length--^

    Parameters
    ----------
    lanes : int
        16-bit values in a beat: 8, 16 or 32.

    Members
    -------
    lines : In(stream(PageLine))
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
    """

    def __init__(self, lanes):
        if lanes not in (8, 16, 32):
            raise ValueError(f"lanes must be 8, 16 or 32, not {lanes!r}")
        self._lanes = lanes
        super().__init__({
            "lines": In(stream.Signature(PageLine)),
            "stored": Out(stream.Signature(StoredLine)),
            "result": Out(stream.Signature(EncodeResult)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        told = data.StructLayout({"variable": 1, "setting": 8})
        waiting = data.StructLayout({"beat": value_beat(lanes), "told": told})
        m.submodules.values = values = Fifo(waiting, _BEATS)
        m.submodules.maximum = maximum = RowMaximumFinder(lanes)
        m.submodules.maxima = maxima = Fifo(15, _BEATS * lanes // ROW_VALUES)
        self._take_lines(m, values, maximum)
        m.d.comb += [maxima.i.payload.eq(maximum.o.p.magnitude), maxima.i.valid.eq(maximum.o.valid)]

        m.submodules.beats = beats = Fifo(quantised_beat(lanes), _ROOM)
        room = Signal(range(_ROOM + 1), init=_ROOM)
        issue = Signal()
        m.d.comb += [
            issue.eq(values.o.valid & maxima.o.valid & (room != 0)),
            values.o.ready.eq(issue),
            maxima.o.ready.eq(issue & values.o.p.beat.last),
        ]
        m.d.sync += room.eq(room - issue + transfer(beats.o))
        self._quantise(m, issue, values.o.p, maxima.o.payload, beats.i)

        m.submodules.packer = packer = QuantisedPacker(lanes)
        m.submodules.words = words = WordPacker()
        m.submodules.writer = writer = QuantisedWriter()
        # Room for the lines that come while the writer ends a page.
        m.submodules.ended = ended = Stage(chunk(LINE_BITS))
        chain(m, beats, packer, words, ended, writer.body)
        chain(m, packer.page, writer.page)
        chain(m, writer.stored, self.stored)
        chain(m, writer.result, self.result)
        return m

    def _take_lines(self, m, values, maximum):
        m.submodules.narrow = narrow = Narrow(LINE_BITS, 16 * self._lanes)
        told = Signal.like(values.i.p.told)
        dtype = Signal(Dtype)
        place = Signal(range(ROW_VALUES // self._lanes))
        beat = values.i.p.beat
        m.d.comb += [
            narrow.i.payload.data.eq(self.lines.p.data),
            narrow.i.valid.eq(self.lines.valid),
            self.lines.ready.eq(narrow.i.ready),
            beat.values.eq(narrow.o.payload.data),
            beat.dtype.eq(dtype),
            beat.last.eq(place == ROW_VALUES // self._lanes - 1),
            values.i.p.told.eq(told),
            values.i.valid.eq(narrow.o.valid),
            narrow.o.ready.eq(values.i.ready),
            maximum.i.payload.eq(beat),
            maximum.i.valid.eq(transfer(values.i)),
        ]
        with m.If(transfer(self.lines)):
            m.d.sync += [
                dtype.eq(self.lines.p.dtype),
                told.variable.eq(self.lines.p.codec == Codec.VARIABLE),
                told.setting.eq(self.lines.p.setting),
            ]
        with m.If(transfer(values.i)):
            m.d.sync += place.eq(place + 1)

    def _quantise(self, m, issue, waiting, largest, beats):
        """From a beat of values and the largest magnitude of its row to cells or multiples, in a pipeline that never
        stops."""
        lanes, beat, told = self._lanes, waiting.beat, waiting.told
        bf16 = is_bf16(beat.dtype)

        # 1: take values and the row's maximum apart
        exponents, mantissas, signs = [], [], []
        magnitudes = []
        for lane in range(lanes):
            value = beat.values[lane]
            parts = exponent_mantissa(value[:15], beat.dtype)
            exponent, mantissa, sign = Signal(8), Signal(11), Signal()
            magnitude = Signal(15)
            m.d.sync += [
                exponent.eq(parts[0]),
                mantissa.eq(Mux(bf16, parts[1] << 3, parts[1])),
                sign.eq(value[15]),
                magnitude.eq(value[:15]),
            ]
            exponents.append(exponent)
            mantissas.append(mantissa)
            signs.append(sign)
            magnitudes.append(magnitude)
        told1 = delay(m, told, 1)
        tern = ~told1.setting[0]
        field = Mux(bf16, largest[7:15], largest[10:15])
        lowest = Mux(bf16, bias(ModelDtype.BF16), bias(ModelDtype.FP16)) + fixed.LOWEST_EXPONENT
        top = Signal(8)
        low3 = Signal(3)
        usable, held = Signal(), Signal()
        finite = is_finite(largest, beat.dtype)
        inside = (field >= lowest) & (field < lowest + fixed.LARGEST_CODE // 8)
        units = Signal(5)
        dtype1 = delay(m, beat.dtype, 1)
        m.d.sync += [
            top.eq(field),
            low3.eq(Mux(bf16, largest[4:7], largest[7:10])),
            units.eq(field - lowest),
            usable.eq(told.variable | (finite & inside)),
            held.eq(finite & (told.variable | inside | (largest == 0))),
        ]

        # 2: peaks of groups; what rows look up
        index = Cat(low3, tern)
        rates = [Rate(setting) for setting in SETTINGS]
        rate = (told1.setting - SETTINGS[0])[:4]
        planes = rom([r.planes for r in rates], rate)
        base = Signal(signed(11))
        # Of a multiple of the step: how far a mantissa with exponent 0 would go down.
        step_base = told1.setting[3:] + Mux(is_bf16(dtype1), bias(ModelDtype.BF16), bias(ModelDtype.FP16)) + (
            26 - DROPPED_BITS + variable.LOWEST_EXPONENT)
        m.d.sync += base.eq(Mux(told1.variable, step_base, top + (25 - DROPPED_BITS) - planes))
        peaks = []
        for group in range(lanes // GROUP_VALUES):
            level = magnitudes[GROUP_VALUES * group:][:GROUP_VALUES]
            pairs = [Signal(15, name=f"peak{group}_{n}") for n in range(2)]
            for n, pair in enumerate(pairs):
                a, b, c, d = level[4 * n:4 * n + 4]
                m.d.sync += pair.eq(_larger(_larger(a, b), _larger(c, d)))
            peaks.append(pairs)
        limits = []
        both = [thresholds(False), thresholds(True)]
        for code in range(fixed.FRACTIONS - 1):
            limits.append([])
            for distance in range(_DISTANCES):
                limit = Signal(14, name=f"limit{code}_{distance}")
                m.d.sync += limit.eq(rom([both[t][j][code][distance] for t in range(2) for j in range(8)], index))
                limits[code].append(limit)

        # 3: the peak of each group, apart
        top2 = delay(m, top, 1)
        codes = []
        for group, (a, b) in enumerate(peaks):
            peak = _larger(a, b)
            parts = exponent_mantissa(peak, delay(m, dtype1, 1))
            at = Signal(_DISTANCES, name=f"at{group}")
            mantissa = Signal(11, name=f"peak_mantissa{group}")
            m.d.sync += [
                at.eq(Cat(parts[0] + distance == top2 for distance in range(_DISTANCES))),
                mantissa.eq(Mux(is_bf16(delay(m, dtype1, 1)), parts[1] << 3, parts[1])),
            ]
            # 4: its fraction
            smaller = [~Cat(at[distance] & (mantissa >= delay(m, limit[distance], 1))
                            for distance in range(_DISTANCES)).any() for limit in limits]
            code = Signal(2, name=f"code{group}")
            m.d.sync += code.eq(smaller[0] + (smaller[0] & smaller[1]) + (smaller[0] & smaller[1] & smaller[2]))
            codes.append(code)

        # 5: the factor of each group
        told4, low4, tern4 = delay(m, told1, 3), delay(m, low3, 3), delay(m, tern, 3)
        factors = [rom([int(fixed.inverses(bool(t))[j, code]) for t in range(2) for j in range(8)], Cat(low4, tern4))
                   for code in range(fixed.FRACTIONS)]
        for_step = rom(step_inverses(), told4.setting[:3])
        results, overflow = [], []
        base5 = delay(m, base, 3)
        usable5 = delay(m, usable, 4)
        # What all lanes of a beat need behind the multiplication
        behind = 4 + ScalingLane.latency
        told_b, planes_b = delay(m, told1, behind), delay(m, planes, behind)
        limit_b = delay(m, rom([r.half_levels - 1 for r in rates], rate), behind)
        for lane in range(lanes):
            code = codes[lane // GROUP_VALUES]
            factor = Signal(18, name=f"factor{lane}")
            mantissa5 = Signal(11, name=f"mantissa5_{lane}")
            exponent5 = delay(m, exponents[lane], 4)
            m.d.sync += [
                factor.eq(Mux(told4.variable, for_step, Array(factors)[code])),
                mantissa5.eq(delay(m, mantissas[lane], 3)),
            ]
            scaling = ScalingLane()
            m.submodules[f"lane{lane}"] = scaling
            down = Signal(signed(12), name=f"down{lane}")
            shift = Signal(SHIFT_BITS, name=f"shift{lane}")
            m.d.sync += down.eq(base5 - exponent5)
            m.d.sync += shift.eq(Mux(down > 31, 31, down))
            m.d.comb += [
                scaling.mantissa.eq(Mux(usable5, mantissa5, 0)),
                scaling.factor.eq(factor),
                scaling.shift.eq(shift),
            ]
            results.append(scaling)
            overflow.append(delay(m, (down < _NEAREST) & delay(m, told4.variable, 2), ScalingLane.latency - 1))

        # 6: cells and multiples
        words, folded, bad = [], [], []
        variable_b = told_b.variable
        digits = []
        for lane, scaling in enumerate(results):
            sign = delay(m, signs[lane], behind)
            halves = scaling.result
            multiple = Signal(13, name=f"multiple{lane}")
            cell = Signal(7, name=f"cell{lane}")
            sign_c = Signal(name=f"sign{lane}")
            over = Signal(name=f"over{lane}")
            m.d.sync += [
                multiple.eq((halves >> 1) + (halves[0] & (scaling.inexact | halves[1]))),
                cell.eq(Mux(halves > limit_b, limit_b, halves)),
                sign_c.eq(sign),
                over.eq(overflow[lane]),
            ]
            # 7: two's complement, low bits, digits
            word = Signal(variable.MOST_BITS, name=f"word{lane}")
            fold = Signal(variable.MOST_BITS - 1, name=f"fold{lane}")
            too_large = Signal(name=f"too_large{lane}")
            negative = sign_c & (multiple != 0)
            complement = Mux(negative, -multiple, multiple)[:variable.MOST_BITS]
            planes_c = delay(m, planes_b, 1)
            low = cell & ((1 << (planes_c - 1)[:3]) - 1)[:7]
            m.d.sync += [
                word.eq(Mux(delay(m, variable_b, 1), complement, Cat(sign_c & delay(m, usable, behind + 1), low))),
                fold.eq((complement ^ negative.replicate(variable.MOST_BITS))[:variable.MOST_BITS - 1]),
                too_large.eq(over | (multiple > 2048) | ((multiple == 2048) & ~sign_c)),
            ]
            digit = Signal(2, name=f"digit{lane}")
            m.d.sync += digit.eq(cell >> (planes_c - 1)[:3])
            words.append(word)
            folded.append(fold)
            bad.append(too_large)
            digits.append(digit)

        # 8: what the unit has in common; base-3 digits together
        told_d = delay(m, told_b, 2)
        m.d.sync += [
            beats.p.bits.eq(Cat(words)),
            beats.p.folded.eq(_any(folded)),
            beats.p.nonzero.eq(Cat(words).any()),
            beats.p.bad.eq(~delay(m, held, behind + 2) | (told_d.variable & Cat(bad).any())),
            beats.p.codes.eq(Mux(delay(m, usable, behind + 2), delay(m, Cat(codes), ScalingLane.latency + 1 + 2), 0)),
            beats.p.scale.eq(Mux(delay(m, usable, behind + 2),
                                 Cat(delay(m, low3, behind + 2), delay(m, units, behind + 2)) + 1, 0)),
            beats.p.variable.eq(told_d.variable),
            beats.p.setting.eq(told_d.setting),
        ]
        for group in range(lanes // GROUP_VALUES):
            own = digits[GROUP_VALUES * group:][:GROUP_VALUES]
            m.d.sync += beats.p.digits.word_select(group, GROUP_DIGIT_BITS).eq(Cat(
                sum(digit * 3**n for n, digit in enumerate(own[:5]))[:8],
                sum(digit * 3**n for n, digit in enumerate(own[5:]))[:5]))
        m.d.comb += beats.valid.eq(delay(m, issue, behind + 4))


def _larger(a, b):
    return Mux(a > b, a, b)


def _any(values):
    """OR of values, as a tree."""
    while len(values) > 1:
        values = [a | b for a, b in zip(values[::2], values[1::2])] + values[len(values) & ~1:]
    return values[0]
