"""Payloads at the edge of the page cache."""

from amaranth.hdl import Mux
from amaranth.lib import data, enum

from speckv_hw.types import LINE_BITS, PAGE_WIDTH, NdrOpcode, PageState, StreamInfo


class CacheOp(enum.Enum, shape=3):
    READ = 0
    WRITE = 1
    SEAL = 2
    """Seal the page if it is OPEN."""
    FREE = 3
    """Forget the page and give back what it holds."""
    FLUSH = 4
    """Write the page to DRAM if it is OPEN, and forget it."""


class Source(data.Struct):
    """Where an answer goes: travels with a request and comes back with its response."""
    channel: 1
    """0: it came as Req, 1: as RwD."""
    tag: 16
    ld_id: 4
    completes: 1
    """The answer has a completion (NDR), with `completion` as its opcode."""
    completion: NdrOpcode
    time: 16
    """Clock at which the endpoint took the request."""


class CacheRequest(data.Struct):
    data: LINE_BITS
    byte_enable: 64
    op: CacheOp
    page: PAGE_WIDTH
    line: 6
    stream: StreamInfo
    poison: 1
    source: Source


class ReadResponse(data.Struct):
    data: LINE_BITS
    poison: 1
    source: Source


class WriteResponse(data.Struct):
    source: Source


class PrefetchProposal(data.Struct):
    page: PAGE_WIDTH
    stream: StreamInfo


class SlotState(data.Struct):
    """What the cache knows of the page in a slot, beside whether it is valid and busy."""
    page: PAGE_WIDTH
    stream: StreamInfo
    state: PageState
    base: 1
    """Lines that were not written since the page opened hold content too."""
    count: 7
    """How many lines `written` names."""
    written: 64
    """Lines written since the page opened; of a SEALED page, those that are here."""
    poison: 64

    def holds(self, written):
        """Whether a line holds content rather than zeros, whose bit of `written` is the argument."""
        return (self.state == PageState.SEALED) | ((self.state == PageState.OPEN) & (self.base | written))


def assign_written(target, slot, line, whole, is_written):
    """Assigns to `target` what `slot` is after a write of `line`, all bytes of it if `whole`.

    `is_written` is the bit of `written` of the line before.
    """
    bit = 1 << line
    return [
        target.eq(slot),
        target.written.eq(slot.written | bit),
        target.count.eq(slot.count + ~is_written),
        target.poison.eq(Mux(whole, slot.poison & ~bit, slot.poison)),
    ]


class CacheEvents(data.Struct):
    """Pulses for the counters."""
    hit: 1
    miss: 1
    opened: 1
    sealed: 1
    spilled: 1
    fetched: 1
    freed: 1
    prefetch_issued: 1
    prefetch_used: 1
    prefetch_dropped: 1
