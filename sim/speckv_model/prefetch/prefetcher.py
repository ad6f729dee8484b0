"""Golden model of the prefetcher: turns hints into fetches."""


class Prefetcher:
    """Proposes pages to the page cache: those that the host hints at with MemSpecRd or names in a PREFETCH
    command.

    What it does never changes what a read returns. Proposals that come to nothing are counted.

    Parameters
    ----------
    cache : PageCache
    csr : CsrModel
        ``prefetch_enable`` switches the host's hints off.
    """

    def __init__(self, cache, csr):
        self._cache = cache
        self._csr = csr

    def hint(self, page, stream):
        """The host expects to read window `page` soon."""
        if self._csr.prefetch_enable:
            self.command(page, stream)
        else:
            self._csr.counters.add("PREFETCHES_DROPPED")

    def command(self, page, stream):
        """A command names window `page`."""
        if not self._cache.prefetch(page, stream):
            self._csr.counters.add("PREFETCHES_DROPPED")
