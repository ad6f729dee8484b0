"""The kept entries while nothing is kept: how long a walk and a job's end take."""

from streams import simulate

from speckv_hw.table.kept_entries import KeptEntries


def test_nothing_is_delayed_while_nothing_is_kept():
    dut = KeptEntries()

    async def bench(ctx):
        ctx.set(dut.ended.payload.job.line, 7)
        ctx.set(dut.ended.valid, 1)
        assert ctx.get(dut.done.valid) and ctx.get(dut.done.payload.line) == 7 and not ctx.get(dut.ended.ready)
        ctx.set(dut.done.ready, 1)
        assert ctx.get(dut.ended.ready)
        ctx.set(dut.ended.valid, 0)

        ctx.set(dut.walk.payload.line, 5)
        ctx.set(dut.walk.valid, 1)
        assert ctx.get(dut.walk.ready)
        clocks = 0
        while not ctx.get(dut.read_request.valid):
            await ctx.tick()
            ctx.set(dut.walk.valid, 0)
            clocks += 1
        assert clocks == dut.latency and ctx.get(dut.read_request.payload.line) == 5

    simulate(dut, bench)
