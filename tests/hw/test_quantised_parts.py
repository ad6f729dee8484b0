"""Parts of the encoder of `fixed` and `variable` pages, each against the model or plain integers."""

import itertools

import numpy as np
import pytest
from codec_pages import SEED, random_rows
from streams import simulate

from speckv_hw.codec.digit_encoder import DigitEncoder
from speckv_hw.codec.factor_selector import factors, step_factor
from speckv_hw.codec.quantised_payloads import DIGIT_AT, SLOTS
from speckv_hw.codec.row_check_maker import UNIT_DIGIT_BITS, UNITS, RowCheckMaker
from speckv_hw.codec.scaling_lane import ScalingLane
from speckv_model.codec import fixed, variable
from speckv_model.codec.fixed import CODES, FRACTIONS, SETTINGS, Rate
from speckv_model.codec.float16 import bias, mantissa_bits
from speckv_model.constants import ROW_VALUES, Dtype


def through_lane(values, **shared):
    """Outputs of a lane for `values`, one a clock, while all else stays. int arrays `o`, `sign`, `exceeds`."""
    dut = ScalingLane()
    got = []

    async def drive(ctx):
        for name, value in shared.items():
            ctx.set(getattr(dut, name), int(value))
        for value in [*values, *[0] * (dut.latency - 1)]:
            ctx.set(dut.value, int(value))
            await ctx.tick()
            got.append((ctx.get(dut.o), ctx.get(dut.sign), ctx.get(dut.exceeds)))

    simulate(dut, drive)
    return np.array(got[dut.latency - 1:]).T


