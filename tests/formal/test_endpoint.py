"""The endpoint takes every answer of the page cache within a few clocks, whatever the host does with its responses."""

import pytest
from amaranth.hdl import Assume, Module, Signal
from amaranth.lib.wiring import In
from properties import contract, inputs_of, soon, streams_of
from prove import prove, refute

from speckv_hw.config import DeviceConfig
from speckv_hw.cxl.endpoint import Endpoint

SMALL = DeviceConfig.small(requests_in_flight=4)

pytestmark = pytest.mark.deep


def answers(reads, writes):
    """`s2m_ndr` and `s2m_drs` are free inputs: the host may hold back either of them for ever."""
    m = Module()
    m.submodules.dut = dut = Endpoint(SMALL)
    for name, flow, port in streams_of(dut):
        if flow == In:
            contract(m, port, Assume, name)
    for port, clocks in ((dut.read_response, reads), (dut.write_response, writes)):
        waits = Signal(name=f"waits{clocks}")
        m.d.comb += waits.eq(port.valid & ~port.ready)
        soon(m, ~waits, clocks, f"{'read' if port is dut.read_response else 'write'}_response")
    return m, inputs_of(dut)


def test_answers_never_wait_for_the_host():
    m, inputs = answers(1, 2)
    prove(m, inputs, free_memories=True)


def test_answers_can_wait_for_a_turn():
    m, inputs = answers(0, 2)
    refute(m, inputs, free_memories=True)


def turns(channel, others):
    """An access of `channel` for which room is reserved, while the context table takes a lookup a clock."""
    m = Module()
    m.submodules.dut = dut = Endpoint(SMALL)
    for name, flow, port in streams_of(dut):
        if flow == In:
            contract(m, port, Assume, name)
    m.d.comb += Assume(dut.lookup.ready)
    valid, ready = Signal(name="offered"), Signal(name="taken")
    soon(m, ~valid | ready, others, "turn")
    return m, inputs_of(dut), [(valid, f"dut.accesses.i{channel}__valid"), (ready, f"dut.accesses.i{channel}__ready")]


@pytest.mark.parametrize("channel", [0, 1], ids=["Req", "RwD"])
def test_a_channel_with_room_never_waits_for_the_other(channel):
    m, inputs, probes = turns(channel, 2)
    prove(m, inputs, probes=probes, free_memories=True)


def test_channels_take_turns():
    m, inputs, probes = turns(0, 1)
    refute(m, inputs, probes=probes, free_memories=True)
