"""A long life of a pool; see test_pool_allocator.py."""

import random
from collections import deque

import cocotb
from bench import Bench, Packing
from runner import SEED, parameters

from speckv_hw.types import AllocateRequest, AllocateResponse, FreeRequest
from speckv_model.config import DeviceConfig
from speckv_model.constants import OPEN_SECTORS
from speckv_model.pool.pool_allocator import PoolAllocator

REQUEST, ANSWER, FREE = Packing(AllocateRequest), Packing(AllocateResponse), Packing(FreeRequest)
OPERATIONS = 2500
SUPERBLOCK = 256
"""Sectors; no run goes across their boundaries."""
CLOCKS = 200
"""More than an operation takes with every stream at half of its speed."""


class PoolLife:
    """Sends random allocations and frees; the model does each when the pool accepts it.

    Frees are of whole runs and of parts, some are of what is not allocated; how much of the pool is meant to
    be taken rises and falls, so that it is full and empty several times.
    """

    def __init__(self, dut, *, idle, stall):
        self.bench = Bench(dut)
        self._rng = random.Random(f"life {SEED}")
        self.config = DeviceConfig.from_dict(parameters()["config"])
        self.model = PoolAllocator(self.config)
        self._held = []
        self._expected = deque()
        self.operations = self.refused = self.bad = self.bad_seen = 0
        self.fewest_free = self.config.pool_sectors
        self.ending = False
        self.allocate = self.bench.source("allocate", idle=idle, supply=self._size, accepted=self._allocated)
        self.free = self.bench.source("free", idle=idle, supply=self._run, accepted=self._freed)
        self.answers = self.bench.sink("allocated", stall=stall, take=self._answered)
        self.bench.add(self)

    def reset(self):
        pass

    def step(self):
        self.bad_seen += int(self.bench.dut.bad_free.value)

    def _wants_more(self):
        phase = self.operations % 1000
        return phase > 300 or self.model.free_sectors > 0.4 * self.config.pool_sectors

    def _size(self):
        if self.ending or not self._wants_more():
            return None
        sizes = [0, 1, 8, 9, 16, 17, OPEN_SECTORS, OPEN_SECTORS, self._rng.randrange(64)]
        return REQUEST.pack(sectors=self._rng.choice(sizes), context=self._rng.randrange(8))

    def _allocated(self, payload):
        self.operations += 1
        request = REQUEST.unpack(payload)
        sectors = request["sectors"]
        sector = self.model.allocate(sectors, request["context"]) if 1 <= sectors <= OPEN_SECTORS else None
        self.refused += sector is None
        self.fewest_free = min(self.fewest_free, self.model.free_sectors)
        self._expected.append((sector, sectors))

    def _answered(self, payload):
        sector, sectors = self._expected.popleft()
        answer = ANSWER.unpack(payload)
        assert answer["ok"] == (sector is not None)
        if sector is not None:
            assert answer["sector"] == sector
            self._held.append((sector, sectors))

    def _run(self):
        rng = self._rng
        # This is asked in each clock in which nothing is offered.
        if not self.ending and rng.random() < (0.99 if self._wants_more() else 0.5):
            return None
        if not self.ending and rng.random() < 0.05:
            pool, place = self.config.pool_sectors, SUPERBLOCK * rng.randrange(self.config.pool_sectors // SUPERBLOCK)
            sector, sectors = rng.choice([(place, 0), (place + 223, 34), (pool + place, 1)])
            return FREE.pack(sector=sector, sectors=sectors)
        if not self._held:
            return None
        sector, sectors = self._held.pop(rng.randrange(len(self._held)))
        if sectors > 1 and rng.random() < 0.2:
            keep = rng.randrange(1, sectors)
            self._held.append((sector, keep))
            sector, sectors = sector + keep, sectors - keep
        return FREE.pack(sector=sector, sectors=sectors)

    def _freed(self, payload):
        self.operations += 1
        self.bad += not self.model.free(**FREE.unpack(payload))

    @property
    def over(self):
        return not (self._held or self._expected or self.allocate.busy or self.free.busy)


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.8])
async def long_life(dut, idle, stall):
    life = PoolLife(dut, idle=idle, stall=stall)
    bench = life.bench
    await bench.start()
    await bench.until(lambda: life.operations >= OPERATIONS, CLOCKS * OPERATIONS)
    life.ending = True
    await bench.until(lambda: life.over, CLOCKS * life.config.pool_sectors)
    await bench.tick(CLOCKS)
    assert int(dut.free_sectors.value) == life.model.free_sectors == life.config.pool_sectors
    assert life.bad_seen == life.bad > 10
    assert life.refused > 50 and life.fewest_free < 0.1 * life.config.pool_sectors
    cocotb.log.info("%d operations in %d clocks, %d refused, %d bad, fewest free %d",
                    life.operations, bench.clock, life.refused, life.bad, life.fewest_free)
