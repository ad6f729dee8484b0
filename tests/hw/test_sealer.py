"""The sealer against the codecs' model: what it stores, what it gives back, and what it does when something fails."""

import numpy as np
import pytest
from mover_bench import Surroundings
from streams import SEED, receive, send, simulate

from speckv_hw.config import DeviceConfig
from speckv_hw.mover.sealer import Sealer
from speckv_hw.types import ErrorKind, SealJob, SealKind, TableFault
from speckv_model.codec import codec as codecs
from speckv_model.constants import OPEN_SECTORS, Codec, Dtype, PageState
from speckv_model.mover.messages import pack_header, unpack_header

PAGE = 77
ALL = 2**64 - 1


def bits(flags):
    return sum(1 << n for n, flag in enumerate(flags) if flag)


def page_of_values(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((16, 128)).astype(np.float16).view(np.uint8).reshape(64, 64)


def run(jobs, slots, *, stall=0.0, errors=0, set_up=None):
    """Runs the sealer over `jobs` (dictionaries of `SealJob` fields); returns surroundings, answers and errors."""
    codecs = {job["stream"]["codec"].name.lower() for job in jobs}
    config = DeviceConfig.small(lanes=8, codecs=tuple({"raw"} | codecs))
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
                 around.table, around.updates, around.allocations, around.frees, around.writes, around.cached_lines)],
             watched=[dut.done, dut.table_request, dut.update_request, dut.write_request, dut.write_data, dut.allocate, dut.free])
    return around, answers, logged


def job(kind, *, codec=Codec.RAW, base=0, written=ALL, poison=0, page=PAGE, slot=2):
    return {"kind": kind, "slot": slot, "page": page, "base": base, "written": written, "poison": poison,
            "stream": {"context": 3, "codec": codec, "dtype": Dtype.FP16}}


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("base, last", [(0, 0), (0, 37), (0, 63), (1, 63)])
def test_a_spilled_page_is_its_header_and_lines(base, last, stall):
    rng = np.random.default_rng(SEED + last)
    written = rng.random(64) < 0.5
    if not base:
        written[last] = True
        written[last + 1:] = False
    poison = written & (rng.random(64) < 0.2)
    lines = rng.integers(0, 256, (64, 64), np.uint8)
    around, answers, _ = run([job(SealKind.SPILL, base=base, written=bits(written), poison=bits(poison))], {2: lines},
                             stall=stall)
    stored = around.stored(PAGE)
    assert len(stored) == last + 2
    got_written, got_base, got_poison = unpack_header(stored[0])
    assert (got_written == written).all() and got_base == bool(base) and (got_poison == poison).all()
    assert (stored[0] == pack_header(written, base, poison)).all()
    holds = (written | bool(base))[:last + 1]
    assert (stored[1:] == np.where(holds[:, None], lines[:last + 1], 0)).all()
    assert around.entries[PAGE]["state"] == PageState.OPEN
    assert answers[0].state.value == PageState.OPEN
    assert around.pool.free_sectors == around.config.pool_sectors - OPEN_SECTORS


@pytest.mark.parametrize("stall", [0.0, 0.4])
@pytest.mark.parametrize("codec", [Codec.RAW, Codec.SPECKV])
def test_a_sealed_page_is_what_the_codec_makes_of_it(codec, stall):
    pages = {slot: page_of_values([SEED, slot]) for slot in range(3)}
    pages[1] = np.random.default_rng(SEED).integers(0, 256, (64, 64), np.uint8)
    jobs = [job(SealKind.SEAL, codec=codec, page=100 + slot, slot=slot) for slot in pages]
    # Lines without content count as zeros.
    jobs[2]["written"] = 0xffff_0000_ffff
    around, answers, _ = run(jobs, pages, stall=stall)
    pages[2] = pages[2].copy()
    pages[2][[line for line in range(64) if not 0xffff_0000_ffff >> line & 1]] = 0
    held = 0
    for slot, page in pages.items():
        stored, entry = around.stored(100 + slot), around.entries[100 + slot]
        encoded = codecs.encode(codec, Dtype.FP16, page.ravel())
        if encoded is None:
            assert entry["codec"] == Codec.RAW and (stored == page).all()
        else:
            assert entry["codec"] == codec and (stored.ravel() == encoded).all()
        assert entry["state"] == PageState.SEALED and entry["context"] == 3
        assert answers[slot].state.value == PageState.SEALED and answers[slot].slot == slot
        held += -(-len(stored) // 2)
    assert around.pool.free_sectors == around.config.pool_sectors - held


def test_without_room_a_page_is_sealed_where_it_is():
    def fill(around):
        while around.pool.allocate(1) is not None:
            pass

    around, answers, _ = run([job(SealKind.SEAL, codec=Codec.SPECKV)], {2: page_of_values(SEED)}, set_up=fill)
    stored = around.stored(PAGE)
    assert around.entries[PAGE]["place"] == 0
    assert around.pool.free_sectors == OPEN_SECTORS - -(-len(stored) // 2)
    assert answers[0].state.value == PageState.SEALED


def test_a_page_with_a_poisoned_line_becomes_poisoned():
    around, answers, _ = run([job(SealKind.SEAL, poison=8)], {2: page_of_values(SEED)})
    assert around.entries[PAGE]["state"] == answers[0].state.value == PageState.POISONED
    assert around.pool.free_sectors == around.config.pool_sectors


@pytest.mark.parametrize("kind", [SealKind.SPILL, SealKind.SEAL])
def test_a_refused_write_poisons_the_page(kind):
    def refuse(around):
        around.refuse_writes = True

    around, answers, logged = run([job(kind)], {2: page_of_values(SEED)}, errors=1, set_up=refuse)
    assert logged[0].kind == ErrorKind.MEMORY_WRITE and logged[0].address == PAGE << 12
    assert around.entries[PAGE]["state"] == answers[0].state.value == PageState.POISONED
    assert around.pool.free_sectors == around.config.pool_sectors


@pytest.mark.parametrize("fault, kind", [(TableFault.CORRUPT, ErrorKind.ENTRY_CORRUPT),
                                         (TableFault.MEMORY, ErrorKind.MEMORY_READ)])
def test_a_bad_entry_poisons_the_page(fault, kind):
    def break_entry(around):
        around.faults[PAGE] = fault

    _, answers, logged = run([job(SealKind.SEAL)], {2: page_of_values(SEED)}, errors=1, set_up=break_entry)
    assert logged[0].kind == kind
    assert answers[0].state.value == PageState.POISONED
