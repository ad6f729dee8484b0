"""CRC-32 of stored pages, a line a clock."""

import zlib

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.types import LINE_BITS

__all__ = ["Checksum"]

CRC_BITS = 32
_ONES = 2**CRC_BITS - 1

BLOCK = 4
"""Bits of the CRC that share logic."""
GROUP = 64
"""Bits of a line whose logic is apart from that of the others: with all in one, no router gets the wires through."""


def _advance(register, line):
    """The CRC register after a line. Linear in both, so that its bits are XORs of theirs."""
    return zlib.crc32(line.to_bytes(LINE_BITS // 8, "little"), register ^ _ONES) ^ _ONES


def _images():
    """For each bit of (register, line), the bits of the register after a line that it changes."""
    return [_advance(1 << bit, 0) for bit in range(CRC_BITS)] + [_advance(0, 1 << bit) for bit in range(LINE_BITS)]


def _share(m, name, inputs, images):
    """What `inputs` give to the register after a line. Its bits are XORs of half of the inputs each.

    In blocks of some bits: inputs that change the same bits of a block are added once, and each of its bits is the sum
    of half of those sums. That takes much less than what the bits would take one by one, and no more levels.
    """
    product = []
    for begin in range(0, CRC_BITS, BLOCK):
        classes = {}
        for bit, image in zip(inputs, images, strict=True):
            classes.setdefault(image >> begin & (1 << BLOCK) - 1, []).append(bit)
        sums = Signal(1 << BLOCK, name=f"sums_{name}_{begin}")
        m.d.comb += [sums[number].eq(Cat(members).xor()) for number, members in classes.items() if number]
        product += [Cat(sums[number] for number in classes if number >> bit & 1).xor() for bit in range(BLOCK)]
    return Cat(product)


class Checksum(wiring.Component):
    """CRC-32 (that of zlib: polynomial 0x04C11DB7, reflected, all ones before and after) over a run of lines.

    Takes a line each clock in which `valid` is high; `crc` includes it `latency` clocks later. `start` begins a new run
    in the same clock as its first line, or before it.

    Members
    -------
    start, valid : In
    line : In
    summing : Out
        `crc` lacks a line that was taken, or does not know of a start.
    crc : Out
    """

    latency = 2

    def __init__(self):
        super().__init__({
            "start": In(1),
            "valid": In(1),
            "line": In(LINE_BITS),
            "summing": Out(1),
            "crc": Out(CRC_BITS),
        })

    def elaborate(self, platform):
        m = Module()
        register = Signal(CRC_BITS, init=_ONES)
        current = Signal(CRC_BITS)
        starts, has_line = Signal(), Signal()
        images = _images()
        following = _share(m, "register", current, images[:CRC_BITS])
        for begin in range(0, LINE_BITS, GROUP):
            bits = slice(begin, begin + GROUP)
            share = Signal(CRC_BITS, name=f"share{begin}")
            m.d.sync += share.eq(_share(m, f"line{begin}", self.line[bits], images[CRC_BITS:][bits]))
            following ^= share
        m.d.comb += [
            current.eq(Mux(starts, _ONES, register)),
            self.crc.eq(~register),
            self.summing.eq(has_line | starts),
        ]
        m.d.sync += [starts.eq(self.start), has_line.eq(self.valid)]
        with m.If(has_line):
            m.d.sync += register.eq(following)
        with m.Else():
            m.d.sync += register.eq(current)
        return m
