"""The allocator that places compressed pages in the pool."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.pool.frame_stack import FrameStack
from speckv_hw.pool.from_number import from_number
from speckv_hw.pool.own_superblocks import OwnSuperblocks
from speckv_hw.pool.run_finder import LENGTH_WIDTH, MAP_BITS, RunFinder
from speckv_hw.pool.superblock_bins import SuperblockBins
from speckv_hw.stream import transfer
from speckv_hw.types import AllocateRequest, AllocateResponse, FreeRequest
from speckv_model.constants import OPEN_SECTORS
from speckv_model.pool.pool_allocator import FRAMES, RESERVE, WHOLE, groups_of

__all__ = ["PoolAllocator"]

POSITION_BITS = MAP_BITS.bit_length() - 1


class PoolAllocator(wiring.Component):
    """Hands out and takes back runs of contiguous sectors of the pool.

    The pool is divided into superblocks of 256 sectors, each with an occupancy map in block memory. Superblocks with
    room are listed by their longest free run, those with 33 or more together, those in which nothing is taken apart.
    Contexts are in groups by the low bits of their numbers, and a superblock belongs to the group that took it when
    nothing in it was taken. A request goes to one of two remembered superblocks of its group; if neither fits, to one
    in which nothing is taken; without any, as long as a sixteenth of the pool is free, to the shortest run that fits in
    any superblock. Otherwise there is no room: what is left open keeps superblocks from becoming mixtures, which do
    not become free when a context ends. The place is the first run that fits. Neighbouring free sectors merge by
    themselves, and any part of what was allocated may be freed.

    The last four runs of 33 sectors that came back, rooms of OPEN pages, are kept whole, and given out first for that
    size; where another size finds no room they go back to their superblocks. So a page that is opened and sealed costs
    one search and not three.

    Requests of either kind are handled one at a time, each kind in order, the kinds in turn if both wait. An answer is
    offered at most `answer_clocks` clocks after its request was accepted, and the next request is accepted at most
    `busy_clocks` clocks after it, both but for `flush_clocks` more where frames go back; an answer not yet taken holds
    up allocations but not frees. Nothing is handed out twice, and a bad free changes nothing. Everything is free after
    reset.

    Parameters
    ----------
    config : DeviceConfig
        Gives the pool's size.

    Members
    -------
    allocate : In(stream(AllocateRequest))
        Contiguous sectors wanted, 1 to 33; for any other number the answer is not `ok`.
    allocated : Out(stream(AllocateResponse))
        The first sector, or not `ok`: no room.
    free : In(stream(FreeRequest))
        Sectors of one superblock, at least one, all allocated.
    bad_free : Out(1)
        High for one clock when a free was ignored because it is not what `free` asks for.
    free_sectors : Out
        Sectors that are free.
    """

    answer_clocks = 13 + RunFinder.answer_clocks
    busy_clocks = answer_clocks + RunFinder.answer_clocks - 1
    # A request for 33 sectors, which takes a clock more than the others, takes a frame instead.
    flush_clocks = FRAMES * (RunFinder.answer_clocks + 6) + SuperblockBins.search_latency + 3

    def __init__(self, config):
        self._config = config
        super().__init__({
            "allocate": In(stream.Signature(AllocateRequest)),
            "allocated": Out(stream.Signature(AllocateResponse)),
            "free": In(stream.Signature(FreeRequest)),
            "bad_free": Out(1),
            "free_sectors": Out(unsigned(config.sector_bits + 1), init=config.pool_sectors),
        })

    def elaborate(self, platform):
        m = Module()
        superblock_width = self._config.sector_bits - POSITION_BITS
        superblocks = 1 << superblock_width
        m.submodules.finder = finder = RunFinder()
        m.submodules.bins = bins = SuperblockBins(superblock_width)
        m.submodules.frames = frames = FrameStack(self._config.sector_bits, FRAMES)
        m.submodules.own = own = OwnSuperblocks(superblock_width, groups_of(self._config))
        group_width = len(own.group)
        record = data.StructLayout({"occupied": MAP_BITS, "bin": LENGTH_WIDTH, "owner": group_width})
        m.submodules.maps = maps = memory.Memory(shape=record, depth=superblocks, init=[])
        map_read, map_write = maps.read_port(), maps.write_port()

        fresh = Signal(range(superblocks + 1))
        """Superblocks from this number on were never used."""
        freeing = Signal()
        """Sectors are given back; otherwise some are taken."""
        flushing = Signal()
        """They are a frame that goes back, for an allocation that waits."""
        wanted = Signal(6)
        """What the allocation asked for."""
        group = Signal(group_width)
        """Of the context that asked."""
        owner = Signal(group_width)
        """The group that the superblock belongs to."""
        superblock = Signal(superblock_width)
        position = Signal(POSITION_BITS)
        sectors = Signal(6)
        occupied = Signal(MAP_BITS)
        source = Signal(LENGTH_WIDTH)
        """The list that the superblock is in."""
        mask = Signal(MAP_BITS)
        """The sectors to take or to give back."""
        whole = Signal()
        """Nothing in the superblock is taken."""
        target = Signal(LENGTH_WIDTH)
        """The list that it goes to."""
        m.d.comb += target.eq(Mux(whole, WHOLE, finder.o.payload.length))
        open_to_all = Signal()
        m.d.comb += open_to_all.eq(self.free_sectors >= self._config.pool_sectors // RESERVE)

        last = Signal()
        """The kind of the last request, to take turns."""
        can_allocate = self.allocate.valid & ~self.allocated.valid
        choose_free = Signal()
        m.d.comb += [
            choose_free.eq(self.free.valid & (~can_allocate | ~last)),
            finder.i.payload.free.eq(~occupied),
            finder.i.payload.wanted.eq(sectors),
            bins.search.payload.eq(wanted),
            bins.move.payload.superblock.eq(superblock),
            bins.move.payload.source.eq(source),
            bins.move.payload.target.eq(target),
            own.group.eq(owner),
            own.wanted.eq(wanted),
            own.changed.eq(superblock),
            own.run.eq(target),
            frames.sector.eq(Cat(position, superblock)),
            frames.sectors.eq(sectors),
            map_read.addr.eq(superblock),
            map_write.addr.eq(superblock),
            map_write.data.occupied.eq(occupied),
            map_write.data.bin.eq(target),
            map_write.data.owner.eq(owner),
        ]
        with m.If(self.allocated.ready):
            m.d.sync += self.allocated.valid.eq(0)

        with m.FSM(name="request"):
            with m.State("IDLE"):
                m.d.comb += [
                    self.free.ready.eq(choose_free),
                    self.allocate.ready.eq(can_allocate & ~choose_free),
                ]
                m.d.sync += [freeing.eq(choose_free), flushing.eq(0)]
                with m.If(choose_free):
                    freed = self.free.payload
                    m.d.sync += [
                        last.eq(1),
                        Cat(position, superblock).eq(freed.sector),
                        sectors.eq(freed.sectors),
                    ]
                    known = (freed.sector >> POSITION_BITS) < fresh
                    inside = freed.sector[:POSITION_BITS] + freed.sectors <= MAP_BITS
                    with m.If(known & inside & (freed.sectors != 0)):
                        m.next = "READ"
                    with m.Else():
                        m.next = "IGNORE"
                with m.Elif(can_allocate):
                    request = self.allocate.payload
                    m.d.sync += [last.eq(0), wanted.eq(request.sectors), group.eq(request.context)]
                    with m.If((request.sectors == OPEN_SECTORS) & ~frames.empty):
                        m.d.comb += frames.pop.eq(1)
                        m.d.sync += [
                            self.allocated.payload.ok.eq(1),
                            self.allocated.payload.sector.eq(frames.top),
                            self.allocated.valid.eq(1),
                            self.free_sectors.eq(self.free_sectors - OPEN_SECTORS),
                        ]
                    with m.Elif((request.sectors >= 1) & (request.sectors <= OPEN_SECTORS)):
                        m.next = "GROUP"
                    with m.Else():
                        m.next = "REFUSE"

            with m.State("GROUP"):
                m.d.comb += own.group.eq(group)
                m.d.sync += [freeing.eq(0), flushing.eq(0), sectors.eq(wanted)]
                m.next = "REMEMBERED"
            with m.State("REMEMBERED"):
                m.next = "OWN"
            with m.State("OWN"):
                m.d.sync += superblock.eq(own.superblock)
                with m.If(own.found):
                    m.next = "READ"
                with m.Else():
                    m.next = "SEARCH"
            with m.State("SEARCH"):
                m.d.comb += bins.search.valid.eq(1)
                with m.If(bins.search.ready):
                    m.next = "FOUND"
            with m.State("FOUND"):
                m.d.comb += bins.found.ready.eq(1)
                m.d.sync += superblock.eq(bins.found.payload.superblock)
                with m.If(bins.found.valid):
                    with m.If(bins.found.payload.ok & (bins.found.payload.bin == WHOLE)):
                        m.next = "READ"
                    with m.Elif(fresh != superblocks):
                        m.d.sync += [
                            superblock.eq(fresh),
                            source.eq(0),
                            occupied.eq(0),
                            owner.eq(group),
                            fresh.eq(fresh + 1),
                        ]
                        m.next = "RUN"
                    with m.Elif(bins.found.payload.ok & open_to_all):
                        m.next = "READ"
                    with m.Elif(~frames.empty):
                        m.next = "FLUSH"
                    with m.Else():
                        m.next = "REFUSE"
            with m.State("REFUSE"):
                m.d.sync += [self.allocated.payload.eq(0), self.allocated.valid.eq(1)]
                m.next = "IDLE"
            with m.State("FLUSH"):
                m.d.comb += frames.pop.eq(1)
                m.d.sync += [
                    freeing.eq(1),
                    flushing.eq(1),
                    Cat(position, superblock).eq(frames.top),
                    sectors.eq(OPEN_SECTORS),
                ]
                m.next = "READ"

            with m.State("READ"):
                m.next = "MAP"
            with m.State("MAP"):
                found = map_read.data
                m.d.sync += [
                    occupied.eq(found.occupied),
                    source.eq(found.bin),
                    owner.eq(Mux(freeing | (found.bin != WHOLE), found.owner, group)),
                ]
                with m.If(freeing):
                    m.next = "MASK"
                with m.Else():
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.comb += finder.i.valid.eq(1)
                with m.If(finder.i.ready):
                    m.next = "PLACE"
            with m.State("PLACE"):
                m.d.comb += finder.o.ready.eq(1)
                m.d.sync += position.eq(finder.o.payload.position)
                with m.If(finder.o.valid):
                    m.next = "MASK"
            with m.State("MASK"):
                m.d.sync += mask.eq(from_number(position, MAP_BITS) & ~from_number(position + sectors, MAP_BITS))
                m.next = "MARK"
            with m.State("MARK"):
                m.d.sync += occupied.eq(occupied ^ mask)
                with m.If(~flushing):
                    m.d.sync += self.free_sectors.eq(self.free_sectors + Mux(freeing, sectors, -sectors))
                with m.If(~freeing):
                    m.d.sync += [
                        self.allocated.payload.ok.eq(1),
                        self.allocated.payload.sector.eq(Cat(position, superblock)),
                        self.allocated.valid.eq(1),
                    ]
                m.next = "LONGEST"
                with m.If(freeing & ~flushing):
                    with m.If(((occupied & mask) != mask) | frames.overlaps):
                        m.d.sync += self.free_sectors.eq(self.free_sectors)
                        m.next = "IGNORE"
                    with m.Elif((sectors == OPEN_SECTORS) & ~frames.full):
                        m.d.comb += frames.push.eq(1)
                        m.next = "IDLE"
            with m.State("IGNORE"):
                m.d.comb += self.bad_free.eq(1)
                m.next = "IDLE"

            with m.State("LONGEST"):
                m.d.comb += [finder.i.valid.eq(1), finder.i.payload.longest.eq(1)]
                m.d.sync += whole.eq(~occupied.any())
                with m.If(finder.i.ready):
                    m.next = "MOVE"
            with m.State("MOVE"):
                unchanged = target == source
                m.d.comb += [
                    bins.move.valid.eq(finder.o.valid & ~unchanged),
                    finder.o.ready.eq(bins.move.ready | unchanged),
                    map_write.en.eq(transfer(finder.o)),
                    own.store.eq(transfer(finder.o)),
                ]
                with m.If(transfer(finder.o)):
                    with m.If(~flushing):
                        m.next = "IDLE"
                    with m.Elif(frames.empty):
                        m.next = "GROUP"
                    with m.Else():
                        m.next = "FLUSH"
        return m
