from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.constants import ROW_VALUES

from .payloads import RowForm, RowTag

__all__ = ["RunExpander"]


def _times(value, factor):
    """`factor` times `value` modulo 256 by at most three additions for factors up to 32."""
    if factor == 1:
        return value
    if factor % 2 == 0:
        return (_times(value, factor // 2) << 1)[:8]
    if factor % 4 == 1 or factor == 3:
        return (_times(value, factor - 1) + value)[:8]
    return (_times(value, factor + 1) - value)[:8]


class RunExpander(wiring.Component):
    """Turns pairs into the bytes of a row; bytes of other rows go through.

    A run of equal deltas is a piece of an arithmetic progression, so each clock gives all bytes that a run
    has in a beat, at any place. Latency 3 clocks, one beat a clock; a beat of several runs takes one clock
    for each. The last pair of a row lasts to the row's end; pairs that begin beyond it are dropped. Order
    kept; empty on reset.

    Parameters
    ----------
    lanes : int
        Bytes in a beat.

    Members
    -------
    i : In(stream)
        `data` (a beat of bytes, or a pair in its lowest 16 bits) and `tag` (a `RowTag`).
    o : Out(stream)
        `data` (a beat of bytes) and `tag`, of which `last` has no meaning.
    """

    latency = 3

    def __init__(self, lanes):
        self._lanes = lanes
        layout = data.StructLayout({"data": 8 * lanes, "tag": RowTag})
        super().__init__({"i": In(stream.Signature(layout)), "o": Out(stream.Signature(layout))})

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        advance = Signal()
        m.d.comb += advance.eq(~self.o.valid | self.o.ready)

        # 1: cut runs at the ends of beats
        tag = self.i.payload.tag
        as_pairs = Signal()
        position = Signal(range(ROW_VALUES))
        continued = Signal(range(ROW_VALUES + 1))
        """What is left of the pair's run after its first beat; 0 before that."""
        row_full = Signal()
        run = Signal(range(ROW_VALUES + 1))
        place = position[:lanes.bit_length() - 1]
        room = Signal(range(lanes + 1))
        step = Signal(range(lanes + 1))
        to_beat_end = Signal()
        row_ends = Signal()
        taken = Signal()
        m.d.comb += [
            as_pairs.eq(tag.form == RowForm.PAIRS),
            room.eq(lanes - place),
            run.eq(Mux(continued != 0, continued, self.i.payload.data[8:15] + 1)),
            to_beat_end.eq((run >= room) | tag.last),
            step.eq(Mux(to_beat_end, room, run)),
            row_ends.eq(to_beat_end & position[len(place):].all()),
            taken.eq(~as_pairs | row_full | row_ends | ((run <= room) & ~tag.last)),
            self.i.ready.eq(advance & taken),
        ]
        with m.If(advance & self.i.valid & as_pairs):
            with m.If(~row_full):
                m.d.sync += [
                    position.eq(position + step),
                    continued.eq(Mux(taken, 0, run - room)),
                ]
            m.d.sync += row_full.eq((row_full | row_ends) & ~tag.last)

        piece_valid = Signal()
        beat_ends = Signal()
        row_begins = Signal()
        piece = Signal.like(self.i.payload)
        piece_place = Signal.like(place)
        piece_step = Signal.like(step)
        with m.If(advance):
            m.d.sync += [
                piece_valid.eq(self.i.valid & ~(as_pairs & row_full)),
                beat_ends.eq(~as_pairs | to_beat_end),
                row_begins.eq(position == 0),
                piece.eq(self.i.payload),
                piece_place.eq(place),
                piece_step.eq(step),
            ]

        # 2: multiples of the delta
        delta = piece.data[:8]
        valid2, ends2, begins2, expand2 = Signal(), Signal(), Signal(), Signal()
        passed2 = Signal.like(piece)
        keep2 = Signal(lanes)
        multiples = [Signal(8, name=f"multiple{n}") for n in range(lanes)]
        advance_by = Signal(8)
        back_by = Signal(8)
        with m.If(advance):
            m.d.sync += [
                valid2.eq(piece_valid),
                ends2.eq(beat_ends),
                begins2.eq(row_begins),
                expand2.eq(piece.tag.form == RowForm.PAIRS),
                passed2.eq(piece),
                advance_by.eq(delta * piece_step),
                back_by.eq(delta * piece_place),
            ]
            m.d.sync += [multiple.eq(_times(delta, n + 1)) for n, multiple in enumerate(multiples)]
            m.d.sync += [keep2[n].eq(n < piece_place) for n in range(lanes)]

        # 3: the progression through the last byte before the run; earlier bytes of the beat stay
        before = Signal(8)
        latest = Signal(8)
        origin = Signal(8)
        m.d.comb += [latest.eq(Mux(begins2, 0, before)), origin.eq(latest - back_by)]
        with m.If(advance):
            m.d.sync += [self.o.valid.eq(valid2 & ends2), self.o.payload.tag.eq(passed2.tag)]
            with m.If(valid2):
                m.d.sync += before.eq(latest + advance_by)
                for n, multiple in enumerate(multiples):
                    byte = self.o.payload.data.word_select(n, 8)
                    with m.If(~expand2):
                        m.d.sync += byte.eq(passed2.data.word_select(n, 8))
                    with m.Elif(~keep2[n]):
                        m.d.sync += byte.eq(multiple + origin)
        return m
