"""Lists of waiting requests, against plain queues."""

import random
from collections import deque

import pytest
from amaranth.lib import data
from streams import SEED, simulate

from speckv_hw.cache.wait_lists import WaitLists
from speckv_hw.config import DeviceConfig

CONFIG = DeviceConfig.small()
"""4 slots, room for 16 requests."""


@pytest.mark.parametrize("busy", [0.3, 1.0])
def test_random_lists(busy):
    """A list comes back in order, goes on where it was left, and loses nothing that joins it meanwhile."""
    dut = WaitLists(CONFIG, data.StructLayout({"number": 16}))
    rng = random.Random(f"lists {SEED} {busy}")
    slots = range(CONFIG.cache_pages)
    queues = [deque() for _ in slots]
    asleep = set(slots)
    """Slots that may be woken: their turn is over, and none waits for it."""
    refusals = deque()
    seen = {"full": 0, "left": 0, "emptied": 0, "joined": 0, "refused": 0, "followed": 0}

    async def run(ctx):
        joined, began, comes = 0, None, None
        for number in range(4000):
            slot, asked = rng.choice(slots), rng.choice(slots)
            ctx.set(dut.slot, slot)
            ctx.set(dut.asked, asked)
            ctx.set(dut.push, 0)
            pop, leave = rng.random() < busy, rng.random() < 0.1
            valid, last, of = ctx.get(dut.valid), ctx.get(dut.last), ctx.get(dut.of)
            ctx.set(dut.pop, valid and pop)
            ctx.set(dut.leave, valid and leave)
            assert ctx.get(dut.ends) == (valid and (leave or (pop and last)))
            assert ctx.get(dut.begun) >= valid
            if began:
                assert ctx.get(dut.begun) and of == began[0]
            assert comes is None or (valid and ctx.get(dut.payload.number) == comes)
            comes = ctx.get(dut.loaded.number) if ctx.get(dut.loads) else None
            began = (ctx.get(dut.next_of),) if ctx.get(dut.starts) else None
            assert not began or ctx.get(dut.next_valid)
            assert ctx.get(dut.waits) == bool(queues[asked])
            room = ctx.get(dut.room)
            assert room or sum(map(len, queues)) >= 15 or (valid and of == slot and last)
            seen["full"] += sum(map(len, queues)) == 16
            push = room and not (valid and leave) and rng.random() < 0.6
            can_follow = ctx.get(dut.can_follow)
            assert can_follow <= bool(queues[joined])
            assert can_follow or not queues[joined] or sum(map(len, queues)) >= 15 or (valid and of == joined and last)
            follow = can_follow and not push and rng.random() < 0.6
            ctx.set(dut.follow, follow)
            # A list is woken only when it has a request, and once before its turn.
            wakes = [n for n in asleep if queues[n]]
            wake = rng.choice(wakes) if wakes and rng.random() < 0.3 else None
            ctx.set(dut.wake.valid, wake is not None)
            if wake is not None:
                refused = rng.random() < 0.3
                ctx.set(dut.wake.p, {"slot": wake, "refused": refused})
                refusals.append((wake, refused))
                asleep.discard(wake)
                assert ctx.get(dut.wake.ready)
            if valid:
                queue = queues[of]
                assert ctx.get(dut.payload.number) == queue[0] and last == (len(queue) == 1)
                assert refusals[0] == (of, ctx.get(dut.refused))
                seen["refused"] += refusals[0][1]
                if pop:
                    queue.popleft()
                    refusals[0] = of, False
                if (leave or not queue) and (leave or pop):
                    refusals.popleft()
                    asleep.add(of)
                    seen["left"] += bool(queue)
                    seen["emptied"] += not queue
            if push or follow:
                joined = slot if push else joined
                ctx.set(dut.push, push)
                ctx.set(dut.pushed, {"number": number})
                seen["joined"] += bool(valid and of == joined)
                seen["followed"] += follow
                queues[joined].append(number)
            await ctx.tick()

    simulate(dut, run)
    assert min(seen.values()) > 10, seen


def test_a_request_a_clock():
    """Lists follow each other without a gap."""
    dut = WaitLists(CONFIG, data.StructLayout({"number": 16}))

    async def run(ctx):
        for number in range(12):
            ctx.set(dut.slot, number // 4)
            ctx.set(dut.pushed, {"number": number})
            ctx.set(dut.push, 1)
            await ctx.tick()
        ctx.set(dut.push, 0)
        for slot in (2, 0, 1):
            ctx.set(dut.wake.p, {"slot": slot})
            ctx.set(dut.wake.valid, 1)
            await ctx.tick()
        ctx.set(dut.wake.valid, 0)
        while not ctx.get(dut.valid):
            await ctx.tick()
        ctx.set(dut.pop, 1)
        for number in (8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7):
            assert ctx.get(dut.valid) and ctx.get(dut.payload.number) == number
            assert ctx.get(dut.last) == (number % 4 == 3) and ctx.get(dut.next_is_last) == (number % 4 == 2)
            await ctx.tick()
        assert not ctx.get(dut.valid)

    simulate(dut, run)
