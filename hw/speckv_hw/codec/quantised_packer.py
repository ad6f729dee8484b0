from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec import fixed, variable
from speckv_model.codec.fixed import GROUP_DIGIT_BITS, GROUP_VALUES, SETTINGS, Rate
from speckv_model.codec.variable import UNIT_VALUES
from speckv_model.constants import PAGE_ROWS, ROW_VALUES

from ..stream import transfer
from ..types import LINE_BITS
from .row_check import ROW_BITS, row_syndrome, syndrome_check
from .word_packer import WordPacker
from .word_unpacker import LINE_WORDS

__all__ = ["QuantisedPacker", "QuantisedPage", "quantised_beat"]

UNITS = ROW_VALUES // UNIT_VALUES
UNIT_GROUPS = UNIT_VALUES // GROUP_VALUES
HEADER_WORDS = variable.BODY_AT // 4


def quantised_beat(lanes):
    """Quantised values and what describes them."""
    groups = lanes // GROUP_VALUES
    return data.StructLayout({
        "bits": data.ArrayLayout(variable.MOST_BITS, lanes),
        # `variable`: two's complement. `fixed`: the sign, then the low bits of the cell number.
        "digits": GROUP_DIGIT_BITS * groups,
        "codes": 2 * groups,
        "scale": 8,
        # `variable`: the OR of the values' bits, those of negative ones inverted; whether any value is not zero.
        "folded": variable.MOST_BITS - 1,
        "nonzero": 1,
        # A value or the row is one that the codec does not hold.
        "bad": 1,
        "variable": 1,
        "setting": 8,
    })


class QuantisedPage(data.Struct):
    """What is known of a page when its last words are packed."""
    variable: 1
    lines: 7
    fits: 1
    header: 8 * variable.BODY_AT
    """`variable`: the bytes before the body."""


