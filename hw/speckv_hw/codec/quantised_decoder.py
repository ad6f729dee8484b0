from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec import fixed
from speckv_model.codec.fixed import GROUP_DIGIT_BITS, GROUP_VALUES, GROUPS, SETTINGS, Rate
from speckv_model.codec.variable import MOST_BITS, UNIT_VALUES

from ..stream import Fifo, Register, chain, transfer
from ..types import LINE_BITS, DecodeStart
from .block_gatherer import BlockGatherer
from .choose import choose
from .payloads import chunk
from .pipeline import delay
from .quantised_lane import CELL_PLANES, QuantisedLane
from .quantised_payloads import CODE_BITS
from .quantised_reader import HEAD_WORDS, PIECE_WORDS, PieceTag, QuantisedReader
from .rom import rom
from .row_checker import RowChecker
from .step_scale import StepScale
from .widen import Widen
from .word_unpacker import WORD_BITS, WordUnpacker

__all__ = ["QuantisedDecoder"]

_ROOM = 16
"""Beats that fit behind the lanes: their latency and a few more."""
_FIVE_BITS = (3**5 - 1).bit_length()
"""Of the number of a group's first five digits."""
_HEAD_AT = WORD_BITS * (HEAD_WORDS - fixed.PLANES_AT[False] // 4)
"""Bit of the head where that of rows without digits begins."""


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

        stored -> QuantisedReader --lines----> WordUnpacker -> BlockGatherer -> lanes -> Fifo -> Widen -> lines
                                  --requests-> ^                             -> StepScale, RowChecker

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
        lanes = self._lanes
        m.submodules.reader = reader = QuantisedReader()
        m.submodules.unpacker = unpacker = WordUnpacker(PieceTag, PIECE_WORDS)
        m.submodules.gatherer = gatherer = BlockGatherer(lanes)
        chain(m, self.start, reader.start)
        chain(m, self.stored, reader.stored)
        # With lines in between the reader sees the next page's header before this page's last words are asked for.
        m.submodules.ahead0 = ahead0 = Register(chunk(LINE_BITS))
        m.submodules.ahead1 = ahead1 = Register(chunk(LINE_BITS))
        chain(m, reader.body, ahead0, ahead1, unpacker.i)
        # From a request to the registers of lines it is far enough without what makes the request.
        m.submodules.requests = requests = Register(WordUnpacker.request_layout(PieceTag))
        chain(m, reader.requests, requests, unpacker.requests)
        chain(m, unpacker.o, gatherer.pieces)

        beat = 16 * lanes
        m.submodules.beats = beats = Fifo(data.StructLayout({"data": beat, "bad": 1}), _ROOM)
        room = Signal(range(_ROOM + 1), init=_ROOM)
        issue = gatherer.valid & (room != 0)
        m.d.comb += gatherer.next.eq(room != 0)
        m.d.sync += room.eq(room - issue + transfer(beats.o))
        signs, cells = self._planes(m, gatherer)
        latency = 1 + QuantisedLane.latency
        bad = self._check(m, gatherer, issue, [signs, *cells])
        m.d.comb += [
            beats.i.p.data.eq(self._values(m, gatherer, signs, cells)),
            beats.i.p.bad.eq(delay(m, bad, latency - (1 + RowChecker.latency))),
            beats.i.valid.eq(delay(m, issue, latency)),
        ]
        self._widen(m, beats.o)
        return m

    def _part(self, gatherer, whole, width):
        """The `width` bits of `whole` that belong to the beat that is shown."""
        count = len(whole) // width
        return choose(gatherer.place[:(count - 1).bit_length()], [whole.word_select(n, width) for n in range(count)])

    def _planes(self, m, gatherer):
        """Parts of the planes of a row, a clock later: signs, cells' numbers; what it does not have is zero."""
        block = gatherer.block
        tag = block.tag
        present = [1] + [tag.cell_planes > n for n in range(CELL_PLANES)]
        planes = [Signal(self._lanes, name=f"plane{n}", reset_less=True) for n in range(1 + CELL_PLANES)]
        for plane, has, whole in zip(planes, present, [block.signs, *block.cells]):
            # Zero by its reset: no logic in front of it.
            m.d.sync += plane.eq(Mux(has & ~tag.variable, self._part(gatherer, whole, self._lanes), 0))
        return planes[0], planes[1:]

    def _values(self, m, gatherer, signs, cells):
        """The values of the beat that is shown, 1 + `QuantisedLane.latency` clocks later."""
        lanes, groups = self._lanes, self._lanes // GROUP_VALUES
        block, tag = gatherer.block, gatherer.block.tag
        ternary = ~tag.setting[0]
        m.submodules.scales = scales = StepScale(lanes)
        m.d.comb += [
            scales.tag.eq(tag),
            scales.scale.eq(Mux(ternary, block.head[:8], block.head[_HEAD_AT:][:8])),
            scales.codes.eq(self._part(gatherer, self._codes(block), CODE_BITS * groups)),
            scales.second_half.eq(gatherer.place[-1]),
        ]
        multiples = [Signal(lanes, name=f"multiple{n}", reset_less=True) for n in range(MOST_BITS)]
        for n, word in enumerate(multiples):
            whole = block.first.word_select(n, UNIT_VALUES)
            m.d.sync += word.eq(Mux(tag.variable, self._part(gatherer, whole, lanes), 0))
        numbers = self._part(gatherer, block.head[8 * fixed.DIGITS_AT:], GROUP_DIGIT_BITS * groups)
        m.submodules.digits = table = memory.Memory(shape=2 * 5, depth=1 << _FIVE_BITS, init=_digits(5),
                                                    attrs={"ram_style": "block"})
        outputs = []
        for group in range(groups):
            number = numbers.word_select(group, GROUP_DIGIT_BITS)
            five, three = table.read_port(), Signal(2 * 3, name=f"three{group}")
            m.d.comb += five.addr.eq(number[:_FIVE_BITS])
            m.d.sync += three.eq(rom(_digits(3), number[_FIVE_BITS:]))
            digits = Cat(five.data, three)
            for n in range(GROUP_VALUES):
                number_of_lane = group * GROUP_VALUES + n
                m.submodules[f"lane{number_of_lane}"] = lane = QuantisedLane()
                m.d.comb += [
                    lane.value.eq(Cat(word[number_of_lane] for word in multiples)),
                    lane.sign.eq(signs[number_of_lane]),
                    lane.planes.eq(Cat(plane[number_of_lane] for plane in cells)),
                    lane.digit.eq(digits.word_select(n, 2)),
                    lane.full_scale.eq(scales.full_scale[group]),
                    lane.shared.eq(scales.shared),
                    lane.exponent.eq(scales.exponents[group]),
                    lane.step.eq(scales.steps[group]),
                ]
                outputs.append(lane.o)
        return Cat(outputs)

    def _codes(self, block):
        """The codes of a row's groups, `CODE_BITS` each, from where they are and as wide as they are."""
        long, short = block.head[8 * fixed.GROUPS_AT:], block.head[_HEAD_AT + 8 * fixed.GROUPS_AT:]

        def codes(stored, ternary, by_row):
            found = []
            for width in Rate(SETTINGS[1 if ternary else 0], by_row).code_widths:
                for _ in range(GROUPS // 2):
                    found += [stored[:width], Const(0, CODE_BITS - width)]
                    stored = stored[width:]
            return Cat(found)

        by_row = block.tag.by_row
        return Mux(block.tag.setting[0], Mux(by_row, codes(short, False, True), codes(short, False, False)),
                   Mux(by_row, codes(long, True, True), codes(long, True, False)))

    def _check(self, m, gatherer, issue, planes):
        """Whether the row, which was fetched alone, ends wrong with the beat that is shown; 1 + `RowChecker.latency`
        clocks later."""
        lanes = self._lanes
        block, tag = gatherer.block, gatherer.block.tag
        m.submodules.checker = checker = RowChecker(lanes)
        ternary = ~tag.setting[0]
        head = block.head
        # The check is left out, so that what is before it is next to what follows it. Before a short head all is zero.
        low, high = head[:_HEAD_AT], head[_HEAD_AT:]
        at, short_at = (8 * Rate(setting, True).check_at for setting in SETTINGS[1::-1])
        bits = 8 * fixed.CHECK_BYTES
        own = Cat(Const(0, bits), low[:at], low[at + bits:],
                  Mux(ternary, high[:bits], 0), Mux(ternary, high[bits:], high[:short_at]))
        value = Mux(ternary, low[at:at + bits], high[short_at:])
        check_plane = Cat(value[8:], value[:8], Const(0, 8 * fixed.PLANE_BYTES - bits))
        halves = [Signal(lanes, name=f"head{n}") for n in range(2)]
        check = Signal.like(checker.check)
        m.d.sync += [half.eq(self._part(gatherer, own.word_select(n, 8 * fixed.PLANE_BYTES), lanes))
                     for n, half in enumerate(halves)]
        m.d.sync += check.eq(self._part(gatherer, check_plane, lanes))
        m.d.comb += [
            *(checker.planes[n].eq(plane) for n, plane in enumerate([*halves, *planes])),
            checker.check.eq(check),
            checker.check_at.eq(delay(m, Cat(tag.cell_planes == 1 + n for n in range(CELL_PLANES)), 1)),
            checker.first.eq(delay(m, gatherer.place == 0, 1)),
            checker.valid.eq(delay(m, issue, 1)),
        ]
        return delay(m, tag.single, 1 + RowChecker.latency) & checker.bad

    def _widen(self, m, beats):
        m.submodules.widen = widen = Widen(16 * self._lanes, LINE_BITS)
        bad = Signal()
        m.d.comb += [
            widen.i.payload.data.eq(beats.p.data),
            widen.i.valid.eq(beats.valid),
            beats.ready.eq(widen.i.ready),
            self.lines.payload.eq(widen.o.payload.data),
            self.lines.valid.eq(widen.o.valid),
            widen.o.ready.eq(self.lines.ready),
        ]
        with m.If(transfer(beats)):
            m.d.sync += bad.eq(beats.p.bad)
        with m.If(transfer(self.lines)):
            m.d.sync += self.bad_row.eq(bad)
