"""The whole device as a golden model: bit-exact in what every CXL.mem read returns."""

from .cache.page_cache import PageCache
from .constants import PAGE_BITS, ErrorKind, Status
from .csr.commands import PageOpKind
from .csr.csr import CsrModel
from .cxl.endpoint import Endpoint
from .mem.dram import Dram
from .mover.fetcher import Fetcher
from .mover.opener import Opener
from .mover.sealer import Sealer
from .pool.pool_allocator import PoolAllocator
from .prefetch.prefetcher import Prefetcher
from .table.context import ContextTable
from .table.descriptor import DescriptorTable
from .table.page_table import PageTable, TableFault


class _MemoryPort:
    """Device DRAM as the boxes see it: counts the lines that go each way."""

    def __init__(self, dram, counters):
        self._dram = dram
        self._counters = counters

    def read_lines(self, line, count):
        self._counters.add("DRAM_LINES_READ", count)
        return self._dram.read_lines(line, count)

    def write_lines(self, line, data, enable=None):
        self._counters.add("DRAM_LINES_WRITTEN", len(data))
        return self._dram.write_lines(line, data, enable)


class DeviceModel:
    """A device built to `config`, without a clock: every request is done when the call returns.

    What a read returns depends only on the order of the requests. Counters count what the hardware counts
    where that does not depend on timing; CLOCKS and the latency histogram stay at zero.

    Parameters
    ----------
    config : DeviceConfig

    Attributes
    ----------
    dram : Dram
        Device DRAM, to look into and to make fail.
    csr : CsrModel
        Registers, error log and counters.
    """

    def __init__(self, config):
        self._config = config
        self.dram = Dram(config)
        self.reset()

    @property
    def config(self):
        return self._config

    def reset(self):
        """Forgets everything but what DRAM holds: no contexts, an empty pool, registers as they begin."""
        config = self._config
        self.contexts = ContextTable(config)
        self.csr = csr = CsrModel(config, self.contexts, self)
        self.pool = PoolAllocator(config)
        port = _MemoryPort(self.dram, csr.counters)
        self.table = PageTable(
            config, port, lambda page: csr.errors.record(ErrorKind.MEMORY_WRITE, page << PAGE_BITS))
        self.descriptors = DescriptorTable(config, self.contexts)
        opener = Opener(self.table, self.pool, csr.errors, csr.counters)
        fetcher = Fetcher(config, opener, port, csr.errors, csr.counters)
        sealer = Sealer(config, self.descriptors, opener, self.pool, port, csr.errors, csr.counters)
        self.cache = PageCache(config, fetcher, opener, sealer, csr.errors, csr.counters)
        self.prefetcher = Prefetcher(self.cache, csr)
        self.endpoint = Endpoint(config, self.contexts, self.cache, self.prefetcher, csr)
        self._tlb_counted = (0, 0)

    # The host's side

    def submit(self, requests):
        """Serves `requests` (`REQUEST`, (n,)) in order.

        Returns what they are answered with: `RESPONSE`, (n,).
        """
        return self.endpoint.submit(requests)

    def mmio_read(self, address):
        """The 64-bit register at byte `address`, as an int."""
        self._count_lookups()
        return self.csr.mmio_read(address)

    def mmio_write(self, address, value):
        """Writes the 64-bit register at byte `address`.

        Commands are complete when the doorbell write returns.
        """
        self._count_lookups()
        self.csr.mmio_write(address, value)

    # What commands and registers need of the boxes

    def clear_table(self, page, count):
        """Makes the entries of `count` pages from `page` on EMPTY. Returns a `Status`."""
        failed = self.table.clear(page, count) != TableFault.NONE
        return Status.MEMORY_ERROR if failed else Status.OK

    def page_op(self, kind, page, context, record):
        """Does the `PageOpKind` `kind` to `page` of context number `context`. Returns a `Status`."""
        stream = record.stream_info(context)
        match kind:
            case PageOpKind.SEAL:
                self.cache.seal(page, stream)
            case PageOpKind.FLUSH:
                self.cache.flush(page)
            case PageOpKind.PREFETCH:
                self.prefetcher.command(page, stream)
            case PageOpKind.FREE:
                return Status.OK if self.cache.free(page, stream) else Status.MEMORY_ERROR
        return Status.OK

    def load_descriptors(self, first, count, encoding):
        """Makes `count` stream descriptors from number `first` on the `Encoding` given."""
        self.descriptors.load(first, count, encoding)

    def free_sectors(self):
        """Sectors of the pool that are free."""
        return self.pool.free_sectors

    def _count_lookups(self):
        """Passes on what the page table counted since it was last asked."""
        counted = self.table.hits, self.table.misses
        for name, now, before in zip(("TLB_HITS", "TLB_MISSES"), counted, self._tlb_counted):
            self.csr.counters.add(name, now - before)
        self._tlb_counted = counted
