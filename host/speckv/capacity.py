"""How much K and V the device's pool holds, with all that it loses."""

from speckv_model.constants import ENTRY_BYTES, OPEN_SECTORS, PAGE_BYTES, SECTOR_BYTES
from speckv_model.pool.pool_allocator import PoolAllocator


def sectors_of(stored):
    """Sectors of the pool that `stored` bytes take; arrays too."""
    return -(-stored // SECTOR_BYTES)


def capacity_ratio(config, sectors, streams):
    """Bytes of K and V for each byte of device DRAM that holding them takes.

    Pages are placed as the device places them: the last page of each stream is OPEN and has its reservation, a page
    that is sealed gets a place of its own before that is given back. Free sectors that are in no run for another OPEN
    page count as taken, all of the pool does once it had no room for one, and so does a page table entry for each page.

    Parameters
    ----------
    config : DeviceConfig
        What it says of the pool matters.
    sectors : sequence of int
        What pages take, in the order in which they are sealed: one of each stream, then the next of each. Those for
        which the pool has no room are left out.
    streams : int
    """
    pool = PoolAllocator(config)
    opened = [pool.allocate(OPEN_SECTORS) for _ in range(min(streams, len(sectors)))]
    sealed, lost = 0, None
    for taken in map(int, sectors):
        reserved = opened[sealed % streams]
        if reserved is None:
            lost = pool.free_sectors
            break
        if pool.allocate(taken) is not None:
            pool.free(reserved, OPEN_SECTORS)
        else:
            pool.free(reserved + taken, OPEN_SECTORS - taken)
        # Then the stream's next page comes.
        opened[sealed % streams] = pool.allocate(OPEN_SECTORS)
        sealed += 1
    for reserved in opened:
        if reserved is not None:
            pool.free(reserved, OPEN_SECTORS)
    if lost is None:
        lost = pool.unusable_sectors()
    taken = config.pool_sectors - pool.free_sectors + lost
    return sealed * PAGE_BYTES / (taken * SECTOR_BYTES + sealed * ENTRY_BYTES)
