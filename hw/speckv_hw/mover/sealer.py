"""Brings pages from the page cache to DRAM: spilled as they are, or sealed."""

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.codec.page_encoder import PageEncoder
from speckv_hw.config import DeviceConfig
from speckv_hw.mover.line_reader import LineReader
from speckv_hw.mover.page_buffer import PAGES, PageBuffer
from speckv_hw.mover.seal_feeder import SealFeeder
from speckv_hw.mover.seal_finisher import SealFinisher, SealOutcome
from speckv_hw.mover.seal_lookup import SealLookup, SealPage
from speckv_hw.mover.seal_placer import PlacedPage, SealPlacer
from speckv_hw.mover.seal_storer import SealStorer
from speckv_hw.stream import Fifo, chain, transfer
from speckv_hw.table.descriptor import Encoding, EncodingRequest
from speckv_hw.types import (
    LINE_BITS,
    AllocateRequest,
    AllocateResponse,
    ErrorRecord,
    FreeRequest,
    SealDone,
    SealJob,
    SlotLine,
    TableRequest,
    TableResponse,
    WriteData,
    WriteDone,
    WriteRequest,
)

__all__ = ["Sealer", "SealerEvents"]

UNFINISHED = 8
"""Pages whose lines are on their way to DRAM."""


class SealerEvents(data.Struct):
    """Pulses for the counters."""
    line_in: 1
    """A line of a page that is being sealed left the page cache."""
    line_out: 1
    """A line of a sealed page went to DRAM."""


class Sealer(wiring.Component):
    """Writes pages to DRAM and their entries to the page table, in order.

    ::

        job -> lookup -> feeder -----------------------> placer -> storer -> finisher -> done
                           |  run, start                  | result   | lines
                           +-> reader -> encoder ---------+-> buffer-+

    SPILL writes a header (`SpillHeader`) and the lines up to the last that holds content into the page's reserved 33
    sectors. SEAL encodes the page into a page buffer, places it, writes it, and gives the reserved sectors back; a page
    that its codec does not shrink is stored as `raw`. The descriptor table says how a page is encoded; it is asked
    while the page's entry is looked up. Where the pool has no room for the sealed page its first sectors are those that
    it had reserved. Lines without content are stored as zeros.

    Every part works on a page of its own: while one is looked up, the next is encoded, one before it is placed, one
    written, and others wait for DRAM to have their lines and entries. So pages that an encoder makes smaller follow
    each other at 65 clocks (with 32 lanes), whatever the latency of DRAM is.

    A page with a poisoned line that is sealed becomes POISONED; so does one whose write DRAM refuses (logged as
    MEMORY_WRITE) or whose entry cannot be read (ENTRY_CORRUPT, MEMORY_READ). Where the page table loses the
    entry, the sectors of both places stay lost until the device is reset.

    Members
    -------
    job : In(stream of SealJob)
    done : Out(stream of SealDone)
    line_request, line_data : read port of the page cache
    encoding_request, encoding : to and from the descriptor table
    table_request, table_response : client of the page table, to look entries up
    update_request, update_response : client of the page table, to write them
    allocate, allocated, free : client of the pool
    write_request, write_data, write_done : client of the memory port
    error : Out(stream of ErrorRecord)
    events : Out(SealerEvents)
    """

    def __init__(self, config: DeviceConfig):
        self._config = config
        super().__init__({
            "job": In(stream.Signature(SealJob)),
            "done": Out(stream.Signature(SealDone)),
            "line_request": Out(stream.Signature(SlotLine)),
            "line_data": In(stream.Signature(LINE_BITS)),
            "encoding_request": Out(stream.Signature(EncodingRequest)),
            "encoding": In(stream.Signature(Encoding)),
            "table_request": Out(stream.Signature(TableRequest)),
            "table_response": In(stream.Signature(TableResponse)),
            "update_request": Out(stream.Signature(TableRequest)),
            "update_response": In(stream.Signature(TableResponse)),
            "allocate": Out(stream.Signature(AllocateRequest)),
            "allocated": In(stream.Signature(AllocateResponse)),
            "free": Out(stream.Signature(FreeRequest)),
            "write_request": Out(stream.Signature(WriteRequest)),
            "write_data": Out(stream.Signature(WriteData)),
            "write_done": In(stream.Signature(WriteDone)),
            "error": Out(stream.Signature(ErrorRecord)),
            "events": Out(SealerEvents),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.lookup = lookup = SealLookup()
        m.submodules.reader = reader = LineReader()
        m.submodules.feeder = feeder = SealFeeder()
        m.submodules.encoder = encoder = PageEncoder(self._config)
        m.submodules.buffer = buffer = PageBuffer()
        m.submodules.fed = fed = Fifo(SealPage, PAGES)
        m.submodules.placer = placer = SealPlacer()
        # With those in the placer and the storer as many as can wait for one that is read for the encoder.
        m.submodules.placed = placed = Fifo(PlacedPage, PAGES - 2)
        m.submodules.storer = storer = SealStorer(self._config)
        m.submodules.outcomes = outcomes = Fifo(SealOutcome, UNFINISHED)
        m.submodules.finisher = finisher = SealFinisher()

        chain(m, self.job, lookup.job)
        for name in ("encoding_request", "encoding", "table_request", "table_response"):
            self._pass(m, lookup, name)
        chain(m, lookup.page, feeder.page)
        chain(m, feeder.run, reader.run0)
        chain(m, reader.lines0, encoder.lines)
        chain(m, feeder.start, encoder.start)
        chain(m, encoder.stored, buffer.stored)
        chain(m, encoder.result, placer.result)
        chain(m, feeder.fed, fed, placer.page)
        chain(m, placer.placed, placed, storer.placed)
        for name in ("allocate", "allocated"):
            self._pass(m, placer, name)
        chain(m, storer.run, reader.run1)
        chain(m, reader.lines1, storer.lines)
        chain(m, buffer.lines, storer.stored)
        for name in ("line_request", "line_data"):
            self._pass(m, reader, name)
        for name in ("write_request", "write_data"):
            self._pass(m, storer, name)
        m.d.comb += [
            buffer.ended.eq(transfer(encoder.result)),
            buffer.first.eq(storer.first),
            buffer.last.eq(storer.last),
            buffer.read.eq(storer.read),
            buffer.left.eq(storer.left),
            feeder.ended.eq(transfer(storer.outcome)),
            self.events.line_in.eq(transfer(encoder.lines)),
            self.events.line_out.eq(storer.line_out),
        ]
        chain(m, storer.outcome, outcomes, finisher.outcome)
        chain(m, finisher.table_request, self.update_request)
        chain(m, self.update_response, finisher.table_response)
        for name in ("write_done", "free", "error", "done"):
            self._pass(m, finisher, name)
        return m

    def _pass(self, m, part, name):
        """Makes the stream `name` of `part` that of the sealer."""
        wiring.connect(m, getattr(part, name), wiring.flipped(getattr(self, name)))
