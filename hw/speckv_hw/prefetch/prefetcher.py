"""Collects what may be fetched ahead of demand and proposes it to the page cache."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.cache.messages import PrefetchProposal
from speckv_hw.config import DeviceConfig
from speckv_hw.stream import Arbiter, Fifo, Stage, chain, transfer

__all__ = ["Prefetcher"]


class Prefetcher(wiring.Component):
    """Takes hints of the host (MemSpecRd) and of commands (PREFETCH) and proposes their pages, in order.

    Hints never wait: where their queue is full, or `enable` is low, they are dropped. Commands do wait. The page cache
    serves proposals only in clocks that requests leave.

    Parameters
    ----------
    config : DeviceConfig
        The queue of hints holds 2 x `fetches_in_flight` pages.

    Members
    -------
    enable : In
    hint : In(stream of PrefetchProposal)
        Always ready.
    command : In(stream of PrefetchProposal)
    proposal : Out(stream of PrefetchProposal)
    dropped : Out
        Pulses for each hint that was dropped.
    """

    def __init__(self, config: DeviceConfig):
        self._config = config
        super().__init__({
            "enable": In(1),
            "hint": In(stream.Signature(PrefetchProposal)),
            "command": In(stream.Signature(PrefetchProposal)),
            "proposal": Out(stream.Signature(PrefetchProposal)),
            "dropped": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.hints = hints = Fifo(PrefetchProposal, 2 * self._config.fetches_in_flight)
        m.submodules.arbiter = arbiter = Arbiter(PrefetchProposal, 2)
        m.submodules.output = output = Stage(PrefetchProposal)
        chain(m, hints, arbiter.i0)
        chain(m, self.command, arbiter.i1)
        chain(m, arbiter, output, self.proposal)
        m.d.comb += [
            hints.i.payload.eq(self.hint.payload),
            hints.i.valid.eq(self.hint.valid & self.enable),
            self.hint.ready.eq(1),
            self.dropped.eq(self.hint.valid & ~transfer(hints.i)),
        ]
        return m
