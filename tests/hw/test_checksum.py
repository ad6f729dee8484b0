"""The CRC of runs of lines against zlib's."""

import random
import zlib

from streams import SEED, simulate

from speckv_hw.mover.checksum import Checksum


def play(clocks):
    """Plays `clocks`, each (start, valid, line as bytes). Returns `crc` as it is in each of them and in two more."""
    dut = Checksum()
    crcs = []

    async def testbench(ctx):
        for start, valid, line in [*clocks, (0, 0, bytes(64))]:
            ctx.set(dut.start, start)
            ctx.set(dut.valid, valid)
            ctx.set(dut.line, int.from_bytes(line, "little"))
            crcs.append(ctx.get(dut.crc))
            await ctx.tick()
            assert ctx.get(dut.summing) == (valid or start)
        crcs.append(ctx.get(dut.crc))

    simulate(dut, testbench)
    return crcs


def test_random_runs():
    rng = random.Random(f"checksum {SEED}")
    clocks, expected = [], [0]
    for count in (1, 2, 3, 64, 65, *rng.choices(range(1, 20), k=20)):
        lines = [rng.choice((rng.randbytes(64), bytes(64), b"\xff" * 64)) for _ in range(count)]
        if rng.random() < 0.5:
            clocks.append((1, 0, rng.randbytes(64)))
            expected.append(0)
        for number, line in enumerate(lines):
            started = clocks and clocks[-1][:2] == (1, 0)
            clocks.append((int(number == 0 and not started), 1, line))
            expected.append(zlib.crc32(b"".join(lines[:number + 1])))
            while rng.random() < 0.2:
                clocks.append((0, 0, rng.randbytes(64)))
                expected.append(expected[-1])
    assert play(clocks) == [0, *expected]


def test_latency():
    line = bytes(range(64))
    crcs = play([(1, 1, line)] + [(0, 0, bytes(64))] * 3)
    assert crcs.index(zlib.crc32(line)) == Checksum.latency == 2
    assert crcs[Checksum.latency:] == [zlib.crc32(line)] * len(crcs[Checksum.latency:])


def test_one_line_a_clock():
    lines = [bytes([number]) * 64 for number in range(8)]
    assert play([(number == 0, 1, line) for number, line in enumerate(lines)])[-1] == zlib.crc32(b"".join(lines))
