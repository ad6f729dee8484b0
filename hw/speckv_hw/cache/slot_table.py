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

    Everything combinational looks at the set `index`; a write lands on (`index`, `write_way`) at the end of the clock.
    On reset every slot is invalid; what else a slot says only counts while it is valid.

    A victim is an invalid way, else a clean one, round robin within the set, else (demand only) an OPEN one. A busy
    slot is never a victim; one that was prefetched and is yet unused is not one for another prefetch.

    Parameters
    ----------
    config : DeviceConfig
        `cache_sets` x `cache_ways` slots; slot number = set * ways + way.

    Members
    -------
    index, page : In
        The set to look at and the page to look for in it.
    line : In
        A line of that page.
    hit, hit_way, hit_slot, hit_flags : Out
        Whether and where the page is, and what the slot says; zeros where it is not.
    hit_written, hit_poison : Out
        The bits of `line` in `hit_slot`.
    way, slot, flags : In, Out, Out
        Another way of the same set to look at: that of an event.
    victim, victim_way, victim_dirty, victim_slot : Out
        Whether a demand can have a slot, which, and whether that holds an OPEN page (in `victim_slot`).
    spare, spare_way : Out
        Whether a prefetch can have a slot, and which.
    write, write_way, write_slot : In
        Replaces what the slot says.
    mark, mark_flags : In
        Replaces the flags of (`index`, `write_way`).
    """

    def __init__(self, config: DeviceConfig):
        self._config = config
        ways = range(max(2, config.cache_ways))
        super().__init__({
            "index": In(range(max(2, config.cache_sets))),
            "page": In(PAGE_WIDTH),
            "line": In(6),
            "hit": Out(1),
            "hit_way": Out(ways),
            "hit_slot": Out(SlotState),
            "hit_flags": Out(SlotFlags),
            "hit_written": Out(1),
            "hit_poison": Out(1),
            "way": In(ways),
            "slot": Out(SlotState),
            "flags": Out(SlotFlags),
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
                write_port.addr.eq(self.index),
                write_port.data.eq(self.write_slot),
                write_port.en.eq(self.write & (self.write_way == way)),
            ]
            with m.If(self.mark & (self.write_way == way)):
                m.d.sync += bits[self.index].eq(self.mark_flags)
            states.append(read_port.data)
            flags.append(bits[self.index])

        matches = Cat(flag.valid & (state.page == self.page) for flag, state in zip(flags, states))
        m.d.comb += [
            self.hit.eq(matches.any()),
            self.hit_way.eq(_select(matches, [Const(way, len(self.hit_way)) for way in range(ways)])),
            self.hit_slot.eq(_select(matches, states)),
            self.hit_flags.eq(_select(matches, flags)),
            # Beside the comparison rather than behind it.
            self.hit_written.eq(_select(matches, [state.written.bit_select(self.line, 1) for state in states])),
            self.hit_poison.eq(_select(matches, [state.poison.bit_select(self.line, 1) for state in states])),
        ]
        for way in range(ways):
            with m.If(self.way == way):
                m.d.comb += [self.slot.eq(states[way]), self.flags.eq(flags[way])]

        m.submodules.turns = turns = memory.Memory(shape=range(max(2, ways)), depth=depth, init=[])
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
            self.victim.eq((invalid | idle).any()),
            self.victim_dirty.eq(~(invalid | (idle & ~is_open)).any()),
            self.victim_way.eq(Mux(invalid.any(), invalid_way,
                                   Mux(self.victim_dirty, dirty_way, clean_way))),
            self.victim_slot.eq(Array(states)[dirty_way]),
            self.spare.eq((invalid | (idle & ~is_open & ~unused)).any()),
            self.spare_way.eq(Mux(invalid.any(), invalid_way, spare_way)),
            turn_write.addr.eq(self.index),
            turn_write.data.eq(Mux(self.write_way == ways - 1, 0, self.write_way + 1)),
            turn_write.en.eq(self.mark & self.mark_flags.busy & ~self.hit),
        ]
        return m

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
