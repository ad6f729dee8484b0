"""How the check of rows that are read is looked at, against the model."""

import numpy as np
import pytest
from codec_pages import SEED
from streams import simulate

from speckv_hw.codec.row_checker import CHECKED_PLANES, RowChecker
from speckv_model.codec import fixed
from speckv_model.codec.fixed import CHECK_BYTES, PLANE_BYTES, PLANES_AT, SETTINGS, Rate


def some_rows(rng, setting):
    """Random rows and such of a single bit. uint8 (24, row_bytes)."""
    random = rng.integers(0, 256, (8, Rate(setting).row_bytes), dtype=np.uint8)
    single = np.zeros((16, Rate(setting).row_bytes), np.uint8)
    single[np.arange(16), rng.integers(single.shape[1], size=16)] = 1 << rng.integers(0, 8, 16)
    return np.concatenate([random, single])


def planes_of(row, setting):
    """The planes of a row as the checker takes them. uint8 (9, 16)."""
    rate = Rate(setting, True)
    at, check = PLANES_AT[rate.ternary], slice(rate.check_at, rate.check_at + CHECK_BYTES)
    planes = np.zeros((CHECKED_PLANES, PLANE_BYTES), np.uint8)
    planes[:2].reshape(-1)[-at + CHECK_BYTES:] = np.delete(row[:at], check)
    planes[2:2 + Rate(setting).planes] = row[at:].reshape(-1, PLANE_BYTES)
    return planes


@pytest.mark.parametrize("lanes", [8, 16, 32])
def test_checker(lanes):
    """Rows with their checks and others, back to back; sometimes nothing comes for a clock."""
    rng = np.random.default_rng(SEED)
    dut = RowChecker(lanes)
    wanted, got = [], []
    size = lanes // 8

    async def drive(ctx):
        clock = 0
        for setting in SETTINGS:
            some = some_rows(rng, setting)
            for row, check in zip(some, fixed.row_check(some, Rate(setting, True))):
                wrong = int(rng.choice([0, 0, 1, 0x80, 0x100, 0x8000, 0xA55A]))
                check_plane = np.zeros(PLANE_BYTES, np.uint8)
                # High byte first
                check_plane[:2] = check[::-1] ^ [wrong >> 8, wrong & 0xFF]
                planes = planes_of(row, setting)
                ctx.set(dut.check_at, 1 << Rate(setting).planes - 2)
                for beat in range(PLANE_BYTES // size):
                    ctx.set(dut.first, beat == 0)
                    own = check_plane[size * beat:][:min(size, CHECK_BYTES)]
                    ctx.set(dut.check, int.from_bytes(own.tobytes(), "little"))
                    for plane, own in zip(range(CHECKED_PLANES), planes):
                        ctx.set(dut.planes[plane], int.from_bytes(own[size * beat:][:size].tobytes(), "little"))
                    for valid in (0, 1) if rng.random() < 0.1 else (1,):
                        ctx.set(dut.valid, int(valid))
                        await ctx.tick()
                        clock += 1
                        got.append(ctx.get(dut.bad))
                wanted.append((clock - 1, wrong != 0))
        ctx.set(dut.valid, 0)
        for _ in range(dut.latency):
            await ctx.tick()
            got.append(ctx.get(dut.bad))

    simulate(dut, drive)
    assert dut.latency == 3
    assert [got[clock + dut.latency - 1] for clock, _ in wanted] == [bad for _, bad in wanted]
