"""The device."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from speckv_hw.cache.page_cache import PageCache
from speckv_hw.cache.page_op_port import PageOpPort
from speckv_hw.config import DeviceConfig
from speckv_hw.csr.command_engine import CommandEngine
from speckv_hw.csr.csr import Csr
from speckv_hw.csr.mmio import MmioRequest, MmioResponse
from speckv_hw.cxl.endpoint import Access, Endpoint
from speckv_hw.cxl.messages import Drs, Ndr, Req, RwD
from speckv_hw.mem.axi4 import Axi4Signature
from speckv_hw.mem.memory_port import MemoryPort
from speckv_hw.mover import look_ahead
from speckv_hw.mover.fetcher import Fetcher
from speckv_hw.mover.opener import Opener
from speckv_hw.mover.sealer import Sealer
from speckv_hw.pool.pool_allocator import PoolAllocator
from speckv_hw.prefetch.prefetcher import Prefetcher
from speckv_hw.stream import Arbiter, chain
from speckv_hw.table.context_table import ContextTable
from speckv_hw.table.descriptor_table import DescriptorTable
from speckv_hw.table.entry_updater import POSTED
from speckv_hw.table.page_table import PageTable
from speckv_hw.table.share import Share
from speckv_hw.types import AllocateRequest, AllocateResponse, FreeRequest, TableOp, TableRequest, TableResponse

__all__ = ["Device"]

FETCH_READ_LINES = 512
"""Lines that DRAM can have under way for the fetcher: what 64 B a clock at some 400 clocks of latency take."""
TABLE_READ_LINES = 16
TABLE_CLIENTS = (*[TableOp.LOOKUP] * 3, TableOp.UPDATE, TableOp.CLEAR, *[TableOp.LOOKUP] * look_ahead.CLIENTS)
"""Fetcher, opener, sealer; opener and sealer, to change entries; commands; the fetcher, for lines that it is not asked
for yet."""


class Device(wiring.Component):
    """A CXL.mem Type-3 device that keeps KV pages compressed in its DRAM.

    ::

        m2s_req, m2s_rwd --> endpoint --> page cache --> fetcher, opener, sealer --> memory port --> axi
        s2m_ndr, s2m_drs <--    |             ^                  |
                          context table   prefetcher     page table, pool
        mmio <--> csr --> command engine ----^

    A read that hits is answered `read_latency` clocks after its acceptance if nothing is before it. On reset the device
    is empty: no contexts, all of the pool free, all stream descriptors RAW; it takes as many clocks as there are window
    slots, contexts or descriptors, whichever are most, until STATUS says that it is ready.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    m2s_req, m2s_rwd : In(stream)
    s2m_ndr, s2m_drs : Out(stream)
        CXL.mem messages (`speckv_hw.cxl.messages`).
    mmio_request : In(stream), mmio_response : Out(stream)
        64-bit register accesses; one response for each request, in order.
    axi : Out(Axi4Signature)
        To device DRAM, whose byte 0 is address 0.
    """

    read_latency = 12

    def __init__(self, config: DeviceConfig):
        self._config = config
        super().__init__({
            "m2s_req": In(stream.Signature(Req)),
            "m2s_rwd": In(stream.Signature(RwD)),
            "s2m_ndr": Out(stream.Signature(Ndr)),
            "s2m_drs": Out(stream.Signature(Drs)),
            "mmio_request": In(stream.Signature(MmioRequest)),
            "mmio_response": Out(stream.Signature(MmioResponse)),
            "axi": Out(Axi4Signature(config.dram_address_bits)),
        })

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.endpoint = self._endpoint = Endpoint(config)
        m.submodules.contexts = self._contexts = ContextTable(config, Access)
        m.submodules.descriptors = self._descriptors = DescriptorTable(config)
        m.submodules.cache = self._cache = PageCache(config)
        m.submodules.prefetcher = self._prefetcher = Prefetcher(config)
        m.submodules.fetcher = self._fetcher = Fetcher(config)
        m.submodules.opener = self._opener = Opener(config)
        m.submodules.sealer = self._sealer = Sealer(config)
        m.submodules.table = self._table = PageTable(config, TABLE_CLIENTS)
        m.submodules.pool = self._pool = PoolAllocator(config)
        m.submodules.memory = self._memory = MemoryPort(
            config, readers=2, writers=2, read_depth=(FETCH_READ_LINES, TABLE_READ_LINES))
        m.submodules.csr = self._csr = Csr(config, records=7)
        m.submodules.commands = self._commands = CommandEngine(config)
        m.submodules.page_ops = self._page_ops = PageOpPort()

        self._connect_host(m)
        self._connect_cache(m)
        self._connect_movers(m)
        self._connect_memory(m)
        self._connect_csr(m)
        return m

    def _connect_host(self, m):
        endpoint = self._endpoint
        chain(m, self.m2s_req, endpoint.m2s_req)
        chain(m, self.m2s_rwd, endpoint.m2s_rwd)
        chain(m, endpoint.s2m_ndr, self.s2m_ndr)
        chain(m, endpoint.s2m_drs, self.s2m_drs)
        chain(m, endpoint.lookup, self._contexts.lookup)
        chain(m, self._contexts.result, endpoint.result)
        chain(m, self.mmio_request, self._csr.mmio_request)
        chain(m, self._csr.mmio_response, self.mmio_response)

    def _connect_cache(self, m):
        cache, endpoint, page_ops = self._cache, self._endpoint, self._page_ops
        chain(m, endpoint.request, cache.request)
        chain(m, page_ops.request, endpoint.command)
        chain(m, cache.read_response, endpoint.read_response)
        chain(m, cache.write_response, endpoint.write_response)
        chain(m, cache.op_done, page_ops.op_done)
        chain(m, self._commands.page_op, page_ops.page_op)
        chain(m, page_ops.page_op_done, self._commands.page_op_done)
        chain(m, endpoint.hint, self._prefetcher.hint)
        chain(m, page_ops.prefetch, self._prefetcher.command)
        chain(m, self._prefetcher.proposal, cache.prefetch)

    def _connect_movers(self, m):
        cache, fetcher, opener, sealer = self._cache, self._fetcher, self._opener, self._sealer
        chain(m, cache.fetch_job, fetcher.job)
        chain(m, fetcher.done, cache.fetch_done)
        chain(m, fetcher.fill, cache.fill)
        m.d.comb += cache.sure.eq(fetcher.sure)
        chain(m, cache.open_job, opener.job)
        chain(m, opener.done, cache.open_done)
        chain(m, cache.seal_job, sealer.job)
        chain(m, sealer.done, cache.seal_done)
        chain(m, sealer.line_request, cache.seal_read)
        chain(m, cache.seal_data, sealer.line_data)
        chain(m, sealer.encoding_request, self._descriptors.request)
        chain(m, self._descriptors.result, sealer.encoding)

        m.submodules.updates = updates = Share(TableRequest, TableResponse, clients=2, outstanding=POSTED)
        for number, client in enumerate((opener, sealer)):
            chain(m, client.update_request, getattr(updates, f"request{number}"))
            chain(m, getattr(updates, f"response{number}"), client.update_response)
        for number, (request, response) in enumerate((
                (fetcher.table_request, fetcher.table_response),
                (opener.table_request, opener.table_response),
                (sealer.table_request, sealer.table_response),
                (updates.server_request, updates.server_response),
                (self._commands.table_request, self._commands.table_response),
                *((getattr(fetcher, f"ahead_request{n}"), getattr(fetcher, f"ahead_response{n}"))
                  for n in range(look_ahead.CLIENTS)))):
            chain(m, request, getattr(self._table, f"request{number}"))
            chain(m, getattr(self._table, f"response{number}"), response)

        pool = self._pool
        m.submodules.allocations = allocations = Share(AllocateRequest, AllocateResponse, clients=2, outstanding=2)
        m.submodules.frees = frees = Arbiter(FreeRequest, 2)
        for number, client in enumerate((opener, sealer)):
            chain(m, client.allocate, getattr(allocations, f"request{number}"))
            chain(m, getattr(allocations, f"response{number}"), client.allocated)
            chain(m, client.free, frees.inputs[number])
        chain(m, allocations.server_request, pool.allocate)
        chain(m, pool.allocated, allocations.server_response)
        chain(m, frees, pool.free)

    def _connect_memory(self, m):
        memory, table, fetcher, sealer = self._memory, self._table, self._fetcher, self._sealer
        connect(m, flipped(self.axi), memory.axi)
        chain(m, fetcher.read_request, memory.read0_request)
        chain(m, memory.read0_data, fetcher.read_data)
        chain(m, table.read_request, memory.read1_request)
        chain(m, memory.read1_data, table.read_data)
        for number, writer in enumerate((sealer, table)):
            chain(m, writer.write_request, getattr(memory, f"write{number}_request"))
            chain(m, writer.write_data, getattr(memory, f"write{number}_data"))
            chain(m, getattr(memory, f"write{number}_done"), writer.write_done)

    def _connect_csr(self, m):
        csr, commands, endpoint = self._csr, self._commands, self._endpoint
        chain(m, csr.command, commands.command)
        chain(m, commands.completion, csr.completion)
        chain(m, commands.manage, self._contexts.manage)
        chain(m, self._contexts.managed, commands.managed)
        chain(m, commands.descriptor_op, self._descriptors.op)
        sources = (endpoint, self._cache, self._fetcher, self._opener, self._sealer, self._table, commands)
        for source, record in zip(sources, csr.records, strict=True):
            chain(m, source.error, record)
        m.d.comb += [
            csr.ready.eq(self._contexts.swept & self._descriptors.swept),
            csr.pool_free_sectors.eq(self._pool.free_sectors),
            endpoint.hdm_base.eq(csr.hdm_base),
            endpoint.enable.eq(csr.hdm_committed),
            self._prefetcher.enable.eq(csr.prefetch_enable),
            self._memory.timeout.eq(csr.memory_timeout),
        ]
        self._connect_events(m)

    def _connect_events(self, m):
        host, cache, events = self._endpoint.events, self._cache.events, self._csr.events
        m.d.comb += [
            events.req_reads.eq(host.read),
            events.req_writes.eq(host.write),
            events.req_partial_writes.eq(host.partial_write),
            events.req_hints.eq(host.hint),
            events.req_invalidates.eq(host.invalidate),
            events.req_other.eq(host.other),
            events.latency.valid.eq(host.answered),
            events.latency.clocks.eq(host.latency),
            events.cache_hits.eq(cache.hit),
            events.cache_misses.eq(cache.miss),
            events.pages_opened.eq(cache.opened),
            events.pages_sealed.eq(cache.sealed),
            events.pages_spilled.eq(cache.spilled),
            events.pages_fetched.eq(cache.fetched),
            events.pages_freed.eq(cache.freed),
            events.prefetches_issued.eq(cache.prefetch_issued),
            events.prefetches_used.eq(cache.prefetch_used),
            events.prefetches_dropped.eq(cache.prefetch_dropped + self._prefetcher.dropped),
            events.tlb_hits.eq(self._table.hit),
            events.tlb_misses.eq(self._table.miss),
            events.seal_lines_in.eq(self._sealer.events.line_in),
            events.seal_lines_out.eq(self._sealer.events.line_out),
            events.fetch_lines_in.eq(self._fetcher.events.line_in),
            events.fetch_lines_out.eq(self._fetcher.events.line_out),
            events.dram_lines_read.eq(self.axi.rvalid & self.axi.rready),
            events.dram_lines_written.eq(self.axi.wvalid & self.axi.wready),
        ]
