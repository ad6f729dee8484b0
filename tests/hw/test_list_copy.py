"""The copy of the slot of the list that has its turn, against a plain one."""

import random

from streams import SEED, simulate

from speckv_hw.cache.list_copy import ListCopy
from speckv_hw.types import PageState

FIELDS = ("page", "state", "base", "count", "written", "poison")


def some_slot(rng):
    written = rng.getrandbits(64) & rng.getrandbits(64)
    return {"page": rng.getrandbits(16), "state": PageState.OPEN, "base": rng.getrandbits(1),
            "count": written.bit_count(), "written": written, "poison": rng.getrandbits(64)}


def test_random_turns():
    """Lists begin with what was copied ahead, or copy in their first clock or later, write, and end."""
    dut = ListCopy()
    rng = random.Random(f"list copy {SEED}")
    seen = dict.fromkeys(("ahead", "at_once", "began", "current", "fetched", "wrote", "healed"), 0)

    async def play(ctx):
        slot, following = None, None
        """The copies that there should be."""
        turn, began, line = False, False, 0
        for _ in range(4000):
            assert ctx.get(dut.valid) == (slot is not None) and ctx.get(dut.has_next) == (following is not None)
            assert ctx.get(dut.began) == began
            if slot:
                assert {name: ctx.get(getattr(dut.slot, name)) for name in FIELDS} == slot
                assert ctx.get(dut.written) == slot["written"] >> line & 1
            answer, fetched_slot = some_slot(rng), some_slot(rng)
            is_next = (began or following is None) and rng.random() < 0.3 and not (began and slot)
            is_current = bool(turn and not slot and not is_next and rng.random() < 0.4)
            fetched = bool(turn and not slot and not is_current and not is_next and rng.random() < 0.2)
            wrote = bool(slot and not is_next and rng.random() < 0.5)
            whole, loads, loaded = rng.random() < 0.5, bool(turn and rng.random() < 0.7), rng.randrange(64)
            ends = bool(turn and rng.random() < 0.1)
            starts = (ends or not turn) and rng.random() < 0.5
            loads = loads or starts
            for name, value in {"answer": answer, "is_next": is_next, "is_current": is_current, "fetched": fetched,
                                "fetched_slot": fetched_slot, "wrote": wrote, "whole": whole, "loads": loads,
                                "loaded": loaded, "ends": ends, "starts": starts, "line": line}.items():
                ctx.set(getattr(dut, name), value)
            await ctx.tick()

            if wrote:
                bit = 1 << line
                seen["healed"] += bool(whole and slot["poison"] & bit)
                slot = slot | {"written": slot["written"] | bit, "count": (slot["written"] | bit).bit_count(),
                               "poison": slot["poison"] & ~bit if whole else slot["poison"]}
            if fetched:
                slot = fetched_slot
            if is_current or (is_next and began):
                slot = answer
            if starts:
                slot = answer if is_next and not began else following
                seen["at_once"] += is_next and not began
                seen["ahead"] += following is not None
                following = None
            else:
                if is_next and not began:
                    following = answer
                slot = None if ends else slot
            for name, happened in (("began", is_next and began), ("current", is_current), ("fetched", fetched),
                                   ("wrote", wrote)):
                seen[name] += bool(happened)
            turn, began, line = starts or (turn and not ends), starts, loaded if loads else line

    simulate(dut, play, clocks=5000)
    assert all(seen.values()), seen