class QuantisedPacker(wiring.Component):
    """Puts quantised values into the words of their page: rows of `fixed`, units of 32 values of `variable`.

    One beat a clock, order kept; a row leaves two clocks after its last beat, while the next one comes in. Empty on
    reset.

    Parameters
    ----------
    lanes : int
        Values in a beat.

    Members
    -------
    i : In(stream(quantised_beat(lanes)))
    o : Out(stream)
        Fragments for a `WordPacker`.
    page : Out(stream(QuantisedPage))
        After the page's last fragment.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(quantised_beat(lanes))),
            "o": Out(stream.Signature(WordPacker.fragment)),
            "page": Out(stream.Signature(QuantisedPage)),
        })

    def elaborate(self, platform):
        m = Module()
        unit, unit_valid, unit_ready = self._gather(m)
        tern = ~unit.setting[0]
        number = Signal(range(PAGE_ROWS * UNITS))
        last_unit = number == PAGE_ROWS * UNITS - 1
        take = unit_valid & unit_ready
        fragment = self.o.p

        # `variable`: each unit is a fragment of its own.
        width = Signal(range(variable.MOST_BITS + 1))
        for place in range(variable.MOST_BITS - 1):
            with m.If(unit.folded[place]):
                m.d.comb += width.eq(place + 2)
        with m.If(unit.nonzero & ~unit.folded.any()):
            m.d.comb += width.eq(1)
        planes = Cat(unit.bits[value][plane] for plane in range(variable.MOST_BITS) for value in range(UNIT_VALUES))

        # `fixed`: a row is complete with its last unit, and is then sent with its check.
        building, row = Signal(ROW_BITS), Signal(ROW_BITS)
        image = Signal(ROW_BITS)
        row_setting, row_number = Signal(8), Signal(range(PAGE_ROWS))
        row_full, checked, second = Signal(), Signal(), Signal()
        syndrome = Signal(8)
        words = Signal(6)
        two = words > LINE_WORDS
        sent = Signal()
        m.d.comb += [
            image.eq(building | self._image(m, unit, tern, number[:2])),
            words.eq(row_setting << 1),
            sent.eq(transfer(self.o) & row_full & (second | ~two)),
        ]
        check = syndrome_check(syndrome, row_setting)
        checked_row = Cat(row[:8 * fixed.CHECK_AT], check, row[8 * (fixed.CHECK_AT + 1):])
        m.d.sync += [syndrome.eq(row_syndrome(row)), checked.eq(row_full & ~sent)]

        page_last = Signal()
        waits = self.page.valid & ~self.page.ready
        with m.If(row_full):
            m.d.comb += [
                fragment.data.eq(Mux(second, checked_row[LINE_BITS:], checked_row[:LINE_BITS])),
                fragment.count.eq(Mux(second, words - LINE_WORDS, Mux(two, LINE_WORDS, words))),
                fragment.first.eq((row_number == 0) & ~second),
                fragment.last.eq((row_number == PAGE_ROWS - 1) & (second | ~two)),
                self.o.valid.eq(checked & ~(fragment.last & waits)),
                page_last.eq(fragment.last),
                # The next row may be complete as soon as this one has left.
                unit_ready.eq(~unit.variable & ((number[:2] != UNITS - 1) | sent)),
            ]
        with m.Elif(unit.variable):
            m.d.comb += [
                fragment.data.eq(planes),
                fragment.count.eq(width),
                fragment.first.eq(number == 0),
                fragment.skip.eq(HEADER_WORDS),
                fragment.last.eq(last_unit),
                self.o.valid.eq(unit_valid & ((width != 0) | fragment.first | last_unit) & ~(last_unit & waits)),
                page_last.eq(last_unit),
                unit_ready.eq(Mux((width != 0) | fragment.first | last_unit, self.o.ready, 1) & ~(last_unit & waits)),
            ]
        with m.Else():
            m.d.comb += unit_ready.eq(1)
        with m.If(transfer(self.o) & row_full):
            m.d.sync += second.eq(two & ~second)
        with m.If(sent):
            m.d.sync += row_full.eq(0)
        with m.If(take):
            m.d.sync += number.eq(number + 1)
            with m.If(~unit.variable):
                m.d.sync += building.eq(image)
                with m.If(number[:2] == UNITS - 1):
                    m.d.sync += [
                        building.eq(0),
                        row.eq(image),
                        row_setting.eq(unit.setting),
                        row_number.eq(number[2:]),
                        row_full.eq(1),
                    ]

        self._describe(m, unit, take, number, width, row_setting, row_full, transfer(self.o) & page_last)
        return m

    def _describe(self, m, unit, take, number, width, row_setting, row_full, is_last):
        """Collects what the page's header says, and hands it on with the page's last fragment."""
        page = self.page.p
        widths = Signal(4 * variable.UNITS)
        total = Signal(range(HEADER_WORDS + variable.UNITS * variable.MOST_BITS + 1))
        bad, row_bad = Signal(), Signal()
        following = Cat(widths[4:], width[:4])
        so_far = Mux(number == 0, HEADER_WORDS, total) + width
        now_bad = (bad & (number != 0)) | unit.bad
        with m.If(transfer(self.page)):
            m.d.sync += self.page.valid.eq(0)
        with m.If(take):
            m.d.sync += [widths.eq(following), total.eq(so_far), bad.eq(now_bad)]
            with m.If(~unit.variable & (number[:2] == UNITS - 1)):
                m.d.sync += row_bad.eq(now_bad)
        with m.If(is_last):
            m.d.sync += self.page.valid.eq(1)
            with m.If(row_full):
                m.d.sync += [page.variable.eq(0), page.lines.eq(row_setting << 1), page.fits.eq(~row_bad)]
            with m.Else():
                m.d.sync += [
                    page.variable.eq(1),
                    page.lines.eq((so_far + LINE_WORDS - 1) >> 4),
                    page.fits.eq(~now_bad),
                    page.header.eq(Cat(unit.setting, (following << 8 * (variable.WIDTHS_AT - 1)))),
                ]

    def _gather(self, m):
        """Beats joined to units of 32 values. Returns a unit, whether it is there, and the signal that takes it."""
        layout = quantised_beat(UNIT_VALUES)
        ready = Signal()
        parts = UNIT_VALUES // self._lanes
        if parts == 1:
            m.d.comb += self.i.ready.eq(ready)
            return self.i.p, self.i.valid, ready
        unit = Signal(layout)
        valid = Signal()
        part = Signal(range(parts))
        beat = self.i.p
        joined = ("bits", "digits", "codes")
        m.d.comb += self.i.ready.eq(~valid | ready)
        with m.If(valid & ready):
            m.d.sync += valid.eq(0)
        with m.If(transfer(self.i)):
            m.d.sync += [part.eq(part + 1), valid.eq(part == parts - 1)]
            for name in joined:
                own, whole = Value.cast(beat[name]), Value.cast(unit[name])
                m.d.sync += whole.eq(Cat(whole[len(own):], own))
            for name in ("scale", "variable", "setting"):
                m.d.sync += unit[name].eq(beat[name])
            for name in ("folded", "nonzero", "bad"):
                m.d.sync += unit[name].eq(beat[name] | Mux(part == 0, 0, unit[name]))
        return unit, valid, ready

    def _image(self, m, unit, tern, number):
        """The bits of a row that unit `number` of it makes."""
        image = Signal(ROW_BITS)
        most = max(Rate(setting).planes for setting in SETTINGS)
        for n in range(UNITS):
            codes_at = 8 * fixed.GROUPS_AT + 2 * UNIT_GROUPS * n
            digits_at = fixed.DIGITS_BIT + GROUP_DIGIT_BITS * UNIT_GROUPS * n
            with m.If(number == n):
                m.d.comb += [
                    image[8 * fixed.SCALE_AT:][:8].eq(unit.scale),
                    image[codes_at:codes_at + 2 * UNIT_GROUPS].eq(unit.codes),
                ]
            for is_ternary in (False, True):
                with m.If((number == n) & (tern == is_ternary)):
                    for plane in range(most):
                        at = 8 * (fixed.PLANES_AT[is_ternary] + fixed.PLANE_BYTES * plane) + UNIT_VALUES * n
                        m.d.comb += image[at:at + UNIT_VALUES].eq(Cat(unit.bits[v][plane] for v in range(UNIT_VALUES)))
                    if is_ternary:
                        m.d.comb += image[digits_at:digits_at + GROUP_DIGIT_BITS * UNIT_GROUPS].eq(unit.digits)
        return image
