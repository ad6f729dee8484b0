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
from unittest.mock import patch

import pytest
from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from prove import prove, refute
from properties import Free, contract, contract_of

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
from speckv_hw.mem.read_port import ReadPort
from speckv_hw.mem.write_port import WritePort
from speckv_hw.mover.fetcher import Fetcher
from speckv_hw.mover.opener import Opener
from speckv_hw.mover.seal_finisher import SealFinisher
from speckv_hw.mover.sealer import Sealer
from speckv_hw.pool.pool_allocator import PoolAllocator
from speckv_hw.pool.run_finder import RunFinder
from speckv_hw.pool.superblock_bins import SuperblockBins
from speckv_hw.prefetch.prefetcher import Prefetcher
from speckv_hw.stream import Arbiter, BypassFifo, Fifo, Stage
from speckv_hw.table.context_table import ContextTable
from speckv_hw.table.descriptor_table import DescriptorTable
from speckv_hw.table.page_table import PageTable
from speckv_hw.table.share import Share
from speckv_hw.table.tlb import Tlb, TlbOp
from speckv_hw.table.walker import Walker
from speckv_hw.table.writer import EntryWriter

SMALL = DeviceConfig(
    pool_bytes=1 << 18, contexts=2, window_slots=2, cache_pages=2, cache_ways=2, tlb_entries=8, tlb_ways=2,
    requests_in_flight=4, fetches_in_flight=1, bursts_in_flight=2, command_slots=2, descriptors=2, codecs=("raw",))


@dataclass(frozen=True)
class Case:
    """How a component is proven."""
    make: Callable
    meanings: dict = field(default_factory=dict)
    """Of outputs whose payload has parts that say nothing: what has to stay."""
    assume: Callable | None = None
    """Statements about the surroundings beyond the contract, given the component."""
    check: Callable | None = None
    """More to claim, given the module and the component."""
    parts: dict = field(default_factory=dict)
    """Parts that are left out, by the name that the component knows them by: what makes them."""
    apart: tuple = ()
    """Outputs that are proven one by one."""
    options: dict = field(default_factory=dict)


def tlb_request(request):
    """LOOKUP, DROP and FLUSH look at neither `entry` nor `line`."""
    return Cat(request.op, request.page, Mux(request.op == TlbOp.UPDATE, request.entry.as_value(), 0),
               Mux(request.op == TlbOp.FILL, request.line[:8], 0))


def axi_channels(*names):
    """Claims the contract of the channels of the AXI port that the component drives (AXI4, section A3.2.1)."""
    def check(m, dut):
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


def with_command(dut):
    return Assume(~dut.completion.valid | (dut.command.valid & dut.command.ready))


CASES = {
    "Stage": Case(lambda: Stage(1)),
    "Fifo": Case(lambda: Fifo(1, 4)),
    "BypassFifo": Case(lambda: BypassFifo(1, 4)),
    "Arbiter": Case(lambda: Arbiter(2, 3)),
    "BurstSplitter": Case(BurstSplitter),
    "FlagQueue": Case(lambda: FlagQueue(4)),
    "ReadPort": Case(lambda: ReadPort(SMALL, (4, 4)), check=axi_channels("ar")),
    "WritePort": Case(lambda: WritePort(SMALL, 2), check=axi_channels("aw", "w")),
    "MemoryPort": Case(lambda: MemoryPort(SMALL, 2, 2, 4), check=axi_channels("ar", "aw", "w")),
    "Share": Case(lambda: Share(2, 2, 3, 2)),
    "Tlb": Case(lambda: Tlb(SMALL)),
    "Walker": Case(lambda: Walker(SMALL), {"tlb_request": tlb_request}),
    "EntryWriter": Case(EntryWriter),
    "PageTable": Case(lambda: PageTable(SMALL, 2)),
    "ContextTable": Case(lambda: ContextTable(SMALL, 2)),
    "DescriptorTable": Case(lambda: DescriptorTable(SMALL)),
    "PageCache": Case(lambda: PageCache(SMALL)),
    "LineStore": Case(lambda: LineStore(SMALL)),
    "PageOpPort": Case(PageOpPort),
    "Endpoint": Case(lambda: Endpoint(SMALL), assume=lambda dut: Assume(dut.hint.ready)),
    "Counters": Case(Counters),
    "CommandQueue": Case(lambda: CommandQueue(SMALL), assume=with_command),
    "CommandEngine": Case(lambda: CommandEngine(SMALL)),
    "Csr": Case(lambda: Csr(SMALL, 2), assume=with_command),
    "Opener": Case(lambda: Opener(SMALL)),
    "SealFinisher": Case(SealFinisher),
    "Sealer": Case(lambda: Sealer(SMALL), parts={"speckv_hw.mover.sealer.PageEncoder": lambda: PageEncoder(SMALL)}),
    "Fetcher": Case(lambda: Fetcher(SMALL), parts={"speckv_hw.mover.fetcher.PageDecoder": lambda: PageDecoder(SMALL)}),
    "Prefetcher": Case(lambda: Prefetcher(SMALL)),
    "RunFinder": Case(RunFinder),
    "SuperblockBins": Case(lambda: SuperblockBins(2)),
    "PoolAllocator": Case(lambda: PoolAllocator(SMALL), options={"cut": ("dut.finder", "dut.bins", "dut.frames")}),
}


def prove_contract(case, only=None):
    dut = case.make()
    parts = {name: Free(make()) for name, make in case.parts.items()}
    m, inputs = contract_of(dut, only=only, meanings=case.meanings, free=parts.values())
    if case.assume:
        m.d.comb += case.assume(dut)
    if case.check:
        case.check(m, dut)
    with ExitStack() as stack:
        for name, part in parts.items():
            stack.enter_context(patch(name, lambda config, part=part: part))
        prove(m, inputs, free_memories=True, **case.options)


@pytest.mark.parametrize("name", CASES)
def test_contract(name):
    case = CASES[name]
    for only in case.apart or (None,):
        prove_contract(case, only)
