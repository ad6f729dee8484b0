"""What a device has counted, and how full it is."""

from dataclasses import dataclass, field

from speckv_model.constants import LINE_BYTES, SECTOR_BYTES, ErrorKind
from speckv_model.csr.registers import COUNTER_BITS, COUNTERS, REGISTERS


@dataclass(frozen=True)
class ErrorRecord:
    """An error that the device recorded: `address` is a window offset, what `detail` is depends on `kind`."""
    kind: ErrorKind
    address: int
    detail: int

    def __str__(self):
        return f"{ErrorKind(self.kind).name} at {self.address:#x} (detail {self.detail:#x})"


@dataclass(frozen=True)
class Stats:
    """A snapshot of a device; the difference of two counts what happened between them.

    Parameters
    ----------
    counters : dict of str to int
        Counters by name, as in the register map.
    pool_sectors, pool_free_sectors : int
        Size of the pool and what is left of it, 128-byte sectors.
    held_bytes : int
        Bytes of K and V that this driver's contexts hold.
    error_count : int
        Errors since the last clear.
    first_error, last_error : ErrorRecord or None
        The first and the last of them.
    """

    counters: dict[str, int]
    pool_sectors: int
    pool_free_sectors: int
    held_bytes: int = 0
    error_count: int = 0
    first_error: ErrorRecord | None = None
    last_error: ErrorRecord | None = field(default=None)

    def __getitem__(self, name):
        """A counter by name."""
        return self.counters[name]

    def __sub__(self, earlier):
        """This snapshot with the counters' growth since `earlier`."""
        grown = {
            name: (value - earlier.counters[name]) % (1 << COUNTER_BITS)
            for name, value in self.counters.items()
        }
        return Stats(grown, self.pool_sectors, self.pool_free_sectors, self.held_bytes,
                     self.error_count - earlier.error_count, self.first_error, self.last_error)

    @property
    def lines_read(self):
        return self["REQ_READS"]

    @property
    def lines_written(self):
        return self["REQ_WRITES"] + self["REQ_PARTIAL_WRITES"]

    @property
    def hit_rate(self):
        """Share of line accesses that found their page on chip; None where there were none."""
        accesses = self["CACHE_HITS"] + self["CACHE_MISSES"]
        return self["CACHE_HITS"] / accesses if accesses else None

    @property
    def pool_used_bytes(self):
        """Bytes of the pool that hold pages, with all that rounding to sectors loses."""
        return (self.pool_sectors - self.pool_free_sectors) * SECTOR_BYTES

    @property
    def ratio(self):
        """Bytes of K and V held for each byte of the pool that is taken; None where nothing is."""
        return self.held_bytes / self.pool_used_bytes if self.pool_used_bytes else None

    @property
    def sealed_bytes(self):
        """Bytes that sealing took in and left: (page side, stored side)."""
        return self["SEAL_LINES_IN"] * LINE_BYTES, self["SEAL_LINES_OUT"] * LINE_BYTES

    @property
    def fetched_bytes(self):
        """Bytes that fetching brought on chip and read for it: (page side, stored side)."""
        return self["FETCH_LINES_OUT"] * LINE_BYTES, self["FETCH_LINES_IN"] * LINE_BYTES


def read_stats(link, held_bytes=0):
    """The `Stats` of the device behind `link`."""
    def value(register):
        return next(iter(register.unpack(link.mmio_read(register.offset)).values()))

    return Stats({register.name: value(register) for register in COUNTERS},
                 value(REGISTERS.POOL_SECTORS), value(REGISTERS.POOL_FREE_SECTORS), held_bytes,
                 value(REGISTERS.ERROR_COUNT),
                 read_error(link, REGISTERS.ERROR_FIRST, REGISTERS.ERROR_FIRST_ADDRESS),
                 read_error(link, REGISTERS.ERROR_LAST, REGISTERS.ERROR_LAST_ADDRESS))


def read_error(link, record=REGISTERS.ERROR_FIRST, address=REGISTERS.ERROR_FIRST_ADDRESS):
    """An `ErrorRecord` of the device behind `link`, the first one by default; None where there is none."""
    found = record.unpack(link.mmio_read(record.offset))
    if not found["valid"]:
        return None
    return ErrorRecord(
        found["kind"], address.unpack(link.mmio_read(address.offset))["address"], found["detail"]
    )
