"""Masks of all bits from a number on, for every number."""

import pytest
from amaranth.hdl import Module, Signal
from streams import simulate

from speckv_hw.pool.from_number import from_number


@pytest.mark.parametrize("width", [16, 40, 256])
def test_every_number(width):
    m = Module()
    number, mask = Signal(range(width + 1)), Signal(width)
    m.d.comb += mask.eq(from_number(number, width))

    async def bench(ctx):
        for n in range(width + 1):
            ctx.set(number, n)
            assert ctx.get(mask) == (1 << width) - 1 >> n << n

    m.d.sync += Signal().eq(0)  # The simulator wants a clock.
    simulate(m, bench)
