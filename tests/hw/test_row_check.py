"""The check of a row and what is looked at instead of it when a row is read, against the model."""

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from codec_pages import SEED
from streams import simulate

from speckv_hw.codec.row_check import ROW_BITS, check_syndrome, row_syndrome, syndrome_check
from speckv_model.codec import fixed
from speckv_model.codec.fixed import CHECK_AT, SETTINGS, Rate


class RowCheck(wiring.Component):
    """Everything of a `row`, which includes its check, a clock later."""

    row: In(ROW_BITS)
    setting: In(range(SETTINGS[-1] + 1))
    check: Out(8)
    syndrome: Out(8)
    wanted: Out(8)

    def elaborate(self, platform):
        m = Module()
        syndrome = row_syndrome(self.row)
        m.d.sync += [
            self.syndrome.eq(syndrome),
            self.wanted.eq(check_syndrome(self.row[8 * CHECK_AT:][:8], self.setting)),
            self.check.eq(syndrome_check(syndrome, self.setting)),
        ]
        return m


def some_rows(rng, setting):
    """Random rows and such of a single bit. uint8 (24, row_bytes)."""
    random = rng.integers(0, 256, (8, Rate(setting).row_bytes), dtype=np.uint8)
    single = np.zeros((16, Rate(setting).row_bytes), np.uint8)
    single[np.arange(16), rng.integers(single.shape[1], size=16)] = 1 << rng.integers(0, 8, 16)
    return np.concatenate([random, single])


def test_every_setting():
    rng = np.random.default_rng(SEED)
    dut = RowCheck()

    async def drive(ctx):
        for setting in SETTINGS:
            some = some_rows(rng, setting)
            ctx.set(dut.setting, setting)
            for row, check in zip(some, fixed.row_check(some)):
                # The check itself does not count as one of the row's bytes.
                for wrong in (0, 1, 0x80, 0xA5):
                    row[CHECK_AT] = check ^ wrong
                    ctx.set(dut.row, int.from_bytes(row.tobytes(), "little"))
                    await ctx.tick()
                    assert ctx.get(dut.check) == check
                    assert (ctx.get(dut.wanted) == ctx.get(dut.syndrome)) == (wrong == 0)

    simulate(dut, drive)
