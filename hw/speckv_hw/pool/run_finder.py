"""Search for runs of free sectors in a superblock."""

from amaranth.hdl import Cat, Module, Mux, Signal
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

    Latency `latency` clocks from query to answer, one query at a time, order kept. A query under way is
    dropped on reset.

    The length is built bit by bit from 32 down to 1: `ends` marks every place that lies `length` after the
    start of a run of at least `length`; where a run of 2^k starts at such a place too, the length can grow by
    2^k. Runs of 2^k are found by doubling.

    Members
    -------
    i : In(stream(RunQuery))
    o : Out(stream(RunAnswer))
    """

    latency = LENGTH_WIDTH + 3

    i: In(stream.Signature(RunQuery))
    o: Out(stream.Signature(RunAnswer))

    def elaborate(self, platform):
        m = Module()
        query = Signal(RunQuery)
        length = Signal(LENGTH_WIDTH)
        ends = Signal(MAP_BITS + 1)
        step = Signal(range(LENGTH_WIDTH))
        starts = Signal(MAP_BITS)
        """The one of `runs` that the step tries."""

        runs = [query.free]
        """Where runs of 1, 2, 4, ... 32 start."""
        for k in range(LENGTH_WIDTH - 1):
            doubled = Signal(MAP_BITS, name=f"runs_{2 << k}")
            m.d.comb += doubled.eq(runs[-1] & (runs[-1] >> (1 << k)))
            runs.append(doubled)

        grown = Signal(MAP_BITS)
        m.d.comb += grown.eq(ends[:MAP_BITS] & starts)
        any_end, first_end = first_one(ends)

        with m.FSM(name="search"):
            with m.State("IDLE"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [
                    query.eq(self.i.payload),
                    length.eq(0),
                    ends.eq(~0),
                    step.eq(LENGTH_WIDTH - 1),
                ]
                with m.If(self.i.valid):
                    m.next = "FIRST"
            with m.State("FIRST"):
                m.d.sync += starts.eq(runs[LENGTH_WIDTH - 1])
                m.next = "GROW"
            with m.State("GROW"):
                grow = Signal()
                m.d.comb += grow.eq(Mux(query.longest, grown.any(), query.wanted.bit_select(step, 1)))
                with m.Switch(step):
                    for k in range(LENGTH_WIDTH):
                        with m.Case(k):
                            m.d.sync += starts.eq(runs[k - 1] if k else 0)
                            with m.If(grow):
                                m.d.sync += [ends.eq(Cat(grown, 0) << (1 << k)), length[k].eq(1)]
                m.d.sync += step.eq(step - 1)
                with m.If(step == 0):
                    m.next = "ENCODE"
            with m.State("ENCODE"):
                m.d.sync += [
                    self.o.payload.length.eq(Mux(length > OPEN_SECTORS, OPEN_SECTORS, length)),
                    self.o.payload.position.eq(first_end - length),
                    self.o.valid.eq(1),
                ]
                m.next = "ANSWER"
            with m.State("ANSWER"):
                with m.If(self.o.ready):
                    m.d.sync += self.o.valid.eq(0)
                    m.next = "IDLE"
        return m
