"""Search for runs of free sectors in a superblock."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.pool.first_one import first_one
from speckv_model.constants import OPEN_SECTORS

__all__ = ["RunQuery", "RunAnswer", "RunFinder", "MAP_BITS"]

MAP_BITS = 256
"""Sectors of a superblock."""
LENGTH_WIDTH = OPEN_SECTORS.bit_length()


class RunQuery(data.Struct):
    free: MAP_BITS
    """The map: bit i is sector i of the superblock."""
    longest: 1
    """Find the longest run; otherwise the first run of at least `wanted` sectors, which must exist."""
    wanted: LENGTH_WIDTH


class RunAnswer(data.Struct):
    length: LENGTH_WIDTH
    """`wanted`, or the longest run's length (0 if nothing is free, 33 if it is more)."""
    position: MAP_BITS.bit_length() - 1
    """First sector of the first run of `wanted`; not defined for the longest."""


class RunFinder(wiring.Component):
    """Finds the length of the longest run of ones in a map of 256, or the first run of a wanted length.

    At most `answer_clocks` clocks from query to answer, fewer for short runs; one query at a time, order kept. A query
    under way is dropped on reset.

    `starts` marks every place where a run of at least `length` starts. Each clock the length grows by three, at the
    end by one: a place stays where the next ones are marked too. The longest run has been found when none would stay.

    Members
    -------
    i : In(stream(RunQuery))
    o : Out(stream(RunAnswer))
    """

    # A run of 33 takes ten steps of three, two of one, and three clocks: to take the query, to see the end, to encode.
    answer_clocks = (OPEN_SECTORS - 1) // 3 + (OPEN_SECTORS - 1) % 3 + 3

    i: In(stream.Signature(RunQuery))
    o: Out(stream.Signature(RunAnswer))

    def elaborate(self, platform):
        m = Module()
        longest = Signal()
        starts = Signal(MAP_BITS)
        length = Signal(LENGTH_WIDTH)
        left = Signal(LENGTH_WIDTH)
        """By what the length may still grow."""
        by_three = Signal()
        """It is to grow by three, otherwise by one."""
        shorter, stay = Signal(MAP_BITS), Signal(MAP_BITS)
        grows = Signal()
        any_start, first_start = first_one(starts)
        most = Mux(self.i.p.longest, OPEN_SECTORS, self.i.p.wanted)
        step = Mux(by_three, 3, 1)
        remaining = Signal.like(left)
        m.d.comb += [
            shorter.eq(starts & (starts >> 1)),
            stay.eq(Mux(by_three, shorter & (shorter >> 2), shorter)),
            grows.eq(~longest | stay.any()),
            remaining.eq(left - step),
        ]
        with m.FSM(name="search"):
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [
                    longest.eq(self.i.p.longest),
                    starts.eq(self.i.p.free),
                    length.eq(1),
                    left.eq(most - 1),
                    # Whether three are left, from bits, since a comparison would be a chain of carries.
                    by_three.eq(most[2:].any()),
                ]
                with m.If(self.i.valid):
                    m.next = "GROW"
            with m.State("GROW"):
                with m.If(left == 0):
                    m.next = "ENCODE"
                with m.Elif(grows):
                    m.d.sync += [
                        starts.eq(stay),
                        length.eq(length + step),
                        left.eq(remaining),
                        by_three.eq(remaining[2:].any() | remaining[:2].all()),
                    ]
                with m.Elif(by_three):
                    # Less than three stay.
                    m.d.sync += [left.eq(2), by_three.eq(0)]
                with m.Else():
                    m.next = "ENCODE"
            with m.State("ENCODE"):
                m.d.sync += [
                    self.o.p.length.eq(Mux(any_start, length, 0)),
                    self.o.p.position.eq(first_start),
                    self.o.valid.eq(1),
                ]
                m.next = "ANSWER"
            with m.State("ANSWER"):
                with m.If(self.o.ready):
                    m.d.sync += self.o.valid.eq(0)
                    m.next = "IDLE"
        return m
