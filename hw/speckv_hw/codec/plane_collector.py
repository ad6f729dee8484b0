from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.fixed import DIGITS_AT, GROUP_VALUES, GROUPS
from speckv_model.codec.variable import MOST_BITS, UNIT_VALUES
from speckv_model.constants import ROW_VALUES

from .digit_encoder import DigitEncoder
from .pipeline import delay
from .quantised_payloads import (
    CODE_BITS,
    DIGIT_AT,
    FRAGMENT_WORDS,
    LINE_WORDS,
    SLOTS,
    WIDTHS_WORDS,
    WORD_BITS,
    Fragment,
    Unit,
)
from .row_check_maker import UNIT_DIGIT_BITS, UNITS, RowCheckMaker

__all__ = ["PlaneCollector"]

_HALF = SLOTS // 2
"""Bit planes of a fragment."""
_HALF_BITS = _HALF * ROW_VALUES
_PLANE_WORDS = ROW_VALUES // WORD_BITS
_WIDTH_BITS = 4
_WORD_WIDTHS = WORD_BITS // _WIDTH_BITS
_START_WORDS = 2
"""Words of a `fixed` row before base-3 digits end or signs begin."""
_HEAD_WORDS = {True: 8, False: _START_WORDS + _PLANE_WORDS}
"""Words before the other bit planes, with and without base-3 digits."""


class _Known(data.Struct):
    """What is known of a unit."""
    last: 1
    """It ends its page."""
    bad: 1
    ternary: 1
    slots: 3


