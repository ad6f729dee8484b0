"""CRC-32 of stored pages, a line a clock."""

from amaranth.hdl import Module
from amaranth.lib import crc, wiring
from amaranth.lib.crc.catalog import CRC32_ISO_HDLC
from amaranth.lib.wiring import In, Out

from speckv_hw.types import LINE_BITS

__all__ = ["Checksum"]


class Checksum(wiring.Component):
    """CRC-32 (that of zlib) over a run of 64-byte lines.

    Takes a line each clock in which `valid` is high; `crc` includes it from the next clock on. `start` begins a new run
    in the same clock as its first line, or before it.

    Members
    -------
    start, valid : In
    line : In
    crc : Out
    """

    latency = 1

    def __init__(self):
        super().__init__({
            "start": In(1),
            "valid": In(1),
            "line": In(LINE_BITS),
            "crc": Out(32),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.processor = processor = crc.Parameters(CRC32_ISO_HDLC, data_width=LINE_BITS).create()
        m.d.comb += [
            processor.start.eq(self.start),
            processor.valid.eq(self.valid),
            processor.data.eq(self.line),
            self.crc.eq(processor.crc),
        ]
        return m
