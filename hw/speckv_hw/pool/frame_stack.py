"""Runs of sectors for OPEN pages that came back and are kept whole."""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.pool.run_finder import MAP_BITS
from speckv_model.constants import OPEN_SECTORS

__all__ = ["FrameStack"]


class FrameStack(wiring.Component):
    """Keeps the first sectors of a few runs of 33 sectors; the last one in comes out first.

    A frame goes in (`push`, while not `full`) or out (`pop`, while not `empty`) in one clock; not both in the same one.
    Empty on reset.

    Parameters
    ----------
    sector_width : int
    depth : int
        Frames that it holds.

    Members
    -------
    push, pop : In
    sector : In
        Of the frame that goes in; with `sectors`, the run that `overlaps` is about.
    sectors : In(6)
    top : Out
        The frame that comes out next.
    empty, full : Out
    overlaps : Out
        One of the frames here has a sector of the run. Runs that cross a superblock are not asked about.
    """

    def __init__(self, sector_width, depth):
        self._depth = depth
        super().__init__({
            "push": In(1),
            "pop": In(1),
            "sector": In(sector_width),
            "sectors": In(OPEN_SECTORS.bit_length()),
            "top": Out(sector_width),
            "empty": Out(1),
            "full": Out(1),
            "overlaps": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        frames = [Signal.like(self.sector, name=f"frame{n}") for n in range(self._depth)]
        count = Signal(range(self._depth + 1))
        m.d.comb += [
            self.top.eq(Array(frames)[count - 1]),
            self.empty.eq(count == 0),
            self.full.eq(count == self._depth),
        ]
        with m.If(self.push):
            m.d.sync += [Array(frames)[count].eq(self.sector), count.eq(count + 1)]
        with m.If(self.pop):
            m.d.sync += count.eq(count - 1)

        bits = MAP_BITS.bit_length() - 1

        def meets(frame):
            own, other = self.sector[:bits], frame[:bits]
            return ((self.sector[bits:] == frame[bits:])
                    & (own < other + OPEN_SECTORS) & (other < own + self.sectors))

        m.d.comb += self.overlaps.eq(Cat((n < count) & meets(frame) for n, frame in enumerate(frames)).any())
        return m
