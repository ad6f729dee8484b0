"""Lists that have their turn while their page still comes."""

from streams import simulate

from speckv_hw.cache.early_reads import EarlyReads
from speckv_hw.config import DeviceConfig

SLOT, OTHER = 2, 1


def test_a_list_reads_what_has_come():
    dut = EarlyReads(DeviceConfig.small())

    async def play(ctx):
        def sets(**values):
            for name, value in values.items():
                ctx.set(getattr(dut, name), value)

        async def fill(line):
            sets(filled=1, filled_slot=SLOT, filled_line=line)
            await ctx.tick()
            sets(filled=0)

        # Nobody is woken while nobody waits, or where another list is being woken.
        sets(sure={"valid": 1, "slot": SLOT})
        assert not ctx.get(dut.wake)
        sets(waits=1, busy=1)
        assert not ctx.get(dut.wake)
        sets(busy=0)
        assert ctx.get(dut.wake) and not ctx.get(dut.turn)
        await ctx.tick()
        assert ctx.get(dut.turn) and ctx.get(dut.slot) == SLOT and not ctx.get(dut.wake)

        # Lines can be read once they have come, and by nobody else.
        sets(valid=1, of=SLOT, line=1)
        await fill(0)
        assert ctx.get(dut.is_early) and not ctx.get(dut.here)
        await fill(1)
        assert ctx.get(dut.here)
        sets(of=OTHER)
        assert not ctx.get(dut.is_early) and not ctx.get(dut.here)

        # The last request ends the turn; one that comes later has another one, for the slot alone.
        sets(of=SLOT, pop=1, last=1)
        assert not ctx.get(dut.served)
        await ctx.tick()
        sets(pop=0, last=0)
        assert ctx.get(dut.served) and not ctx.get(dut.turn) and not ctx.get(dut.is_early)
        sets(sure={"valid": 1, "slot": OTHER})
        assert not ctx.get(dut.wake)
        sets(sure={"valid": 1, "slot": SLOT})
        assert ctx.get(dut.wake)
        await ctx.tick()
        assert ctx.get(dut.is_early) and ctx.get(dut.here)

        # The end of another slot's fetch changes nothing, that of its own ends what is early.
        sets(fetched=1, fetched_slot=OTHER, waits=0)
        await ctx.tick()
        assert ctx.get(dut.is_early) and ctx.get(dut.served)
        sets(fetched_slot=SLOT)
        await ctx.tick()
        sets(fetched=0)
        assert not ctx.get(dut.is_early) and not ctx.get(dut.served) and not ctx.get(dut.turn)

        # Now any list can have its turn early; lines of the page before are not its own.
        sets(sure={"valid": 1, "slot": OTHER}, waits=1, of=OTHER, line=0)
        assert ctx.get(dut.wake)
        await ctx.tick()
        assert ctx.get(dut.is_early) and not ctx.get(dut.here)

    simulate(dut, play)
