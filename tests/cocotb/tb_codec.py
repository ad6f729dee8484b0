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
SETTINGS = {Codec.RAW: [0], Codec.SPECKV: [0], Codec.LOSSLESS: [0], Codec.FIXED: list(range(7, 17)),
            Codec.VARIABLE: [116, 124, 128, 132, 136]}
"""Settings that are tried of each codec."""


class CodecLoop:
    """Sends pages into the encoder and what it stores into the decoder, and checks both.

    Parameters
    ----------
    apart : bool
        Decode only when all is encoded, so that the decoder never waits for pages.

    Attributes
    ----------
    encoded, decoded : list of int
        Clocks in which the pages were complete at the end of encoder and decoder.
    """

    def __init__(self, dut, *, idle=0.0, stall=0.0, apart=False):
        self.bench = Bench(dut)
        self._apart, self._to_decode = apart, []
        self._pages, self._stored = [], []
        self.encoded, self.decoded = [], []
        # Of the page whose result is next, and of the one after it
        self._lines, self._ahead, self._out = {}, {}, []
        source, sink = self.bench.source, self.bench.sink
        self._sources = [source(name, idle=idle) for name in (
            "encoder__start", "encoder__lines", "decoder__start", "decoder__stored")]
        self._sinks = [sink(name, stall=stall, take=take) for name, take in (
            ("encoder__stored", self._take_stored), ("encoder__result", self._take_result),
            ("decoder__lines", self._take_line))]

    async def run(self, pages):
        """Runs `pages`, (codec, setting, dtype, by_row, uint8 (4096,)), through both."""
        await self.bench.start()
        self._pages = pages
        start, lines, *_ = self._sources
        for codec, setting, dtype, by_row, page in pages:
            start.queue.append(ENCODE.pack(codec=int(codec), setting=setting, dtype=int(dtype), by_row=by_row))
            lines.queue.extend(to_lines(page))
        await self.bench.until(lambda: len(self.decoded) == len(pages), PAGE_CLOCKS * (2 + len(pages)))
        await self.bench.tick(100)
        assert not any(agent.busy for agent in (*self._sources, *self._sinks)) and not self._lines

    def _take_stored(self, payload):
        line = STORED.unpack(payload)
        lines = self._ahead if line["ahead"] else self._lines
        assert line["index"] not in lines, f"line {line['index']} of page {len(self.encoded)} stored twice"
        lines[line["index"]] = line["data"]

    def _take_result(self, payload):
        result = RESULT.unpack(payload)
        codec, setting, dtype, by_row, page = self._pages[len(self.encoded)]
        stored = encode(codec, dtype, page, setting, by_row)
        where = f"page {len(self.encoded)}"
        assert result["fits"] == (stored is not None), where
        if stored is None:
            # What the sealer does then.
            codec, stored = Codec.RAW, page
        else:
            count, first = result["lines"], result["first"]
            order = [*range(first, count), *range(first)]
            assert count == len(order) and [self._lines.pop(index) for index in order] == to_lines(stored), where
            assert not self._lines, where
        self._lines, self._ahead = self._ahead, {}
        self._stored.append((codec, dtype, stored, by_row))
        self.encoded.append(self.bench.clock)
        start = DECODE.pack(codec=int(codec), dtype=int(dtype), by_row=by_row, lines=len(stored) // LINE_BYTES)
        self._to_decode.append((start, to_lines(stored)))
        if not self._apart or len(self.encoded) == len(self._pages):
            *_, starts, lines = self._sources
            for start, stored_lines in self._to_decode:
                starts.queue.append(start)
                lines.queue.extend(stored_lines)
            self._to_decode.clear()

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
    """Captured pages and pages that mix special rows, of all codecs and dtypes, in random order; some by rows."""
    rng = np.random.default_rng([SEED, int(10 * idle), int(10 * stall)])
    pages = []
    for dtype in Dtype:
        for codec, settings in SETTINGS.items():
            for page in [*real_pages(rng, dtype, 6), *mixed_pages(rng, dtype, 3)]:
                pages.append((codec, int(rng.choice(settings)), dtype, int(rng.integers(2)), page))
    loop = CodecLoop(dut, idle=idle, stall=stall)
    await loop.run([pages[n] for n in rng.permutation(len(pages))])


@cocotb.test()
@cocotb.parametrize(dtype=[0, 1])
async def special_rows_go_round(dut, dtype):
    rng = np.random.default_rng(SEED)
    pages = as_pages(special_rows(rng, Dtype(dtype)))
    await CodecLoop(dut, stall=0.1).run([
        (codec, int(rng.choice(settings)), Dtype(dtype), int(rng.integers(2)), page)
        for page in pages for codec, settings in SETTINGS.items()])


@cocotb.test()
async def lanes_are_used(dut):
    """Captured pages take `lanes` values a clock, and at most two clocks between pages, in each direction.

    Lossless pages take up to three: their front sections are read while the page before goes out.
    """
    lanes = DeviceConfig.from_dict(parameters()["config"]).lanes
    rng = np.random.default_rng(SEED)
    for codec, settings in SETTINGS.items():
        for dtype in Dtype:
            for setting in settings[::4]:
                loop = CodecLoop(dut, apart=True)
                by_row = int(rng.integers(2))
                await loop.run([(codec, setting, dtype, by_row, page) for page in real_pages(rng, dtype, 12)])
                rates = [clocks_per_line(ends) for ends in (loop.encoded, loop.decoded)]
                cocotb.log.info("%s %d %s, %d lanes: clocks per line %.3f in, %.3f out", codec.name, setting,
                                dtype.name, lanes, *rates)
                most = (PAGE_LINES if codec == Codec.RAW else VALUES / lanes) + (3 if codec == Codec.LOSSLESS else 2)
                assert max(rates) <= most / PAGE_LINES
