"""Which list of requests has its turn while its page still comes, and what it may read of that page."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.config import DeviceConfig
from speckv_hw.types import SurePage
from speckv_model.constants import PAGE_LINES

__all__ = ["EarlyReads"]


class EarlyReads(wiring.Component):
    """Gives the list of the slot that is filled its turn before the fetcher is done, once that is sure of the page.

    Such a turn sees nothing of the slot table. Where it lasts until the fetcher is done it goes on as any other. All
    outputs but `wake`, `is_early` and `here` are registers; on reset no list has its turn early.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    sure : In(SurePage)
    waits, busy : In
        Whether requests wait for the slot of `sure`; no list can be woken in this clock.
    wake : Out
        Wakes that list.
    filled, filled_slot, filled_line : In
        A line was written into a slot.
    fetched, fetched_slot : In
        The fetcher is done with a slot.
    valid, of, line : In
        The request of the list that has its turn.
    pop, last : In
        It is served, and is the last one.
    slot, turn : Out
        The list that was woken last, and whether it has its turn, or will have it.
    served : Out
        Requests of `slot` were served, and the fetcher is not done with it.
    is_early : Out
        The list whose turn it is has it early.
    here : Out
        Of that list, and the line of its request has come.
    """

    def __init__(self, config: DeviceConfig):
        slot = range(max(2, config.cache_pages))
        super().__init__({
            "sure": In(SurePage),
            "waits": In(1),
            "busy": In(1),
            "wake": Out(1),
            "filled": In(1),
            "filled_slot": In(slot),
            "filled_line": In(range(PAGE_LINES)),
            "fetched": In(1),
            "fetched_slot": In(slot),
            "valid": In(1),
            "of": In(slot),
            "line": In(range(PAGE_LINES)),
            "pop": In(1),
            "last": In(1),
            "slot": Out(slot),
            "turn": Out(1),
            "served": Out(1),
            "is_early": Out(1),
            "here": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        filling, lines = Signal(), Signal(range(PAGE_LINES + 1))
        filling_slot = Signal.like(self.slot)
        pending = Signal()
        """The fetcher is not done with `slot`."""
        free = ~self.turn & (~pending | (self.slot == self.sure.slot))
        m.d.comb += [
            self.wake.eq(self.sure.valid & self.waits & free & ~self.busy),
            self.is_early.eq(self.valid & self.turn & (self.of == self.slot)),
            self.here.eq(self.is_early & filling & (filling_slot == self.slot) & (self.line < lines)),
        ]
        with m.If(self.pop & self.is_early):
            m.d.sync += self.served.eq(1)
            with m.If(self.last):
                m.d.sync += self.turn.eq(0)
        with m.If(self.wake):
            m.d.sync += [self.turn.eq(1), pending.eq(1), self.slot.eq(self.sure.slot)]
        with m.If(self.fetched & (self.fetched_slot == filling_slot)):
            m.d.sync += filling.eq(0)
        with m.If(self.fetched & (self.fetched_slot == self.slot)):
            m.d.sync += [self.turn.eq(0), pending.eq(0), self.served.eq(0)]
        with m.If(self.filled & self.sure.valid):
            m.d.sync += [filling.eq(1), filling_slot.eq(self.filled_slot), lines.eq(self.filled_line + 1)]
        return m
