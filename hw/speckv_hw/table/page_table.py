"""The page table: entries of window pages in device DRAM behind a TLB."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import Stage, chain
from speckv_hw.table.claims import Claims
from speckv_hw.table.entry_updater import EntryUpdater
from speckv_hw.table.kept_entries import RETRY_CLOCKS, JobDone, KeptEntries, Walk, WalkData
from speckv_hw.table.range_clearer import RangeClearer
from speckv_hw.table.share import Share
from speckv_hw.table.tlb import Tlb, TlbRequest, TlbResult
from speckv_hw.table.walker import Walker
from speckv_hw.table.writer import WRITING, EntryWriter, WriteJob
from speckv_hw.types import (
    ErrorRecord,
    ReadData,
    ReadRequest,
    TableOp,
    TableRequest,
    TableResponse,
    WriteData,
    WriteDone,
    WriteRequest,
)

__all__ = ["PageTable"]

_WORKERS = {TableOp.LOOKUP: Walker, TableOp.UPDATE: EntryUpdater, TableOp.CLEAR: RangeClearer}


class PageTable(wiring.Component):
    """Answers LOOKUP, UPDATE and CLEAR requests of `clients`, each with a walker, updater or clearer of its own.

    ::

        request/response 0 -- walker  --+-- TLB
        request/response 1 -- updater --+-- kept entries -- read port
        request/response 2 -- clearer --+-- writer -- write port
                                 |
                              claims

    Every request gets one response, in order per client. A client has one request under way, or several
    UPDATEs. They run side by side (a hit overtakes another client's walk or CLEAR), but never on the same
    table line. A client that does not take its response delays nobody else. An UPDATE is seen by whoever asks
    after its acceptance, in the TLB, or after a walk that waits until DRAM has it; when its response is
    offered DRAM holds the entry, or where DRAM refused it (logged as MEMORY_WRITE) it is kept here, and written again
    until DRAM takes it. When the response of a CLEAR is offered all entries of the range read as
    zeros, here and in DRAM.

    Latency of a LOOKUP that hits: `latency` clocks from acceptance to the response, if the other clients are
    quiet. On reset requests under way are dropped and the TLB is empty; the memory port must be reset too.

    Parameters
    ----------
    config : DeviceConfig
    clients : sequence of TableOp
        What each client asks for.
    retry_clocks : int
        Of `KeptEntries`.

    Members
    -------
    request0, request1, ... : In(stream(TableRequest))
        Of the client's `op`. Check bits in `entry` are ignored: they are computed here.
    response0, response1, ... : Out(stream(TableResponse))
        LOOKUP: the entry. UPDATE, CLEAR: zeros. `fault` other than NONE: a POISONED entry, zero elsewhere.
    read_request, read_data, write_request, write_data, write_done
        Client side of the memory port. Reads are single lines; writes stay inside 64 lines.
    error : Out(stream(ErrorRecord))
    hit, miss : Out
        Pulses: the TLB had the entry of a LOOKUP, or had not.
    """

    latency = Walker.latency

    def __init__(self, config, clients, retry_clocks=RETRY_CLOCKS):
        self._config = config
        self._clients = tuple(map(TableOp, clients))
        if not self._clients:
            raise ValueError(f"clients must be at least one operation, not {clients!r}")
        self._retry_clocks = retry_clocks
        members = {
            "read_request": Out(stream.Signature(ReadRequest)),
            "read_data": In(stream.Signature(ReadData)),
            "write_request": Out(stream.Signature(WriteRequest)),
            "write_data": Out(stream.Signature(WriteData)),
            "write_done": In(stream.Signature(WriteDone)),
            "error": Out(stream.Signature(ErrorRecord)),
            "hit": Out(1),
            "miss": Out(1),
        }
        for n in range(len(self._clients)):
            members[f"request{n}"] = In(stream.Signature(TableRequest))
            members[f"response{n}"] = Out(stream.Signature(TableResponse))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.tlb = tlb = Tlb(self._config)
        m.submodules.writer = writer = EntryWriter()
        m.submodules.kept = kept = KeptEntries(retry_clocks=self._retry_clocks)
        workers = [_WORKERS[op](self._config) for op in self._clients]
        walkers = [n for n, op in enumerate(self._clients) if op == TableOp.LOOKUP]
        writers = [n for n, op in enumerate(self._clients) if op != TableOp.LOOKUP]
        m.submodules.claims = claims = Claims(len(workers) + 1)
        m.submodules.lookups = lookups = Share(TlbRequest, TlbResult, len(workers), outstanding=1)
        m.submodules.walks = walks = Share(Walk, WalkData, max(len(walkers), 1), outstanding=max(len(walkers), 1))
        # Who walks, and whether that line is being written, are looked at in a clock each.
        m.submodules.walking = walking = Stage(Walk)
        m.submodules.writes = writes = Share(WriteJob, JobDone, len(writers) + 1, outstanding=WRITING)

        chain(m, lookups.server_request, tlb.request)
        chain(m, tlb.result, lookups.server_response)
        # All walkers show the line that came last, so that there is nothing to choose.
        m.d.comb += tlb.request.payload.line.eq(kept.walked.payload.data)
        chain(m, walks.server_request, walking)
        m.d.comb += [
            kept.writing.eq(writer.writes),
            kept.walk.payload.eq(walking.o.payload),
        ]
        # DRAM may carry out a read before a write that it was given before.
        with m.If(kept.claim.held):
            m.d.comb += writer.line.eq(kept.writing_line)
        with m.Else():
            m.d.comb += [
                writer.line.eq(walking.o.payload.line),
                kept.walk.valid.eq(walking.o.valid & ~writer.writes),
                walking.o.ready.eq(kept.walk.ready & ~writer.writes),
            ]
        wiring.connect(m, kept.walked, walks.server_response)
        wiring.connect(m, writes.server_request, writer.job)
        wiring.connect(m, writer.ended, kept.ended)
        wiring.connect(m, kept.done, writes.server_response)
        wiring.connect(m, kept.claim, getattr(claims, f"claim{len(workers)}"))
        wiring.connect(m, kept.retry, getattr(writes, f"request{len(writers)}"))
        wiring.connect(m, getattr(writes, f"response{len(writers)}"), kept.retried)
        for name in ("read_request", "read_data", "error"):
            wiring.connect(m, getattr(kept, name), wiring.flipped(getattr(self, name)))
        for name in ("write_request", "write_data", "write_done"):
            wiring.connect(m, getattr(writer, name), wiring.flipped(getattr(self, name)))

        for n, worker in enumerate(workers):
            m.submodules[f"worker{n}"] = worker
            wiring.connect(m, wiring.flipped(getattr(self, f"request{n}")), worker.request)
            wiring.connect(m, worker.response, wiring.flipped(getattr(self, f"response{n}")))
            wiring.connect(m, worker.claim, getattr(claims, f"claim{n}"))
            wiring.connect(m, worker.tlb_request, getattr(lookups, f"request{n}"))
            wiring.connect(m, getattr(lookups, f"response{n}"), worker.tlb_result)
        for k, n in enumerate(writers):
            wiring.connect(m, workers[n].write_job, getattr(writes, f"request{k}"))
            wiring.connect(m, getattr(writes, f"response{k}"), workers[n].write_done)
        for k, n in enumerate(walkers):
            wiring.connect(m, workers[n].walk_request, getattr(walks, f"request{k}"))
            wiring.connect(m, getattr(walks, f"response{k}"), workers[n].walk_data)
            # The TLB answers one walker at a time, so that no two pulse in the same clock.
            with m.If(workers[n].hit):
                m.d.comb += self.hit.eq(1)
            with m.If(workers[n].miss):
                m.d.comb += self.miss.eq(1)
        return m
