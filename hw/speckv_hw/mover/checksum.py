"""CRC-32 of stored pages, a line a clock."""

import zlib

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.types import LINE_BITS

__all__ = ["Checksum"]

CRC_BITS = 32
_ONES = 2**CRC_BITS - 1


def _advance(register, line):
    """The CRC register after a line. Linear in both, so that its bits are XORs of theirs."""
    return zlib.crc32(line.to_bytes(LINE_BITS // 8, "little"), register ^ _ONES) ^ _ONES


def _masks():
    """For each bit of the register, a mask of the bits of (register, line) that it is the XOR of after a line."""
    images = [_advance(1 << bit, 0) for bit in range(CRC_BITS)] + [_advance(0, 1 << bit) for bit in range(LINE_BITS)]
    return [sum(1 << number for number, image in enumerate(images) if image >> bit & 1) for bit in range(CRC_BITS)]


class Checksum(wiring.Component):
    """CRC-32 (that of zlib: polynomial 0x04C11DB7, reflected, all ones before and after) over a run of lines.

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
            "crc": Out(CRC_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        register = Signal(CRC_BITS, init=_ONES)
        current = Signal(CRC_BITS)
        inputs = Signal(CRC_BITS + LINE_BITS)
        m.d.comb += [
            inputs.eq(Cat(current, self.line)),
            current.eq(Mux(self.start, _ONES, register)),
            self.crc.eq(~register),
        ]
        with m.If(self.valid):
            m.d.sync += register.eq(Cat((inputs & mask).xor() for mask in _masks()))
        with m.Else():
            m.d.sync += register.eq(current)
        return m
