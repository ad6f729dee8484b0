"""The stream contract of every public component with an output stream, proven under that of its inputs.

Once `valid` is high it stays high, and `payload` stays the same, until a clock in which `ready` is high. What comes out
of memories is free in these proofs, so that the result does not depend on what is in them.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from unittest.mock import Mock, patch

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from properties import Free, contract, contract_of
from prove import hold_for, prove, refute

import speckv_hw
from speckv_hw.cache.line_store import LineStore
from speckv_hw.cache.page_cache import PageCache
from speckv_hw.cache.page_op_port import PageOpPort
from speckv_hw.codec.page_decoder import PageDecoder
from speckv_hw.codec.page_encoder import PageEncoder
from speckv_hw.config import DeviceConfig
from speckv_hw.csr.command_engine import CommandEngine
from speckv_hw.csr.command_queue import CommandQueue
from speckv_hw.csr.counters import Counters
from speckv_hw.csr.csr import Csr
from speckv_hw.cxl.endpoint import Endpoint
from speckv_hw.mem.burst_splitter import BurstSplitter
from speckv_hw.mem.flag_queue import FlagQueue
from speckv_hw.mem.memory_port import MemoryPort
from speckv_hw.mem.read_client import ReadClient
from speckv_hw.mem.read_port import ReadPort
from speckv_hw.mem.write_port import WritePort
from speckv_hw.mover.fetcher import Fetcher
from speckv_hw.mover.line_reader import LineReader
from speckv_hw.mover.look_ahead import LookAhead
from speckv_hw.mover.opener import Opener
from speckv_hw.mover.page_buffer import PAGES, PageBuffer
from speckv_hw.mover.seal_feeder import SealFeeder
from speckv_hw.mover.seal_finisher import SealFinisher
from speckv_hw.mover.seal_lookup import SealLookup
from speckv_hw.mover.seal_placer import SealPlacer
from speckv_hw.mover.seal_storer import SealStorer
from speckv_hw.mover.sealer import Sealer
from speckv_hw.pool.pool_allocator import PoolAllocator
from speckv_hw.pool.run_finder import RunFinder
from speckv_hw.pool.superblock_bins import SuperblockBins
from speckv_hw.prefetch.prefetcher import Prefetcher
from speckv_hw.stream import Arbiter, BypassFifo, Fifo, Register, Stage
from speckv_hw.table.context_table import ContextTable
from speckv_hw.table.descriptor_table import DescriptorTable
from speckv_hw.table.entry_updater import EntryUpdater
from speckv_hw.table.kept_entries import KeptEntries
from speckv_hw.table.range_clearer import RangeClearer
from speckv_hw.table.share import Share
from speckv_hw.table.tlb import Tlb, TlbOp
from speckv_hw.table.walker import Walker
from speckv_hw.table.writer import WRITING, EntryWriter

SMALL = DeviceConfig(
    pool_bytes=1 << 18, contexts=2, window_slots=2, cache_pages=2, cache_ways=2, tlb_entries=8, tlb_ways=2,
    requests_in_flight=4, fetches_in_flight=1, bursts_in_flight=2, command_slots=2, descriptors=2, codecs=("raw",))


@dataclass(frozen=True)
class Case:
    """How a component is proven."""
    make: Callable
    meanings: dict = field(default_factory=dict)
    """Of streams whose payload has parts that say nothing: what has to stay."""
    more: Callable | None = None
    """Adds what else is assumed or claimed, given the module, the component and the parts that are left out."""
    parts: tuple = ()
    """Parts that are left out: the name that the component knows the class by, and what makes one, for each of them."""
    unproven: dict = field(default_factory=dict)
    """Outputs that are not proven, and why."""
    apart: tuple = ()
    """Outputs that are proven one by one, which can be quicker."""
    clocks: int | None = None
    """Where a proof for all times takes too long: the clocks from the reset on that are looked at."""
    options: dict = field(default_factory=dict)


def tlb_request(request):
    """LOOKUP, DROP and FLUSH look at neither `entry` nor `line`."""
    return Cat(request.op, request.page, Mux(request.op == TlbOp.UPDATE, request.entry.as_value(), 0),
               Mux(request.op == TlbOp.FILL, request.line[:8], 0))


def walked(walk):
    """Of a line that is out of date in part the entry alone counts; its lowest byte stands for all."""
    return Cat(walk.entry.as_value()[:8], walk.error, walk.partial, Mux(walk.partial, 0, walk.data[:8]))


def lowest_bytes(read):
    """Of each entry of a line that was read."""
    return Cat(read.error, *(read.data.word_select(n, 128)[:8] for n in range(4)))


def retry(job):
    """Quarter and entry come from the slot, which nobody changes while its line is claimed."""
    return Cat(job.line, job.count)


def ended(ended):
    """The job comes from a memory."""
    return ended.error


def axi_channels(*names):
    """Claims the contract of the channels of the AXI port that the component drives (AXI4, section A3.2.1)."""
    def check(m, dut, parts):
        for name in names:
            payload = Cat(getattr(dut.axi, member)[:64] for member in dut.axi.signature.members
                          if member.startswith(name) and member not in (f"{name}valid", f"{name}ready"))
            port = stream.Signature(len(payload)).create()
            m.d.comb += [
                port.valid.eq(getattr(dut.axi, f"{name}valid")),
                port.ready.eq(getattr(dut.axi, f"{name}ready")),
                port.payload.eq(payload),
            ]
            contract(m, port, Assert, name)
    return check


def with_command(m, dut, parts):
    """The command engine accepts a command together with its completion."""
    m.d.comb += Assume(~dut.completion.valid | (dut.command.valid & dut.command.ready))


def taken_hints(m, dut, parts):
    """The prefetcher never makes a hint wait."""
    m.d.comb += Assume(dut.hint.ready)


def as_many_lines_as_asked_for(m, dut, parts):
    """Memory answers bursts with as many lines as they count, so that no more leave than room was reserved for."""
    room = Signal(3)
    m.d.comb += Assume(~dut.data.valid | (room != 4))
    return [(room, "dut.room")]


def ends_follow_jobs(m, dut, parts):
    """The memory port answers only writes whose last line it was given, which is when the job is taken."""
    written = Signal(range(WRITING + 1))
    m.d.sync += written.eq(written + (dut.job.valid & dut.job.ready) - (dut.ended.valid & dut.ended.ready))
    m.d.comb += Assume(~dut.write_done.valid | (written != 0))


def walks_end_that_began(m, dut, parts):
    """Memory answers only what it was asked."""
    walks = Signal(2)
    m.d.sync += walks.eq(walks + (dut.walk_request.valid & dut.walk_request.ready)
                         - (dut.walk_data.valid & dut.walk_data.ready))
    m.d.comb += Assume(~dut.walk_data.valid | (walks != 0))


def jobs_end_that_began(m, dut, parts):
    """The entry writer answers only what it was asked."""
    jobs = Signal(range(WRITING + 2))
    m.d.sync += jobs.eq(jobs + (dut.write_job.valid & dut.write_job.ready)
                        - (dut.write_done.valid & dut.write_done.ready))
    m.d.comb += Assume(~dut.write_done.valid | (jobs != 0))


def answers_follow_requests(m, dut, parts):
    """The descriptor table answers only what it was asked."""
    asked = Signal()
    with m.If(dut.encoding_request.valid & dut.encoding_request.ready):
        m.d.sync += asked.eq(1)
    with m.Elif(dut.encoding.valid & dut.encoding.ready):
        m.d.sync += asked.eq(0)
    m.d.comb += Assume(~dut.encoding.valid | asked)


def pages_end_that_were_fed(m, dut, parts):
    """The queue behind has room while less than `PAGES` pages are inside; the encoder stays ready until it starts, and
    pages that end were fed."""
    inside = Signal(range(PAGES + 1))
    waited = Signal()
    fed = dut.fed.valid & dut.fed.ready
    starts = dut.start.valid & dut.start.ready
    m.d.sync += [
        inside.eq(inside + fed - dut.ended),
        waited.eq(dut.start.ready & ~starts),
    ]
    m.d.comb += [
        Assume((inside == PAGES) | dut.fed.ready),
        Assume(~waited | dut.start.ready),
        Assume(~dut.ended | (inside != 0)),
    ]


CASES = {
    "Stage": Case(lambda: Stage(1)),
    "Fifo": Case(lambda: Fifo(1, 4)),
    "Register": Case(lambda: Register(1)),
    "BypassFifo": Case(lambda: BypassFifo(1, 4)),
    "Arbiter": Case(lambda: Arbiter(2, 3)),
    "BurstSplitter": Case(BurstSplitter),
    "FlagQueue": Case(lambda: FlagQueue(4)),
    "ReadClient": Case(lambda: ReadClient(4, 2, 2), more=as_many_lines_as_asked_for),
    "ReadPort": Case(lambda: ReadPort(SMALL, (4, 4)), more=axi_channels("ar")),
    "WritePort": Case(lambda: WritePort(SMALL, 2), more=axi_channels("aw", "w")),
    "MemoryPort": Case(lambda: MemoryPort(SMALL, 2, 2, 4), more=axi_channels("ar", "aw", "w")),
    "Share": Case(lambda: Share(2, 2, 3, 2)),
    "Tlb": Case(lambda: Tlb(SMALL)),
    "Walker": Case(lambda: Walker(SMALL), {"tlb_request": tlb_request, "walk_data": walked}, more=walks_end_that_began,
                   clocks=14),
    "EntryUpdater": Case(lambda: EntryUpdater(SMALL), {"tlb_request": tlb_request}, more=jobs_end_that_began,
                         clocks=14),
    "RangeClearer": Case(lambda: RangeClearer(SMALL), {"tlb_request": tlb_request}, more=jobs_end_that_began),
    "KeptEntries": Case(lambda: KeptEntries(2, 2), {"retry": retry, "walked": walked, "read_data": lowest_bytes}),
    "EntryWriter": Case(EntryWriter, {"ended": ended}, more=ends_follow_jobs, clocks=12),
    "ContextTable": Case(lambda: ContextTable(SMALL, 2)),
    "DescriptorTable": Case(lambda: DescriptorTable(SMALL)),
    "PageCache": Case(lambda: PageCache(SMALL)),
    "LineStore": Case(lambda: LineStore(SMALL)),
    "PageOpPort": Case(PageOpPort),
    "Endpoint": Case(lambda: Endpoint(SMALL), more=taken_hints),
    "Counters": Case(Counters),
    "CommandQueue": Case(lambda: CommandQueue(SMALL), more=with_command),
    "CommandEngine": Case(lambda: CommandEngine(SMALL)),
    "Csr": Case(lambda: Csr(SMALL, 2), more=with_command),
    "Opener": Case(lambda: Opener(SMALL), apart=("done", "table_request", "allocate", "free", "error")),
    "LineReader": Case(LineReader),
    "SealLookup": Case(SealLookup, more=answers_follow_requests),
    "SealFeeder": Case(SealFeeder, more=pages_end_that_were_fed),
    "SealPlacer": Case(SealPlacer),
    "SealStorer": Case(lambda: SealStorer(SMALL)),
    "SealFinisher": Case(SealFinisher, clocks=16),
    "Sealer": Case(lambda: Sealer(SMALL), parts=tuple((f"speckv_hw.mover.sealer.{name}", make) for name, make in (
        ("PageEncoder", lambda: PageEncoder(SMALL)),
        ("SealLookup", SealLookup),
        ("LineReader", LineReader),
        ("SealFeeder", SealFeeder),
        ("PageBuffer", PageBuffer),
        ("SealPlacer", SealPlacer),
        ("SealStorer", lambda: SealStorer(SMALL)),
        ("SealFinisher", SealFinisher)))),
    "Fetcher": Case(lambda: Fetcher(SMALL), parts=(
        ("speckv_hw.mover.fetcher.PageDecoder", lambda: PageDecoder(SMALL)),)),
    "LookAhead": Case(LookAhead),
    "Prefetcher": Case(lambda: Prefetcher(SMALL)),
    "RunFinder": Case(RunFinder),
    "SuperblockBins": Case(lambda: SuperblockBins(2)),
    "PoolAllocator": Case(lambda: PoolAllocator(SMALL), options={"cut": ("dut.finder", "dut.bins", "dut.frames")}),
}


# Public components that are not proven, and why.
EXCEPTIONS = {
    "Axi4Signature": "a signature",
    "PageTable": "its walkers and its writer are proven, and not what it is with both",
    "PageBuffer": "what it offers comes from its memory, and stays because the storer does not move on",
    "Device": "only connects components that are proven; its codecs are not among them",
} | dict.fromkeys((
    "WaitLists", "ListCopy", "SlotTable", "EarlyReads", "Checksum", "FrameStack", "OwnSuperblocks", "Claims",
    "RegisterFile", "CommandCheck", "ErrorLog",
), "has no output stream")
# Proven elsewhere or not at all, since they are no part of this table.
LEFT_OUT = ("speckv_hw.codec", "speckv_hw.synth", "speckv_hw.generate")


def public_components():
    """Names of the public components of `speckv_hw` outside of `LEFT_OUT`."""
    names = {}
    for module in pkgutil.walk_packages(speckv_hw.__path__, "speckv_hw."):
        if module.name.startswith(LEFT_OUT):
            continue
        for name, item in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if issubclass(item, wiring.Component) and item.__module__ == module.name and not name.startswith("_"):
                names[name] = item
    return names


def test_every_component_is_proven_or_named():
    assert set(public_components()) <= set(CASES) | set(EXCEPTIONS)
    assert set(CASES) <= set(public_components())
    assert not set(CASES) & set(EXCEPTIONS)


def prove_contract(case, only=None):
    dut = case.make()
    parts = [Free(make()) for _, make in case.parts]
    m, inputs = contract_of(dut, only=only, skip=case.unproven, meanings=case.meanings, free=parts)
    probes = case.more(m, dut, parts) if case.more else None
    makers = {}
    for (name, _), part in zip(case.parts, parts):
        makers.setdefault(name, []).append(part)
    with ExitStack() as stack:
        for name, made in makers.items():
            stack.enter_context(patch(name, Mock(side_effect=made)))
        options = {"free_memories": True, "probes": probes or (), **case.options}
        if case.clocks is None:
            prove(m, inputs, **options)
        else:
            hold_for(m, inputs, case.clocks, **options)


# These take ten seconds and more.
DEEP = {"Endpoint", "PageCache", "Opener", "Fetcher", "Sealer", "PoolAllocator"}


def deep(names):
    return [pytest.param(name, marks=pytest.mark.deep) if name in DEEP else name for name in names]


@pytest.mark.parametrize("name", deep(CASES))
def test_contract(name):
    case = CASES[name]
    for only in case.apart or (None,):
        prove_contract(case, only)


class Impatient(wiring.Component):
    """A register stage with the mistake of taking its offer back after a clock."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(1)), "o": Out(stream.Signature(1))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(~self.o.valid)
        m.d.sync += [self.o.valid.eq(self.i.valid & self.i.ready), self.o.payload.eq(self.i.payload)]
        return m


class Fickle(Impatient):
    """A register stage with the mistake that a later payload replaces what it offers."""

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(1)
        with m.If(self.i.valid):
            m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(self.i.payload)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m


@pytest.mark.parametrize("mutant", [Impatient, Fickle])
def test_a_mistake_is_found(mutant):
    m, inputs = contract_of(mutant())
    refute(m, inputs, free_memories=True)
    m, inputs = contract_of(mutant())
    refute(m, inputs, steps=4)


@pytest.mark.parametrize("name", deep(["Endpoint", "CommandQueue"]))
def test_the_surroundings_that_a_case_assumes_are_needed(name):
    m, inputs = contract_of(CASES[name].make())
    refute(m, inputs, free_memories=True)
