from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import ESCAPE, FIRST_TIER, ONES_EXPONENT, SECOND_TIER, THIRD_TIER, ZERO_EXPONENT
from speckv_model.constants import PAGE_ROWS, ROW_VALUES

from ..stream import Fifo, chain, transfer
from ..types import LINE_BITS, Dtype, EncodeResult, StoredLine
from .code_packer import CHUNK_BITS, CodePacker
from .compactor import Compactor
from .float16 import is_bf16
from .lossless_writer import LosslessWriter, fixed_sections
from .narrow import Narrow
from .payloads import PageLine
from .pipeline import delay
from .row_centre import EXPONENT_BITS, RowCentre

__all__ = ["LosslessEncoder"]

_ROWS = 8
"""Rows that fit where they wait for their centre."""
_ROOM = 32
"""Beats that fit behind the tiers' pipeline."""


class LosslessEncoder(wiring.Component):
    """Encodes pages as `lossless` (``docs/format.md``).

    One beat a clock on real values, successive pages without a gap; a beat with more than 16 codes of the third tier
    takes two. Every 64 lines are a page. Lines of the next page may come before the result of this one; they are marked
    `ahead`. Empty on reset.

    ::

        lines -> Narrow -+-> buffer ------> tier codes -+-> low, first, high -----------------> LosslessWriter
                         +-> RowCentre -----^           +-> compact second -> CodePacker -----^
                                                        +-> compact third --> CodePacker -> queue ^

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
        row_beats = ROW_VALUES // lanes
        beat_layout = data.StructLayout({"values": data.ArrayLayout(16, lanes), "dtype": Dtype})
        m.submodules.values = values = Fifo(beat_layout, _ROWS * row_beats)
        m.submodules.centre = centre = RowCentre(lanes)
        m.submodules.centres = centres = Fifo(EXPONENT_BITS, _ROWS)
        self._take_lines(m, values.i, centre.i)
        m.d.comb += [centres.i.payload.eq(centre.o.payload), centres.i.valid.eq(centre.o.valid)]

        m.submodules.sections = sections = Fifo(fixed_sections(lanes), _ROOM)
        m.submodules.seconds = seconds = Fifo(CodePacker.fragment(2), _ROOM)
        third_layout = data.StructLayout({"data": 4 * lanes, "count": range(lanes + 1), "last": 1})
        m.submodules.thirds = thirds = Fifo(third_layout, _ROOM)
        room = [Signal(range(_ROOM + 1), init=_ROOM, name=f"room{n}") for n in range(3)]
        issue = Signal()
        number = Signal(range(PAGE_ROWS * row_beats))
        m.d.comb += [
            issue.eq(values.o.valid & centres.o.valid & Cat(left != 0 for left in room).all()),
            values.o.ready.eq(issue),
            centres.o.ready.eq(issue & (number % row_beats == row_beats - 1)),
        ]
        for left, queue in zip(room, (sections, seconds, thirds)):
            m.d.sync += left.eq(left - issue + transfer(queue.o))
        with m.If(issue):
            m.d.sync += number.eq(number + 1)
        self._tiers(m, issue, number, values.o.p, centres.o.payload, sections.i, seconds.i, thirds.i)

        m.submodules.second_packer = second_packer = CodePacker(2)
        m.submodules.third_packer = third_packer = CodePacker(4)
        m.submodules.writer = writer = LosslessWriter(lanes)
        chain(m, seconds, second_packer, writer.second)
        self._split(m, thirds.o, third_packer.i)
        chain(m, third_packer, writer.third)
        chain(m, sections, writer.sections)
        chain(m, writer.stored, self.stored)
        chain(m, writer.result, self.result)
        return m

    def _take_lines(self, m, values, centre):
        m.submodules.narrow = narrow = Narrow(LINE_BITS, 16 * self._lanes)
        dtype = Signal(Dtype)
        place = Signal(range(ROW_VALUES // self._lanes))
        m.d.comb += [
            narrow.i.payload.data.eq(self.lines.p.data),
            narrow.i.valid.eq(self.lines.valid),
            self.lines.ready.eq(narrow.i.ready),
            values.p.values.eq(narrow.o.payload.data),
            values.p.dtype.eq(dtype),
            values.valid.eq(narrow.o.valid),
            narrow.o.ready.eq(values.ready),
            centre.p.last.eq(place == ROW_VALUES // self._lanes - 1),
            centre.valid.eq(transfer(values)),
        ]
        for lane in range(self._lanes):
            exponent, is_ones = _exponent(values.p.values[lane], dtype)
            m.d.comb += centre.p.exponents[lane].eq(Mux(is_ones, 0, exponent))
        with m.If(transfer(self.lines)):
            m.d.sync += dtype.eq(self.lines.p.dtype)
        with m.If(transfer(values)):
            m.d.sync += place.eq(place + 1)

    def _tiers(self, m, issue, number, beat, centre, sections, seconds, thirds):
        lanes = self._lanes
        bf16 = is_bf16(beat.dtype)
        last = number == (1 << len(number)) - 1

        # 1: distances from the centre; 2: codes
        verbatim1, centre1 = Signal(), Signal(EXPONENT_BITS)
        m.d.sync += [verbatim1.eq(centre == 0), centre1.eq(centre)]
        firsts, second_codes, third_codes, masks, lows, highs = [], [], [], [], [], []
        for lane in range(lanes):
            value = beat.values[lane]
            exponent, is_ones = _exponent(value, beat.dtype)
            exponent1, ones1, distance1 = Signal(8), Signal(), Signal(9)
            low1, high1 = Signal(8), Signal(3)
            m.d.sync += [
                exponent1.eq(exponent),
                ones1.eq(is_ones),
                distance1.eq(centre - exponent),
                low1.eq(Mux(bf16, Cat(value[:7], value[15]), value[:8])),
                high1.eq(Cat(value[8:10], value[15])),
            ]
            first, second, third = Signal(2), Signal(2), Signal(4)
            m.d.comb += [first.eq(ESCAPE), second.eq(ESCAPE)]
            for tier, code in ((FIRST_TIER, first), (SECOND_TIER, second), (THIRD_TIER, third)):
                for number_, below in enumerate(tier):
                    with m.If(distance1 == below % 512):
                        m.d.comb += code.eq(number_)
            with m.If(exponent1 == 0):
                m.d.comb += third.eq(ZERO_EXPONENT)
            with m.If(ones1):
                m.d.comb += third.eq(ONES_EXPONENT)
            with m.If(verbatim1):
                m.d.comb += [first.eq(exponent1), second.eq(exponent1[2:]), third.eq(exponent1[4:])]
            to_second = verbatim1 | (first == ESCAPE)
            to_third = verbatim1 | ((first == ESCAPE) & (second == ESCAPE))
            kept = [Signal.like(each) for each in (first, second, third, low1, high1)]
            mask = [Signal(), Signal()]
            m.d.sync += [signal.eq(each) for signal, each in zip(kept, (first, second, third, low1, high1))]
            m.d.sync += [mask[0].eq(to_second), mask[1].eq(to_third)]
            for column, each in zip((firsts, second_codes, third_codes, lows, highs), kept):
                column.append(each)
            masks.append(mask)
        m.d.comb += [
            sections.p.low.eq(Cat(lows)),
            sections.p.first.eq(Cat(firsts)),
            sections.p.high.eq(Cat(highs)),
            sections.p.centre.eq(delay(m, centre1, 1)),
            sections.p.dtype.eq(delay(m, beat.dtype, 2)),
            sections.valid.eq(delay(m, issue, 2)),
        ]

        # Behind: those that go on to the next tier, at the front
        for n, (codes, width, fragment) in enumerate(((second_codes, 2, seconds), (third_codes, 4, thirds))):
            compactor = Compactor(lanes, width)
            m.submodules[f"compactor{width}"] = compactor
            clocks = 2 + compactor.latency
            m.d.comb += [
                compactor.data.eq(Cat(codes)),
                compactor.mask.eq(Cat(mask[n] for mask in masks)),
                fragment.p.data.eq(compactor.o),
                fragment.p.count.eq(compactor.count),
                fragment.p.last.eq(delay(m, last, clocks)),
                fragment.valid.eq(delay(m, issue, clocks)),
            ]

    def _split(self, m, beat, fragment):
        """Beats of third-tier codes as fragments of at most 16."""
        most = CHUNK_BITS // 4
        if self._lanes <= most:
            m.d.comb += [
                fragment.p.data.eq(beat.p.data),
                fragment.p.count.eq(beat.p.count),
                fragment.p.last.eq(beat.p.last),
                fragment.valid.eq(beat.valid),
                beat.ready.eq(fragment.ready),
            ]
            return
        upper = Signal()
        two = beat.p.count > most
        m.d.comb += [
            fragment.p.data.eq(Mux(upper, beat.p.data[CHUNK_BITS:], beat.p.data)),
            fragment.p.count.eq(Mux(upper, beat.p.count - most, Mux(two, most, beat.p.count))),
            fragment.p.last.eq(beat.p.last & (upper | ~two)),
            fragment.valid.eq(beat.valid),
            beat.ready.eq(fragment.ready & (upper | ~two)),
        ]
        with m.If(transfer(fragment)):
            m.d.sync += upper.eq(two & ~upper)


def _exponent(value, dtype):
    """Exponent field of a value's 16 bits, and whether it is all ones."""
    exponent = Mux(is_bf16(dtype), value[7:15], value[10:15])
    return exponent, value[10:15].all() & (~is_bf16(dtype) | value[7:10].all())
