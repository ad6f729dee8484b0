"""Golden model of the pool allocator: the same placements for the same order of operations."""

from ..constants import OPEN_SECTORS

__all__ = ["PoolAllocator"]

SUPERBLOCK_SECTORS = 64
FULL = (1 << SUPERBLOCK_SECTORS) - 1


def longest_run(free):
    """Length of the longest run of ones in the integer `free`."""
    length = 0
    starts = free
    while starts:
        length += 1
        starts &= free >> length
    return length


def first_run(free, sectors):
    """Position of the first run of at least `sectors` ones in the integer `free`, or -1 if there is none."""
    starts, length = free, 1
    while length < sectors:
        step = min(length, sectors - length)
        starts &= starts >> step
        length += step
    return (starts & -starts).bit_length() - 1


def run_sectors(free, sectors):
    """How many ones of the integer `free` lie in runs of at least `sectors`."""
    starts, length = free, 1
    while length < sectors:
        step = min(length, sectors - length)
        starts &= starts >> step
        length += step
    covered, length = starts, 1
    while length < sectors:
        step = min(length, sectors - length)
        covered |= covered << step
        length += step
    return covered.bit_count()


class PoolAllocator:
    """Hands out and takes back runs of contiguous sectors of the pool.

    Superblocks of 64 sectors are listed by their longest free run; a request goes to the superblock added
    last to the first list that fits, at the first run that fits; only when no list has one, to a superblock
    never used before.

    Parameters
    ----------
    config : DeviceConfig
    """

    def __init__(self, config):
        self._superblocks = config.pool_sectors // SUPERBLOCK_SECTORS
        self._free_maps = []
        """Of every superblock used so far, an integer whose bit i says that sector i is free."""
        self._bins = [{} for _ in range(SUPERBLOCK_SECTORS + 1)]
        """Superblocks by their longest free run, in the order in which they came; values are not used."""
        self._longest = []
        self.free_sectors = config.pool_sectors

    def allocate(self, sectors):
        """Takes `sectors` contiguous sectors. Returns the first one's number, or None if there is no room.

        Raises `ValueError` if `sectors` is not from 1 to 33.
        """
        if not 1 <= sectors <= OPEN_SECTORS:
            raise ValueError(f"sectors must be from 1 to {OPEN_SECTORS}, not {sectors!r}")
        for bin in self._bins[sectors:]:
            if bin:
                superblock = next(reversed(bin))
                break
        else:
            if len(self._free_maps) == self._superblocks:
                return None
            superblock = len(self._free_maps)
            self._free_maps.append(FULL)
            self._longest.append(0)
        free = self._free_maps[superblock]
        position = first_run(free, sectors)
        self._store(superblock, free & ~(((1 << sectors) - 1) << position))
        self.free_sectors -= sectors
        return superblock * SUPERBLOCK_SECTORS + position

    def free(self, sector, sectors):
        """Gives back `sectors` sectors from `sector` on.

        Returns whether it did: it changes nothing unless all of them lie in one superblock and are allocated.
        """
        superblock, position = divmod(sector, SUPERBLOCK_SECTORS)
        if (sectors < 1 or position + sectors > SUPERBLOCK_SECTORS
                or not 0 <= superblock < len(self._free_maps)):
            return False
        free = self._free_maps[superblock]
        mask = ((1 << sectors) - 1) << position
        if free & mask:
            return False
        self._store(superblock, free | mask)
        self.free_sectors += sectors
        return True

    def _store(self, superblock, free):
        """Notes that `free` is the superblock's map now, and lists it where it belongs."""
        self._free_maps[superblock] = free
        longest, before = longest_run(free), self._longest[superblock]
        if longest == before:
            return
        if before:
            del self._bins[before][superblock]
        if longest:
            self._bins[longest][superblock] = None
        self._longest[superblock] = longest

    def unusable_sectors(self, sectors=OPEN_SECTORS):
        """Free sectors that no request for `sectors` contiguous ones can get: what fragmentation costs."""
        never_used = (self._superblocks - len(self._free_maps)) * SUPERBLOCK_SECTORS
        return self.free_sectors - never_used - sum(run_sectors(free, sectors) for free in self._free_maps)

    def loss(self, sectors=OPEN_SECTORS):
        """`unusable_sectors` as a fraction of the pool, 0 to 1."""
        return self.unusable_sectors(sectors) / (self._superblocks * SUPERBLOCK_SECTORS)
