"""The blocks that are synthesised each on their own, and the whole device."""

import importlib

__all__ = ["BLOCKS", "component_of"]

BLOCKS = {
    "endpoint": "cxl.endpoint:Endpoint",
    "csr": "csr.csr:Csr",
    "command_engine": "csr.command_engine:CommandEngine",
    "page_cache": "cache.page_cache:PageCache",
    "prefetcher": "prefetch.prefetcher:Prefetcher",
    "fetcher": "mover.fetcher:Fetcher",
    "opener": "mover.opener:Opener",
    "sealer": "mover.sealer:Sealer",
    "encoder": "codec.encoder:Encoder",
    "decoder": "codec.decoder:Decoder",
    "context_table": "table.context_table:ContextTable",
    "page_table": "table.page_table:PageTable",
    "pool_allocator": "pool.pool_allocator:PoolAllocator",
    "memory_port": "mem.memory_port:MemoryPort",
    "device": "top:Device",
}
"""Where the component of each block is: module below `speckv_hw`, and class. Each takes a `DeviceConfig`."""


def component_of(block, config):
    """The component of `block` for `config`. Raises `ValueError` for a name that `BLOCKS` does not have."""
    if block not in BLOCKS:
        raise ValueError(f"block must be one of {', '.join(BLOCKS)}, not {block!r}")
    module, _, name = BLOCKS[block].partition(":")
    return getattr(importlib.import_module(f"speckv_hw.{module}"), name)(config)
