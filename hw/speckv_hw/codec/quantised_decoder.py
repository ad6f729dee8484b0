from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec import fixed, variable
from speckv_model.codec.fixed import FRACTIONS, GROUP_DIGIT_BITS, GROUP_VALUES, SETTINGS, Rate
from speckv_model.codec.float16 import bias
from speckv_model.codec.variable import UNIT_VALUES
from speckv_model.constants import ROW_VALUES
from speckv_model.constants import Dtype as ModelDtype

from ..stream import Fifo, Stage, chain, transfer
from ..types import LINE_BITS, DecodeStart
from .float16 import is_bf16
from .payloads import chunk
from .pipeline import delay
from .quantised_lane import PRODUCT_WIDTH, STEP_WIDTH, LaneShared, QuantisedLane
from .quantised_reader import PieceTag, QuantisedReader
from .rom import rom
from .row_check import ROW_BITS, check_syndrome, row_syndrome
from .widen import Widen
from .word_unpacker import WordUnpacker

__all__ = ["QuantisedDecoder"]

_ROOM = 16
"""Beats that fit behind the lanes: their latency and a few more."""
UNITS = ROW_VALUES // UNIT_VALUES
UNIT_GROUPS = UNIT_VALUES // GROUP_VALUES


def _digits(count):
    """For every number of `count` base-3 digits in whole bits, its digits in two bits each; those from 3^count on count
    from zero again."""
    bits = (3**count - 1).bit_length()
    return [sum(number % 3**count // 3**n % 3 << 2 * n for n in range(count)) for number in range(1 << bits)]


class QuantisedDecoder(wiring.Component):
    """Decodes `fixed` and `variable` pages, and single rows of `fixed` ones (``docs/format.md``).

    One beat a clock, successive pages without a gap; `variable` pages too, since the place of each unit follows from
    the widths in the header. Any stored bytes give 64 lines (four of a single row), and none is left over. Empty on
    reset.

    ::

        stored -> QuantisedReader --lines----> WordUnpacker -> block -> lanes -> Fifo -> Widen -> lines
                                  --requests-> ^

    Parameters
    ----------
    lanes : int
        16-bit values in a beat: 8, 16 or 32.

    Members
    -------
    start : In(stream(DecodeStart))
    stored : In(stream(512))
        Exactly as many lines as the start says, in order.
    lines : Out(stream(512))
        The lines of the page or row in order.
    bad_row : Out
        The row whose last line was taken last was fetched alone and has another check than it should.
    """

    def __init__(self, lanes):
        if lanes not in (8, 16, 32):
            raise ValueError(f"lanes must be 8, 16 or 32, not {lanes!r}")
        self._lanes = lanes
        super().__init__({
            "start": In(stream.Signature(DecodeStart)),
            "stored": In(stream.Signature(LINE_BITS)),
            "lines": Out(stream.Signature(LINE_BITS)),
            "bad_row": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.reader = reader = QuantisedReader()
        m.submodules.unpacker = unpacker = WordUnpacker(PieceTag)
        chain(m, self.start, reader.start)
        chain(m, self.stored, reader.stored)
        # With lines in between the reader sees the next page's header before this page's last words are asked for.
        m.submodules.ahead = ahead = Stage(chunk(LINE_BITS))
        chain(m, reader.body, ahead, unpacker.i)
        chain(m, reader.requests, unpacker.requests)

        beat = 16 * self._lanes
        m.submodules.beats = beats = Fifo(data.StructLayout({"data": beat, "bad": 1}), _ROOM)
        m.submodules.widen = widen = Widen(beat, LINE_BITS)
        tag, row, place, issue = self._blocks(m, unpacker.o, beats)
        self._lanes_of(m, tag, row, place, issue, beats.i)

        bad = Signal()
        m.d.comb += [
            widen.i.payload.data.eq(beats.o.p.data),
            widen.i.valid.eq(beats.o.valid),
            beats.o.ready.eq(widen.i.ready),
            self.lines.payload.eq(widen.o.payload.data),
            self.lines.valid.eq(widen.o.valid),
            widen.o.ready.eq(self.lines.ready),
        ]
        with m.If(transfer(beats.o)):
            m.d.sync += bad.eq(beats.o.p.bad)
        with m.If(transfer(self.lines)):
            m.d.sync += self.bad_row.eq(bad)
        return m

    def _blocks(self, m, pieces, beats):
        """Gathers rows and units and gives them out beat by beat, as many as `beats` will have room for.

        Returns the block's tag and bits, the number of the beat in it, and whether it counts in this clock.
        """
        tag = Signal(PieceTag)
        row = Signal(ROW_BITS)
        full = Signal()
        half = Signal(LINE_BITS)
        has_half = Signal()
        place = Signal(range(ROW_VALUES // self._lanes))
        room = Signal(range(_ROOM + 1), init=_ROOM)
        issue = Signal()
        last = place == Mux(tag.variable, UNIT_VALUES // self._lanes - 1, ROW_VALUES // self._lanes - 1)
        m.d.comb += [
            issue.eq(full & (room != 0)),
            pieces.ready.eq(Mux(pieces.p.tag.last, ~full | (issue & last), ~has_half)),
        ]
        m.d.sync += room.eq(room - issue + transfer(beats.o))
        with m.If(issue):
            m.d.sync += place.eq(Mux(last, 0, place + 1))
        with m.If(issue & last):
            m.d.sync += full.eq(0)
        with m.If(transfer(pieces)):
            with m.If(pieces.p.tag.last):
                m.d.sync += [
                    tag.eq(pieces.p.tag),
                    row.eq(Mux(pieces.p.tag.second, Cat(half, pieces.p.data), pieces.p.data)),
                    full.eq(1),
                    has_half.eq(0),
                ]
            with m.Else():
                m.d.sync += [half.eq(pieces.p.data), has_half.eq(1)]
        return tag, row, place, issue

    def _lanes_of(self, m, tag, row, place, issue, beats):
        lanes = self._lanes
        scale = Signal(8)
        code = Signal(8)
        tern = Signal()
        rate = (tag.setting - SETTINGS[0])[:4]
        mantissa = code[:3]
        m.d.comb += [
            scale.eq(row[8 * fixed.SCALE_AT:][:8]),
            code.eq(Mux(scale > fixed.LARGEST_CODE, fixed.LARGEST_CODE, scale) - 1),
            tern.eq(~tag.setting[0]),
        ]

        # 1: what lanes share, and the bits of each
        shared = Signal(LaneShared)
        rates = [Rate(setting) for setting in SETTINGS]
        planes = rom([rate_.planes for rate_ in rates], rate)
        bounds = [(rate_.half_levels * (8 + j) // (9 + j), rate_, j) for rate_ in rates for j in range(8)]
        bound = Cat(mantissa, rate)
        base = Mux(is_bf16(tag.dtype), bias(ModelDtype.BF16), bias(ModelDtype.FP16)) + PRODUCT_WIDTH - 1
        fixed_less = fixed.STEP_BITS + fixed.PLACE_BITS - 1 - fixed.LOWEST_EXPONENT
        m.d.sync += [
            shared.variable.eq(tag.variable),
            shared.dtype.eq(tag.dtype),
            shared.zero.eq(~tag.variable & (scale == 0)),
            shared.planes.eq(Mux(tag.variable, tag.width, planes)),
            shared.exponent.eq(Mux(tag.variable, tag.setting[3:] + base - (3 - variable.LOWEST_EXPONENT),
                                   code[3:] + base - (planes + fixed_less))),
            shared.bound_cell.eq(rom([cell for cell, _, _ in bounds], bound)),
            shared.bound_place.eq(rom([int(fixed.places(rate_)[j, 0, cell]) for cell, rate_, j in bounds], bound)),
        ]
        units = Array(self._unit(row, tern, tag, n) for n in range(UNITS))
        unit = Signal.like(units[0])
        parts = UNIT_VALUES // lanes
        m.d.comb += unit.eq(units[place // parts if parts > 1 else place])
        part = place % parts
        bits1 = Signal(variable.MOST_BITS * lanes)
        packed1 = Signal(GROUP_DIGIT_BITS * max(lanes // GROUP_VALUES, 1))
        codes1 = Signal(2 * (lanes // GROUP_VALUES))
        planes_of = [unit.planes.word_select(n, UNIT_VALUES).word_select(part, lanes)
                     for n in range(variable.MOST_BITS)]
        m.d.sync += [
            bits1.eq(Cat(Cat(plane[lane] for plane in planes_of) for lane in range(lanes))),
            packed1.eq(Mux(tern, unit.digits.word_select(part, len(packed1)), 0)),
            codes1.eq(unit.codes.word_select(part, len(codes1))),
        ]
        steps = [rom([int(fixed.steps(bool(t))[j, g]) for t in range(2) for j in range(8)], Cat(mantissa, tern))
                 for g in range(FRACTIONS)]
        steps1 = [Signal(STEP_WIDTH, name=f"step_{g}") for g in range(FRACTIONS)]
        for g, step in enumerate(steps):
            m.d.sync += steps1[g].eq(Mux(tag.variable, 8 + tag.setting[:3], step))

        # 2 and 3: digits and steps of each group, as late as the lanes want them
        outputs = []
        for group in range(lanes // GROUP_VALUES):
            group_code = codes1.word_select(group, 2)
            number = packed1.word_select(group, GROUP_DIGIT_BITS)
            digits = Signal(2 * GROUP_VALUES, name=f"digits{group}")
            step2, step3 = Signal(STEP_WIDTH, name=f"step2_{group}"), Signal(STEP_WIDTH, name=f"step3_{group}")
            m.d.sync += [
                digits.eq(Cat(rom(_digits(5), number[:8]), rom(_digits(3), number[8:]))),
                step2.eq(Array(steps1)[group_code]),
                step3.eq(step2),
            ]
            for n in range(GROUP_VALUES):
                lane_number = group * GROUP_VALUES + n
                lane = QuantisedLane()
                m.submodules[f"lane{lane_number}"] = lane
                m.d.comb += [
                    lane.bits.eq(bits1.word_select(lane_number, variable.MOST_BITS)),
                    lane.digit.eq(digits.word_select(n, 2)),
                    lane.full_scale.eq(group_code == 0),
                    lane.shared.eq(shared),
                    lane.step.eq(step3),
                ]
                outputs.append(lane.o)

        # The check of a single row, while its values are on their way
        syndrome = Signal(8)
        wanted = Signal(8)
        own = Signal(ROW_BITS)
        used = Array(Const((1 << 8 * Rate(setting).row_bytes) - 1, ROW_BITS) for setting in SETTINGS)[rate]
        m.d.sync += [
            own.eq(row & used),
            syndrome.eq(row_syndrome(own)),
            wanted.eq(delay(m, check_syndrome(row[8 * fixed.CHECK_AT:][:8], tag.setting), 1)),
        ]
        is_bad = delay(m, tag.single, 2) & (syndrome != wanted)
        latency = QuantisedLane.latency
        m.d.comb += [
            beats.p.data.eq(Cat(outputs)),
            beats.p.bad.eq(delay(m, is_bad, latency + 1 - 2)),
            beats.valid.eq(delay(m, issue, latency + 1)),
        ]

    def _unit(self, row, tern, tag, n):
        """Bit planes, base-3 digits and group codes of the values from 32 n on of a row, or of a unit that is alone."""
        layout = data.StructLayout({"planes": UNIT_VALUES * variable.MOST_BITS,
                                    "digits": GROUP_DIGIT_BITS * UNIT_GROUPS, "codes": 2 * UNIT_GROUPS})

        def plane(at, p):
            start = 8 * (at + fixed.PLANE_BYTES * p) + UNIT_VALUES * n
            return row[start:start + UNIT_VALUES]

        most = max(Rate(setting).planes for setting in SETTINGS)
        rows = Cat(Mux(tern, plane(fixed.PLANES_AT[True], p), plane(fixed.PLANES_AT[False], p)) for p in range(most))
        digits_at = fixed.DIGITS_BIT + GROUP_DIGIT_BITS * UNIT_GROUPS * n
        codes_at = 8 * fixed.GROUPS_AT + 2 * UNIT_GROUPS * n
        return data.View(layout, Cat(
            Mux(tag.variable, row[:UNIT_VALUES * variable.MOST_BITS], rows),
            row[digits_at:digits_at + GROUP_DIGIT_BITS * UNIT_GROUPS], row[codes_at:codes_at + 2 * UNIT_GROUPS]))
