"""The one description of a device: hardware, model, driver and reports all take it."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from .constants import (
    ENTRIES_PER_LINE,
    LINE_BYTES,
    OPEN_SECTORS,
    PAGE_BITS,
    PAGE_BYTES,
    SECTOR_BYTES,
    SECTOR_LINES,
    Codec,
)

PRESETS = "default", "ecp5", "small"
"""Names of the configurations that tools offer."""


def _log2(value):
    return value.bit_length() - 1


def _require_power_of_two(name, value, low, high):
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if not low <= value <= high or value & (value - 1):
        raise ValueError(f"{name} must be a power of two from {low} to {high}, not {value!r}")


@dataclass(frozen=True)
class DeviceConfig:
    """Everything that is fixed when the device is built.

    Parameters
    ----------
    window_bits : int
        Bytes of the HDM window, log2, 28 to 40.
    pool_bytes : int
        DRAM for page data, bytes, a power of two from 2^18 to half of the window, at most 2^38.
    contexts : int
        Contexts that can exist at once, a power of two up to 4096.
    window_slots : int
        Granules of the window; a context begins and ends on a granule. A power of two, at least 4 pages each.
    lanes : int
        16-bit values that the codec handles in a clock: 8, 16 or 32.
    cache_pages, cache_ways : int
        Pages that the page cache holds and its associativity, powers of two.
    tlb_entries, tlb_ways : int
        Page table entries that the TLB holds (four share a line) and its associativity, powers of two.
    requests_in_flight : int
        CXL.mem requests of each channel that the endpoint has taken and not yet answered, a power of two.
    fetches_in_flight : int
        Pages that the fetcher has asked DRAM for and not yet delivered, a power of two.
    bursts_in_flight : int
        AXI4 bursts of each direction that wait for their end, a power of two.
    command_slots : int
        Commands that the queue in MMIO space holds, a power of two.
    descriptors : int
        Stream descriptors that the table holds, a power of two up to 4096.
    codecs : tuple of str
        Names of the codecs built in, lower case; ``raw`` is always among them.

    Raises
    ------
    TypeError, ValueError
        Where a parameter is not what is said above.
    """

    window_bits: int = 28
    pool_bytes: int = 1 << 26
    contexts: int = 4096
    window_slots: int = 4096
    lanes: int = 32
    cache_pages: int = 32
    cache_ways: int = 4
    tlb_entries: int = 512
    tlb_ways: int = 2
    requests_in_flight: int = 512
    fetches_in_flight: int = 16
    bursts_in_flight: int = 32
    command_slots: int = 16
    descriptors: int = 2048
    codecs: tuple[str, ...] = ("raw", "speckv", "lossless", "fixed", "variable")

    def __post_init__(self):
        if not isinstance(self.window_bits, int) or isinstance(self.window_bits, bool):
            raise TypeError(f"window_bits must be an int, not {self.window_bits!r}")
        if not 28 <= self.window_bits <= 40:
            raise ValueError(f"window_bits must be from 28 to 40, not {self.window_bits!r}")
        _require_power_of_two("pool_bytes", self.pool_bytes, 1 << 18, 1 << min(38, self.window_bits - 1))
        _require_power_of_two("contexts", self.contexts, 2, 4096)
        _require_power_of_two("window_slots", self.window_slots, 2,
                              min(1 << 16, self.window_pages // ENTRIES_PER_LINE))
        if self.lanes not in (8, 16, 32):
            raise ValueError(f"lanes must be 8, 16 or 32, not {self.lanes!r}")
        _require_power_of_two("cache_pages", self.cache_pages, 1, 4096)
        _require_power_of_two("cache_ways", self.cache_ways, 1, min(8, self.cache_pages))
        _require_power_of_two("tlb_entries", self.tlb_entries, 4, 1 << 16)
        _require_power_of_two("tlb_ways", self.tlb_ways, 1, min(8, self.tlb_lines))
        _require_power_of_two("requests_in_flight", self.requests_in_flight, 4, 4096)
        _require_power_of_two("fetches_in_flight", self.fetches_in_flight, 1, 64)
        _require_power_of_two("bursts_in_flight", self.bursts_in_flight, 2, 64)
        _require_power_of_two("command_slots", self.command_slots, 2, 64)
        _require_power_of_two("descriptors", self.descriptors, 1, 4096)
        known = {codec.name.lower() for codec in Codec}
        for name in self.codecs:
            if name not in known:
                raise ValueError(f"codecs must be among {', '.join(sorted(known))}, not {name!r}")
        if "raw" not in self.codecs:
            raise ValueError(f"codecs must include 'raw', not {self.codecs!r}")

    @classmethod
    def default(cls, **changes):
        """The device that reports and bars speak of, with `changes`."""
        return cls(**changes)

    @classmethod
    def small(cls, **changes):
        """A device whose every limit is soon met, for tests: four cached pages, a 1 MiB pool; with `changes`."""
        return cls(**dict(pool_bytes=1 << 20, contexts=16, window_slots=1024, cache_pages=4, cache_ways=2,
                          tlb_entries=16, tlb_ways=2, requests_in_flight=16, fetches_in_flight=4,
                          bursts_in_flight=4, command_slots=4, descriptors=64) | changes)

    @classmethod
    def ecp5(cls, **changes):
        """A device that fits an ECP5-85 with 32 MiB of DRAM, with `changes`."""
        return cls(**dict(pool_bytes=1 << 24, contexts=64, window_slots=1024, lanes=8, cache_ways=2, tlb_entries=256,
                          tlb_ways=1, requests_in_flight=64, fetches_in_flight=8, bursts_in_flight=16, descriptors=256,
                          codecs=("raw", "fixed", "variable")) | changes)

    @classmethod
    def preset(cls, name, **changes):
        """The one of `PRESETS` that `name` says, with `changes`. Raises `ValueError` for another name."""
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {name!r}")
        return getattr(cls, name)(**changes)

    def to_dict(self):
        return dataclasses.asdict(self) | {"codecs": list(self.codecs)}

    @classmethod
    def from_dict(cls, values):
        return cls(**dict(values) | {"codecs": tuple(values["codecs"])})

    def digest(self):
        """Twelve hexadecimal digits that differ between configurations."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]

    # Window
    @property
    def window_bytes(self):
        return 1 << self.window_bits

    @property
    def window_pages(self):
        return 1 << self.page_bits

    @property
    def page_bits(self):
        """Width of a window page number."""
        return self.window_bits - PAGE_BITS

    @property
    def slot_bits(self):
        return _log2(self.window_slots)

    @property
    def granule_pages(self):
        """Pages of one window slot: the unit in which contexts are placed."""
        return self.window_pages // self.window_slots

    @property
    def context_bits(self):
        return _log2(self.contexts)

    # Device DRAM: the page table, then the pool
    @property
    def table_lines(self):
        return self.window_pages // ENTRIES_PER_LINE

    @property
    def pool_base_line(self):
        return self.table_lines

    @property
    def pool_sectors(self):
        return self.pool_bytes // SECTOR_BYTES

    @property
    def sector_bits(self):
        return _log2(self.pool_sectors)

    @property
    def dram_bytes(self):
        return self.table_lines * LINE_BYTES + self.pool_bytes

    @property
    def dram_line_bits(self):
        """Width of a DRAM line number."""
        return (self.dram_bytes // LINE_BYTES - 1).bit_length()

    @property
    def dram_address_bits(self):
        """Width of a DRAM byte address: that of the AXI4 port."""
        return self.dram_line_bits + 6

    def sector_line(self, sector):
        """First DRAM line of pool sector `sector`."""
        return self.pool_base_line + sector * SECTOR_LINES

    # Cache and TLB
    @property
    def cache_sets(self):
        return self.cache_pages // self.cache_ways

    @property
    def tlb_lines(self):
        return self.tlb_entries // ENTRIES_PER_LINE

    @property
    def tlb_sets(self):
        return self.tlb_lines // self.tlb_ways

    def has_codec(self, codec):
        """Whether `codec` (a `Codec` or its number) is built in."""
        return any(int(codec) == Codec[name.upper()] for name in self.codecs)


assert OPEN_SECTORS * SECTOR_BYTES >= PAGE_BYTES + LINE_BYTES
