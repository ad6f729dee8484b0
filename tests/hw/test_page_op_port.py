"""The page operations of commands on their way to the page cache and to the prefetcher."""

import random

import pytest
from streams import SEED, receive, send, simulate

from speckv_hw.cache.messages import CacheOp, PrefetchProposal, Source
from speckv_hw.cache.page_op_port import PageOpPort
from speckv_hw.csr.page_op import PageOp, PageOpKind
from speckv_hw.types import Status

OPS = {PageOpKind.SEAL: CacheOp.SEAL, PageOpKind.FREE: CacheOp.FREE, PageOpKind.FLUSH: CacheOp.FLUSH}


def page_op(kind, page):
    return PageOp.const({"kind": kind, "page": page, "stream": {"context": page % 16, "codec": 1, "dtype": page & 1}})


@pytest.mark.parametrize("stall", [0.0, 0.5])
def test_each_operation_goes_where_it_belongs_and_is_answered(stall):
    rng = random.Random(f"operations {SEED}")
    operations = [page_op(rng.choice(list(PageOpKind)), rng.randrange(1 << 28)) for _ in range(120)]
    dut = PageOpPort()
    requested, proposed = [], []

    async def give(ctx):
        await send(ctx, dut.page_op, operations, idle=stall)

    async def serve(ctx):
        while True:
            request, = await receive(ctx, dut.request, 1, stall=stall, seed=rng.random())
            requested.append(request)
            await ctx.tick().repeat(rng.choice((1, 2, 9)))
            await send(ctx, dut.op_done, [Source.const({})])

    async def prefetch(ctx):
        while True:
            proposed.extend(await receive(ctx, dut.prefetch, 1, stall=stall, seed=rng.random()))

    async def take(ctx):
        for number in range(len(operations)):
            answer, = await receive(ctx, dut.page_op_done, 1, stall=stall, seed=rng.random())
            assert answer.status == Status.OK
            assert len(requested) + len(proposed) == number + 1, "answered too soon, or asked too much"

    simulate(dut, give, take, background=[serve, prefetch],
             watched=[dut.request, dut.prefetch, dut.page_op_done])
    assert proposed == [PrefetchProposal.const({"page": operation.page, "stream": operation.stream})
                        for operation in operations if operation.kind == PageOpKind.PREFETCH]
    expected = [operation for operation in operations if operation.kind != PageOpKind.PREFETCH]
    assert len(requested) == len(expected)
    for request, operation in zip(requested, expected):
        assert (request.op, request.page, request.stream) == (OPS[operation.kind], operation.page, operation.stream)
        assert request.byte_enable == request.poison == 0


def test_an_operation_ends_when_the_page_cache_says_so():
    dut = PageOpPort()

    async def play(ctx):
        ctx.set(dut.page_op.payload, page_op(PageOpKind.SEAL, 9))
        ctx.set(dut.page_op.valid, 1)
        await receive(ctx, dut.request, 1)
        ctx.set(dut.page_op.valid, 0)
        ctx.set(dut.page_op_done.ready, 1)
        for _ in range(30):
            _, _, done, ready = await ctx.tick().sample(dut.page_op_done.valid, dut.page_op.ready)
            assert not done and not ready
        await send(ctx, dut.op_done, [Source.const({})])
        await receive(ctx, dut.page_op_done, 1)

    simulate(dut, play)
