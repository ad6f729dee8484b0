"""The endpoint with a Python context table and page cache: who gets which answer, and what blocks nobody."""

import random

import numpy as np
import pytest
from amaranth.lib import data
from streams import SEED, receive, send, simulate

from speckv_hw.cache.messages import CacheOp, CacheRequest, ReadResponse, WriteResponse
from speckv_hw.config import DeviceConfig
from speckv_hw.cxl.endpoint import Access, Endpoint
from speckv_hw.cxl.messages import Req, RwD
from speckv_hw.types import DrsOpcode, ErrorKind
from speckv_model.constants import ReqOpcode, RwdOpcode
from speckv_model.cxl.messages import REQUEST, Channel, Expect, completion, expected

BASE = 0x12_3450_0000_0000
OWNED = range(100, 200)
OWNER = 5


def req(opcode, address, *, tag=0, snp=0, field=3, value=0, ld_id=OWNER):
    return Req.const({"opcode": opcode, "snp_type": snp, "meta_field": field, "meta_value": value, "tag": tag,
                      "address": address >> 5, "ld_id": ld_id})


def rwd(opcode, address, *, tag=0, value=0, enable=0, poison=0, ld_id=OWNER):
    return RwD.const({"opcode": opcode, "tag": tag, "address": address >> 6, "data": value, "byte_enable": enable,
                      "poison": poison, "ld_id": ld_id, "meta_field": 3})


class Neighbours:
    """Context table and page cache: pages 100 to 199 belong to `OWNER`; a line reads as its address."""

    def __init__(self, dut):
        self.dut = dut
        self.requests = []
        self.hints = []

    async def contexts(self, ctx):
        dut = self.dut
        lookup = dut.lookup.payload.shape()
        assert lookup["sideband"].shape is Access
        shape = dut.result.payload.shape()
        while True:
            found, = await receive(ctx, dut.lookup, 1)
            hit = found.page in OWNED and found.ld_id == OWNER
            await send(ctx, dut.result, [shape.const({
                "hit": hit, "page": found.page, "stream": {"context": 7, "codec": 1, "dtype": 1},
                "sideband": data.Const(Access, found.sideband.as_bits())
                if hasattr(found.sideband, "as_bits") else found.sideband})])

    async def cache(self, ctx):
        dut, rng = self.dut, random.Random(SEED)
        while True:
            request, = await receive(ctx, dut.request, 1, stall=0.2)
            self.requests.append(request)
            await ctx.tick().repeat(rng.choice((1, 1, 2, 9)))
            source = request.source
            if request.op == CacheOp.READ:
                await send(ctx, dut.read_response, [ReadResponse.const({
                    "data": request.page << 6 | request.line, "poison": request.line == 63, "source": source})])
            elif request.op == CacheOp.WRITE:
                await send(ctx, dut.write_response, [WriteResponse.const({"source": source})])

    async def hinted(self, ctx):
        ctx.set(self.dut.hint.ready, 1)
        async for _, _, valid, payload in ctx.tick().sample(self.dut.hint.valid, self.dut.hint.payload):
            if valid:
                self.hints.append(payload.page)

    async def set_up(self, ctx):
        ctx.set(self.dut.hdm_base, BASE)
        ctx.set(self.dut.enable, 1)

    @property
    def background(self):
        return [self.contexts, self.cache, self.hinted, self.set_up]


def address_of(page, line=0):
    return BASE + (page << 12) + (line << 6)


