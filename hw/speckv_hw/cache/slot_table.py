"""What the page cache knows of its slots."""

from functools import reduce
from operator import or_

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.cache.messages import SlotState
from speckv_hw.config import DeviceConfig
from speckv_hw.types import PAGE_WIDTH, PageState

__all__ = ["SlotTable", "SlotFlags", "set_of"]


def set_of(config, page):
    """Set of a window page: its bits folded by XOR, so that the same index in many streams spreads over the sets."""
    bits = (config.cache_sets - 1).bit_length()
    if bits == 0:
        return page[:1] & 0
    folded = page[:bits]
    for low in range(bits, config.page_bits, bits):
        folded = folded ^ page[low:min(low + bits, config.page_bits)]
    return folded


def _select(chosen, values):
    """The one of `values` whose bit of `chosen` is set, zero if none is: an and-or, since at most one is."""
    values = [Value.cast(value) for value in values]
    return reduce(or_, (value & bit.replicate(len(value)) for bit, value in zip(chosen, values)))


class SlotFlags(data.Struct):
    valid: 1
    busy: 1
    """A mover works on the page; only the end of that work may change the slot."""
    prefetched: 1
    """Fetched by a prefetch and not used since."""


class SlotTable(wiring.Component):
    """Tags, states and flags of the cache's slots, and the choice of victims.

    What it says of the set that is looked at comes in the next clock, in which a write lands on that set. Where a clock
    changes what is looked at in it, `stale` says so: then the next clock's answer does not count, and nothing may be
    written on it. One change does not make it stale: a write without a mark of a page that was hit, if the same page is
    looked for; of `written` and `poison` such a write changes the bits of its `line` only. So a line a clock can be
    written into a page. On reset every slot is invalid; what else a slot says only counts while it is valid.

    A victim is an invalid way, else a clean one, round robin within the set, else (demand only) an OPEN one. A busy
    slot is never a victim; one that was prefetched and is yet unused is not one for another prefetch.

    Parameters
    ----------
    config : DeviceConfig
        `cache_sets` x `cache_ways` slots; slot number = set * ways + way.

    Members
    -------
    index, page, line : In
        The set to look at, the page to look for in it, and a line of that page.
    by_way, way : In
        Looks at a way of the set instead, whatever page is there: it counts as hit.
    hold : In
        The answer stays as it is for another clock. `stale` then says that this clock changes the set of the answer.
    stale : Out
        Combinational.
    set : Out
        The set that all that follows is about.
    hit, hit_way, hit_slot, hit_flags : Out
        Whether and where the page is, and what the slot says; zeros where it is not.
    hit_written, hit_poison : Out
        The bits of `line` in `hit_slot`.
    victim, victim_way, victim_dirty, victim_slot : Out
        Where nothing is hit: whether a demand can have a slot, which, and whether that holds an OPEN page (in
        `victim_slot`).
    spare, spare_way : Out
        Where nothing is hit: whether a prefetch can have a slot, and which.
    write, write_way, write_slot : In
        Replaces what the slot says.
    mark, mark_flags : In
        Replaces the flags of (`set`, `write_way`).

    `latency` is the number of clocks from the look to the answer.
    """

    latency = 1

    def __init__(self, config: DeviceConfig):
        self._config = config
        ways = range(max(2, config.cache_ways))
        super().__init__({
            "index": In(range(max(2, config.cache_sets))),
            "page": In(PAGE_WIDTH),
            "line": In(6),
            "by_way": In(1),
            "way": In(ways),
            "hold": In(1),
            "stale": Out(1),
            "set": Out(range(max(2, config.cache_sets))),
            "hit": Out(1),
            "hit_way": Out(ways),
            "hit_slot": Out(SlotState),
            "hit_flags": Out(SlotFlags),
            "hit_written": Out(1),
            "hit_poison": Out(1),
            "victim": Out(1),
            "victim_way": Out(ways),
            "victim_dirty": Out(1),
            "victim_slot": Out(SlotState),
            "spare": Out(1),
            "spare_way": Out(ways),
            "write": In(1),
            "write_way": In(ways),
            "write_slot": In(SlotState),
            "mark": In(1),
            "mark_flags": In(SlotFlags),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        ways = config.cache_ways
        depth = max(2, config.cache_sets)

        states, flags = [], []
        for way in range(ways):
            m.submodules[f"way{way}"] = store = memory.Memory(shape=SlotState, depth=depth, init=[])
            write_port = store.write_port()
            read_port = store.read_port(domain="comb")
            bits = Signal(data.ArrayLayout(SlotFlags, depth), name=f"flags{way}")
            m.d.comb += [
                read_port.addr.eq(self.index),
                write_port.addr.eq(self.set),
                write_port.data.eq(self.write_slot),
                write_port.en.eq(self.write & (self.write_way == way)),
            ]
            with m.If(self.mark & (self.write_way == way)):
                m.d.sync += bits[self.set].eq(self.mark_flags)
            states.append(read_port.data)
            flags.append(bits[self.index])

        matches = Cat(Mux(self.by_way, self.way == way, flag.valid & (state.page == self.page))
                      for way, (flag, state) in enumerate(zip(flags, states)))
        with m.If(~self.hold):
            m.d.sync += [
                self.set.eq(self.index),
                self.hit.eq(matches.any()),
                self.hit_way.eq(_select(matches, [Const(way, len(self.hit_way)) for way in range(ways)])),
                self.hit_flags.eq(_select(matches, flags)),
            ]
        self._answer_hit(m, matches, states)
        self._choose_victims(m, states, flags)
        return m

    def _answer_hit(self, m, matches, states):
        """What the slot says that is hit: as it was in the table, and with what has been written since."""
        found, wrote = Signal(SlotState), Signal(SlotState)
        found_written, found_poison, wrote_written, wrote_poison = [Signal() for _ in range(4)]
        page, line = Signal.like(self.page), Signal.like(self.line)
        by_page, patched, patched_line = Signal(), Signal(), Signal()
        same_set = self.set == self.index
        same_page = by_page & ~self.by_way & self.hit & (page == self.page)
        m.d.comb += self.stale.eq((self.hold | same_set) & (self.mark | (self.write & (self.hold | ~same_page))))
        with m.If(~self.hold):
            m.d.sync += [
                page.eq(self.page),
                line.eq(self.line),
                by_page.eq(~self.by_way),
                found.eq(_select(matches, states)),
                # Beside the comparison rather than behind it.
                found_written.eq(_select(matches, [state.written.bit_select(self.line, 1) for state in states])),
                found_poison.eq(_select(matches, [state.poison.bit_select(self.line, 1) for state in states])),
                wrote.eq(self.write_slot),
                wrote_written.eq(self.write_slot.written.bit_select(line, 1)),
                wrote_poison.eq(self.write_slot.poison.bit_select(line, 1)),
                patched.eq(self.write & same_page),
                patched_line.eq(self.write & same_page & (line == self.line)),
            ]
        m.d.comb += [
            self.hit_slot.eq(Mux(patched, wrote.as_value(), found.as_value())),
            # Those are of one page.
            self.hit_slot.page.eq(found.page),
            self.hit_slot.stream.eq(found.stream),
            self.hit_written.eq(Mux(patched_line, wrote_written, found_written)),
            self.hit_poison.eq(Mux(patched_line, wrote_poison, found_poison)),
        ]

    def _choose_victims(self, m, states, flags):
        config = self._config
        ways = config.cache_ways
        m.submodules.turns = turns = memory.Memory(shape=range(max(2, ways)), depth=max(2, config.cache_sets), init=[])
        turn_read = turns.read_port(domain="comb")
        turn_write = turns.write_port()
        invalid = Cat(~flag.valid for flag in flags)
        is_open = Cat(state.state == PageState.OPEN for state in states)
        idle = Cat(flag.valid & ~flag.busy for flag in flags)
        unused = Cat(flag.prefetched for flag in flags)
        clean_way = self._first(m, "clean", idle & ~is_open, turn_read.data)
        dirty_way = self._first(m, "dirty", idle, turn_read.data)
        spare_way = self._first(m, "spare", idle & ~is_open & ~unused, turn_read.data)
        invalid_way = self._first(m, "invalid", invalid, Const(0, range(max(2, ways))))
        m.d.comb += [
            turn_read.addr.eq(self.index),
            turn_write.addr.eq(self.set),
            turn_write.data.eq(Mux(self.write_way == ways - 1, 0, self.write_way + 1)),
            turn_write.en.eq(self.mark & self.mark_flags.busy & ~self.hit),
        ]
        dirty = ~(invalid | (idle & ~is_open)).any()
        with m.If(~self.hold):
            m.d.sync += [
                self.victim.eq((invalid | idle).any()),
                self.victim_dirty.eq(dirty),
                self.victim_way.eq(Mux(invalid.any(), invalid_way, Mux(dirty, dirty_way, clean_way))),
                self.victim_slot.eq(Array(states)[dirty_way]),
                self.spare.eq((invalid | (idle & ~is_open & ~unused)).any()),
                self.spare_way.eq(Mux(invalid.any(), invalid_way, spare_way)),
            ]

    def _first(self, m, name, candidates, start):
        """First way of the bit vector `candidates` from `start` on, cyclic."""
        ways = self._config.cache_ways
        choice = Signal(range(max(2, ways)), name=f"{name}_way")
        with m.Switch(start):
            for first in range(ways):
                with m.Case(first):
                    for step in reversed(range(ways)):
                        way = (first + step) % ways
                        with m.If(candidates[way]):
                            m.d.comb += choice.eq(way)
        return choice
