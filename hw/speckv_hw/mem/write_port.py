"""The write half of the memory port."""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mem.axi4 import LINE_SIZE, Axi4Signature, Burst, Response
from speckv_hw.mem.burst_splitter import BurstSplitter
from speckv_hw.mem.flag_queue import FlagQueue
from speckv_hw.mem.read_port import address_layout
from speckv_hw.stream import Arbiter, Stage, transfer
from speckv_hw.types import WriteData, WriteDone, WriteRequest

__all__ = ["WritePort"]


class WritePort(wiring.Component):
    """Writes bursts of lines for several clients over the AW, W and B channels of AXI4.

    A request reaches AW `request_latency` clocks after it was accepted if its data is offered and nothing is
    before it. Bursts take turns, each with its data before the next one starts: one line a clock and a clock
    between bursts. A burst starts only when its writer offers the first line; from then on the writer must
    offer the others within bounded time, whatever happens elsewhere, for the W channel waits for it. A
    request is done when all its responses have come; the order of a client's requests is kept. B is never
    held up (`bready` is always high): a request's last burst starts only when there is room for its `done`.
    Empty on reset.

    Parameters
    ----------
    config : DeviceConfig
        Gives the address width and the bursts in flight, of all writers together.
    writers : int
        Clients, 1 to 16.

    Members
    -------
    request0, ... : In(stream(WriteRequest))
    data0, ... : In(stream(WriteData))
        As many as the request counts.
    done0, ... : Out(stream(WriteDone))
        One for each request, once all of it has been answered; `error` if any answer was not OKAY.
    axi : Out(Axi4Signature)
        Only AW, W and B are driven.
    """

    request_latency = 3

    def __init__(self, config, writers):
        if not isinstance(writers, int) or not 1 <= writers <= 16:
            raise ValueError(f"writers must be from 1 to 16, not {writers!r}")
        self._config = config
        self._writers = writers
        super().__init__(
            {f"request{n}": In(stream.Signature(WriteRequest)) for n in range(writers)}
            | {f"data{n}": In(stream.Signature(WriteData)) for n in range(writers)}
            | {f"done{n}": Out(stream.Signature(WriteDone)) for n in range(writers)}
            | {"axi": Out(Axi4Signature(config.dram_address_bits))})

    def elaborate(self, platform):
        m = Module()
        axi = self.axi
        limit = self._config.bursts_in_flight
        layout = address_layout(self._config)
        m.submodules.turns = turns = Arbiter(layout, self._writers)
        m.submodules.address = address = Stage(layout)
        m.submodules.beats = beats = Stage(data.StructLayout({"line": WriteData, "last": 1}))

        writing = Signal()
        """A burst has started and its data is not complete."""
        writer = Signal(range(max(2, self._writers)))
        left = Signal(7)
        """Lines to come after the next one."""
        in_flight = Signal(range(limit + 1))
        may_start = ~writing & (in_flight != limit)
        m.d.comb += [
            address.i.payload.eq(turns.o.payload),
            address.i.valid.eq(turns.o.valid & may_start),
            turns.o.ready.eq(address.i.ready & may_start),
            axi.awvalid.eq(address.o.valid),
            address.o.ready.eq(axi.awready),
            axi.awid.eq(address.o.payload.id),
            axi.awaddr.eq(address.o.payload.line << LINE_SIZE),
            axi.awlen.eq(address.o.payload.len),
            axi.awsize.eq(LINE_SIZE),
            axi.awburst.eq(Burst.INCR),

            axi.wvalid.eq(beats.o.valid),
            beats.o.ready.eq(axi.wready),
            axi.wdata.eq(beats.o.payload.line.data),
            axi.wstrb.eq(Cat(enable.replicate(16) for enable in beats.o.payload.line.enable)),
            axi.wlast.eq(beats.o.payload.last),
            beats.i.payload.last.eq(left == 0),
            axi.bready.eq(1),
        ]
        with m.If(transfer(address.i)):
            m.d.sync += [writing.eq(1), writer.eq(turns.port), left.eq(turns.o.payload.len)]
        with m.If(transfer(beats.i)):
            m.d.sync += [writing.eq(left != 0), left.eq(left - 1)]
        m.d.sync += in_flight.eq(in_flight + transfer(address.i) - axi.bvalid)

        lines = Array(getattr(self, f"data{n}") for n in range(self._writers))
        m.d.comb += [
            beats.i.payload.line.eq(lines[writer].payload),
            beats.i.valid.eq(writing & lines[writer].valid),
        ]
        for n in range(self._writers):
            m.submodules[f"splitter{n}"] = splitter = BurstSplitter()
            m.submodules[f"finals{n}"] = finals = FlagQueue(limit)
            m.submodules[f"errors{n}"] = errors = FlagQueue(limit)
            request, line, done = (getattr(self, f"{name}{n}") for name in ("request", "data", "done"))
            bursts = turns.inputs[n]
            wiring.connect(m, wiring.flipped(request), splitter.i)

            unread = Signal(range(limit + 1), name=f"unread{n}")
            """Requests whose last burst has started and whose `done` was not taken."""
            may_ask = line.valid & (unread != limit)
            m.d.comb += [
                line.ready.eq(beats.i.ready & writing & (writer == n)),
                bursts.payload.id.eq(n),
                bursts.payload.line.eq(splitter.o.payload.line),
                bursts.payload.len.eq(splitter.o.payload.count - 1),
                bursts.valid.eq(splitter.o.valid & may_ask),
                splitter.o.ready.eq(bursts.ready & may_ask),
                finals.i.payload.eq(splitter.o.payload.final),
                finals.i.valid.eq(transfer(bursts)),
            ]
            m.d.sync += unread.eq(unread + (transfer(bursts) & splitter.o.payload.final) - transfer(done))

            answered = axi.bvalid & (axi.bid == n)
            error = Signal(name=f"error{n}")
            """Of the earlier bursts of the request."""
            error_so_far = error | (axi.bresp != Response.OKAY.value)
            m.d.comb += [
                finals.o.ready.eq(answered),
                errors.i.payload.eq(error_so_far),
                errors.i.valid.eq(answered & finals.o.payload),
                done.payload.error.eq(errors.o.payload),
                done.valid.eq(errors.o.valid),
                errors.o.ready.eq(done.ready),
            ]
            with m.If(answered):
                m.d.sync += error.eq(error_so_far & ~finals.o.payload)
        return m
