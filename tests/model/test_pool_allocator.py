"""The pool allocator's model against a plain list of what is taken, and the loss that it reports."""

import os
import random

import pytest

from speckv_model.config import DeviceConfig
from speckv_model.pool.pool_allocator import PoolAllocator, first_run, longest_run, run_sectors

SEED = int(os.environ.get("SPECKV_SEED", "1"))


@pytest.mark.parametrize("density", [0.02, 0.5, 0.98])
def test_run_searches(density):
    rng = random.Random(f"runs {SEED} {density}")
    for _ in range(300):
        text = "".join("1" if rng.random() < density else "0" for _ in range(256))
        free = int(text[::-1], 2)
        assert longest_run(free) == min(33, max(map(len, text.split("0"))))
        for sectors in (1, 2, 7, 33):
            assert first_run(free, sectors) == text.find("1" * sectors)
            assert run_sectors(free, sectors) == sum(n for n in map(len, text.split("0")) if n >= sectors)


def test_life():
    """Random allocations and frees, nearly full: nothing overlaps, and a refusal is never wrong: nobody can have the
    room, or little is free and it is in superblocks of other groups."""
    rng = random.Random(f"life {SEED}")
    config = DeviceConfig.small(pool_bytes=1 << 18)
    pool = PoolAllocator(config)
    taken = bytearray(config.pool_sectors)
    held = []
    refused = closed = 0
    for step in range(20_000):
        if held and rng.random() < (0.3 if step % 4000 < 2000 else 0.55):
            sector, sectors = held.pop(rng.randrange(len(held)))
            if sectors > 1 and rng.random() < 0.2:
                keep = rng.randrange(1, sectors)
                held.append((sector, keep))
                sector, sectors = sector + keep, sectors - keep
            assert pool.free(sector, sectors)
            taken[sector:sector + sectors] = bytes(sectors)
        else:
            sectors = rng.choice([1, 4, 8, 9, 16, 17, 33, rng.randint(1, 33)])
            sector = pool.allocate(sectors, rng.randrange(8))
            if sector is None:
                fits = any(max(map(len, bytes(taken[at:at + 256]).split(b"\1"))) >= sectors
                           for at in range(0, len(taken), 256))
                assert not fits or taken.count(0) < config.pool_sectors // 16
                assert all(any(taken[at:at + 256]) for at in range(0, len(taken), 256))
                refused += not fits
                closed += fits
            else:
                assert not any(taken[sector:sector + sectors])
                taken[sector:sector + sectors] = b"\1" * sectors
                held.append((sector, sectors))
        assert pool.free_sectors == taken.count(0)
    assert refused > 100 and closed > 10
    for sector, sectors in held:
        assert pool.free(sector, sectors)
    assert pool.free_sectors == config.pool_sectors
    assert pool.unusable_sectors() == 0
    rooms = 0
    while pool.allocate(33) is not None:
        rooms += 1
    # Frames came out first, in superblocks of other groups.
    assert 0 <= config.pool_sectors // 256 * 7 - rooms <= 128 // 33


def test_rooms_of_a_new_pool():
    config = DeviceConfig.small(pool_bytes=1 << 18)
    pool = PoolAllocator(config)
    places = [pool.allocate(33) // 256 for _ in range(config.pool_sectors // 256 * 7)]
    assert {places.count(place) for place in places} == {7}
    assert pool.allocate(33) is None


def test_bad_frees_change_nothing():
    pool = PoolAllocator(DeviceConfig.small())
    sector = pool.allocate(10)
    before = pool.free_sectors
    for offset, sectors in [(0, 0), (0, 11), (5, 6), (10, 1), (256, 1), (250, 7), (1 << 30, 1)]:
        assert not pool.free(sector + offset, sectors)
    assert pool.free_sectors == before
    assert pool.free(sector, 10)
    assert not pool.free(sector, 10)


@pytest.mark.parametrize("sectors", [0, 34, -1])
def test_sizes_out_of_range(sectors):
    with pytest.raises(ValueError, match="sectors must be from 1 to 33"):
        PoolAllocator(DeviceConfig.small()).allocate(sectors)


def test_loss():
    config = DeviceConfig.small()
    pool = PoolAllocator(config)
    assert pool.loss() == 0
    for _ in range(7):
        pool.allocate(33)
    assert pool.unusable_sectors() == 25
    assert pool.unusable_sectors(25) == 0
    assert pool.loss() == 25 / config.pool_sectors
    pool.free(0, 33)
    assert pool.unusable_sectors() == 25
    assert pool.allocate(33) == 0
