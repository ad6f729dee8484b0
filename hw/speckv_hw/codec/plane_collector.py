from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.fixed import GROUP_DIGIT_BITS, GROUP_VALUES, GROUPS
from speckv_model.codec.variable import MOST_BITS, UNIT_VALUES
from speckv_model.constants import ROW_VALUES

from .digit_encoder import DigitEncoder
from .pipeline import delay
from .quantised_payloads import FRAGMENT_WORDS, WORD_BITS, CellBits, Item, Unit
from .row_checker import HEAD_BITS, SLOTS, RowChecker

__all__ = ["PlaneCollector"]

_UNIT_GROUPS = UNIT_VALUES // GROUP_VALUES
_FRAGMENT_BITS = WORD_BITS * FRAGMENT_WORDS
_HALF = SLOTS // 2
"""Bit planes of a fragment."""


class PlaneCollector(wiring.Component):
    """Turns quantised values into bit planes: a fragment for each unit of a `variable` page, and two or three for each
    row of a `fixed` one, its head (with the signs, where there are no base-3 digits) and up to three planes each.

    A unit a clock, order kept, no back-pressure. Fragments come at once, those of a row up to `row_latency` clocks
    after its last unit; their `items` up to `latency` clocks after the unit or the row. A unit of a `variable` page
    must not come earlier than `gap` clocks after one of a `fixed` page. Idle on reset.

    Members
    -------
    i : In(stream(Unit), always ready)
    planes : Out(stream(384), always ready)
        Words from the lowest on; those above an item's size are meaningless. The head's byte 1, for the check, is zero.
    items : Out(stream(Item), always ready)
    """

    row_latency = DigitEncoder.latency + 3
    latency = RowChecker.head_delay + RowChecker.latency
    gap = row_latency + 1

    i: In(stream.Signature(Unit, always_ready=True))
    planes: Out(stream.Signature(_FRAGMENT_BITS, always_ready=True))
    items: Out(stream.Signature(Item, always_ready=True))

    def elaborate(self, platform):
        m = Module()
        unit = self.i.payload
        rate = unit.rate
        variable = self.i.valid & rate.variable
        fixed = self.i.valid & ~rate.variable
        row = fixed & unit.last

        cells = [data.View(CellBits, unit.bits[n]) for n in range(UNIT_VALUES)]
        slots = [Cat(cell.slots[n] for cell in cells) for n in range(SLOTS)]
        image = self._collect_slots(m, fixed, row, slots)
        head = self._collect_head(m, fixed, cells)

        # The head is complete when the planes are in `image`.
        head_due = delay(m, row, DigitEncoder.latency + 1)
        low_due, high_due = delay(m, head_due, 1), delay(m, head_due & (delay(m, rate.slots, 3) > _HALF), 2)
        m.d.comb += [
            self.planes.valid.eq(variable | head_due | low_due | high_due),
            self.planes.payload.eq(Cat(Cat(unit.bits[n][plane] for n in range(UNIT_VALUES))
                                       for plane in range(MOST_BITS))),
        ]
        with m.If(head_due):
            m.d.comb += self.planes.payload.eq(head)
        with m.Elif(low_due):
            m.d.comb += self.planes.payload.eq(image[:_FRAGMENT_BITS])
        with m.Elif(high_due):
            m.d.comb += self.planes.payload.eq(image[_FRAGMENT_BITS:])

        check = self._check(m, fixed, slots, head)
        self._make_items(m, variable, row, check)
        return m

    def _collect_slots(self, m, fixed, row, slots):
        """The row's bit planes; they come with its four units and stay until the next row is complete."""
        planes = [Signal(ROW_VALUES, name=f"plane{n}") for n in range(SLOTS)]
        image = Signal(ROW_VALUES * SLOTS)
        with m.If(fixed):
            m.d.sync += [plane.eq(Cat(plane[WORD_BITS:], word)) for plane, word in zip(planes, slots)]
        with m.If(delay(m, row, 1)):
            m.d.sync += image.eq(Cat(planes))
        return image

    def _collect_head(self, m, fixed, cells):
        """What comes before the slots, as long as the next row has not begun to come."""
        unit = self.i.payload
        clocks = DigitEncoder.latency
        digits = []
        for n in range(_UNIT_GROUPS):
            m.submodules[f"digits{n}"] = encoder = DigitEncoder()
            group = cells[GROUP_VALUES * n:GROUP_VALUES * (n + 1)]
            m.d.comb += encoder.digits.eq(Cat(cell.digit for cell in group))
            digits.append(encoder.o)
        scale = delay(m, unit.rate.code, clocks + 1)
        ternary = delay(m, unit.rate.ternary, clocks + 1)
        pieces = [delay(m, unit.group_codes.as_value(), clocks), Cat(digits),
                  delay(m, Cat(cell.sign for cell in cells), clocks)]
        codes, numbers, signs = collected = [
            Signal(2 * GROUPS), Signal(GROUP_DIGIT_BITS * GROUPS), Signal(ROW_VALUES)]
        with m.If(delay(m, fixed, clocks)):
            m.d.sync += [whole.eq(Cat(whole[len(piece):], piece)) for whole, piece in zip(collected, pieces)]
        head = Signal(HEAD_BITS)
        start = Cat(scale, Const(0, 8), codes)
        m.d.comb += head.eq(Mux(ternary, Cat(start, numbers), Cat(start, Const(0, 16), signs)))
        return head

    def _check(self, m, fixed, slots, head):
        unit = self.i.payload
        m.submodules.check = check = RowChecker()
        ternary, count = (delay(m, value, RowChecker.head_delay) for value in (unit.rate.ternary, unit.rate.slots))
        m.d.comb += [
            check.valid.eq(fixed),
            check.last.eq(unit.last),
            check.signs.eq(Mux(unit.rate.ternary, 0, Cat(data.View(CellBits, bits).sign for bits in unit.bits))),
            check.slots.eq(Cat(slots)),
            check.count.eq(unit.rate.slots),
            # The check byte does not count, so the byte before it is as far from the end as that one is.
            check.head.eq(Cat(Const(0, 8), head[:8], head[16:])),
            check.ternary.eq(ternary),
            check.tail.eq(count),
        ]
        return check.check

    def _make_items(self, m, variable, row, check):
        unit = self.i.payload

        # The width: of the largest magnitude, and one bit for the sign
        folded = []
        for n in range(0, UNIT_VALUES, GROUP_VALUES):
            ones = Signal(MOST_BITS, name=f"ones{n}")
            group = [unit.bits[n + place] for place in range(GROUP_VALUES)]
            m.d.sync += ones.eq(Cat(
                *(Cat(bits[place] ^ bits[-1] for bits in group).any() for place in range(MOST_BITS - 1)),
                Cat(bits[-1] for bits in group).any()))
            folded.append(ones)
        union = folded[0] | folded[1] | folded[2] | folded[3]
        width = Signal(range(MOST_BITS + 1))
        width2 = Signal.like(width)
        m.d.comb += width.eq(union[-1])
        for place in range(MOST_BITS - 1):
            with m.If(union[place]):
                m.d.comb += width.eq(place + 2)
        m.d.sync += width2.eq(width)

        item = self.items.payload
        unit_due, row_due = delay(m, variable, 2), delay(m, row, self.latency)
        of_unit = delay(m, Cat(unit.rate.last & unit.last, ~unit.rate.held | unit.exceeds, unit.rate.code), 2)
        of_row = delay(m, Cat(of_unit, delay(m, Cat(unit.rate.slots, unit.rate.ternary), 2)), self.latency - 2)
        m.d.comb += [
            self.items.valid.eq(unit_due | row_due),
            item.variable.eq(unit_due),
            item.check.eq(check),
            item.size.eq(Mux(unit_due, width2, of_row[10:13])),
            item.ternary.eq(of_row[13]),
            Cat(item.last, item.bad, item.setting).eq(Mux(unit_due, of_unit, of_row[:10])),
        ]
