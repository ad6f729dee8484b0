"""The model of device DRAM: content, traffic counts, failures."""

import os

import numpy as np
import pytest

from speckv_model.config import DeviceConfig
from speckv_model.mem.dram import CHUNK_LINES, Dram

SEED = int(os.environ.get("SPECKV_SEED", "1"))
CONFIG = DeviceConfig.default()


def test_random_accesses_match_a_flat_array():
    rng = np.random.default_rng(SEED)
    dram = Dram(CONFIG)
    first, lines = CHUNK_LINES - 300, 600
    flat = np.zeros((lines, 64), np.uint8)
    read = written = 0
    for _ in range(400):
        count = int(rng.integers(0, 67))
        at = int(rng.integers(0, lines - count))
        if rng.random() < 0.5:
            data = rng.integers(0, 256, (count, 64), np.uint8)
            enable = None if rng.random() < 0.5 else rng.random((count, 4)) < 0.5
            error = dram.write_lines(first + at, data, enable)
            assert not error.any() and error.shape == (count,)
            mask = np.ones((count, 64), bool) if enable is None else np.repeat(enable, 16, axis=1)
            flat[at:at + count][mask] = data[mask]
            written += int(mask.sum())
        else:
            data, error = dram.read_lines(first + at, count)
            assert np.array_equal(data, flat[at:at + count])
            assert data.dtype == np.uint8 and error.dtype == bool and not error.any()
            read += 64 * count
    assert (dram.bytes_read, dram.bytes_written) == (read, written)


def test_read_returns_a_copy():
    dram = Dram(CONFIG)
    dram.write_lines(0, np.ones((1, 64), np.uint8))
    dram.read_lines(0, 1)[0][:] = 2
    assert (dram.read_lines(0, 1)[0] == 1).all()


def test_failures():
    dram = Dram(CONFIG)
    ones = np.ones((4, 64), np.uint8)
    dram.fail(11, 2)
    dram.fail_writes(13)
    assert dram.write_lines(10, ones).tolist() == [False, False, False, True]
    assert dram.read_lines(10, 4)[1].tolist() == [False, True, True, False]
    dram.heal()
    data, error = dram.read_lines(10, 4)
    assert not error.any()
    assert (data[:3] == 1).all() and (data[3] == 0).all()
    assert not dram.write_lines(10, ones).any()


def test_flip():
    dram = Dram(CONFIG)
    dram.flip(64 * 7 + 3, 5)
    expected = np.zeros((1, 64), np.uint8)
    expected[0, 3] = 32
    assert np.array_equal(dram.read_lines(7, 1)[0], expected)
    dram.flip(64 * 7 + 3, 5)
    assert not dram.read_lines(7, 1)[0].any()


def test_accesses_out_of_range():
    dram = Dram(CONFIG)
    last = CONFIG.dram_bytes // 64 - 1
    dram.read_lines(last, 1)
    for line, count in [(last, 2), (-1, 1), (last + 1, 1)]:
        with pytest.raises(ValueError, match="lines must be"):
            dram.read_lines(line, count)
        with pytest.raises(ValueError, match="lines must be"):
            dram.write_lines(line, np.zeros((count, 64), np.uint8))
    with pytest.raises(ValueError, match="data must have shape"):
        dram.write_lines(0, np.zeros(64, np.uint8))
    with pytest.raises(ValueError, match="enable must have shape"):
        dram.write_lines(0, np.zeros((2, 64), np.uint8), np.ones((1, 4), bool))
    with pytest.raises(ValueError, match="bit must be"):
        dram.flip(0, 8)
