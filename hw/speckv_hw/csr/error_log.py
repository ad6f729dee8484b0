"""The first error, the last error and how many there were."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import Arbiter
from speckv_hw.types import ErrorRecord
from speckv_model.csr.registers import ERROR_COUNT_BITS


class ErrorLog(wiring.Component):
    """Keeps the first and the last error record since the last `clear`, and their number.

    Takes one record a clock, so a record waits for at most `ports` - 1 others; it shows `latency` clocks
    after its acceptance. A record accepted together with `clear` comes after it. Empty on reset.

    Parameters
    ----------
    ports : int
        Number of sources of records.

    Members
    -------
    record0, record1, ... : In(stream(ErrorRecord))
    clear : In
    count : Out
        Stays at its highest value once there.
    first, last : Out(ErrorRecord)
        Zero while `count` is.
    """

    latency = 1

    def __init__(self, ports):
        if not isinstance(ports, int) or ports < 1:
            raise ValueError(f"ports must be a positive integer, not {ports!r}")
        self._ports = ports
        super().__init__({f"record{n}": In(stream.Signature(ErrorRecord)) for n in range(ports)} | {
            "clear": In(1),
            "count": Out(ERROR_COUNT_BITS),
            "first": Out(ErrorRecord),
            "last": Out(ErrorRecord),
        })

    @property
    def records(self):
        """The input streams, in order."""
        return [getattr(self, f"record{n}") for n in range(self._ports)]

    def elaborate(self, platform):
        m = Module()
        m.submodules.arbiter = arbiter = Arbiter(ErrorRecord, self._ports)
        for record, port in zip(self.records, arbiter.inputs):
            wiring.connect(m, wiring.flipped(record), port)
        m.d.comb += arbiter.o.ready.eq(1)
        with m.If(self.clear):
            m.d.sync += [self.count.eq(0), self.first.eq(0), self.last.eq(0)]
        with m.If(arbiter.o.valid):
            m.d.sync += self.last.eq(arbiter.o.payload)
            with m.If(self.clear | (self.count == 0)):
                m.d.sync += [self.first.eq(arbiter.o.payload), self.count.eq(1)]
            with m.Elif(~self.count.all()):
                m.d.sync += self.count.eq(self.count + 1)
        return m
