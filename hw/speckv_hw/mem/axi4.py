"""The AXI4 port of the device."""

from amaranth.hdl import unsigned
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.types import LINE_BITS

__all__ = ["Axi4Signature", "Burst", "Response", "LINE_SIZE"]

LINE_SIZE = 6
"""AxSIZE of a 64-byte beat."""


class Burst(enum.Enum, shape=2):
    """AxBURST (AMBA AXI4 specification, section A3.4.1)."""
    FIXED = 0
    INCR = 1
    WRAP = 2


class Response(enum.Enum, shape=2):
    """RRESP and BRESP (AMBA AXI4 specification, section A3.4.4)."""
    OKAY = 0
    EXOKAY = 1
    SLVERR = 2
    DECERR = 3


class Axi4Signature(wiring.Signature):
    """A 512-bit AXI4 manager as one flat group of signals; a top's `axi` becomes `axi__awvalid` and so on.

    Without the optional lock, cache, prot, qos, region and user signals.

    Parameters
    ----------
    address_bits : int
        Width of a byte address.
    id_bits : int
        Width of the transaction identifiers.

    Members
    -------
    aw*, w*, ar* : Out, but for `awready`, `wready` and `arready`
    b*, r* : In, but for `bready` and `rready`
    """

    def __init__(self, address_bits, id_bits=4):
        if not isinstance(address_bits, int) or not 12 <= address_bits <= 64:
            raise ValueError(f"address_bits must be from 12 to 64, not {address_bits!r}")
        if not isinstance(id_bits, int) or not 1 <= id_bits <= 32:
            raise ValueError(f"id_bits must be from 1 to 32, not {id_bits!r}")

        def address_channel(name):
            return {
                f"{name}valid": Out(1),
                f"{name}ready": In(1),
                f"{name}id": Out(id_bits),
                f"{name}addr": Out(address_bits),
                f"{name}len": Out(8),
                f"{name}size": Out(3),
                f"{name}burst": Out(unsigned(2)),
            }

        super().__init__(address_channel("aw") | {
            "wvalid": Out(1),
            "wready": In(1),
            "wdata": Out(LINE_BITS),
            "wstrb": Out(LINE_BITS // 8),
            "wlast": Out(1),
            "bvalid": In(1),
            "bready": Out(1),
            "bid": In(id_bits),
            "bresp": In(unsigned(2)),
        } | address_channel("ar") | {
            "rvalid": In(1),
            "rready": Out(1),
            "rid": In(id_bits),
            "rdata": In(LINE_BITS),
            "rresp": In(unsigned(2)),
            "rlast": In(1),
        })
