"""The pool allocator, Verilated: a long random life in step with the model."""

from runner import run

from speckv_hw.config import DeviceConfig
from speckv_hw.pool.pool_allocator import PoolAllocator


def test_pool_allocator():
    config = DeviceConfig.small(pool_bytes=1 << 18)
    run(PoolAllocator(config), "pool_allocator", "tb_pool_allocator", parameters={"config": config.to_dict()})
