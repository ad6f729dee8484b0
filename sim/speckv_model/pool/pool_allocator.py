"""Golden model of the pool allocator: the same placements for the same order of operations."""

from ..constants import OPEN_SECTORS

__all__ = ["PoolAllocator"]

SUPERBLOCK_SECTORS = 256
FULL = (1 << SUPERBLOCK_SECTORS) - 1
FRAMES = 4
"""Runs of 33 sectors that are kept whole when they are given back."""


def longest_run(free):
    """Length of the longest run of ones in the integer `free`, 33 if that is more."""
    length = 0
    starts = free
    while starts and length < OPEN_SECTORS:
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


def _mask(position, sectors):
    return ((1 << sectors) - 1) << position


class PoolAllocator:
    """Hands out and takes back runs of contiguous sectors of the pool.

    Superblocks of 256 sectors are listed by their longest free run, 33 or more in one list; a request goes to the
    superblock added last to the first list that fits, at the first run that fits; only when no list has one, to a
    superblock never used before. The last four runs of 33 sectors (OPEN pages) that came back are kept whole, and given
    out first for that size; where another size finds no room they go back to their superblocks, the last one first.

    Parameters
    ----------
    config : DeviceConfig
    """

    def __init__(self, config):
        self._superblocks = config.pool_sectors // SUPERBLOCK_SECTORS
        self._free_maps = []
        """Of every superblock used so far, an integer whose bit i says that sector i is free."""
        self._bins = [{} for _ in range(OPEN_SECTORS + 1)]
        """Superblocks by their longest free run, in the order in which they came; values are not used."""
        self._longest = []
        self._frames = []
        """First sectors of the runs that are kept whole; taken in their superblocks' maps."""
        self.free_sectors = config.pool_sectors

    def allocate(self, sectors):
        """Takes `sectors` contiguous sectors. Returns the first one's number, or None if there is no room.

        Raises `ValueError` if `sectors` is not from 1 to 33.
        """
        if not 1 <= sectors <= OPEN_SECTORS:
            raise ValueError(f"sectors must be from 1 to {OPEN_SECTORS}, not {sectors!r}")
        if sectors == OPEN_SECTORS and self._frames:
            self.free_sectors -= sectors
            return self._frames.pop()
        superblock = self._with_room(sectors)
        if superblock is None:
            if not self._frames:
                return None
            while self._frames:
                home, position = divmod(self._frames.pop(), SUPERBLOCK_SECTORS)
                self._store(home, self._free_maps[home] | _mask(position, OPEN_SECTORS))
            superblock = self._with_room(sectors)
            if superblock is None:
                return None
        free = self._free_maps[superblock]
        position = first_run(free, sectors)
        self._store(superblock, free & ~_mask(position, sectors))
        self.free_sectors -= sectors
        return superblock * SUPERBLOCK_SECTORS + position

    def _with_room(self, sectors):
        """The superblock that a request goes to, or None."""
        for bin in self._bins[sectors:]:
            if bin:
                return next(reversed(bin))
        if len(self._free_maps) == self._superblocks:
            return None
        self._free_maps.append(FULL)
        self._longest.append(0)
        return len(self._free_maps) - 1

    def free(self, sector, sectors):
        """Gives back `sectors` sectors from `sector` on.

        Returns whether it did: it changes nothing unless all of them lie in one superblock and are allocated.
        """
        superblock, position = divmod(sector, SUPERBLOCK_SECTORS)
        if (sectors < 1 or position + sectors > SUPERBLOCK_SECTORS
                or not 0 <= superblock < len(self._free_maps)):
            return False
        free = self._free_maps[superblock]
        mask = _mask(position, sectors)
        kept = any(frame // SUPERBLOCK_SECTORS == superblock and mask & _mask(frame % SUPERBLOCK_SECTORS, OPEN_SECTORS)
                   for frame in self._frames)
        if free & mask or kept:
            return False
        if sectors == OPEN_SECTORS and len(self._frames) < FRAMES:
            self._frames.append(sector)
        else:
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
        maps = list(self._free_maps)
        for frame in self._frames:
            superblock, position = divmod(frame, SUPERBLOCK_SECTORS)
            maps[superblock] |= _mask(position, OPEN_SECTORS)
        return self.free_sectors - never_used - sum(run_sectors(free, sectors) for free in maps)

    def loss(self, sectors=OPEN_SECTORS):
        """`unusable_sectors` as a fraction of the pool, 0 to 1."""
        return self.unusable_sectors(sectors) / (self._superblocks * SUPERBLOCK_SECTORS)