@pytest.mark.parametrize("dtype", list(Dtype))
@pytest.mark.parametrize("setting", SETTINGS)
def test_lane_finds_cells(setting, dtype):
    """Values up to the scale of a row, with each mantissa of the scale and each fraction."""
    rng = np.random.default_rng([SEED, setting])
    rate = Rate(setting)
    low_bits = rate.planes - 1
    bits = mantissa_bits(dtype)
    for fine, width in itertools.product(range(8), (3, 2, 1) if rate.ternary else (3,)):
        code = int(rng.integers(1 << width))
        fraction = CODES[rate.ternary, width][code]
        field = int(rng.integers(8, 24)) + bias(dtype) - bias(Dtype.FP16)
        end = (field << bits) + (fine + 1 << bits - 3)
        # No value of a group is beyond the fraction of the scale that the group has; the last cell takes them.
        near = rng.integers(end - (3 << bits), end, ROW_VALUES // 2)
        values = np.concatenate([near, rng.integers(0, end, ROW_VALUES // 2)]).astype(np.uint16)
        want = fixed.cells_of(values, np.array(fine), np.array(field - bias(dtype)), np.full(16, fraction), rate,
                              dtype)
        reach = (9 + fine) / 8 * 2.0 ** (field - bias(dtype)) * float(
            FRACTIONS[rate.ternary][fraction])
        weight = np.where(values >> bits, (values & (1 << bits) - 1) + (1 << bits), values & (1 << bits) - 1)
        held = weight * 2.0 ** (np.maximum(values >> bits, 1).astype(int) - bias(dtype) - bits) < reach
        signs = rng.integers(0, 2, ROW_VALUES)
        got, sign, _ = through_lane(values | signs << 15, dtype=dtype, base=field + 2, ternary=rate.ternary,
                                    factor=factors(rate.ternary, width, fine)[code])
        cells = got >> DIGIT_AT - low_bits & (1 << low_bits) - 1
        if rate.ternary:
            cells |= (got >> DIGIT_AT & 3) << low_bits
        assert (cells == want)[held].all()
        assert (sign == signs).all()


@pytest.mark.parametrize("dtype", list(Dtype))
def test_lane_finds_multiples(dtype):
    rng = np.random.default_rng(SEED)
    for setting in [*range(104, 120), 0, 60, 144, 200, 255]:
        values = random_rows(rng, 1, finite=dtype)[0]
        # And such whose quotients are near ties
        exact = (rng.integers(1, 4096, ROW_VALUES) / 2 * variable.step(setting)).astype(np.float32)
        shifted = exact.view(np.uint32) >> 16
        with np.errstate(over="ignore"):
            halves = exact.astype(np.float16).view(np.uint16)
        ties = (halves if dtype == Dtype.FP16 else shifted).astype(np.uint16)
        values = np.where(rng.random(ROW_VALUES) < 0.7, ties, values)
        values = values[(values & 0x7FFF) >> mantissa_bits(dtype) < (31 if dtype == Dtype.FP16 else 255)]
        want = variable.quantise(values, setting, dtype)
        got, _, exceeds = through_lane(values, dtype=dtype, base=(setting >> 3) + bias(dtype) - 9, variable=1,
                                       late_variable=1, factor=step_factor(setting % 8))
        held = (want >= -2048) & (want <= 2047)
        assert ((exceeds == 0) == held).all()
        assert (got == want % 4096)[held].all()


def test_lane_places_the_sign():
    for slot in range(SLOTS):
        got, sign, _ = through_lane([0x8000], dtype=Dtype.FP16, base=30, sign_slot=1 << slot)
        assert (got[0], sign[0]) == (1 << slot, 1)
    assert not through_lane([0x8000], dtype=Dtype.FP16, base=30, sign_slot=1, zero=1)[:2].any()


def test_digits():
    """Digits of all places, each with some of the others."""
    rng = np.random.default_rng(SEED)
    groups = rng.integers(0, 3, (500, 8))
    groups[:2] = [[0] * 8, [2] * 8]
    dut = DigitEncoder()
    got = []

    async def drive(ctx):
        for digits in [*groups.tolist(), *[[0] * 8] * (dut.latency - 1)]:
            ctx.set(dut.digits, digits)
            await ctx.tick()
            got.append(ctx.get(dut.o))

    simulate(dut, drive)
    powers = 3 ** np.arange(5)
    want = groups[:, :5] @ powers + (groups[:, 5:] @ powers[:3] << 8)
    assert got[dut.latency - 1:] == want.tolist()


@pytest.mark.parametrize("gap", [0, 2])
def test_check(gap):
    """Random rows one after the other, with as many clocks between units."""
    rng = np.random.default_rng(SEED)
    dut = RowCheckMaker()
    rows = []
    for setting in rng.permutation([*SETTINGS, *SETTINGS, *SETTINGS]).tolist():
        rate = Rate(setting, rng.random() < 0.7)
        rows.append((rate, rng.integers(0, 256, rate.row_bytes, dtype=np.uint8)))
    events = {}

    def at(clock, **inputs):
        events.setdefault(clock, {}).update(inputs)

    def bits(body, begin, count):
        return int.from_bytes(body.tobytes(), "little") >> begin & (1 << count) - 1

    checks = {}
    for number, (rate, body) in enumerate(rows):
        planes_at = 8 * fixed.PLANES_AT[rate.ternary]
        slots = rate.planes - (not rate.ternary)
        first = SLOTS - rate.planes if rate.ternary else SLOTS - slots - 1
        for unit in range(UNITS):
            clock = (UNITS * number + unit) * (gap + 1)
            words = rng.integers(0, 1 << 32, SLOTS).tolist()
            signs = bits(body, planes_at + 32 * unit, 32)
            for plane in range(rate.planes):
                if rate.ternary or plane:
                    words[first + plane] = bits(body, planes_at + 128 * plane + 32 * unit, 32)
            at(clock, valid=1, last=unit == UNITS - 1, signs=signs, slots=words, count=slots)
            for later in range(1, gap + 1):
                at(clock + later, valid=0)
            at(clock + 3, digits=bits(body, 48 + UNIT_DIGIT_BITS * (unit - 1), 2 * UNIT_DIGIT_BITS) if unit else 0)
        at(clock + 3, start=bits(body, 0, 8 * rate.check_at) if rate.by_row else bits(body, 0, 48),
           ternary=rate.ternary, by_row=rate.by_row, slots_after=slots)
        low, high = fixed.row_check(body, rate).tolist() if rate.by_row else (0, 0)
        checks[clock + dut.latency] = (low | high << 8) << (0 if rate.ternary else 16)
    at(clock + 1, valid=0)
    got = []

    async def drive(ctx):
        for now in range(clock + dut.latency + 2):
            for name, value in events.get(now, {}).items():
                ctx.set(getattr(dut, name), value)
            got.append(ctx.get(dut.check))
            await ctx.tick()

    simulate(dut, drive)
    assert {now: check for now, check in enumerate(got) if now in checks} == checks
    assert not any(check for now, check in enumerate(got) if now not in checks)
