"""The `raw` page format: the 64 lines themselves."""

import numpy as np

from ..constants import LINE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_VALUES

SETTINGS = range(1)
DEFAULT_SETTING = 0


def encode_pages(pages, dtype, setting=0):
    """Stores pages as they are; `dtype` and `setting` do not matter. Arrays as in `speckv.encode_pages`; every page
    fits."""
    count = len(pages)
    stored = np.ascontiguousarray(pages, dtype="<u2").view(np.uint8).reshape(count, PAGE_LINES, LINE_BYTES)
    return stored.copy(), np.full(count, PAGE_LINES), np.ones(count, dtype=bool)


def decode_pages(stored, lines, dtype):
    """Lines that are not stored read as zero, surplus lines are ignored. Arrays as in
    `speckv.decode_pages`."""
    count = len(stored)
    data = np.zeros((count, PAGE_LINES, LINE_BYTES), dtype=np.uint8)
    width = min(stored.shape[1], PAGE_LINES)
    present = np.arange(width)[:, None] < np.reshape(lines, (-1, 1, 1))
    data[:, :width] = np.where(present, stored[:, :width], 0)
    return data.view("<u2").reshape(count, PAGE_ROWS, ROW_VALUES)
