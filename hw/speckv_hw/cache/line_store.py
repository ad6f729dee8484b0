"""The data memory of the page cache."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.config import DeviceConfig
from speckv_hw.stream import transfer
from speckv_hw.types import LINE_BITS, FillLine, SlotLine

__all__ = ["LineStore", "LineWrite"]


class LineWrite(data.Struct):
    slot: SlotLine
    data: LINE_BITS
    enable: 64
    """One bit a byte."""


class LineStore(wiring.Component):
    """Block memory of `cache_pages` x 64 lines with one write port and one read port, each shared by two users.

    A read's data comes 1 clock after the read was accepted, in order for each user; both ports take one line a clock.
    Where both users of a port want it they alternate. Nothing is cleared on reset: who reads must know what it wrote.
    The same line must not be read and written in the same clock.

    Members
    -------
    write : In(stream of LineWrite)
        From requests.
    fill : In(stream of FillLine)
        From the fetcher.
    read, read_data : In(stream of SlotLine), Out(stream of 512 bits)
        For requests.
    seal_read, seal_data : In(stream of SlotLine), Out(stream of 512 bits)
        For the sealer.
    """

    latency = 1

    def __init__(self, config: DeviceConfig):
        self._config = config
        super().__init__({
            "write": In(stream.Signature(LineWrite)),
            "fill": In(stream.Signature(FillLine)),
            "read": In(stream.Signature(SlotLine)),
            "read_data": Out(stream.Signature(LINE_BITS)),
            "seal_read": In(stream.Signature(SlotLine)),
            "seal_data": Out(stream.Signature(LINE_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        depth = self._config.cache_pages * 64
        # No read-before-write logic: users keep reads away from a line that is being written.
        m.submodules.lines = lines = memory.Memory(shape=LINE_BITS, depth=depth, init=[], attrs={"no_rw_check": 1})
        write_port = lines.write_port(granularity=8)
        read_port = lines.read_port()

        def address(where):
            return (where.line | (where.slot << 6))[:max(1, (depth - 1).bit_length())]

        # Fills and sealing go first and whoever waited goes next: so their `ready` does not depend on the requests,
        # whose `valid` comes late in the clock.
        write_turn = Signal()
        use_fill = Signal()
        m.d.comb += [
            use_fill.eq(self.fill.valid & ~write_turn),
            self.fill.ready.eq(~write_turn),
            self.write.ready.eq(~use_fill),
        ]
        m.d.sync += write_turn.eq(use_fill & self.write.valid)
        with m.If(use_fill):
            m.d.comb += [
                write_port.addr.eq(address(self.fill.p)),
                write_port.data.eq(self.fill.p.data),
                write_port.en.eq(~0),
            ]
        with m.Else():
            m.d.comb += [
                write_port.addr.eq(address(self.write.p.slot)),
                write_port.data.eq(self.write.p.data),
                write_port.en.eq(Mux(self.write.valid, self.write.p.enable, 0)),
            ]

        pending = Signal()
        pending_seal = Signal()
        read_turn = Signal()
        use_seal = Signal()
        free = Signal()
        m.d.comb += [
            self.read_data.payload.eq(read_port.data),
            self.read_data.valid.eq(pending & ~pending_seal),
            self.seal_data.payload.eq(read_port.data),
            self.seal_data.valid.eq(pending & pending_seal),
            free.eq(~pending | transfer(self.read_data) | transfer(self.seal_data)),
            use_seal.eq(self.seal_read.valid & ~read_turn),
            self.seal_read.ready.eq(free & use_seal),
            self.read.ready.eq(free & ~use_seal),
            read_port.addr.eq(Mux(use_seal, address(self.seal_read.p), address(self.read.p))),
            read_port.en.eq(free),
        ]
        with m.If(free):
            m.d.sync += [
                pending.eq(use_seal | self.read.valid),
                pending_seal.eq(use_seal),
                read_turn.eq(use_seal & self.read.valid),
            ]
        return m
