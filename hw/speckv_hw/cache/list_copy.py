"""What the slot says of the list of requests that has its turn."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.cache.messages import SlotState, assign_written
from speckv_model.constants import PAGE_LINES

__all__ = ["ListCopy"]


class ListCopy(wiring.Component):
    """Keeps a copy of the slot whose list has its turn: the slot is busy for all others, so the copy is what counts.

    What is taken in one clock is there in the next one, in registers. What the slot says of the list whose turn comes
    next can be taken ahead, so that there is a copy when that turn begins. On reset there is no copy.

    Members
    -------
    starts, ends : In
        Of `WaitLists`: a turn begins with the next clock, or ends with this one.
    line : In
        Of the request of the list.
    loads, loaded : In
        The line of the request changes with the next clock, and to what.
    answer : In(SlotState)
        The slot table's.
    is_current : In
        The answer is about the list that has its turn, and is taken.
    is_next : In
        It is about the one whose turn comes next, or about the one whose turn began with this clock, since the question
        is a clock older.
    fetched, fetched_slot : In
        Takes `fetched_slot` as the copy of the list that has its turn.
    wrote, whole : In
        The request of the list was written into the page, and all bytes of the line.
    valid, slot : Out
        Whether there is a copy, and the copy.
    written : Out
        The bit of `slot.written` of `line`. A register: much hangs on it.
    has_next : Out
        There is a copy for the list whose turn comes next.
    began : Out
        The turn began with this clock.
    """

    starts: In(1)
    ends: In(1)
    line: In(range(PAGE_LINES))
    loads: In(1)
    loaded: In(range(PAGE_LINES))
    answer: In(SlotState)
    is_current: In(1)
    is_next: In(1)
    fetched: In(1)
    fetched_slot: In(SlotState)
    wrote: In(1)
    whole: In(1)
    valid: Out(1)
    slot: Out(SlotState)
    written: Out(1)
    has_next: Out(1)
    began: Out(1)

    def elaborate(self, platform):
        m = Module()
        following = Signal(SlotState)
        takes, arrives = Signal(), Signal()
        m.d.comb += [
            takes.eq(self.is_current | (self.is_next & self.began)),
            arrives.eq(self.is_next & ~self.began),
        ]
        m.d.sync += self.began.eq(self.starts)
        with m.If(arrives):
            m.d.sync += [following.eq(self.answer), self.has_next.eq(1)]
        with m.If(self.wrote):
            m.d.sync += assign_written(self.slot, self.slot, self.line, self.whole, self.written)
        with m.If(self.fetched):
            m.d.sync += [self.slot.eq(self.fetched_slot), self.valid.eq(1)]
        with m.Elif(takes):
            m.d.sync += [self.slot.eq(self.answer), self.valid.eq(1)]
        with m.If(self.starts):
            m.d.sync += [
                self.slot.eq(Mux(arrives, self.answer.as_value(), following.as_value())),
                self.valid.eq(arrives | self.has_next),
                self.has_next.eq(0),
            ]
        with m.Elif(self.ends):
            m.d.sync += self.valid.eq(0)

        # The same once more for the bit of a line: which line and of what is only chosen when all bits are there.
        stays = self._bit_after(self.line, takes, self.wrote)
        changes = self._bit_after(self.loaded, takes, self.wrote & (self.line == self.loaded))
        answer, kept = [source.written.bit_select(self.loaded, 1) for source in (self.answer, following)]
        begins = Mux(arrives, answer, kept)
        m.d.sync += self.written.eq(Mux(self.starts, begins, Mux(self.loads, changes, stays)))
        return m

    def _bit_after(self, line, takes, wrote):
        """The bit of `line` after this clock, if no turn starts."""
        slot, answer, fetched = [source.written.bit_select(line, 1)
                                 for source in (self.slot, self.answer, self.fetched_slot)]
        return Mux(self.fetched, fetched, Mux(takes, answer, slot | wrote))
