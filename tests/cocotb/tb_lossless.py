"""Pages through the `lossless` encoder and decoder; see test_lossless.py."""

import cocotb
import numpy as np
from bench import Bench, Packing
from codec_pages import as_pages, broken_lossless, mixed_pages, random_rows, real_rows, special_rows, to_lines
from runner import SEED, parameters

from speckv_hw.codec.payloads import PageLine
from speckv_hw.types import DecodeStart, EncodeResult, StoredLine
from speckv_model.codec import decode_pages, encode_pages
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, Codec, Dtype

LINE, STORED, RESULT, DECODE = map(Packing, (PageLine, StoredLine, EncodeResult, DecodeStart))
PAGE_CLOCKS = 8 * PAGE_BYTES // 16
"""More than a page takes at 8 lanes with every stream at a quarter of its speed."""
VALUES = PAGE_BYTES // 2


class LosslessLoop:
    """Sends pages into the encoder and what it stores into the decoder, and checks both.

    Attributes
    ----------
    encoded, decoded : list of int
        Clocks in which the pages were complete at the end of encoder and decoder.
    """

    def __init__(self, dut, *, idle=0.0, stall=0.0):
        self.bench = Bench(dut)
        self._pages, self._wanted = [], []
        self.encoded, self.decoded = [], []
        self._lines, self._out = {}, []
        self._sources = [self.bench.source(name, idle=idle) for name in (
            "encoder__lines", "decoder__start", "decoder__stored")]
        self._sinks = [self.bench.sink(name, stall=stall, take=take) for name, take in (
            ("encoder__stored", self._take_stored), ("encoder__result", self._take_result),
            ("decoder__lines", self._take_line))]

    async def run(self, pages, broken=()):
        """Runs `pages`, (dtype, uint8 (4096,)), through both, and `broken`, (dtype, uint8 (n * 64,)), through the
        decoder before them."""
        await self.bench.start()
        self._pages = pages
        for dtype, stored in broken:
            self._decode(dtype, stored)
        lines, *_ = self._sources
        for dtype, page in pages:
            lines.queue.extend(LINE.pack(data=line, dtype=int(dtype)) for line in to_lines(page))
        await self.bench.until(
            lambda: len(self.encoded) == len(pages) and len(self.decoded) == len(self._wanted),
            PAGE_CLOCKS * (2 + len(pages) + len(broken)))
        await self.bench.tick(100)
        assert not any(agent.busy for agent in (*self._sources, *self._sinks)) and not self._lines and not self._out

    def _decode(self, dtype, stored):
        count = len(stored) // LINE_BYTES
        self._wanted.append(to_lines(decode_pages(Codec.LOSSLESS, dtype, stored.reshape(1, count, LINE_BYTES))[0]))
        _, start, lines = self._sources
        start.queue.append(DECODE.pack(codec=int(Codec.LOSSLESS), dtype=int(dtype), lines=count))
        lines.queue.extend(to_lines(stored))

    def _take_stored(self, payload):
        line = STORED.unpack(payload)
        assert line["index"] not in self._lines, "a line stored twice"
        self._lines[line["index"]] = line["data"]

    def _take_result(self, payload):
        result = RESULT.unpack(payload)
        dtype, page = self._pages[len(self.encoded)]
        stored, lines, fits = encode_pages(Codec.LOSSLESS, dtype, page[None])
        lines, where = int(lines[0]), f"page {len(self.encoded)}"
        assert (result["lines"], result["fits"]) == (lines, fits[0]), where
        if fits[0]:
            assert sorted(self._lines) == list(range(lines)), where
            order = (*range(result["first"], lines), *range(result["first"]))
            assert [self._lines[index] for index in order] == to_lines(stored[0])[:lines], where
            assert np.array_equal(decode_pages(Codec.LOSSLESS, dtype, stored[:, :lines])[0], page), where
            self._decode(dtype, stored[0, :lines].reshape(-1))
        self._lines = {}
        self.encoded.append(self.bench.clock)

    def _take_line(self, payload):
        self._out.append(payload)
        if len(self._out) == PAGE_LINES:
            assert self._out == self._wanted[len(self.decoded)], f"page {len(self.decoded)}"
            self._out = []
            self.decoded.append(self.bench.clock)


def clocks_per_line(ends):
    """Of all pages but the first, which has to fill the pipeline."""
    return (ends[-1] - ends[0]) / (len(ends) - 1) / PAGE_LINES


def real_pages(rng, dtype, count):
    """Pages of captured K and V, with their rows in the order of tokens."""
    pages = as_pages(real_rows(dtype))
    return [(dtype, page) for page in pages[rng.choice(len(pages), count, replace=False)]]


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5])
async def pages_go_round(dut, idle, stall):
    """Captured pages, pages that mix special rows and random bits, of both dtypes, in random order."""
    rng = np.random.default_rng([SEED, int(10 * idle), int(10 * stall)])
    pages = []
    for dtype in Dtype:
        pages += real_pages(rng, dtype, 12)
        pages += [(dtype, page) for page in mixed_pages(rng, dtype, 8)]
        pages += [(dtype, page) for page in as_pages(random_rows(rng, 32))]
    await LosslessLoop(dut, idle=idle, stall=stall).run([pages[n] for n in rng.permutation(len(pages))])


@cocotb.test()
@cocotb.parametrize(dtype=[0, 1])
async def special_rows_go_round(dut, dtype):
    rng = np.random.default_rng(SEED)
    pages = as_pages(special_rows(rng, Dtype(dtype)))
    await LosslessLoop(dut, stall=0.1).run([(Dtype(dtype), page) for page in pages])


@cocotb.test()
@cocotb.parametrize(stall=[0.0, 0.5])
async def any_stored_bytes_give_64_lines(dut, stall):
    rng = np.random.default_rng([SEED, int(10 * stall)])
    await LosslessLoop(dut, idle=stall, stall=stall).run(real_pages(rng, Dtype.BF16, 2), broken_lossless(rng, 40))


@cocotb.test()
@cocotb.parametrize(dtype=[0, 1])
async def lanes_are_used(dut, dtype):
    """Captured pages take `lanes` values a clock, one after the other without a gap, in each direction."""
    lanes = parameters()["lanes"]
    rng = np.random.default_rng(SEED)
    loop = LosslessLoop(dut)
    await loop.run(real_pages(rng, Dtype(dtype), 24))
    rates = [clocks_per_line(ends) for ends in (loop.encoded, loop.decoded)]
    cocotb.log.info("%s, %d lanes: clocks per line %.3f in, %.3f out", Dtype(dtype).name, lanes, *rates)
    assert max(rates) <= 1.02 * VALUES / lanes / PAGE_LINES
