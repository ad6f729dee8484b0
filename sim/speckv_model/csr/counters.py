"""Event counters and the read latency histogram."""

import numpy as np

from .registers import COUNTER_BITS, COUNTERS, LATENCY_BUCKETS


def latency_bucket(clocks):
    """Histogram bucket of latencies of `clocks` (array or int, at least 0): floor(log2), from 0 to 15."""
    clocks = np.maximum(np.asarray(clocks, np.int64), 1)
    return np.minimum(np.frexp(clocks.astype(np.float64))[1] - 1, LATENCY_BUCKETS - 1)


class Counters:
    """The counters of `registers.COUNTERS` by name; each wraps around at 2^48."""

    def __init__(self):
        self.clear()

    def clear(self):
        """Sets all counters to zero."""
        self._count = dict.fromkeys((register.name for register in COUNTERS), 0)

    def __getitem__(self, name):
        return self._count[name]

    def add(self, name, count=1):
        """Counts `count` events of the counter `name`. Raises `KeyError` if there is no such counter."""
        self._count[name] = (self._count[name] + int(count)) % (1 << COUNTER_BITS)

    def add_latencies(self, clocks):
        """Counts reads that were answered after `clocks` (array or int)."""
        counts = np.bincount(np.ravel(latency_bucket(clocks)), minlength=LATENCY_BUCKETS)
        for bucket, count in enumerate(counts):
            self.add(f"LATENCY_{bucket}", count)
