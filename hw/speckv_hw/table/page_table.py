"""The page table: entries of window pages in device DRAM behind a TLB."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.table.claims import Claims
from speckv_hw.table.kept_entries import RETRY_CLOCKS, JobDone, KeptEntries, Walk, WalkData
from speckv_hw.table.share import Share
from speckv_hw.table.tlb import Tlb, TlbRequest, TlbResult
from speckv_hw.table.walker import Walker
from speckv_hw.table.writer import WRITING, EntryWriter, WriteJob
from speckv_hw.types import (
    ErrorRecord,
    ReadData,
    ReadRequest,
    TableRequest,
    TableResponse,
    WriteData,
    WriteDone,
    WriteRequest,
)

__all__ = ["PageTable"]


class PageTable(wiring.Component):
    """Answers LOOKUP, UPDATE and CLEAR requests of `clients`, each with a walker of its own.

    ::

        request/response 0 -- walker --+-- TLB
        request/response 1 -- walker --+-- kept entries -- read port
                                 |     +-- writer -- write port
                              claims

    Every request gets one response, in order per client. A client has one request under way, or several
    UPDATEs. Walkers run side by side (a hit overtakes another client's walk or CLEAR), but never on the same
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
    clients : int
        Number of clients.
    retry_clocks : int
        Of `KeptEntries`.

    Members
    -------
    request0, request1, ... : In(stream(TableRequest))
        Check bits in `entry` are ignored: they are computed here.
    response0, response1, ... : Out(stream(TableResponse))
        LOOKUP: the entry. UPDATE, CLEAR: zeros. `fault` other than NONE: a POISONED entry, zero elsewhere.
    read_request, read_data, write_request, write_data, write_done
        Client side of the memory port. Reads are single lines; writes stay inside 64 lines.
    error : Out(stream(ErrorRecord))
    hit, miss : Out
        Pulses: the TLB had the entry of a LOOKUP, or had not.
    """

    latency = Walker.latency

    def __init__(self, config, clients=2, retry_clocks=RETRY_CLOCKS):
        if not isinstance(clients, int) or clients < 1:
            raise ValueError(f"clients must be a positive integer, not {clients!r}")
        self._config = config
        self._clients = clients
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
        for n in range(clients):
            members[f"request{n}"] = In(stream.Signature(TableRequest))
            members[f"response{n}"] = Out(stream.Signature(TableResponse))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.tlb = tlb = Tlb(self._config)
        m.submodules.writer = writer = EntryWriter()
        m.submodules.kept = kept = KeptEntries(retry_clocks=self._retry_clocks)
        m.submodules.claims = claims = Claims(self._clients + 1)
        m.submodules.lookups = lookups = Share(TlbRequest, TlbResult, self._clients, outstanding=1)
        m.submodules.walks = walks = Share(Walk, WalkData, self._clients, outstanding=self._clients)
        m.submodules.writes = writes = Share(WriteJob, JobDone, self._clients + 1, outstanding=WRITING)

        wiring.connect(m, lookups.server_request, tlb.request)
        wiring.connect(m, tlb.result, lookups.server_response)
        m.d.comb += [
            kept.writing.eq(writer.writes),
            kept.walk.payload.eq(walks.server_request.payload),
        ]
        # DRAM may carry out a read before a write that it was given before.
        with m.If(kept.claim.held):
            m.d.comb += writer.line.eq(kept.writing_line)
        with m.Else():
            m.d.comb += [
                writer.line.eq(walks.server_request.payload.line),
                kept.walk.valid.eq(walks.server_request.valid & ~writer.writes),
                walks.server_request.ready.eq(kept.walk.ready & ~writer.writes),
            ]
        wiring.connect(m, kept.walked, walks.server_response)
        wiring.connect(m, writes.server_request, writer.job)
        wiring.connect(m, writer.ended, kept.ended)
        wiring.connect(m, kept.done, writes.server_response)
        wiring.connect(m, kept.claim, getattr(claims, f"claim{self._clients}"))
        wiring.connect(m, kept.retry, getattr(writes, f"request{self._clients}"))
        wiring.connect(m, getattr(writes, f"response{self._clients}"), kept.retried)
        for name in ("read_request", "read_data", "error"):
            wiring.connect(m, getattr(kept, name), wiring.flipped(getattr(self, name)))
        for name in ("write_request", "write_data", "write_done"):
            wiring.connect(m, getattr(writer, name), wiring.flipped(getattr(self, name)))

        for n in range(self._clients):
            walker = Walker(self._config)
            m.submodules[f"walker{n}"] = walker
            wiring.connect(m, wiring.flipped(getattr(self, f"request{n}")), walker.request)
            wiring.connect(m, walker.response, wiring.flipped(getattr(self, f"response{n}")))
            wiring.connect(m, walker.claim, getattr(claims, f"claim{n}"))
            for share, request, response in ((lookups, walker.tlb_request, walker.tlb_result),
                                             (walks, walker.walk_request, walker.walk_data),
                                             (writes, walker.write_job, walker.write_done)):
                wiring.connect(m, request, getattr(share, f"request{n}"))
                wiring.connect(m, getattr(share, f"response{n}"), response)
            # The TLB answers one walker at a time, so that no two pulse in the same clock.
            with m.If(walker.hit):
                m.d.comb += self.hit.eq(1)
            with m.If(walker.miss):
                m.d.comb += self.miss.eq(1)
        return m
