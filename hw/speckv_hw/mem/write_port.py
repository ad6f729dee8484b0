"""The write half of the memory port."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mem.axi4 import LINE_SIZE, Axi4Signature, Burst, Response
from speckv_hw.mem.burst_splitter import BurstSplitter
from speckv_hw.mem.flag_queue import FlagQueue
from speckv_hw.mem.read_port import address_layout
from speckv_hw.stream import Arbiter, Stage, transfer
from speckv_hw.types import TIMEOUT_WIDTH, WriteData, WriteDone, WriteRequest

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

    Where a writer's answers are due and none has come for `timeout` clocks, its requests under way end as errors, and
    the answers that are still to come are dropped. Later bursts have the same identifier, so memory takes their data
    after that of those given up, and answers them after those; where `bursts_in_flight` answers are overdue, requests
    end as errors without being written until all of them have come.

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
        One for each request, once all of it has been answered or given up; `error` if any answer was not OKAY or
        missing.
    timeout : In
        Clocks; 0: never.
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
            | {"timeout": In(TIMEOUT_WIDTH), "axi": Out(Axi4Signature(config.dram_address_bits))})

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
        discards = Array(Signal(name=f"discards{n}") for n in range(self._writers))
        """Bursts of this writer are taken and not written."""
        discarding = Signal()
        """So is the burst that has started."""
        may_start = ~writing & (in_flight != limit)
        m.d.comb += [
            address.i.payload.eq(turns.o.payload),
            address.i.valid.eq(turns.o.valid & may_start & ~discards[turns.port]),
            turns.o.ready.eq(Mux(discards[turns.port], ~writing, address.i.ready & may_start)),
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
        starts = transfer(turns.o)
        with m.If(starts):
            m.d.sync += [
                writing.eq(1), writer.eq(turns.port), left.eq(turns.o.payload.len), discarding.eq(discards[turns.port])]
        lines = Array(getattr(self, f"data{n}") for n in range(self._writers))
        takes = Signal()
        m.d.comb += [
            beats.i.payload.line.eq(lines[writer].payload),
            beats.i.valid.eq(writing & lines[writer].valid & ~discarding),
            takes.eq(writing & lines[writer].valid & (beats.i.ready | discarding)),
        ]
        with m.If(takes):
            m.d.sync += [writing.eq(left != 0), left.eq(left - 1)]

        leaves = []
        """Bursts of each writer that count as in flight no more."""
        for n in range(self._writers):
            m.submodules[f"splitter{n}"] = splitter = BurstSplitter()
            m.submodules[f"finals{n}"] = finals = FlagQueue(limit)
            m.submodules[f"errors{n}"] = errors = FlagQueue(limit)
            request, line, done = (getattr(self, f"{name}{n}") for name in ("request", "data", "done"))
            bursts = turns.inputs[n]
            wiring.connect(m, wiring.flipped(request), splitter.i)

            unread = Signal(range(limit + 1), name=f"unread{n}")
            """Requests whose last burst has started and whose `done` was not taken."""
            may_ask = line.valid & (unread != limit) & finals.i.ready
            m.d.comb += [
                line.ready.eq((beats.i.ready | discarding) & writing & (writer == n)),
                bursts.payload.id.eq(n),
                bursts.payload.line.eq(splitter.o.payload.line),
                bursts.payload.len.eq(splitter.o.payload.count - 1),
                bursts.valid.eq(splitter.o.valid & may_ask),
                splitter.o.ready.eq(bursts.ready & may_ask),
                finals.i.payload.eq(splitter.o.payload.final),
                finals.i.valid.eq(transfer(bursts)),
            ]
            m.d.sync += unread.eq(unread + (transfer(bursts) & splitter.o.payload.final) - transfer(done))

            issued = Signal(range(limit + 1), name=f"issued{n}")
            """Bursts whose answer is awaited."""
            overdue = Signal(range(2 * limit + 1), name=f"overdue{n}")
            """Bursts that were given up and whose answer has not come."""
            failing = Signal(name=f"failing{n}")
            issues = transfer(bursts) & ~discards[n]
            arrives = axi.bvalid & (axi.bid == n)
            late = arrives & (overdue != 0)
            answered = arrives & (overdue == 0) & ~failing
            fails = failing & finals.o.valid
            with m.If(failing):
                m.d.sync += [issued.eq(issues), overdue.eq(overdue + issued - arrives)]
            with m.Else():
                m.d.sync += [issued.eq(issued + issues - answered), overdue.eq(overdue - late)]
            leaves.append(Mux(failing, issued, answered))
            with m.If(~discards[n]):
                m.d.sync += discards[n].eq(overdue >= limit)
            with m.Elif((overdue == 0) & ~finals.o.valid & ~failing & ~transfer(bursts)):
                m.d.sync += discards[n].eq(0)

            idle = Signal(TIMEOUT_WIDTH, name=f"idle{n}")
            expired = (self.timeout != 0) & (idle >= self.timeout) | discards[n] & (issued == 0)
            with m.If(~finals.o.valid | answered | failing | (writing & (writer == n))):
                m.d.sync += idle.eq(0)
            with m.Elif(expired):
                m.d.sync += failing.eq(1)
            with m.Else():
                m.d.sync += idle.eq(idle + 1)
            with m.If(failing & ~finals.o.valid):
                m.d.sync += failing.eq(0)

            ends = answered | fails
            error = Signal(name=f"error{n}")
            """Of the earlier bursts of the request."""
            error_so_far = error | failing | (axi.bresp != Response.OKAY.value)
            m.d.comb += [
                finals.o.ready.eq(ends),
                errors.i.payload.eq(error_so_far),
                errors.i.valid.eq(ends & finals.o.payload),
                done.payload.error.eq(errors.o.payload),
                done.valid.eq(errors.o.valid),
                errors.o.ready.eq(done.ready),
            ]
            with m.If(ends):
                m.d.sync += error.eq(error_so_far & ~finals.o.payload)
        m.d.sync += in_flight.eq(in_flight + transfer(address.i) - sum(leaves))
        return m
