"""Event counters and the read latency histogram."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import transfer
from speckv_model.csr.registers import COUNTER_BITS, COUNTERS, EVENTS, LATENCY_BUCKETS

COUNTER_NUMBERS = {register.name: n for n, register in enumerate(COUNTERS)}
"""Position of each counter in the memory, by name."""


class Latency(data.Struct):
    """A read was answered (`valid`) `clocks` after its acceptance."""
    valid: 1
    clocks: 16


Events = data.StructLayout(
    {register.name.lower(): register.increment for register in EVENTS} | {"latency": Latency})
"""How much happened in this clock, by the lower-case name of the counter; and `latency`."""


class Counters(wiring.Component):
    """Counts events, none lost, in a memory that is brought up to date by a sweep.

    Every event has a small counter; the sweep visits one of them a clock, adds it to its word of memory and
    empties it. A read waits for the sweep to come by and returns the exact count of all clocks before its
    own acceptance, at most `latency` clocks after it is offered. `clear` sets all to zero; events of its own
    clock come after it, and no read is accepted in it. On reset all are zero.

    Members
    -------
    events : In(Events)
    clear : In
    read : In(stream(counter number))
        See `COUNTER_NUMBERS`.
    value : Out(stream(COUNTER_BITS))
    """

    latency = len(COUNTERS) + 2

    def __init__(self):
        super().__init__({
            "events": In(Events),
            "clear": In(1),
            "read": In(stream.Signature(range(len(COUNTERS)))),
            "value": Out(stream.Signature(COUNTER_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        number = len(COUNTERS)
        m.submodules.memory = memory = Memory(shape=COUNTER_BITS, depth=number, init=[])
        read_port = memory.read_port()
        write_port = memory.write_port()

        # The sweep, in two clocks: the small counter `visited` is emptied into `amount` while memory is read;
        # then `amount` is added to the word of `added`. After a clear memory counts as zero for one round.
        visited = Signal(range(number))
        added = Signal(range(number), init=number - 1)
        recent = self._recent(m, visited)
        amount = Signal.like(recent)
        stale = Signal(range(number + 1), init=number)
        total = Signal(COUNTER_BITS)
        m.d.sync += [
            visited.eq(Mux(visited == number - 1, 0, visited + 1)),
            added.eq(visited),
            amount.eq(Mux(self.clear, 0, recent)),
        ]
        with m.If(self.clear):
            m.d.sync += stale.eq(number)
        with m.Elif(stale != 0):
            m.d.sync += stale.eq(stale - 1)
        m.d.comb += [
            read_port.addr.eq(visited),
            total.eq(Mux(stale == 0, read_port.data, 0) + amount),
            write_port.addr.eq(added),
            write_port.data.eq(total),
            write_port.en.eq(1),
        ]

        # A read is accepted in the first clock of its counter's visit and answered from the second.
        reading = Signal()
        free = ~reading & ~self.value.valid & ~self.clear
        m.d.comb += self.read.ready.eq(free & (visited == self.read.payload))
        m.d.sync += reading.eq(transfer(self.read))
        with m.If(transfer(self.value)):
            m.d.sync += self.value.valid.eq(0)
        with m.If(reading):
            m.d.sync += [self.value.payload.eq(total), self.value.valid.eq(1)]
        return m

    def _recent(self, m, visited):
        """The small counters; returns that of counter `visited`, which is emptied by the visit."""
        happened = {name: self.events[name.lower()] for name in (register.name for register in EVENTS)}
        happened["CLOCKS"] = 1
        for bucket in range(LATENCY_BUCKETS):
            happened[f"LATENCY_{bucket}"] = self._in_bucket(bucket)
        small = []
        for name, n in COUNTER_NUMBERS.items():
            most = (1 << max(COUNTERS[n].increment, 1)) - 1
            recent = Signal(range(len(COUNTERS) * most + 1), name=f"recent_{name.lower()}")
            m.d.sync += recent.eq(Mux((visited == n) | self.clear, 0, recent) + happened[name])
            small.append(recent)
        return Array(small)[visited]

    def _in_bucket(self, bucket):
        latency = self.events.latency
        above = latency.clocks[bucket + 1:] == 0
        return latency.valid & above & (latency.clocks[bucket] | (bucket == 0))
