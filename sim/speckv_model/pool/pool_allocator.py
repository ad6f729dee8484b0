"""Golden model of the pool allocator: the same placements for the same order of operations."""

from ..constants import OPEN_SECTORS

__all__ = ["PoolAllocator"]

SUPERBLOCK_SECTORS = 256
ALL_FREE = (1 << SUPERBLOCK_SECTORS) - 1
WHOLE = OPEN_SECTORS + 1
"""The list of superblocks in which nothing is taken."""
FRAMES = 4
"""Runs of 33 sectors that are kept whole when they are given back."""
REMEMBERED = 2
"""Superblocks of its own in which a group looks for room."""
RESERVE = 16
"""What one group has begun is closed to the others while less than this part of the pool is free."""


def groups_of(config):
    """How many groups contexts are in: number n is in group n modulo this."""
    return min(config.contexts, max(2, config.pool_sectors // SUPERBLOCK_SECTORS // 16))


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

    Contexts are in groups by the low bits of their numbers. A superblock of 256 sectors in which nothing is taken
    belongs to the group that takes it, until nothing is taken in it again: so what a context leaves is mostly whole
    superblocks. Of each group two superblocks with room are remembered, with their longest free runs. A request goes to
    the one of these with the shortest run that fits; if there is none to a superblock in which nothing is taken (the
    one emptied last, else one never used before); without any, as long as a sixteenth of the pool or more is free, to
    the one, whosever it is, that was listed last among those with the shortest run that fits, 33 and more being the
    same. Otherwise there is no room. The place is the first run that fits.

    A superblock that changes and is not among its group's two takes the place of the one with the shorter run (the
    first of equals), unless its own is shorter still.

    The last four runs of 33 sectors (OPEN pages) that came back are kept whole, and given out first for that size;
    where another size finds no room they go back to their superblocks, the last one first.

    Parameters
    ----------
    config : DeviceConfig
    """

    def __init__(self, config):
        self._superblocks = config.pool_sectors // SUPERBLOCK_SECTORS
        self._reserve = config.pool_sectors // RESERVE
        self._free_maps = []
        """Of every superblock used so far, an integer whose bit i says that sector i is free."""
        self._bins = [{} for _ in range(WHOLE + 1)]
        """Superblocks by their longest free run, the last list apart, in the order in which they came; values are not
        used."""
        self._bin = []
        """Which list each superblock is in; 0 for none."""
        self._owner = []
        """The group that each superblock belongs to."""
        self._remembered = [[None] * REMEMBERED for _ in range(groups_of(config))]
        """Of each group, superblocks."""
        self._frames = []
        """First sectors of the runs that are kept whole; taken in their superblocks' maps."""
        self.free_sectors = config.pool_sectors

    def allocate(self, sectors, context=0):
        """Takes `sectors` contiguous sectors for a page of the context of number `context`.

        Returns the first one's number, or None if there is no room. Raises `ValueError` if `sectors` is not from 1
        to 33.
        """
        if not 1 <= sectors <= OPEN_SECTORS:
            raise ValueError(f"sectors must be from 1 to {OPEN_SECTORS}, not {sectors!r}")
        if sectors == OPEN_SECTORS and self._frames:
            self.free_sectors -= sectors
            return self._frames.pop()
        group = context % len(self._remembered)
        superblock = self._with_room(sectors, group)
        if superblock is None:
            if not self._frames:
                return None
            while self._frames:
                home, position = divmod(self._frames.pop(), SUPERBLOCK_SECTORS)
                self._store(home, self._free_maps[home] | _mask(position, OPEN_SECTORS))
            superblock = self._with_room(sectors, group)
            if superblock is None:
                return None
        free = self._free_maps[superblock]
        if free == ALL_FREE:
            self._owner[superblock] = group
        position = first_run(free, sectors)
        self._store(superblock, free & ~_mask(position, sectors))
        self.free_sectors -= sectors
        return superblock * SUPERBLOCK_SECTORS + position

    def _with_room(self, sectors, group):
        """The superblock that a request goes to, or None."""
        own = [superblock for superblock in self._remembered[group] if self._run(superblock) >= sectors]
        if own:
            return min(own, key=self._run)
        if self._bins[WHOLE]:
            return next(reversed(self._bins[WHOLE]))
        if len(self._free_maps) < self._superblocks:
            self._free_maps.append(ALL_FREE)
            self._bin.append(0)
            self._owner.append(None)
            return len(self._free_maps) - 1
        if self.free_sectors < self._reserve:
            return None
        return next((next(reversed(bin)) for bin in self._bins[sectors:] if bin), None)

    def _run(self, superblock):
        return -1 if superblock is None else self._bin[superblock]

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
        """Notes that `free` is the superblock's map now, lists it where it belongs, and lets its group remember it."""
        self._free_maps[superblock] = free
        target, source = WHOLE if free == ALL_FREE else longest_run(free), self._bin[superblock]
        if target != source:
            if source:
                del self._bins[source][superblock]
            if target:
                self._bins[target][superblock] = None
            self._bin[superblock] = target
        remembered = self._remembered[self._owner[superblock]]
        if target == WHOLE:
            remembered[:] = [None if other == superblock else other for other in remembered]
        elif superblock not in remembered:
            worst = min(range(REMEMBERED), key=lambda n: self._run(remembered[n]))
            if self._run(remembered[worst]) <= target:
                remembered[worst] = superblock

    def unusable_sectors(self, sectors=OPEN_SECTORS):
        """Free sectors that are in no run of `sectors`: what fragmentation costs, whoever asks."""
        never_used = (self._superblocks - len(self._free_maps)) * SUPERBLOCK_SECTORS
        maps = list(self._free_maps)
        for frame in self._frames:
            superblock, position = divmod(frame, SUPERBLOCK_SECTORS)
            maps[superblock] |= _mask(position, OPEN_SECTORS)
        return self.free_sectors - never_used - sum(run_sectors(free, sectors) for free in maps)

    def loss(self, sectors=OPEN_SECTORS):
        """`unusable_sectors` as a fraction of the pool, 0 to 1."""
        return self.unusable_sectors(sectors) / (self._superblocks * SUPERBLOCK_SECTORS)
