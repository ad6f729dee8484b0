"""Encoder and decoder by themselves, Verilated: the clocks that pages take in them."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from amaranth.hdl import Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import connect, flipped

from speckv_hw.codec.page_decoder import PageDecoder
from speckv_hw.codec.page_encoder import PageEncoder
from speckv_hw.generate import NAME, verilog_of
from speckv_hw.types import DecodeStart, EncodeResult, EncodeStart
from speckv_model.codec import decode_pages, encode_pages
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, Codec

from .build import build_program

HARNESS = Path(__file__).parent / "codec_harness"
MOST_SECONDS = 120
_JOB = np.dtype([("encode", "<u8"), ("decode", "<u8"), ("lines", "<u8"), ("page", "u1", PAGE_BYTES),
                 ("stored", "u1", PAGE_BYTES)])
_RESULT = np.dtype([("encoded", "<u8"), ("decoded", "<u8"), ("result", "<u8"), ("stored", "u1", PAGE_BYTES),
                    ("page", "u1", PAGE_BYTES)])
"""As in the harness."""


class CodecPair(wiring.Component):
    """An encoder and a decoder side by side, as ``encoder__*`` and ``decoder__*``."""

    def __init__(self, config):
        self._parts = {"encoder": PageEncoder(config), "decoder": PageDecoder(config)}
        super().__init__({name: wiring.Out(part.signature) for name, part in self._parts.items()})

    def elaborate(self, platform):
        m = Module()
        for name, part in self._parts.items():
            m.submodules[name] = part
            connect(m, part, flipped(getattr(self, name)))
        return m


def codec_clocks(config, dtype, pages, jobs):
    """Clocks for each line that encoder and decoder take, pages one after the other and nothing in their way.

    What both make is compared with the model.

    Parameters
    ----------
    config : DeviceConfig
    dtype : Dtype
    pages : uint8 (n, 4096)
    jobs : sequence of (Codec, int)
        Codec and setting of each page.

    Returns
    -------
    encode, decode : float
        Of all pages but the first, which has to fill the pipeline.

    Raises
    ------
    BuildError
        A tool is missing or failed.
    RuntimeError
        The RTL does not do what the model does, or hangs.
    """
    program = _program(config)
    work, fits = _jobs(dtype, pages, jobs)
    with tempfile.TemporaryDirectory() as folder:
        source, sink = Path(folder) / "jobs", Path(folder) / "results"
        work.tofile(source)
        try:
            done = subprocess.run([program, source, sink], capture_output=True, text=True, timeout=MOST_SECONDS)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"the simulated codec did not end within {MOST_SECONDS} s") from None
        if done.returncode:
            raise RuntimeError(f"the simulated codec failed: {done.stderr.strip()}")
        found = np.fromfile(sink, _RESULT)
    _check(found, work, fits, dtype, jobs)
    return tuple(float(np.ptp(found[ends].astype(float)) / (len(pages) - 1) / PAGE_LINES)
                 for ends in ("encoded", "decoded"))


@cache
def _program(config):
    return build_program(verilog_of(config, CodecPair(config)), "Vcodec", NAME, HARNESS)


def _jobs(dtype, pages, jobs):
    """What the harness reads, and whether each page fits its codec."""
    work, all_fit = np.zeros(len(pages), _JOB), np.zeros(len(pages), bool)
    work["page"] = pages
    for n, (codec, setting) in enumerate(jobs):
        stored, lines, fits = encode_pages(codec, dtype, pages[n:n + 1], setting)
        work["stored"][n], lines = (stored[0].ravel(), int(lines[0])) if fits[0] else (pages[n], PAGE_LINES)
        work["lines"][n], all_fit[n] = lines, fits[0]
        work["encode"][n] = _pack(EncodeStart, codec=codec, dtype=dtype, setting=setting)
        work["decode"][n] = _pack(DecodeStart, codec=codec if fits[0] else Codec.RAW, dtype=dtype, lines=lines)
    return work, all_fit


def _check(found, work, fits, dtype, jobs):
    result = data.Layout.cast(EncodeResult)
    for n, (codec, _) in enumerate(jobs):
        lines, length = work["lines"][n], int(work["lines"][n]) * LINE_BYTES
        said = {name: int(found["result"][n]) >> field.offset & (1 << field.width) - 1 for name, field in result}
        # By index; the stored order begins with the line that the encoder names.
        stored = found["stored"][n, :length].reshape(-1, LINE_BYTES)
        stored = np.roll(stored, -said["first"], axis=0).ravel()
        if said["fits"] != fits[n] or fits[n] and (
                said["lines"] != lines or (stored != work["stored"][n, :length]).any()):
            raise RuntimeError(f"the encoder makes something else of page {n} ({codec.name}) than the model")
        codec = codec if fits[n] else Codec.RAW
        page = decode_pages(codec, dtype, work["stored"][n].reshape(1, PAGE_LINES, LINE_BYTES), lines.reshape(1))
        if (found["page"][n] != page[0]).any():
            raise RuntimeError(f"the decoder makes something else of page {n} ({codec.name}) than the model")


def _pack(shape, **fields):
    layout = data.Layout.cast(shape)
    return sum(int(value) << layout[name].offset for name, value in fields.items())