class PlaneCollector(wiring.Component):
    """Turns quantised values into bit planes and these into fragments of pages.

    A `variable` page has a fragment for each unit, 2 clocks after it, and the header `header_latency` clocks after the
    last one. A row of a `fixed` page has four, 3 to 6 clocks after its last unit: three bit planes, three bit planes,
    signs, which are none where there are base-3 digits, and what is before all of them.

    A unit a clock, no back-pressure; but none that is `header_gap` clocks after the last one of a `variable` page, and
    units of different codecs must be `codec_gap` clocks apart. Idle on reset.

    Members
    -------
    i : In(stream(Unit), always ready)
    o : Out(stream(Fragment), always ready)
    check : Out(32)
        With the head of a row what its check adds to word 1; zero otherwise.
    """

    header_gap = 4
    header_latency = 6
    codec_gap = 5

    i: In(stream.Signature(Unit, always_ready=True))
    o: Out(stream.Signature(Fragment, always_ready=True))
    check: Out(WORD_BITS)

    def elaborate(self, platform):
        m = Module()
        unit = self.i.payload
        rate = unit.rate
        variable = self.i.valid & rate.variable
        fixed = self.i.valid & ~rate.variable
        row = fixed & unit.last
        bits = [unit.bits[n] for n in range(UNIT_VALUES)]
        planes = [Cat(value[plane] for value in bits) for plane in range(MOST_BITS)]

        width = self._measure(m, bits)
        collected = self._collect_planes(m, variable, fixed, planes, delay(m, width, 1))
        head, signs = self._collect_head(m, fixed, row, bits, planes)

        # What is not due is zero, so that fragments are the OR of what can be in them.
        header_due = delay(m, variable & unit.last & rate.last, self.header_gap)
        row_due = [row, *(delay(m, row, clocks) for clocks in range(1, 6))]
        lows = self._when(m, row_due[1] | header_due, collected[:_HALF_BITS])
        highs = self._when(m, row_due[2], self._when(m, row_due[1], collected[_HALF_BITS:]))
        units = self._when(m, variable, Cat(planes))
        signs = self._when(m, row_due[3], signs) << WORD_BITS * (FRAGMENT_WORDS - _PLANE_WORDS)
        m.d.sync += self.o.payload.data.eq(units | lows | highs | head | signs)
        self._describe(m, variable, row_due, delay(m, header_due, 1), width)
        return m

    def _when(self, m, due, value):
        """`value` 1 clock later if it is `due`, else 0."""
        later = Signal(len(value))
        m.d.sync += later.eq(Mux(due, value, 0))
        return later

    def _measure(self, m, bits):
        """Bits that the largest magnitude needs, and one for the sign, 1 clock later."""
        folded = []
        for n in range(0, UNIT_VALUES, GROUP_VALUES):
            ones = Signal(MOST_BITS, name=f"ones{n}")
            group = bits[n:n + GROUP_VALUES]
            m.d.sync += ones.eq(Cat(
                *(Cat(value[place] ^ value[-1] for value in group).any() for place in range(MOST_BITS - 1)),
                Cat(value[-1] for value in group).any()))
            folded.append(ones)
        union = folded[0] | folded[1] | folded[2] | folded[3]
        width = Signal(range(MOST_BITS + 1))
        m.d.comb += width.eq(union[-1])
        for place in range(MOST_BITS - 1):
            with m.If(union[place]):
                m.d.comb += width.eq(place + 2)
        return width

    def _collect_planes(self, m, variable, fixed, planes, width):
        """Bit planes of the units of a row, from 1 clock after the last one until the next row's first one.

        The first of them collect the widths of a `variable` page's units, which come 2 clocks after these, by words,
        from `header_gap` clocks after the last one.
        """
        word = Signal(WORD_BITS)
        number = Signal(range(_WORD_WIDTHS))
        with m.If(variable):
            m.d.sync += number.eq(number + 1)
        with m.If(delay(m, variable, 2)):
            m.d.sync += word.eq(Cat(word[_WIDTH_BITS:], width))
        push = delay(m, variable & (number == _WORD_WIDTHS - 1), 3)

        collected = [Signal(ROW_VALUES, name=f"plane{n}") for n in range(SLOTS)]
        chain = WIDTHS_WORDS // _PLANE_WORDS
        for n, plane in enumerate(collected):
            incoming = planes[n]
            enable = fixed
            if n < chain:
                incoming = Mux(push, collected[n + 1][:WORD_BITS] if n < chain - 1 else word, incoming)
                enable = fixed | push
            with m.If(enable):
                m.d.sync += plane.eq(Cat(plane[WORD_BITS:], incoming))
        return Cat(collected)

    def _collect_head(self, m, fixed, row, bits, planes):
        """What is before the bit planes, 5 clocks after a row's last unit and zero otherwise, and the signs, 3 clocks
        after it."""
        unit = self.i.payload
        clocks = DigitEncoder.latency
        digits = []
        for n in range(0, UNIT_VALUES, GROUP_VALUES):
            m.submodules[f"digits{n}"] = encoder = DigitEncoder()
            m.d.comb += encoder.digits.eq(Cat(value[DIGIT_AT:DIGIT_AT + 2] for value in bits[n:n + GROUP_VALUES]))
            digits.append(encoder.o)

        def collect(length, piece, late):
            whole = Signal(length)
            with m.If(delay(m, fixed, late)):
                m.d.sync += whole.eq(Cat(whole[len(piece):], piece))
            return whole

        codes = collect(CODE_BITS * GROUPS, delay(m, unit.group_codes.as_value(), clocks), clocks)
        numbers = collect(UNITS * UNIT_DIGIT_BITS, Cat(digits), clocks)
        signs = collect(ROW_VALUES, delay(m, unit.signs, clocks), clocks)

        scale, ternary, by_row, slots = (delay(m, value, clocks + 1) for value in (
            unit.rate.code, unit.rate.ternary, unit.rate.by_row, unit.rate.slots))
        start = Cat(scale, self._packed_codes(codes, ternary, by_row))
        m.submodules.check = check = RowCheckMaker()
        m.d.comb += [
            check.valid.eq(fixed),
            check.last.eq(unit.last),
            check.signs.eq(unit.signs),
            check.slots.eq(Cat(planes[:SLOTS])),
            check.count.eq(unit.rate.slots),
            check.digits.eq(numbers[-2 * UNIT_DIGIT_BITS:]),
            check.start.eq(start),
            check.ternary.eq(ternary),
            check.by_row.eq(by_row),
            check.slots_after.eq(slots),
            self.check.eq(check.check),
        ]
        # The codes' last byte is where digits begin, which are zero where there are none.
        start, last = start[:8 * DIGITS_AT], start[8 * DIGITS_AT:]
        head = Cat(start, numbers[:len(last)] | last, numbers[len(last):])
        due = delay(m, row, clocks + 1)
        return self._when(m, delay(m, due, 1), self._when(m, due, head)), signs

    def _packed_codes(self, codes, ternary, by_row):
        """Codes of three bits each as they are stored: of the first and the second half of the groups, with as many
        bits as they have."""
        half = len(codes) // 2

        def narrowed(codes, width):
            return Cat(codes.word_select(n, CODE_BITS)[:width] for n in range(len(codes) // CODE_BITS))

        first, second = codes[:half], codes[half:]
        shorter = Cat(first, narrowed(second, 2))
        shortest = Cat(narrowed(first, 2), narrowed(second, 1))
        return Mux(ternary, Mux(by_row, shortest, shorter), Mux(by_row, shorter, codes))

    def _describe(self, m, variable, row_due, header_due, width):
        unit = self.i.payload
        fragment = self.o.payload
        ends_page, bad, rate = unit.rate.last & unit.last, ~unit.rate.held | unit.exceeds, unit.rate
        known = [data.View(_Known, Cat(ends_page, bad, rate.ternary, rate.slots))]
        for _ in row_due[1:]:
            known.append(delay(m, known[-1], 1))
        setting = delay(m, unit.rate.code, self.header_latency - 1)
        unit_due = delay(m, variable, 1)
        m.d.sync += [
            self.o.valid.eq(unit_due | Cat(row_due[2:6]).any() | header_due),
            fragment.variable.eq(unit_due),
            fragment.header.eq(header_due),
            fragment.setting.eq(setting),
            fragment.last.eq(0),
            fragment.bad.eq(0),
            fragment.at.eq(0),
            fragment.turn.eq(0),
            fragment.length.eq(0),
        ]
        with m.If(unit_due):
            m.d.sync += [fragment.count.eq(width), fragment.length.eq(width), fragment.last.eq(known[1].last),
                         fragment.bad.eq(known[1].bad)]
        for clocks in range(2, 6):
            with m.If(row_due[clocks]):
                with m.Switch(Cat(known[clocks].slots, known[clocks].ternary)):
                    for is_ternary in (False, True):
                        for number in range(2, SLOTS + 1):
                            with m.Case(number | is_ternary << 3):
                                begin, at, count = _places(clocks - 2, number, is_ternary)
                                m.d.sync += [fragment.count.eq(count), fragment.at.eq(at),
                                             fragment.turn.eq((at - begin) % LINE_WORDS)]
                                if clocks == 5:
                                    m.d.sync += fragment.length.eq(_HEAD_WORDS[is_ternary] + _PLANE_WORDS * number)
                if clocks == 5:
                    m.d.sync += [fragment.last.eq(known[clocks].last), fragment.bad.eq(known[clocks].bad)]
        with m.If(header_due):
            m.d.sync += [fragment.count.eq(WIDTHS_WORDS), fragment.at.eq(1), fragment.turn.eq(1)]


def _places(part, slots, ternary):
    """Of the four fragments of a row: its first word that counts, where in the row that is, and how many do."""
    head = _HEAD_WORDS[ternary]
    low = max(slots - _HALF, 0)
    high = slots - low
    return (
        (_PLANE_WORDS * (_HALF - low), head, _PLANE_WORDS * low),
        (_PLANE_WORDS * (_HALF - high), head + _PLANE_WORDS * low, _PLANE_WORDS * high),
        (FRAGMENT_WORDS - _PLANE_WORDS, _START_WORDS, 0 if ternary else _PLANE_WORDS),
        (0, 0, head if ternary else _START_WORDS),
    )[part]
