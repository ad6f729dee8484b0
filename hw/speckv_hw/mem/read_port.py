"""The read half of the memory port."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mem.axi4 import LINE_SIZE, Axi4Signature, Burst, Response
from speckv_hw.mem.read_client import ReadClient
from speckv_hw.stream import Arbiter, Stage, transfer
from speckv_hw.types import LINE_BITS, TIMEOUT_WIDTH, ReadData, ReadRequest

__all__ = ["ReadPort", "address_layout"]


def address_layout(config):
    """What the AW and AR channels carry: a burst's identifier, first line and lines - 1."""
    return data.StructLayout({"id": 4, "line": config.dram_line_bits, "len": 8})


class ReadPort(wiring.Component):
    """Reads bursts of lines for several clients over the AR and R channels of AXI4.

    A request reaches AR `request_latency` clocks after it was accepted if nothing is before it; a beat of R
    reaches its client `data_latency` clocks after it was taken. One line a clock. The order of a client's
    requests is kept; between clients bursts take turns. A burst is asked for only when the client's queue has
    room reserved for all of it, so R is never held up (`rready` is always high) and no client can block
    another. Empty on reset.

    A client's identifiers are its number plus multiples of the power of two that all numbers are below: the series
    of its `ReadClient`, which says what becomes of bursts that are not answered.

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
    timeout : In
        Clocks without an answer after which a client's bursts are given up; 0: never.
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
            | {"timeout": In(TIMEOUT_WIDTH), "axi": Out(Axi4Signature(config.dram_address_bits))})

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
        client_bits = (len(self._depths) - 1).bit_length()
        clients = []
        for n, depth in enumerate(self._depths):
            m.submodules[f"client{n}"] = client = ReadClient(depth, 16 >> client_bits, self._config.bursts_in_flight)
            clients.append(client)
            bursts = turns.inputs[n]
            wiring.connect(m, wiring.flipped(getattr(self, f"request{n}")), client.request)
            wiring.connect(m, client.data, wiring.flipped(getattr(self, f"data{n}")))
            m.d.comb += [
                bursts.payload.id.eq(n | client.burst.payload.series << client_bits),
                bursts.payload.line.eq(client.burst.payload.burst.line),
                bursts.payload.len.eq(client.burst.payload.burst.count - 1),
                bursts.valid.eq(client.burst.valid),
                client.burst.ready.eq(bursts.ready),
                client.timeout.eq(self.timeout),
                client.beat.data.eq(beat.data),
                client.beat.error.eq(beat.error),
                client.beat.last.eq(beat.last),
                client.beat.series.eq(beat.id >> client_bits),
                client.beat_valid.eq(beat_valid & (beat.id[:client_bits] == n)),
            ]
        m.d.sync += in_flight.eq(in_flight + transfer(address.i) - Cat(client.finished for client in clients).any()
                                 - sum(client.given_up for client in clients))
        return m
