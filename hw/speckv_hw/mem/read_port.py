"""The read half of the memory port."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mem.axi4 import LINE_SIZE, Axi4Signature, Burst, Response
from speckv_hw.mem.burst_splitter import BurstSplitter
from speckv_hw.mem.flag_queue import FlagQueue
from speckv_hw.stream import Arbiter, BypassFifo, Stage, transfer
from speckv_hw.types import LINE_BITS, ReadData, ReadRequest

__all__ = ["ReadPort", "address_layout"]


def address_layout(config):
    """What the AW and AR channels carry: a burst's identifier, first line and lines - 1."""
    return data.StructLayout({"id": 4, "line": config.dram_line_bits, "len": 8})


def burst_boundary(depth):
    """Lines at whose multiples a client's requests are cut, so that two bursts fit into its queue."""
    return min(64, 1 << ((depth // 2).bit_length() - 1))


class ReadPort(wiring.Component):
    """Reads bursts of lines for several clients over the AR and R channels of AXI4.

    A request reaches AR `request_latency` clocks after it was accepted if nothing is before it; a beat of R
    reaches its client `data_latency` clocks after it was taken. One line a clock. The order of a client's
    requests is kept; between clients bursts take turns. A burst is asked for only when the client's queue has
    room reserved for all of it, so R is never held up (`rready` is always high) and no client can block
    another. Empty on reset.

    Parameters
    ----------
    config : DeviceConfig
        Gives the address width and the bursts in flight, of all readers together.
    depths : tuple of int
        Of each reader, the lines that its queue holds, at least 4. It gets one line a clock, sustained, if
        the queue holds more lines than the memory has clocks of latency.

    Members
    -------
    request0, ... : In(stream(ReadRequest))
    data0, ... : Out(stream(ReadData))
    axi : Out(Axi4Signature)
        Only AR and R are driven.
    """

    request_latency = 3
    data_latency = 2

    def __init__(self, config, depths):
        depths = tuple(depths)
        if not 1 <= len(depths) <= 16:
            raise ValueError(f"depths must name 1 to 16 readers, not {depths!r}")
        for depth in depths:
            if not isinstance(depth, int) or depth < 4:
                raise ValueError(f"depths must be at least 4, not {depth!r}")
        self._config = config
        self._depths = depths
        readers = range(len(depths))
        super().__init__(
            {f"request{n}": In(stream.Signature(ReadRequest)) for n in readers}
            | {f"data{n}": Out(stream.Signature(ReadData)) for n in readers}
            | {"axi": Out(Axi4Signature(config.dram_address_bits))})

    def elaborate(self, platform):
        m = Module()
        axi = self.axi
        layout = address_layout(self._config)
        m.submodules.turns = turns = Arbiter(layout, len(self._depths))
        m.submodules.address = address = Stage(layout)

        beat = Signal(data.StructLayout({"id": 4, "data": LINE_BITS, "error": 1, "last": 1}))
        beat_valid = Signal()
        m.d.comb += axi.rready.eq(1)
        m.d.sync += [
            beat_valid.eq(axi.rvalid),
            beat.id.eq(axi.rid),
            beat.data.eq(axi.rdata),
            beat.error.eq(axi.rresp != Response.OKAY.value),
            beat.last.eq(axi.rlast),
        ]

        in_flight = Signal(range(self._config.bursts_in_flight + 1))
        may_start = in_flight != self._config.bursts_in_flight
        m.d.comb += [
            address.i.payload.eq(turns.o.payload),
            address.i.valid.eq(turns.o.valid & may_start),
            turns.o.ready.eq(address.i.ready & may_start),
            axi.arvalid.eq(address.o.valid),
            address.o.ready.eq(axi.arready),
            axi.arid.eq(address.o.payload.id),
            axi.araddr.eq(address.o.payload.line << LINE_SIZE),
            axi.arlen.eq(address.o.payload.len),
            axi.arsize.eq(LINE_SIZE),
            axi.arburst.eq(Burst.INCR),
        ]
        m.d.sync += in_flight.eq(in_flight + transfer(address.i) - (beat_valid & beat.last))

        for n, depth in enumerate(self._depths):
            m.submodules[f"splitter{n}"] = splitter = BurstSplitter(burst_boundary(depth))
            m.submodules[f"finals{n}"] = finals = FlagQueue(self._config.bursts_in_flight)
            m.submodules[f"queue{n}"] = queue = BypassFifo(ReadData, depth)
            request, output, bursts = getattr(self, f"request{n}"), getattr(self, f"data{n}"), turns.inputs[n]
            wiring.connect(m, wiring.flipped(request), splitter.i)
            wiring.connect(m, queue.o, wiring.flipped(output))

            room = Signal(range(depth + 1), init=depth, name=f"room{n}")
            """Lines of the queue that are neither filled nor promised."""
            fits = splitter.o.payload.count <= room
            m.d.comb += [
                bursts.payload.id.eq(n),
                bursts.payload.line.eq(splitter.o.payload.line),
                bursts.payload.len.eq(splitter.o.payload.count - 1),
                bursts.valid.eq(splitter.o.valid & fits),
                splitter.o.ready.eq(bursts.ready & fits),
                finals.i.payload.eq(splitter.o.payload.final),
                finals.i.valid.eq(transfer(bursts)),
            ]
            m.d.sync += room.eq(room - Mux(transfer(bursts), splitter.o.payload.count, 0) + transfer(output))

            mine = beat_valid & (beat.id == n)
            m.d.comb += [
                queue.i.payload.data.eq(beat.data),
                queue.i.payload.error.eq(beat.error),
                queue.i.payload.last.eq(beat.last & finals.o.payload),
                queue.i.valid.eq(mine),
                finals.o.ready.eq(mine & beat.last),
            ]
        return m
