"""The slot table against a plain Python one, over random states; the sets of pages."""

import random

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
        self.slots = [[{"page": None, "state": PageState.EMPTY, "valid": 0, "busy": 0, "prefetched": 0}
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
    seen = set()

    def check(ctx, index, page, way):
        hit = expected.find(index, page)
        assert ctx.get(dut.hit) == (hit is not None)
        for which, found, flags in ((hit, dut.hit_slot, dut.hit_flags), (way, dut.slot, dut.flags)):
            if which is not None:
                slot = expected.slots[index][which]
                bits = ctx.get(flags)
                assert (bits.valid, bits.busy, bits.prefetched) == (slot["valid"], slot["busy"], slot["prefetched"])
                if slot["valid"]:
                    state = ctx.get(found)
                    assert (state.page, state.state.value, state.count) == (slot["page"], slot["state"], slot["count"])
        if hit is not None:
            assert ctx.get(dut.hit_way) == hit
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

    async def play(ctx):
        for _ in range(800):
            index, page, way = rng.randrange(sets), rng.choice(PAGES), rng.randrange(ways)
            ctx.set(dut.index, index)
            ctx.set(dut.page, page)
            ctx.set(dut.way, way)
            check(ctx, index, page, way)
            hit = expected.find(index, page)
            take = hit is None and rng.random() < 0.5
            victim = expected.victim(index)[0]
            target = victim if take and victim is not None else way
            slot = expected.slots[index][target]
            change = {}
            if take and victim is not None:
                change = {"page": page, "valid": 1, "busy": 1, "prefetched": rng.getrandbits(1),
                          "state": rng.choice(list(PageState)), "count": rng.randrange(65)}
                expected.turns[index] = (target + 1) % ways
            elif slot["valid"]:
                if rng.random() < 0.6:
                    change |= {"state": rng.choice([PageState.OPEN, *PageState]), "count": rng.randrange(65)}
                if rng.random() < 0.6:
                    # A page that is looked for and not there makes the mark of a busy slot a new turn.
                    change |= {"valid": rng.random() < 0.85, "prefetched": rng.getrandbits(1),
                               "busy": 0 if hit is None else rng.getrandbits(1)}
            slot |= change
            ctx.set(dut.write_way, target)
            ctx.set(dut.write, "state" in change)
            ctx.set(dut.write_slot, SlotState.const({
                "page": slot["page"] or 0, "state": slot["state"], "count": slot.get("count", 0)}))
            ctx.set(dut.mark, "valid" in change)
            ctx.set(dut.mark_flags, SlotFlags.const({name: slot[name] for name in ("valid", "busy", "prefetched")}))
            await ctx.tick()
            ctx.set(dut.write, 0)
            ctx.set(dut.mark, 0)

    simulate(dut, play)
    no_victim, dirty = {state[0] for state in seen}, {state[1] for state in seen}
    no_spare, full = {state[2] for state in seen}, {state[3] for state in seen}
    assert no_victim == dirty == no_spare == full == {False, True}


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
