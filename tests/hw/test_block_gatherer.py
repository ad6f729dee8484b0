"""Pieces that are put together, with idle and back-pressure: content, order, beats, latency."""

import random

import pytest
from streams import SEED, send, simulate

from speckv_hw.codec.block_gatherer import PLANE_BITS, BlockGatherer
from speckv_hw.codec.quantised_lane import CELL_PLANES
from speckv_hw.codec.quantised_reader import PIECE_WORDS
from speckv_hw.codec.word_unpacker import WORD_BITS
from speckv_model.codec.variable import UNIT_VALUES
from speckv_model.constants import ROW_VALUES


def random_blocks(rng, count):
    """Units and rows: the pieces of each, what is shown of it, and whether it is a unit."""
    blocks = []
    for _ in range(count):
        unit = rng.random() < 0.5
        planes = 0 if unit else rng.randint(1, CELL_PLANES)
        pieces = [rng.getrandbits(WORD_BITS * PIECE_WORDS) for _ in range(1 + -(-planes // 2))]
        tags = [dict(variable=int(unit), cell_planes=planes, index=n, last=int(n == len(pieces) - 1))
                for n in range(len(pieces))]
        cells = [piece >> PLANE_BITS * half & (1 << PLANE_BITS) - 1 for piece in pieces[1:] for half in range(2)]
        blocks.append(([dict(data=data, tag=tag) for data, tag in zip(pieces, tags)], (pieces[0], cells[:planes]),
                       unit))
    return blocks


@pytest.mark.parametrize("lanes, idle", [(32, 0.0), (32, 0.4), (16, 0.4), (8, 0.0)])
def test_blocks(lanes, idle):
    rng = random.Random(SEED)
    blocks = random_blocks(rng, 60)
    dut = BlockGatherer(lanes)

    async def feed(ctx):
        await send(ctx, dut.pieces, [piece for pieces, _, _ in blocks for piece in pieces], idle=idle)

    async def check(ctx):
        for _, (first, cells), unit in blocks:
            for beat in range((UNIT_VALUES if unit else ROW_VALUES) // lanes):
                while True:
                    taken = rng.random() >= idle
                    ctx.set(dut.next, taken)
                    valid, block, place = ctx.get(dut.valid), ctx.get(dut.block), ctx.get(dut.place)
                    await ctx.tick()
                    if valid and taken:
                        break
                assert (block.first, block.tag.variable, place) == (first, unit, beat)
                assert [block.cells[n] for n in range(len(cells))] == cells
        assert not ctx.get(dut.valid)

    simulate(dut, feed, check, clocks=5000)


def test_a_beat_a_clock():
    """Units and the longest rows, all of whose clocks are beats; the first one after its latency."""
    lanes, count = 32, 20
    dut = BlockGatherer(lanes)
    pieces = [dict(tag=dict(index=n, last=int(n == CELL_PLANES // 2))) for n in range(1 + CELL_PLANES // 2)] * count
    pieces += [dict(tag=dict(variable=1, last=1))] * count
    beats = []

    async def feed(ctx):
        await send(ctx, dut.pieces, pieces)

    async def watch(ctx):
        ctx.set(dut.next, 1)
        for _ in range(len(pieces) + dut.latency + 3):
            beats.append(ctx.get(dut.valid))
            await ctx.tick()

    simulate(dut, feed, watch)
    start = beats.index(1)
    assert start == CELL_PLANES // 2 + dut.latency
    assert sum(beats) == len(pieces) and all(beats[start:start + len(pieces)])
