"""Lists of superblocks by their longest free run."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.pool.first_one import first_one
from speckv_model.pool.pool_allocator import WHOLE

__all__ = ["SuperblockBins", "found_layout", "move_layout"]

BIN_WIDTH = WHOLE.bit_length()
BINS = WHOLE + 1


def found_layout(superblock_width):
    """Answer to a search: the superblock and its bin; without `ok` there is none."""
    return data.StructLayout({"superblock": superblock_width, "bin": BIN_WIDTH, "ok": 1})


def move_layout(superblock_width):
    """A superblock leaves bin `source` for bin `target`, a different one. Bin 0 means: in no list."""
    return data.StructLayout({"superblock": superblock_width, "source": BIN_WIDTH, "target": BIN_WIDTH})


class SuperblockBins(wiring.Component):
    """Doubly linked lists of superblocks, bin 1 to 34, and the search for the bin that will do.

    Bins 1 to 33 are for longest free runs, bin 34 is for superblocks in which nothing is taken. A search answers the
    most recently added superblock of bin 34, or, if that is empty, of the smallest bin >= `wanted` that is not; it
    answers `search_latency` clocks after it was accepted. A move takes `move_clocks` clocks. One operation at
    a time, in order; a search goes first if both are offered. All bins are empty after reset, whatever the
    memories hold.

    Parameters
    ----------
    superblock_width : int
        Width of a superblock number.

    Members
    -------
    search : In(stream(6))
        Longest free run wanted, 1 to 33.
    found : Out(stream(found_layout))
    move : In(stream(move_layout))
    """

    search_latency = 3
    move_clocks = 4

    def __init__(self, superblock_width):
        self._width = superblock_width
        super().__init__({
            "search": In(stream.Signature(BIN_WIDTH)),
            "found": Out(stream.Signature(found_layout(superblock_width))),
            "move": In(stream.Signature(move_layout(superblock_width))),
        })

    def elaborate(self, platform):
        m = Module()
        link = data.StructLayout({"superblock": self._width, "valid": 1})
        depth = 1 << self._width
        m.submodules.heads = heads = memory.Memory(shape=self._width, depth=BINS, init=[])
        m.submodules.nexts = nexts = memory.Memory(shape=link, depth=depth, init=[])
        m.submodules.previouses = previouses = memory.Memory(shape=link, depth=depth, init=[])
        head_read, head_write = heads.read_port(), heads.write_port()
        next_read, next_write = nexts.read_port(), nexts.write_port()
        previous_read, previous_write = previouses.read_port(), previouses.write_port()

        occupied = Signal(BINS)
        """Which bins hold superblocks."""
        candidates = Signal.like(occupied)
        any_candidate, first_candidate = first_one(candidates)
        moving = Signal(self.move.payload.shape())
        head = Signal(link)

        m.d.comb += [
            next_read.addr.eq(self.move.payload.superblock),
            previous_read.addr.eq(self.move.payload.superblock),
        ]
        with m.FSM(name="operation"):
            with m.State("IDLE"):
                m.d.comb += [self.search.ready.eq(1), self.move.ready.eq(~self.search.valid)]
                m.d.sync += moving.eq(self.move.payload)
                with m.If(self.search.valid):
                    with m.If(occupied[WHOLE]):
                        m.d.sync += candidates.eq(1 << WHOLE)
                    with m.Else():
                        m.d.sync += candidates.eq(occupied & (~0 << self.search.payload)[:BINS])
                    m.next = "SELECT"
                with m.Elif(self.move.valid):
                    m.next = "UNLINK"

            with m.State("SELECT"):
                m.d.comb += head_read.addr.eq(first_candidate)
                m.d.sync += [
                    self.found.payload.bin.eq(first_candidate),
                    self.found.payload.ok.eq(any_candidate),
                ]
                m.next = "HEAD"
            with m.State("HEAD"):
                m.d.sync += [self.found.payload.superblock.eq(head_read.data), self.found.valid.eq(1)]
                m.next = "FOUND"
            with m.State("FOUND"):
                with m.If(self.found.ready):
                    m.d.sync += self.found.valid.eq(0)
                    m.next = "IDLE"

            with m.State("UNLINK"):
                following, preceding = next_read.data, previous_read.data
                with m.If(moving.source != 0):
                    with m.If(preceding.valid):
                        m.d.comb += next_write.en.eq(1)
                    with m.Else():
                        m.d.comb += head_write.en.eq(1)
                        m.d.sync += occupied.bit_select(moving.source, 1).eq(following.valid)
                    m.d.comb += previous_write.en.eq(following.valid)
                m.d.comb += [
                    next_write.addr.eq(preceding.superblock),
                    next_write.data.eq(following),
                    previous_write.addr.eq(following.superblock),
                    previous_write.data.eq(preceding),
                    head_write.addr.eq(moving.source),
                    head_write.data.eq(following.superblock),
                    head_read.addr.eq(moving.target),
                ]
                m.next = "LINK"
            with m.State("LINK"):
                with m.If(moving.target != 0):
                    m.d.comb += [next_write.en.eq(1), previous_write.en.eq(1), head_write.en.eq(1)]
                    m.d.sync += occupied.bit_select(moving.target, 1).eq(1)
                m.d.comb += [
                    next_write.addr.eq(moving.superblock),
                    next_write.data.superblock.eq(head_read.data),
                    next_write.data.valid.eq(occupied.bit_select(moving.target, 1)),
                    previous_write.addr.eq(moving.superblock),
                    previous_write.data.valid.eq(0),
                    head_write.addr.eq(moving.target),
                    head_write.data.eq(moving.superblock),
                ]
                m.d.sync += head.eq(next_write.data)
                m.next = "BACK"
            with m.State("BACK"):
                m.d.comb += [
                    previous_write.addr.eq(head.superblock),
                    previous_write.data.superblock.eq(moving.superblock),
                    previous_write.data.valid.eq(1),
                    previous_write.en.eq(head.valid & (moving.target != 0)),
                ]
                m.next = "IDLE"
        return m
