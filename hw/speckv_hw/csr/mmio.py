"""Payloads of the MMIO port."""

from amaranth.lib import data


class MmioRequest(data.Struct):
    """A read, or a write of `data`, of the 64-bit word at byte `address`."""
    write: 1
    address: 16
    data: 64


class MmioResponse(data.Struct):
    """The word read; zero for a write."""
    data: 64
