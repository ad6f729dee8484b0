"""The superblocks in which each group of contexts looks for room first."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.pool.run_finder import LENGTH_WIDTH
from speckv_model.pool.pool_allocator import REMEMBERED, WHOLE

__all__ = ["OwnSuperblocks"]


class OwnSuperblocks(wiring.Component):
    """Remembers two superblocks of each group, with their longest free runs; the better of two for a wanted length.

    `found` and `superblock` are about the `group` of two clocks before. So is `store`, which notes that a superblock of
    that group, `changed`, has a longest run of `run` now, or that nothing is taken in it any more (34); then it is
    forgotten. One that is not there takes the place of the one with the shorter run, unless its own is shorter
    still. A store shows for groups from the next clock on. Nothing is remembered after reset.

    Parameters
    ----------
    superblock_width : int
    groups : int
        A power of two, at least 2.

    Members
    -------
    group : In
    wanted : In(6)
        Length of the run, at least 1.
    found : Out(1)
    superblock : Out
        The one with the shortest run of at least `wanted`, the first of equals.
    store : In(1)
    changed : In
    run : In(6)
    """

    def __init__(self, superblock_width, groups):
        self._groups = groups
        self._slot = data.StructLayout({"run": LENGTH_WIDTH, "valid": 1, "superblock": superblock_width})
        super().__init__({
            "group": In(range(groups)),
            "wanted": In(LENGTH_WIDTH),
            "found": Out(1),
            "superblock": Out(superblock_width),
            "store": In(1),
            "changed": In(superblock_width),
            "run": In(LENGTH_WIDTH),
        })

    def elaborate(self, platform):
        m = Module()
        record = data.ArrayLayout(self._slot, REMEMBERED)
        m.submodules.records = records = memory.Memory(shape=record, depth=self._groups, init=[])
        read, write = records.read_port(), records.write_port()
        known = Signal(self._groups)
        """Groups whose records were written since reset."""
        group, asked = Signal.like(self.group), Signal.like(self.group)
        before, slots = Signal(record), Signal(record)
        m.d.sync += [asked.eq(self.group), group.eq(asked), before.eq(0)]
        with m.If(known.bit_select(asked, 1)):
            m.d.sync += before.eq(read.data)
        first, second = before
        fits = [slot.valid & (slot.run >= self.wanted) for slot in (first, second)]
        m.d.comb += [
            read.addr.eq(self.group),
            self.found.eq(Cat(fits).any()),
            self.superblock.eq(Mux(fits[1] & (~fits[0] | (second.run < first.run)),
                                   second.superblock, first.superblock)),
            write.addr.eq(group),
            write.data.eq(slots),
            write.en.eq(self.store),
            slots.eq(before),
        ]
        with m.If(self.store):
            m.d.sync += known.bit_select(group, 1).eq(1)
        self._change(m, before, slots)
        return m

    def _change(self, m, before, slots):
        there = [slot.valid & (slot.superblock == self.changed) for slot in before]
        # Run and validity as one number: nothing there is less than no run. What is not valid is all zeros.
        rank = [Cat(slot.run, slot.valid) for slot in before]
        second_is_worse = rank[1] < rank[0]
        better = Cat(self.run, 1) >= Mux(second_is_worse, rank[1], rank[0])
        for n, slot in enumerate(slots):
            replaced = ~Cat(there).any() & better & (second_is_worse == n)
            with m.If(self.run == WHOLE):
                with m.If(there[n]):
                    m.d.comb += slot.eq(0)
            with m.Elif(there[n] | replaced):
                m.d.comb += [slot.run.eq(self.run), slot.valid.eq(1), slot.superblock.eq(self.changed)]
