"""One client's part of the read half of the memory port."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.mem.burst_splitter import BurstSplitter, LineBurst
from speckv_hw.stream import BypassFifo, Fifo, transfer
from speckv_hw.types import LINE_BITS, TIMEOUT_WIDTH, ReadData, ReadRequest

__all__ = ["ReadBeat", "ReadBurst", "ReadClient"]


class ReadBurst(data.Struct):
    burst: LineBurst
    series: 4


class ReadBeat(data.Struct):
    """A beat of R that is for this client."""
    data: LINE_BITS
    error: 1
    last: 1
    series: 4


class ReadClient(wiring.Component):
    """Turns the requests of a client into bursts, and their answers into lines.

    A burst is asked for only when the queue has room reserved for all of it. Bursts of a series are answered in order.
    Where answers are due and none has come for `timeout` clocks, all bursts that were asked for are given up: the lines
    that are missing are delivered as errors, a line a clock, and what follows is asked for in another series. A series
    is not used again until all that was asked for in it has been answered, so that no late answer is taken for that of
    another burst; as long as there is none left, requests end as errors at once. Order kept. Empty on reset.

    Parameters
    ----------
    depth : int
        Lines that the queue holds, at least 4.
    series : int
        1 to 16.
    bursts : int
        Most bursts under way.

    Members
    -------
    request : In(stream(ReadRequest))
    data : Out(stream(ReadData))
    burst : Out(stream(ReadBurst))
    beat : In(ReadBeat), beat_valid : In
    timeout : In
        Clocks; 0: for ever.
    finished : Out
        A burst has been answered that was not given up.
    given_up : Out
        Bursts that will never be `finished`, when they are given up.
    """

    def __init__(self, depth, series, bursts):
        self._depth, self._series, self._bursts = depth, series, bursts
        super().__init__({
            "request": In(stream.Signature(ReadRequest)),
            "data": Out(stream.Signature(ReadData)),
            "burst": Out(stream.Signature(ReadBurst)),
            "beat": In(ReadBeat),
            "beat_valid": In(1),
            "timeout": In(TIMEOUT_WIDTH),
            "finished": Out(1),
            "given_up": Out(7),
        })

    @property
    def _boundary(self):
        """Lines at whose multiples requests are cut, so that two bursts fit into the queue."""
        return min(64, 1 << ((self._depth // 2).bit_length() - 1))

    def elaborate(self, platform):
        m = Module()
        m.submodules.splitter = splitter = BurstSplitter(self._boundary)
        m.submodules.queue = queue = BypassFifo(ReadData, self._depth)
        # One burst more may have been offered when all are given up.
        m.submodules.asked = asked = Fifo(data.StructLayout({"count": 7, "final": 1}), self._bursts + 2)
        wiring.connect(m, wiring.flipped(self.request), splitter.i)
        wiring.connect(m, queue.o, wiring.flipped(self.data))

        failing = Signal()
        series = Signal(range(max(2, self._series)))
        offered = Signal()
        """A burst was offered and not taken, so that it must still be offered."""
        room = Signal(range(self._depth + 1), init=self._depth)
        """Lines of the queue that are neither filled nor promised."""
        fits = (splitter.o.payload.count <= room) & asked.i.ready
        pending = Array(Signal(7, name=f"pending{n}") for n in range(self._series))
        """Bursts of each series that were asked for and not answered."""
        unused = Signal(range(max(2, self._series)))
        has_unused = Signal()
        for n in reversed(range(self._series)):
            with m.If(pending[n] == 0):
                m.d.comb += [unused.eq(n), has_unused.eq(1)]

        offers = self.burst.valid & ~self.burst.ready
        swallow = Signal()
        begins = transfer(self.burst) | swallow
        m.d.comb += [
            self.burst.payload.burst.eq(splitter.o.payload),
            self.burst.payload.series.eq(series),
            self.burst.valid.eq(splitter.o.valid & fits & (~failing | offered)),
            swallow.eq(splitter.o.valid & fits & failing & ~offered & ~has_unused),
            splitter.o.ready.eq((self.burst.ready & self.burst.valid) | swallow),
            asked.i.payload.count.eq(splitter.o.payload.count),
            asked.i.payload.final.eq(splitter.o.payload.final),
            asked.i.valid.eq(begins),
        ]
        m.d.sync += [
            offered.eq(offers),
            room.eq(room - Mux(begins, splitter.o.payload.count, 0) + transfer(self.data)),
        ]

        for n in range(self._series):
            answered = self.beat_valid & self.beat.last & (self.beat.series == n)
            m.d.sync += pending[n].eq(pending[n] + (transfer(self.burst) & (series == n)) - answered)

        mine = self.beat_valid & ~failing & (self.beat.series == series)
        done = Signal(7)
        """Lines of the oldest burst that were delivered."""
        fails = failing & asked.o.valid
        ends = Mux(failing, done + 1 == asked.o.payload.count, self.beat.last)
        delivers = mine | fails
        m.d.comb += [
            queue.i.payload.data.eq(self.beat.data),
            queue.i.payload.error.eq(self.beat.error | failing),
            queue.i.payload.last.eq(ends & asked.o.payload.final),
            queue.i.valid.eq(delivers),
            asked.o.ready.eq(delivers & ends),
            self.finished.eq(mine & self.beat.last),
        ]
        with m.If(delivers):
            m.d.sync += done.eq(Mux(ends, 0, done + 1))

        under_way = Signal(7)
        """Bursts that count as such outside; those taken while all are given up included."""
        m.d.sync += under_way.eq(Mux(failing, 0, under_way) + transfer(self.burst) - self.finished)
        with m.If(failing):
            m.d.comb += self.given_up.eq(under_way)

        idle = Signal(TIMEOUT_WIDTH)
        expired = (self.timeout != 0) & (idle >= self.timeout)
        with m.If(~asked.o.valid | mine | failing):
            m.d.sync += idle.eq(0)
        with m.Elif(expired):
            m.d.sync += failing.eq(1)
        with m.Else():
            m.d.sync += idle.eq(idle + 1)
        with m.If(failing & (asked.level == 0) & ~self.burst.valid & ~swallow & (under_way == 0) & has_unused):
            m.d.sync += [failing.eq(0), series.eq(unused)]
        return m
