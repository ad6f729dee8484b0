"""Small pieces for valid/ready streams: register stages, FIFOs, arbiters and the chaining of them.

All of them keep the stream contract: once `valid` is high it stays high, and `payload` stays the same, until a clock
in which `ready` is high too.
"""

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Stage", "Register", "Fifo", "BypassFifo", "Arbiter", "chain", "transfer"]


def transfer(port):
    """Whether a payload passes through the stream `port` in this clock."""
    return port.valid & port.ready


def chain(m, *ports):
    """Connects each component of `ports` to the next: `o` of one to `i` of its successor.

    The first may be a plain stream (a source) and so may the last (a sink).
    """
    for upstream, downstream in zip(ports, ports[1:]):
        source = getattr(upstream, "o", upstream)
        sink = getattr(downstream, "i", downstream)
        m.d.comb += [
            sink.payload.eq(source.payload),
            sink.valid.eq(source.valid),
            source.ready.eq(sink.ready),
        ]


class Stage(wiring.Component):
    """A register stage that cuts every path: payload, `valid` and `ready`.

    Latency 1 clock, throughput 1 a clock, order kept; holds up to two payloads under back-pressure. Empty on reset.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.

    Members
    -------
    i : In(stream)
    o : Out(stream)
    """

    latency = 1

    def __init__(self, shape):
        self._shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        spare = Signal(self._shape)
        spare_full = Signal()
        m.d.comb += self.i.ready.eq(~spare_full)
        with m.If(~self.o.valid | self.o.ready):
            m.d.sync += [
                self.o.valid.eq(self.i.valid | spare_full),
                self.o.payload.eq(Mux(spare_full, spare, self.i.payload)),
                spare_full.eq(0),
            ]
        with m.Elif(self.i.valid):
            m.d.sync += spare_full.eq(1)
        # Whether it is kept is known late in the clock, so what may have to be kept is always taken.
        with m.If(~spare_full):
            m.d.sync += spare.eq(self.i.payload)
        return m


class Register(wiring.Component):
    """A register without logic for its payload: it cuts the paths of payload and `valid`, but not that of `ready`.

    Latency 1 clock, throughput 1 a clock, order kept. Empty on reset.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.

    Members
    -------
    i : In(stream)
    o : Out(stream)
    """

    latency = 1

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload)]
        return m


class Fifo(wiring.Component):
    """A first-in first-out queue.

    Latency 1 clock in registers (`depth` 1 or 2), 2 in memory; throughput 1 a clock, but 1 every 2 clocks where
    `depth` is 1; order kept; empty on reset.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    depth : int
        Payloads that fit.

    Members
    -------
    i : In(stream)
    o : Out(stream)
    level : Out
        Payloads inside.
    """

    def __init__(self, shape, depth):
        if not isinstance(depth, int) or depth < 1:
            raise ValueError(f"depth must be a positive integer, not {depth!r}")
        self._shape = shape
        self._depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1)),
        })

    @property
    def latency(self):
        """Clocks from acceptance to offer where nothing is before."""
        return 1 if self._depth <= 2 else 2

    def elaborate(self, platform):
        m = Module()
        if self._depth == 2:
            m.submodules.stage = stage = Stage(self._shape)
            chain(m, self.i, stage, self.o)
            m.d.comb += self.level.eq(stage.o.valid + ~stage.i.ready)
        elif self._depth == 1:
            m.d.comb += [self.i.ready.eq(~self.o.valid), self.level.eq(self.o.valid)]
            with m.If(transfer(self.i)):
                m.d.sync += [self.o.payload.eq(self.i.payload), self.o.valid.eq(1)]
            with m.Elif(self.o.ready):
                m.d.sync += self.o.valid.eq(0)
        else:
            self._in_memory(m)
        return m

    def _in_memory(self, m):
        """A ring in memory, whose read register is the last place of the queue."""
        places = self._depth - 1
        # A place is read only while it is filled and written only while it is free, so never both in a clock.
        m.submodules.storage = storage = memory.Memory(
            shape=Shape.cast(self._shape).width, depth=places, init=[], attrs={"no_rw_check": 1})
        write_port, read_port = storage.write_port(), storage.read_port()
        produce = Signal(range(places))
        consume = Signal(range(places))
        stored = Signal(range(places + 1))
        fetch = Signal()
        m.d.comb += [
            self.i.ready.eq(stored != places),
            fetch.eq((stored != 0) & (~self.o.valid | self.o.ready)),
            write_port.addr.eq(produce),
            write_port.data.eq(Value.cast(self.i.payload)),
            write_port.en.eq(transfer(self.i)),
            read_port.addr.eq(consume),
            read_port.en.eq(fetch),
            Value.cast(self.o.payload).eq(read_port.data),
            self.level.eq(stored + self.o.valid),
        ]
        m.d.sync += stored.eq(stored + transfer(self.i) - fetch)
        with m.If(transfer(self.i)):
            m.d.sync += produce.eq(Mux(produce == places - 1, 0, produce + 1))
        with m.If(fetch):
            m.d.sync += [consume.eq(Mux(consume == places - 1, 0, consume + 1)), self.o.valid.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)


