"""The slot table against a plain Python one, over random states; the sets of pages."""

import random
from collections import Counter

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from streams import SEED, simulate

from speckv_hw.cache.messages import SlotState
from speckv_hw.cache.slot_table import SlotFlags, SlotTable, set_of
from speckv_hw.config import DeviceConfig
from speckv_hw.types import PAGE_WIDTH
from speckv_model.cache import slot_table as model
from speckv_model.constants import PageState

PAGES = range(1000, 1012)


class Expectation:
    """Slots by set and way, as dictionaries, and the turns of the sets."""

    def __init__(self, sets, ways):
        self.ways = ways
        self.slots = [[{"page": None, "state": PageState.EMPTY, "valid": 0, "busy": 0, "prefetched": 0,
                        "count": 0, "written": 0, "poison": 0}
                       for _ in range(ways)] for _ in range(sets)]
        self.turns = [0] * sets

    def find(self, index, page):
        for way, slot in enumerate(self.slots[index]):
            if slot["valid"] and slot["page"] == page:
                return way
        return None

    def first(self, index, allowed):
        slots, turn = self.slots[index], self.turns[index]
        for way in [*range(turn, self.ways), *range(turn)]:
            if slots[way]["valid"] and not slots[way]["busy"] and allowed(slots[way]):
                return way
        return None

    def invalid(self, index):
        return next((way for way, slot in enumerate(self.slots[index]) if not slot["valid"]), None)

    def victim(self, index):
        """Way for a demand and whether it is dirty: (way or None, dirty)."""
        for way in (self.invalid(index), self.first(index, lambda slot: slot["state"] != PageState.OPEN)):
            if way is not None:
                return way, False
        way = self.first(index, lambda slot: True)
        return way, way is not None

    def spare(self, index):
        way = self.invalid(index)
        return way if way is not None else self.first(
            index, lambda slot: slot["state"] != PageState.OPEN and not slot["prefetched"])


