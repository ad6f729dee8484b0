"""The memory port's counters stay within their bounds, and no queue behind them ever overflows, while it waits for
answers as long as they take."""

from amaranth.hdl import Assert, Assume, Module, Mux, Signal
from amaranth.lib.wiring import In
from properties import contract, inputs_of, streams_of
from prove import prove, refute

from speckv_hw.config import DeviceConfig
from speckv_hw.mem.read_port import ReadPort
from speckv_hw.mem.write_port import WritePort

LIMIT = 2
DEPTH = 4
SMALL = DeviceConfig.small(bursts_in_flight=LIMIT)


def surroundings(dut):
    m = Module()
    m.submodules.dut = dut
    m.d.comb += Assume(dut.timeout == 0)
    for name, flow, port in streams_of(dut):
        if flow == In:
            contract(m, port, Assume, name)
    return m


def read_properties():
    """A memory that answers bursts in order, each with as many beats as asked for."""
    dut = ReadPort(SMALL, (DEPTH,))
    m = surroundings(dut)
    axi = dut.axi
    lengths = [Signal(8, name=f"length{n}") for n in range(LIMIT)]
    level, beat = Signal(range(LIMIT + 2)), Signal(8)
    asks, ends = axi.arvalid & axi.arready, axi.rvalid & axi.rlast
    after = Signal.like(level)
    m.d.comb += [
        after.eq(level - ends),
        Assume(~axi.rvalid | ((level != 0) & (axi.rid == 0) & (axi.rlast == (beat == lengths[0])))),
        Assume((dut.request0.p.count != 0) & (dut.request0.p.count <= 3)),
        Assert(level <= LIMIT),
    ]
    m.d.sync += [level.eq(after + asks), beat.eq(Mux(ends, 0, beat + axi.rvalid))]
    for n, length in enumerate(lengths):
        older = lengths[min(n + 1, LIMIT - 1)]
        m.d.sync += length.eq(Mux(asks & (after == n), axi.arlen, Mux(ends, older, length)))
    room, in_flight = Signal(range(DEPTH + 1), name="room"), Signal(range(LIMIT + 1), name="in_flight")
    valid, ready = Signal(name="valid"), Signal(name="ready")
    m.d.comb += [Assert(room <= DEPTH), Assert(in_flight <= LIMIT), Assert(~valid | ready)]
    return m, inputs_of(dut), [
        (room, "dut.client0.room"), (in_flight, "dut.in_flight"), (valid, "dut.client0.queue.i__valid"),
        (ready, "dut.client0.queue.i__ready")]


def test_read_port():
    m, inputs, probes = read_properties()
    prove(m, inputs, probes=probes)


def test_rooms_of_the_read_port_are_used_up():
    m, inputs, probes = read_properties()
    m.d.comb += Assert(~((probes[0][0] == 0) & (probes[1][0] == LIMIT)))
    refute(m, inputs, probes=probes)


def write_properties(*, answers_too_many=False):
    """A memory that answers each burst once, after its address and its last beat."""
    dut = WritePort(SMALL, 1)
    m = surroundings(dut)
    axi = dut.axi
    asked, written = Signal(range(LIMIT + 2)), Signal(range(LIMIT + 2))
    m.d.sync += [
        asked.eq(asked + (axi.awvalid & axi.awready) - axi.bvalid),
        written.eq(written + (axi.wvalid & axi.wready & axi.wlast) - axi.bvalid),
    ]
    m.d.comb += [
        Assume(~axi.bvalid | (axi.bid == 0)),
        Assume(~axi.bvalid | ((asked != 0) & (written != 0)) | answers_too_many),
        Assert(asked <= LIMIT),
        Assert(written <= LIMIT),
    ]
    in_flight, unread = Signal(range(LIMIT + 1), name="in_flight"), Signal(range(LIMIT + 1), name="unread")
    valid, ready, flag_valid, flag_ready = (Signal(name=f"probe{n}") for n in range(4))
    m.d.comb += [
        Assert(in_flight <= LIMIT),
        Assert(unread <= LIMIT),
        Assert(~valid | ready),
        Assert(~flag_valid | flag_ready),
    ]
    return m, inputs_of(dut), [
        (in_flight, "dut.in_flight"), (unread, "dut.unread0"), (valid, "dut.errors0.i__valid"),
        (ready, "dut.errors0.i__ready"), (flag_valid, "dut.finals0.i__valid"), (flag_ready, "dut.finals0.i__ready")]


def test_write_port():
    m, inputs, probes = write_properties()
    prove(m, inputs, probes=probes)


def test_an_answer_too_many_is_found():
    m, inputs, probes = write_properties(answers_too_many=True)
    refute(m, inputs, probes=probes)