class BypassFifo(wiring.Component):
    """A queue in memory that a payload passes by while nothing waits in it; what it offers is in a register.

    Latency 1 clock where nothing is before, throughput 1 a clock, order kept; empty on reset.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    depth : int
        Payloads that fit, at least 4.

    Members
    -------
    i : In(stream)
    o : Out(stream)
    level : Out
        Payloads inside.
    """

    latency = 1

    def __init__(self, shape, depth):
        if not isinstance(depth, int) or depth < 4:
            raise ValueError(f"depth must be an integer of at least 4, not {depth!r}")
        self._shape = shape
        self._depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)),
            "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.queue = queue = Fifo(self._shape, self._depth - 1)
        free = Signal()
        bypass = Signal()
        m.d.comb += [
            free.eq(~self.o.valid | self.o.ready),
            bypass.eq(free & (queue.level == 0)),
            queue.i.payload.eq(self.i.payload),
            queue.i.valid.eq(self.i.valid & ~bypass),
            self.i.ready.eq(queue.i.ready),
            queue.o.ready.eq(free),
            self.level.eq(queue.level + self.o.valid),
        ]
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(queue.o.valid | (self.i.valid & bypass)),
                self.o.payload.eq(Mux(bypass, self.i.payload, queue.o.payload)),
            ]
        return m


class Arbiter(wiring.Component):
    """Merges streams into one, round robin: after a transfer the next port in turn is asked first.

    Latency 0 (combinational), throughput 1 a clock. A port that is valid is served after at most `ports` - 1 others.
    A choice once offered stays until it is accepted. Order within a port is kept.

    Parameters
    ----------
    shape : shape-like
        Shape of the payload.
    ports : int
        Number of inputs.

    Members
    -------
    i0, i1, ... : In(stream)
    o : Out(stream)
    port : Out
        Number of the input that `o` shows.
    """

    latency = 0

    def __init__(self, shape, ports):
        if not isinstance(ports, int) or ports < 1:
            raise ValueError(f"ports must be a positive integer, not {ports!r}")
        self._shape = shape
        self._ports = ports
        super().__init__({f"i{n}": In(stream.Signature(shape)) for n in range(ports)} | {
            "o": Out(stream.Signature(shape)),
            "port": Out(range(max(ports, 2))),
        })

    @property
    def inputs(self):
        """The input streams, in order."""
        return [getattr(self, f"i{n}") for n in range(self._ports)]

    def elaborate(self, platform):
        m = Module()
        inputs = self.inputs
        first = Signal(range(max(self._ports, 2)))
        held = Signal()
        chosen = Signal.like(first)
        valid = Cat(port.valid for port in inputs)
        with m.Switch(first):
            for start in range(self._ports):
                with m.Case(start):
                    for step in reversed(range(self._ports)):
                        port = (start + step) % self._ports
                        with m.If(valid[port]):
                            m.d.comb += self.port.eq(port)
        with m.If(held):
            m.d.comb += self.port.eq(chosen)
        with m.Switch(self.port):
            for n, port in enumerate(inputs):
                with m.Case(n):
                    m.d.comb += [
                        self.o.payload.eq(port.payload),
                        self.o.valid.eq(port.valid),
                        port.ready.eq(self.o.ready),
                    ]
        m.d.sync += [held.eq(self.o.valid & ~self.o.ready), chosen.eq(self.port)]
        with m.If(transfer(self.o)):
            m.d.sync += first.eq(Mux(self.port == self._ports - 1, 0, self.port + 1))
        return m