@pytest.mark.parametrize("idle, stall", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.6)])
def test_every_request_gets_its_answers(idle, stall):
    rng = random.Random(f"{SEED} {idle} {stall}")
    dut = Endpoint(DeviceConfig.small())
    neighbours = Neighbours(dut)
    reqs, rwds, drs_expected, ndr_expected, errors = [], [], {}, {}, 0
    for tag in range(150):
        opcode = rng.choice([ReqOpcode.MEM_RD] * 4 + [ReqOpcode.MEM_RD_DATA, ReqOpcode.MEM_INV, ReqOpcode.MEM_INV_NT,
                                                      ReqOpcode.MEM_SPEC_RD, ReqOpcode.MEM_CLN_EVCT])
        page, line = rng.choice([100, 150, 199, 200, 99, 1 << 16]), rng.randrange(64)
        field, value, snp = rng.choice((0, 3)), rng.choice((0, 2, 3)), rng.choice((0, 1, 3))
        ld_id = rng.choice((OWNER, OWNER, OWNER, 2))
        reqs.append(req(opcode, address_of(page, line), tag=tag, snp=snp, field=field, value=value, ld_id=ld_id))
        record = np.zeros((), REQUEST)
        record["channel"], record["opcode"], record["meta_field"], record["snp_type"] = Channel.REQ, opcode, field, snp
        inside = page in OWNED and ld_id == OWNER
        kinds = Expect(int(expected(record)))
        if Expect.DRS in kinds:
            drs_expected[tag] = (page << 6 | line, int(line == 63), DrsOpcode.MEM_DATA) if inside else (
                0, 0, DrsOpcode.MEM_DATA_NXM)
            errors += not inside
        if Expect.NDR in kinds:
            known = opcode != ReqOpcode.MEM_CLN_EVCT
            ndr_expected[tag] = int(completion(field, value)) if known else 0
            errors += not known
    for tag in range(1000, 1100):
        opcode = rng.choice([RwdOpcode.MEM_WR, RwdOpcode.MEM_WR, RwdOpcode.MEM_WR_PTL, RwdOpcode.BI_CONFLICT])
        page = rng.choice([100, 199, 200])
        rwds.append(rwd(opcode, address_of(page, 1), tag=tag, value=tag, enable=3))
        ndr_expected[tag] = 0
        errors += opcode == RwdOpcode.BI_CONFLICT or page == 200
    drs, ndr, logged = [], [], []

    async def take_drs(ctx):
        drs.extend(await receive(ctx, dut.s2m_drs, len(drs_expected), stall=stall))

    async def take_ndr(ctx):
        ndr.extend(await receive(ctx, dut.s2m_ndr, len(ndr_expected), stall=stall, seed=SEED + 1))

    async def take_errors(ctx):
        logged.extend(await receive(ctx, dut.error, errors, stall=stall))

    async def give_reqs(ctx):
        await send(ctx, dut.m2s_req, reqs, idle=idle)

    async def give_rwds(ctx):
        await send(ctx, dut.m2s_rwd, rwds, idle=idle)

    simulate(dut, give_reqs, give_rwds, take_drs, take_ndr, take_errors, background=neighbours.background,
             watched=[dut.s2m_drs, dut.s2m_ndr, dut.request, dut.lookup, dut.error])
    assert {answer.tag: (answer.data, answer.poison, answer.opcode) for answer in drs} == drs_expected
    assert {answer.tag: answer.opcode.value for answer in ndr} == ndr_expected
    for request in neighbours.requests:
        assert request.page in OWNED and request.stream.context == 7
        if request.op == CacheOp.WRITE:
            assert request.data == request.source.tag
            assert request.byte_enable in (3, 2**64 - 1)
    assert set(neighbours.hints) <= set(OWNED)
    assert {record.kind for record in logged} == {ErrorKind.READ_OUTSIDE, ErrorKind.WRITE_OUTSIDE,
                                                  ErrorKind.BAD_REQ_OPCODE, ErrorKind.BAD_RWD_OPCODE}


@pytest.mark.parametrize("held", ["s2m_drs", "s2m_ndr"])
def test_a_channel_that_is_held_back_leaves_the_other_alone(held):
    """With DRS never taken writes still complete; with NDR never taken reads are still answered."""
    dut = Endpoint(DeviceConfig.small())
    neighbours = Neighbours(dut)
    count = 3 * DeviceConfig.small().requests_in_flight

    async def give_reqs(ctx):
        await send(ctx, dut.m2s_req, [req(ReqOpcode.MEM_RD, address_of(100), tag=tag) for tag in range(count)])

    async def give_rwds(ctx):
        await send(ctx, dut.m2s_rwd, [rwd(RwdOpcode.MEM_WR, address_of(100), tag=tag) for tag in range(count)])

    async def take(ctx):
        port = dut.s2m_ndr if held == "s2m_drs" else dut.s2m_drs
        answers = await receive(ctx, port, count)
        assert [answer.tag for answer in answers] == list(range(count))

    simulate(dut, take, background=[*neighbours.background, give_reqs, give_rwds], clocks=20_000)


def test_a_disabled_window_is_outside():
    dut = Endpoint(DeviceConfig.small())
    neighbours = Neighbours(dut)
    neighbours.set_up = lambda ctx: receive(ctx, dut.error, 1)

    async def check(ctx):
        await send(ctx, dut.m2s_req, [req(ReqOpcode.MEM_RD, address_of(100), tag=9)])
        answer, = await receive(ctx, dut.s2m_drs, 1)
        assert (answer.opcode, answer.tag, answer.data) == (DrsOpcode.MEM_DATA_NXM, 9, 0)

    simulate(dut, check, background=neighbours.background)


def test_commands_come_behind_the_requests_that_were_looked_up():
    dut = Endpoint(DeviceConfig.small())
    neighbours = Neighbours(dut)
    info = {"context": 3, "codec": 0, "dtype": 0}

    async def check(ctx):
        await send(ctx, dut.m2s_rwd, [rwd(RwdOpcode.MEM_WR, address_of(100, line)) for line in range(3)])
        await ctx.tick().repeat(20)
        await send(ctx, dut.command, [CacheRequest.const({"op": CacheOp.FREE, "page": 5000, "stream": info})])
        while len(neighbours.requests) < 4:
            await ctx.tick()

    simulate(dut, check, background=neighbours.background)
    freed = neighbours.requests[-1]
    assert (freed.op, freed.page, freed.stream.context) == (CacheOp.FREE, 5000, 3)
