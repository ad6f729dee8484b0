"""Writes the vectors of the codecs `lossless`, `fixed` and `variable` beside this file.

``python tests/vectors/generate.py`` with the folder of the model in PYTHONPATH. The model decides what is right; a
change of the files is a change of the formats.
"""

import json
import sys
from pathlib import Path

import numpy as np

VECTORS = Path(__file__).parent
sys.path.insert(0, str(VECTORS.parent))

from codec_pages import as_pages, random_rows, real_rows, scaled_to, special_rows, to_dtype  # noqa: E402

from speckv_model import codec  # noqa: E402
from speckv_model.codec.fixed import LOWEST_EXPONENT, SETTINGS  # noqa: E402
from speckv_model.codec.float16 import max_finite  # noqa: E402
from speckv_model.constants import LINE_BYTES, PAGE_ROWS, ROW_VALUES, Codec, Dtype  # noqa: E402


def example_rows(dtype, last):
    """The page of the examples in docs/format.md; `last` is its row 4. uint16 (16, 128)."""
    ramp = np.arange(ROW_VALUES)
    rows = np.zeros((PAGE_ROWS, ROW_VALUES), dtype=np.uint16)
    rows[0, :3] = to_dtype([1, -2, 0.5], dtype)
    rows[1] = to_dtype(1.0, dtype)
    rows[2] = to_dtype(ramp, dtype)
    rows[3] = to_dtype(37 * ramp % 128 - 64, dtype)
    rows[4] = last
    return rows


def infinity_row(dtype):
    """Infinity, 1/8, 2/8, 3/8, ..."""
    row = to_dtype(np.arange(ROW_VALUES) / 8, dtype)
    row[0] = max_finite(dtype) + 1
    return row


def far_row(dtype):
    """1024 and, in value 5, 2^-10: too far below for a code."""
    row = np.full(ROW_VALUES, to_dtype(1024.0, dtype))
    row[5] = to_dtype(2.0 ** -10, dtype)
    return row


def special_page(which, dtype, setting, rng):
    """Real rows, and some of the special ones that fit. uint16 (16, 128)."""
    rows = special_rows(rng, dtype)
    pages = as_pages(np.repeat(rows, PAGE_ROWS, axis=0))
    if which != Codec.LOSSLESS:
        rows = rows[codec.encode_pages(which, dtype, pages, setting)[2]]
    chosen = rows[rng.permutation(len(rows))[:PAGE_ROWS - 4]]
    return np.concatenate([real_rows(dtype)[rng.integers(1536, size=4)], chosen])


def real_page(dtype, page):
    """Page number `page` of the real ones, of 96. uint16 (16, 128)."""
    return real_rows(dtype)[PAGE_ROWS * page:][:PAGE_ROWS]


def lossless_pages(rng):
    example = example_rows(Dtype.FP16, infinity_row(Dtype.FP16))
    example[5] = far_row(Dtype.FP16)
    yield "example", Dtype.FP16, 0, example
    for dtype in Dtype:
        yield "real keys", dtype, 0, real_page(dtype, 5)
        yield "real values", dtype, 0, real_page(dtype, 60)
        yield "special rows", dtype, 0, special_page(Codec.LOSSLESS, dtype, 0, rng)
        far = real_page(dtype, 33).copy()
        far[3], far[9:11, 50] = far_row(dtype), 1 << 10
        yield "verbatim rows", dtype, 0, far
        mixed = real_page(dtype, 71).copy()
        mixed[4:6] = random_rows(rng, 2, spread=0x7FFF)
        yield "random rows", dtype, 0, mixed


def fixed_pages(rng):
    example = example_rows(Dtype.FP16, to_dtype(np.arange(ROW_VALUES) / 8, Dtype.FP16))
    for by_row in (False, True):
        kind = " by row" * by_row
        yield f"example{kind}", Dtype.FP16, 8, example, by_row
        for setting in SETTINGS:
            dtype = Dtype((setting // 2 + by_row) % 2)
            page = real_page(dtype, 9 * (setting - SETTINGS[0]) + 3).copy()
            # Rows of the lowest and the highest scale, and one with an outlier.
            page[1], page[2] = scaled_to(page[1], dtype, LOWEST_EXPONENT), scaled_to(page[2], dtype, 15)
            page[5, 100] = to_dtype(1000.0, dtype)
            yield f"setting {setting}{kind}", dtype, setting, page, by_row
        for dtype in Dtype:
            setting = 8 + int(dtype)
            yield f"special rows{kind}", dtype, setting, special_page(Codec.FIXED, dtype, setting, rng), by_row


def variable_pages(rng):
    yield "example", Dtype.FP16, 128, example_rows(Dtype.FP16, to_dtype(np.arange(ROW_VALUES) / 8, Dtype.FP16))
    for dtype in Dtype:
        for setting, page in ((128, 5), (101, 60), (147, 33)):
            yield f"setting {setting}", dtype, setting, real_page(dtype, page)
        yield "fine step", dtype, 3, scaled_to(real_page(dtype, 80), dtype, -11)
        yield "coarse step", dtype, 255, scaled_to(real_page(dtype, 81), dtype, 15)
        yield "special rows", dtype, 116, special_page(Codec.VARIABLE, dtype, 116, rng)


PAGES = {Codec.LOSSLESS: lossless_pages, Codec.FIXED: fixed_pages, Codec.VARIABLE: variable_pages}
"""Functions that yield name, dtype, setting and rows of each vector, and of `fixed` whether rows are read alone."""


def hex_lines(data):
    data = np.ascontiguousarray(data).view(np.uint8).reshape(-1, LINE_BYTES)
    return [line.tobytes().hex() for line in data]


def main():
    for which, pages in PAGES.items():
        vectors = []
        # Whatever SPECKV_SEED is.
        for name, dtype, setting, rows, *by_row in pages(np.random.default_rng(1)):
            page = as_pages(rows)[0]
            stored = codec.encode(which, dtype, page, setting, *by_row)
            if stored is None:
                raise ValueError(f"{which.name} {dtype.name} {name!r} does not fit")
            vectors.append({"name": name, "dtype": dtype.name, "setting": setting, **dict(zip(["by_row"], by_row)),
                            "lines": len(stored) // LINE_BYTES, "page": hex_lines(page), "stored": hex_lines(stored),
                            "decoded": hex_lines(codec.decode(which, dtype, stored, *by_row))})
        (VECTORS / f"{which.name.lower()}.json").write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
