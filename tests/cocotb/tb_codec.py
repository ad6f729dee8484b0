"""Pages through encoder and decoder; see test_codec.py."""

import cocotb
import numpy as np
from bench import Bench, Packing
from codec_pages import as_pages, mixed_pages, real_rows, special_rows, to_lines
from runner import SEED, parameters

from speckv_hw.types import DecodeStart, EncodeResult, EncodeStart, StoredLine
from speckv_model.codec import decode, encode
from speckv_model.config import DeviceConfig
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, Codec, Dtype

ENCODE, STORED, RESULT, DECODE = map(Packing, (EncodeStart, StoredLine, EncodeResult, DecodeStart))
PAGE_CLOCKS = 8 * PAGE_BYTES // 16
"""More than a page takes at 8 lanes with every stream at a quarter of its speed."""
VALUES = PAGE_BYTES // 2


class CodecLoop:
    """Sends pages into the encoder and what it stores into the decoder, and checks both.

    Attributes
    ----------
    encoded, decoded : list of int
        Clocks in which the pages were complete at the end of encoder and decoder.
    """

    def __init__(self, dut, *, idle=0.0, stall=0.0):
        self.bench = Bench(dut)
        self._pages, self._stored = [], []
        self.encoded, self.decoded = [], []
        self._lines, self._out = {}, []
        source, sink = self.bench.source, self.bench.sink
        self._sources = [source(name, idle=idle) for name in (
            "encoder__start", "encoder__lines", "decoder__start", "decoder__stored")]
        self._sinks = [sink(name, stall=stall, take=take) for name, take in (
            ("encoder__stored", self._take_stored), ("encoder__result", self._take_result),
            ("decoder__lines", self._take_line))]

    async def run(self, pages):
        """Runs `pages`, (codec, dtype, uint8 (4096,)), through both."""
        await self.bench.start()
        self._pages = pages
        start, lines, *_ = self._sources
        for codec, dtype, page in pages:
            start.queue.append(ENCODE.pack(codec=int(codec), dtype=int(dtype)))
            lines.queue.extend(to_lines(page))
        await self.bench.until(lambda: len(self.decoded) == len(pages), PAGE_CLOCKS * (2 + len(pages)))
        await self.bench.tick(100)
        assert not any(agent.busy for agent in (*self._sources, *self._sinks)) and not self._lines

    def _take_stored(self, payload):
        line = STORED.unpack(payload)
        assert line["index"] not in self._lines, "a line stored twice"
        self._lines[line["index"]] = line["data"]

    def _take_result(self, payload):
        result = RESULT.unpack(payload)
        codec, dtype, page = self._pages[len(self.encoded)]
        stored = encode(codec, dtype, page)
        where = f"page {len(self.encoded)}"
        assert result["fits"] == (stored is not None), where
        if stored is None:
            # What the sealer does then.
            codec, stored = Codec.RAW, page
        else:
            wanted = dict(enumerate(to_lines(stored)))
            assert result["lines"] == len(wanted) and self._lines == wanted, where
        self._lines = {}
        self._stored.append((codec, dtype, stored))
        self.encoded.append(self.bench.clock)
        *_, start, lines = self._sources
        start.queue.append(DECODE.pack(codec=int(codec), dtype=int(dtype), lines=len(stored) // LINE_BYTES))
        lines.queue.extend(to_lines(stored))

    def _take_line(self, payload):
        self._out.append(payload)
        if len(self._out) == PAGE_LINES:
            assert self._out == to_lines(decode(*self._stored[len(self.decoded)])), f"page {len(self.decoded)}"
            self._out = []
            self.decoded.append(self.bench.clock)


def clocks_per_line(ends):
    """Of all pages but the first, which has to fill the pipeline."""
    return (ends[-1] - ends[0]) / (len(ends) - 1) / PAGE_LINES


def real_pages(rng, dtype, count):
    """Pages of captured K and V, with their rows in the order of tokens."""
    pages = as_pages(real_rows(dtype))
    return list(pages[rng.choice(len(pages), count, replace=False)])


@cocotb.test()
@cocotb.parametrize(idle=[0.0, 0.5], stall=[0.0, 0.5])
async def pages_go_round(dut, idle, stall):
    """Captured pages and pages that mix special rows, of both codecs and dtypes, in random order."""
    rng = np.random.default_rng([SEED, int(10 * idle), int(10 * stall)])
    pages = []
    for dtype in Dtype:
        pages += [(Codec.SPECKV, dtype, page) for page in real_pages(rng, dtype, 16)]
        pages += [(Codec.SPECKV, dtype, page) for page in mixed_pages(rng, dtype, 8)]
        pages += [(Codec.RAW, dtype, page) for page in mixed_pages(rng, dtype, 4)]
    loop = CodecLoop(dut, idle=idle, stall=stall)
    await loop.run([pages[n] for n in rng.permutation(len(pages))])


@cocotb.test()
@cocotb.parametrize(dtype=[0, 1])
async def special_rows_go_round(dut, dtype):
    rng = np.random.default_rng(SEED)
    pages = as_pages(special_rows(rng, Dtype(dtype)))
    await CodecLoop(dut, stall=0.1).run([(Codec.SPECKV, Dtype(dtype), page) for page in pages])


@cocotb.test()
async def lanes_are_used(dut):
    """Captured pages take `lanes` values a clock, and at most two clocks between pages, in each direction."""
    lanes = DeviceConfig.from_dict(parameters()["config"]).lanes
    rng = np.random.default_rng(SEED)
    for codec in (Codec.RAW, Codec.SPECKV):
        loop = CodecLoop(dut)
        await loop.run([(codec, Dtype.FP16, page) for page in real_pages(rng, Dtype.FP16, 8)])
        rates = [clocks_per_line(ends) for ends in (loop.encoded, loop.decoded)]
        cocotb.log.info("%s, %d lanes: clocks per line %.3f in, %.3f out", codec.name, lanes, *rates)
        most = (VALUES / lanes if codec == Codec.SPECKV else PAGE_LINES) + 2
        assert max(rates) <= most / PAGE_LINES
