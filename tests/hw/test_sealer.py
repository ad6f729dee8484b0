"""The sealer against the codecs' model: what it stores, what it gives back, and what it does when something fails."""

import numpy as np
import pytest
from amaranth.hdl import Array, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from mover_bench import Surroundings, mask_of
from streams import SEED, receive, send, simulate

from speckv_hw.config import DeviceConfig
from speckv_hw.mover.sealer import Sealer
from speckv_hw.types import (
    LINE_BITS,
    EncodeResult,
    EncodeStart,
    ErrorKind,
    SealJob,
    SealKind,
    StoredLine,
    TableFault,
)
from speckv_model.codec import codec as codecs
from speckv_model.constants import OPEN_SECTORS, Codec, Dtype, PageState
from speckv_model.mover.messages import pack_header, unpack_header

PAGE = 77
ALL = 2**64 - 1


def page_of_values(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((16, 128)).astype(np.float16).view(np.uint8).reshape(64, 64)


def page_that_does_not_fit(seed):
    """Random bits, which the codec does not shrink, or only by chance."""
    rng = np.random.default_rng(seed)
    while True:
        page = rng.integers(0, 256, (64, 64), np.uint8)
        if codecs.encode(Codec.SPECKV, Dtype.FP16, page.ravel()) is None:
            return page


def run(jobs, slots, *, stall=0.0, errors=0, set_up=None):
    """Runs the sealer over `jobs` (dictionaries of `SealJob` fields); returns surroundings, answers and errors."""
    config = DeviceConfig.small(lanes=8)
    dut = Sealer(config)
    around = Surroundings(config, SEED, stall)
    around.slots = slots
    for job in jobs:
        around.entries.setdefault(job["page"], {"state": PageState.OPEN, "codec": 0, "context": 3, "lines": 0,
                                                "place": around.pool.allocate(OPEN_SECTORS), "crc": 0})
    if set_up:
        set_up(around)
    answers, logged = [], []

    async def give(ctx):
        await send(ctx, dut.job, [SealJob.const(job) for job in jobs], idle=stall)

    async def take(ctx):
        answers.extend(await receive(ctx, dut.done, len(jobs), stall=stall))

    async def log(ctx):
        logged.extend(await receive(ctx, dut.error, errors))

    simulate(dut, give, take, log,
             background=[lambda ctx, serve=serve: serve(ctx, dut) for serve in (
                 around.table, around.encodings_of_pages, around.updates, around.allocations, around.frees,
                 around.writes, around.cached_lines)],
             watched=[dut.done, dut.table_request, dut.encoding_request, dut.update_request, dut.write_request,
                      dut.write_data, dut.allocate, dut.free])
    return around, answers, logged


def job(kind, *, codec=Codec.RAW, base=0, written=ALL, poison=0, page=PAGE, slot=2):
    return {"kind": kind, "slot": slot, "page": page, "base": base, "written": written, "poison": poison,
            "stream": {"context": 3, "codec": codec, "dtype": Dtype.FP16}}


def check_spilled(around, page, job, lines):
    """`page` is stored as its header and `lines` (uint8, (64, 64)), as `job` says."""
    written, poison = ([bool(job[name] >> line & 1) for line in range(64)] for name in ("written", "poison"))
    last = 63 if job["base"] else job["written"].bit_length() - 1
    stored = around.stored(page)
    assert len(stored) == last + 2
    got_written, got_base, got_poison = unpack_header(stored[0])
    assert (got_written == written).all() and got_base == bool(job["base"]) and (got_poison == poison).all()
    assert (stored[0] == pack_header(written, job["base"], poison)).all()
    holds = (np.array(written) | bool(job["base"]))[:last + 1]
    assert (stored[1:] == np.where(holds[:, None], lines[:last + 1], 0)).all()
    assert around.entries[page]["state"] == PageState.OPEN and around.entries[page]["context"] == 3


@pytest.mark.parametrize("stall", [0.0, 0.4])
def test_a_spilled_page_is_its_header_and_lines(stall):
    rng = np.random.default_rng(SEED)
    jobs, slots = [], {}
    for slot, (base, last) in enumerate([(0, 0), (0, 37), (0, 63), (1, 63)]):
        written = rng.random(64) < 0.5
        if not base:
            written[last] = True
            written[last + 1:] = False
        slots[slot] = rng.integers(0, 256, (64, 64), np.uint8)
        jobs.append(job(SealKind.SPILL, base=base, written=mask_of(written), page=100 + slot, slot=slot,
                        poison=mask_of(written & (rng.random(64) < 0.2))))
    around, answers, _ = run(jobs, slots, stall=stall)
    for slot, spill in enumerate(jobs):
        check_spilled(around, 100 + slot, spill, slots[slot])
        assert (answers[slot].slot, answers[slot].state.value) == (slot, PageState.OPEN)
    assert around.pool.free_sectors == around.config.pool_sectors - OPEN_SECTORS * len(jobs)


def test_a_sealed_page_is_what_the_codec_makes_of_it():
    """Pages that the codec shrinks, one that it does not, one with room only where it is, others between them."""
    pages = {slot: page_of_values([SEED, slot]) for slot in range(6)}
    pages[1] = page_that_does_not_fit(SEED)
    jobs = [job(SealKind.SEAL, codec=Codec.SPECKV, page=100 + slot, slot=slot) for slot in pages]
    jobs[3]["stream"] |= {"codec": Codec.RAW}
    jobs[5]["kind"] = SealKind.SPILL
    # Lines without content count as zeros.
    jobs[2]["written"] = 0xffff_0000_ffff
    places = {}

    def set_up(around):
        around.no_room = {4}
        places[4] = around.entries[104]["place"]

    around, answers, _ = run(jobs, pages, stall=0.2, set_up=set_up)
    pages[2][[line for line in range(64) if not 0xffff_0000_ffff >> line & 1]] = 0
    held = OPEN_SECTORS
    check_spilled(around, 105, jobs[5], pages[5])
    for slot in range(5):
        stored, entry = around.stored(100 + slot), around.entries[100 + slot]
        codec = jobs[slot]["stream"]["codec"]
        encoded = codecs.encode(codec, Dtype.FP16, pages[slot].ravel())
        if encoded is None:
            assert entry["codec"] == Codec.RAW and (stored == pages[slot]).all()
        else:
            assert entry["codec"] == codec and (stored.ravel() == encoded).all()
        assert (entry["place"] == places.get(slot)) == (slot == 4)
        assert entry["state"] == PageState.SEALED and entry["context"] == 3
        assert answers[slot].state.value == PageState.SEALED and answers[slot].slot == slot
        held += -(-len(stored) // 2)
    assert around.pool.free_sectors == around.config.pool_sectors - held


def test_the_encoding_is_that_of_the_descriptor_table():
    """Whatever the stream's codec is; a page that is spilled or cannot be sealed changes nothing for the others."""
    pages = {slot: page_of_values([SEED, slot]) for slot in range(6)}
    pages[2] = page_that_does_not_fit(SEED)
    streams = [Codec.RAW, Codec.SPECKV, Codec.RAW, Codec.RAW, Codec.RAW, Codec.SPECKV]
    chosen = [Codec.SPECKV, Codec.RAW, Codec.SPECKV, Codec.SPECKV, Codec.SPECKV, Codec.RAW]
    jobs = [job(SealKind.SEAL, codec=codec, page=100 + slot, slot=slot) for slot, codec in enumerate(streams)]
    jobs[1]["poison"] = 1
    jobs[3]["kind"] = SealKind.SPILL

    def set_up(around):
        around.encodings = {100 + slot: (codec, 0) for slot, codec in enumerate(chosen)}
        around.faults = {104: TableFault.CORRUPT}

    around, answers, _ = run(jobs, pages, stall=0.3, errors=1, set_up=set_up)
    assert [answer.state.value for answer in answers] == [
        PageState.SEALED, PageState.POISONED, PageState.SEALED, PageState.OPEN, PageState.POISONED, PageState.SEALED]
    check_spilled(around, 103, jobs[3], pages[3])
    assert (around.stored(100).ravel() == codecs.encode(Codec.SPECKV, Dtype.FP16, pages[0].ravel())).all()
    for slot, codec in ((0, Codec.SPECKV), (2, Codec.RAW), (5, Codec.RAW)):
        assert around.entries[100 + slot]["codec"] == codec
    for slot in (2, 5):
        assert (around.stored(100 + slot) == pages[slot]).all()


def test_fixed_pages_are_laid_out_as_the_stream_says():
    jobs = [job(SealKind.SEAL, codec=Codec.FIXED, page=100 + slot, slot=slot) for slot in range(3)]
    pages = {slot: page_of_values([SEED, slot]) for slot in range(3)}
    for slot in (0, 2):
        jobs[slot]["stream"]["by_row"] = 1

    def set_up(around):
        around.encodings = {100 + slot: (Codec.FIXED, 9) for slot in range(3)}

    around, *_ = run(jobs, pages, set_up=set_up)
    for slot in range(3):
        want = codecs.encode(Codec.FIXED, Dtype.FP16, pages[slot].ravel(), 9, slot != 1)
        assert (around.stored(100 + slot).ravel() == want).all()


class RotatingEncoder(wiring.Component):
    """Stores the first `setting` + 1 lines of a page, highest first; the page begins with the line that bits 5 to 0 of
    line 0 name."""

    def __init__(self, config):
        super().__init__({
            "start": In(stream.Signature(EncodeStart)),
            "lines": In(stream.Signature(LINE_BITS)),
            "stored": Out(stream.Signature(StoredLine)),
            "result": Out(stream.Signature(EncodeResult)),
        })

    def elaborate(self, platform):
        m = Module()
        start = Signal(EncodeStart)
        page = Array(Signal(LINE_BITS, name=f"line{n}") for n in range(64))
        taken, left = Signal(7), Signal(7)
        m.d.comb += [
            self.stored.p.index.eq(left - 1),
            self.stored.p.data.eq(page[(left - 1)[:6]]),
            self.result.p.lines.eq(start.setting + 1),
            # A result means nothing while it is not valid.
            self.result.p.fits.eq(self.result.valid & (start.codec.as_value() == Codec.SPECKV)),
            self.result.p.first.eq(page[0][:6]),
        ]
        with m.FSM():
            with m.State("START"):
                m.d.comb += self.start.ready.eq(1)
                m.d.sync += [start.eq(self.start.payload), taken.eq(0), left.eq(self.start.p.setting + 1)]
                with m.If(self.start.valid):
                    m.next = "TAKE"
            with m.State("TAKE"):
                m.d.comb += self.lines.ready.eq(1)
                with m.If(self.lines.valid):
                    m.d.sync += [page[taken[:6]].eq(self.lines.payload), taken.eq(taken + 1)]
                    with m.If(taken == 63):
                        m.next = "STORE"
            with m.State("STORE"):
                m.d.comb += self.stored.valid.eq(left != 0)
                m.d.sync += left.eq(left - self.stored.ready)
                with m.If(left == 0):
                    m.next = "RESULT"
            with m.State("RESULT"):
                m.d.comb += self.result.valid.eq(1)
                with m.If(self.result.ready):
                    m.next = "START"
        return m


@pytest.mark.parametrize("stall", [0.0, 0.3])
def test_a_page_is_stored_from_its_first_line_on(monkeypatch, stall):
    """In turn, whatever was first in the page before; and the setting is that of the page."""
    monkeypatch.setattr("speckv_hw.mover.sealer.PageEncoder", RotatingEncoder)
    rng = np.random.default_rng(SEED)
    shapes = [(1, 0), (64, 63), (64, 0), (2, 1), (33, 17), (64, 1), (63, 62), (12, 5)]
    jobs, slots = [], {}
    for slot, (_, first) in enumerate(shapes):
        slots[slot] = rng.integers(0, 256, (64, 64), np.uint8)
        slots[slot][0, 0] = first
        jobs.append(job(SealKind.SEAL, page=100 + slot, slot=slot))

    def set_up(around):
        around.encodings = {100 + slot: (Codec.SPECKV, lines - 1) for slot, (lines, _) in enumerate(shapes)}

    around, _, _ = run(jobs, slots, stall=stall, set_up=set_up)
    for slot, (lines, first) in enumerate(shapes):
        assert around.entries[100 + slot]["codec"] == Codec.SPECKV
        assert (around.stored(100 + slot) == np.roll(slots[slot][:lines], -first, axis=0)).all()


def test_a_page_with_a_poisoned_line_becomes_poisoned():
    around, answers, _ = run([job(SealKind.SEAL, poison=8)], {2: page_of_values(SEED)})
    assert around.entries[PAGE]["state"] == answers[0].state.value == PageState.POISONED
    assert around.pool.free_sectors == around.config.pool_sectors


def test_a_refused_write_poisons_the_page():
    def refuse(around):
        around.refuse_writes = True

    jobs = [job(kind, page=PAGE + number) for number, kind in enumerate((SealKind.SPILL, SealKind.SEAL))]
    around, answers, logged = run(jobs, {2: page_of_values(SEED)}, errors=2, set_up=refuse)
    for number in range(2):
        assert (logged[number].kind, logged[number].address) == (ErrorKind.MEMORY_WRITE, PAGE + number << 12)
        assert around.entries[PAGE + number]["state"] == answers[number].state.value == PageState.POISONED
    assert around.pool.free_sectors == around.config.pool_sectors


def test_a_bad_entry_poisons_the_page():
    """An entry that is corrupt, or cannot be read, or is not that of an OPEN page: nothing of it is touched."""
    def break_entries(around):
        around.faults = {PAGE: TableFault.CORRUPT, PAGE + 1: TableFault.MEMORY}
        around.entries[PAGE + 2]["state"] = PageState.SEALED

    jobs = [job(SealKind.SEAL, page=PAGE), job(SealKind.SPILL, page=PAGE + 1), job(SealKind.SEAL, page=PAGE + 2)]
    around, answers, logged = run(jobs, {2: page_of_values(SEED)}, errors=3, set_up=break_entries)
    assert [error.kind for error in logged] == [ErrorKind.ENTRY_CORRUPT, ErrorKind.MEMORY_READ,
                                                ErrorKind.ENTRY_CORRUPT]
    assert all(answer.state.value == PageState.POISONED for answer in answers)
    assert around.entries[PAGE + 2]["state"] == PageState.SEALED and not around.dram
    assert around.pool.free_sectors == around.config.pool_sectors - 3 * OPEN_SECTORS
