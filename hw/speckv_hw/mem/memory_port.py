"""The port to device DRAM that all boxes share."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mem.axi4 import Axi4Signature
from speckv_hw.mem.read_port import ReadPort
from speckv_hw.mem.write_port import WritePort
from speckv_hw.types import TIMEOUT_WIDTH, ReadData, ReadRequest, WriteData, WriteDone, WriteRequest

__all__ = ["MemoryPort"]


class MemoryPort(wiring.Component):
    """An AXI4 manager that reads and writes bursts of 64-byte lines for several clients.

    Requests ask for `count` lines (1 to 127) from DRAM line `line` on; the port cuts them where AXI4 wants it, as
    bursts of type INCR and size 64 bytes whose identifier, or its low bits, are the client's number. Throughput, one
    line a clock in each direction; latencies, `ReadPort.request_latency`, `ReadPort.data_latency` and
    `WritePort.request_latency`. Order is kept within each client; there is none between clients or between
    reads and writes: what a write wrote may be read once its `done` was offered. Nothing that a client does
    with its own streams can block another, but for a writer that has offered the first line of a burst: it
    must offer the others within bounded time.

    Memory that does not answer for `timeout` clocks is given up: the lines and requests concerned end as errors, and
    late answers are dropped (`ReadClient`, `WritePort`). It must accept addresses and data within bounded time.

    The port is empty after reset, and the memory behind it must be reset with it.

    Parameters
    ----------
    config : DeviceConfig
        Gives the address width and, for each direction, the bursts in flight.
    readers, writers : int
        Clients of each direction, 1 to 16.
    read_depth : int or tuple of int
        Lines that the queue of each reader holds, or of all; at least 4. Long bursts are cut to half of it.
        For one line a clock, more than the memory's latency in clocks.

    Members
    -------
    read0_request, ... : In(stream(ReadRequest))
    read0_data, ... : Out(stream(ReadData))
        `last` marks the last line of a request; `error`, a line that was not answered with OKAY.
    write0_request, ... : In(stream(WriteRequest))
    write0_data, ... : In(stream(WriteData))
        `count` lines for each request; the first one starts the burst.
    write0_done, ... : Out(stream(WriteDone))
        One for each request, in order.
    timeout : In
        Clocks; 0: never.
    axi : Out(Axi4Signature)
    """

    def __init__(self, config, readers=2, writers=2, read_depth=(512, 16)):
        if not isinstance(readers, int) or not 1 <= readers <= 16:
            raise ValueError(f"readers must be from 1 to 16, not {readers!r}")
        depths = (read_depth,) * readers if isinstance(read_depth, int) else tuple(read_depth)
        if len(depths) != readers:
            raise ValueError(f"read_depth must name a depth for each reader, not {read_depth!r}")
        self._read = ReadPort(config, depths)
        self._write = WritePort(config, writers)
        self._readers = readers
        self._writers = writers
        members = {"timeout": In(TIMEOUT_WIDTH), "axi": Out(Axi4Signature(config.dram_address_bits))}
        for n in range(readers):
            members[f"read{n}_request"] = In(stream.Signature(ReadRequest))
            members[f"read{n}_data"] = Out(stream.Signature(ReadData))
        for n in range(writers):
            members[f"write{n}_request"] = In(stream.Signature(WriteRequest))
            members[f"write{n}_data"] = In(stream.Signature(WriteData))
            members[f"write{n}_done"] = Out(stream.Signature(WriteDone))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.read = read = self._read
        m.submodules.write = write = self._write

        m.d.comb += [read.timeout.eq(self.timeout), write.timeout.eq(self.timeout)]

        def outer(name):
            return wiring.flipped(getattr(self, name))

        for n in range(self._readers):
            wiring.connect(m, outer(f"read{n}_request"), getattr(read, f"request{n}"))
            wiring.connect(m, getattr(read, f"data{n}"), outer(f"read{n}_data"))
        for n in range(self._writers):
            wiring.connect(m, outer(f"write{n}_request"), getattr(write, f"request{n}"))
            wiring.connect(m, outer(f"write{n}_data"), getattr(write, f"data{n}"))
            wiring.connect(m, getattr(write, f"done{n}"), outer(f"write{n}_done"))
        for name, member in self.axi.signature.members.items():
            half = read if name[0] in "ar" and not name.startswith("aw") else write
            here, there = getattr(self.axi, name), getattr(half.axi, name)
            m.d.comb += here.eq(there) if member.flow == Out else there.eq(here)
        return m