@pytest.mark.parametrize("cache_pages, ways", [(1, 1), (4, 1), (4, 2), (8, 4), (8, 8)])
def test_random_states(cache_pages, ways):
    rng = random.Random(f"{SEED} {cache_pages} {ways}")
    sets = cache_pages // ways
    dut = SlotTable(DeviceConfig.small(cache_pages=cache_pages, cache_ways=ways))
    expected = Expectation(sets, ways)
    seen, kinds, looked = set(), Counter(), None

    def look(ctx):
        """Looks for a page, that of the last look often, or at a way; returns index, page, line and way or None."""
        index, page, line = rng.randrange(sets), rng.choice(PAGES), rng.randrange(64)
        if looked and rng.random() < 0.5:
            index, page = looked[:2]
        way = rng.randrange(ways) if rng.random() < 0.3 else None
        ctx.set(dut.index, index)
        ctx.set(dut.page, page)
        ctx.set(dut.line, line)
        ctx.set(dut.by_way, way is not None)
        ctx.set(dut.way, way or 0)
        return index, page, line, way

    def check_victims(ctx, index):
        victim, dirty = expected.victim(index)
        assert ctx.get(dut.victim) == (victim is not None)
        if victim is not None:
            assert (ctx.get(dut.victim_way), ctx.get(dut.victim_dirty)) == (victim, dirty)
            if dirty:
                assert ctx.get(dut.victim_slot).page == expected.slots[index][victim]["page"]
        spare = expected.spare(index)
        assert ctx.get(dut.spare) == (spare is not None)
        if spare is not None:
            assert ctx.get(dut.spare_way) == spare
        seen.add((victim is None, dirty, spare is None, expected.invalid(index) is None))

    def check(ctx, index, page, line, way):
        hit = expected.find(index, page) if way is None else way
        assert ctx.get(dut.set) == index
        assert ctx.get(dut.hit) == (hit is not None)
        if hit is None:
            check_victims(ctx, index)
        else:
            slot = expected.slots[index][hit]
            bits = ctx.get(dut.hit_flags)
            assert (bits.valid, bits.busy, bits.prefetched) == (slot["valid"], slot["busy"], slot["prefetched"])
            assert ctx.get(dut.hit_way) == hit
            if slot["valid"]:
                state = ctx.get(dut.hit_slot)
                assert (state.page, state.state.value, state.count, state.written, state.poison) == tuple(
                    slot[name] for name in ("page", "state", "count", "written", "poison"))
                assert ctx.get(dut.hit_written) == slot["written"] >> line & 1
                assert ctx.get(dut.hit_poison) == slot["poison"] >> line & 1

    def change(index, page, line, way):
        """A change of the set that was looked at, as the cache makes them: way and what is new."""
        hit = expected.find(index, page) if way is None else way
        content = {"state": rng.choice([PageState.OPEN, *PageState]), "count": rng.randrange(65),
                   "written": rng.getrandbits(64), "poison": rng.getrandbits(64)}
        flags = {"valid": rng.random() < 0.85, "prefetched": rng.getrandbits(1), "busy": rng.getrandbits(1)}
        if hit is None:
            victim = expected.victim(index)[0]
            if victim is None or rng.random() < 0.5:
                return 0, {}
            expected.turns[index] = (victim + 1) % ways
            return victim, {"page": page} | content | flags | {"valid": 1, "busy": 1}
        slot = expected.slots[index][hit]
        if not slot["valid"] or rng.random() < 0.3:
            return hit, {}
        if rng.random() < 0.3:
            return hit, content | flags
        mask = 1 << line
        return hit, content | {name: slot[name] & ~mask | content[name] & mask for name in ("written", "poison")}

    async def play(ctx):
        nonlocal looked
        for _ in range(2000):
            # What was looked at in the last clock is answered now, and changed.
            target, new = 0, {}
            if looked:
                check(ctx, *looked)
                target, new = change(*looked)
                expected.slots[looked[0]][target] |= new
            ctx.set(dut.write_way, target)
            ctx.set(dut.write, "state" in new)
            ctx.set(dut.mark, "valid" in new)
            if new:
                slot = expected.slots[looked[0]][target]
                ctx.set(dut.write_slot, SlotState.const({
                    name: slot[name] for name in ("page", "state", "count", "written", "poison")}))
                ctx.set(dut.mark_flags, SlotFlags.const({name: slot[name] for name in ("valid", "busy", "prefetched")}))
            before, hold = looked, bool(looked) and rng.random() < 0.2
            ctx.set(dut.hold, hold)
            looked = before if hold else look(ctx)
            stale = bool(ctx.get(dut.stale))
            same_page = bool(before) and before[3] is None and looked[3] is None and before[:2] == looked[:2]
            if hold:
                assert stale == bool(new)
            else:
                same_set = bool(before) and before[0] == looked[0]
                assert stale == (same_set and bool(new) and ("valid" in new or not same_page))
            kinds[bool(new), hold, stale, same_page] += 1
            await ctx.tick()
            if stale:
                looked = None

    simulate(dut, play)
    no_victim, dirty = {state[0] for state in seen}, {state[1] for state in seen}
    no_spare, full = {state[2] for state in seen}, {state[3] for state in seen}
    assert no_victim == dirty == no_spare == full == {False, True}
    # Lines written one after the other into a page
    assert kinds[True, False, False, True] > 5


@pytest.mark.parametrize("config", [
    DeviceConfig(), DeviceConfig.small(), DeviceConfig.small(cache_pages=1, cache_ways=1),
    DeviceConfig(cache_pages=4096, cache_ways=8)], ids=lambda config: f"{config.cache_sets} sets")
def test_set_of_is_that_of_the_model(config):
    rng = random.Random(f"sets {SEED}")
    m = Module()
    page, result = Signal(PAGE_WIDTH), Signal(12)
    m.d.comb += result.eq(set_of(config, page))

    async def play(ctx):
        for _ in range(300):
            number = rng.randrange(config.window_pages)
            ctx.set(page, number)
            assert ctx.get(result) == model.set_of(config, number) < config.cache_sets

    simulator = Simulator(m)
    simulator.add_testbench(play)
    simulator.run()


def test_the_same_index_in_many_streams_spreads_over_the_sets():
    """Pages that differ in layer, head and kind only: no set gets more than twice its share."""
    config = DeviceConfig()
    for index_bits in (4, 6, 8):
        for stream_count in (64, 256):
            used = [0] * config.cache_sets
            for stream in range(stream_count):
                used[model.set_of(config, stream << index_bits | 5)] += 1
            assert max(used) <= 2 * stream_count // config.cache_sets
