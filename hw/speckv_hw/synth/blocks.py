"""The blocks that are synthesised each on their own, and the whole device."""

from dataclasses import replace

from speckv_hw.cache.page_cache import PageCache
from speckv_hw.codec.lossless_decoder import LosslessDecoder
from speckv_hw.codec.lossless_encoder import LosslessEncoder
from speckv_hw.codec.page_decoder import PageDecoder
from speckv_hw.codec.page_encoder import PageEncoder
from speckv_hw.codec.quantised_decoder import QuantisedDecoder
from speckv_hw.codec.quantised_encoder import QuantisedEncoder
from speckv_hw.codec.raw_decoder import RawDecoder
from speckv_hw.codec.raw_encoder import RawEncoder
from speckv_hw.codec.speckv_decoder import SpeckvDecoder
from speckv_hw.codec.speckv_encoder import SpeckvEncoder
from speckv_hw.csr.command_engine import CommandEngine
from speckv_hw.csr.csr import Csr
from speckv_hw.cxl.endpoint import Access, Endpoint
from speckv_hw.mem.memory_port import MemoryPort
from speckv_hw.mover.fetcher import Fetcher
from speckv_hw.mover.opener import Opener
from speckv_hw.mover.sealer import Sealer
from speckv_hw.pool.pool_allocator import PoolAllocator
from speckv_hw.prefetch.prefetcher import Prefetcher
from speckv_hw.table.context_table import ContextTable
from speckv_hw.table.descriptor_table import DescriptorTable
from speckv_hw.table.page_table import PageTable
from speckv_hw.top import TABLE_CLIENTS, Device

__all__ = ["BLOCKS"]


def _without_codecs(block):
    """A mover as it is with `raw` alone: the codecs, most of its area otherwise, are blocks of their own."""
    return lambda config: block(replace(config, codecs=("raw",)))


BLOCKS = {
    "endpoint": Endpoint,
    "context_table": lambda config: ContextTable(config, Access),
    "csr": lambda config: Csr(config, records=7),
    "command_engine": CommandEngine,
    "page_cache": PageCache,
    "prefetcher": Prefetcher,
    "fetcher": _without_codecs(Fetcher),
    "opener": Opener,
    "sealer": _without_codecs(Sealer),
    "raw_encoder": lambda config: RawEncoder(),
    "raw_decoder": lambda config: RawDecoder(),
    "speckv_encoder": lambda config: SpeckvEncoder(config.lanes),
    "speckv_decoder": lambda config: SpeckvDecoder(config.lanes),
    "lossless_encoder": lambda config: LosslessEncoder(config.lanes),
    "lossless_decoder": lambda config: LosslessDecoder(config.lanes),
    "quantised_encoder": lambda config: QuantisedEncoder(config.lanes),
    "quantised_decoder": lambda config: QuantisedDecoder(config.lanes),
    "page_encoder": PageEncoder,
    "page_decoder": PageDecoder,
    "descriptor_table": DescriptorTable,
    "page_table": lambda config: PageTable(config, TABLE_CLIENTS),
    "pool_allocator": PoolAllocator,
    "memory_port": MemoryPort,
    "device": Device,
}
"""Makes the component of each block from a `DeviceConfig`, with the parameters that it has in `Device`.

`page_encoder` and `page_decoder` hold all codecs of the configuration; in `Device` the sealer holds the former and the
fetcher the latter, here both have `raw` alone.
"""
