"""Properties of streams that several proofs share, as statements of a module."""

from amaranth.hdl import Assert, Assume, Cat, Module, Mux, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.data import Layout, View
from amaranth.lib.wiring import In, Out

WIDE = 256
"""Bits from which on a field is data that moves through in one piece."""


def _watched(payload):
    """What is watched of a payload: all of it but for wide fields, of which the lowest byte stands for all."""
    if isinstance(payload, View):
        return Cat(_watched(payload[name]) for name, _ in Layout.cast(payload.shape()))
    value = Value.cast(payload)
    return value if len(value) < WIDE else value[:8]


def contract(m, port, claim, name, meaning=None):
    """Claims (`Assert` or `Assume`) that `port` keeps what it offers until it is accepted.

    `meaning` takes a payload and returns the value of it that has to stay, where some of it says nothing.
    """
    held = Signal(name=f"{name}_held")
    now = Value.cast(meaning(port.payload)) if meaning else _watched(port.payload)
    payload = Signal(len(now), name=f"{name}_payload")
    m.d.sync += [held.eq(port.valid & ~port.ready), payload.eq(now)]
    with m.If(held):
        m.d.comb += [claim(port.valid), claim(now == payload)]


def soon(m, condition, clocks, name):
    """Asserts that `condition` is never false for more than `clocks` clocks in a row."""
    false = Signal(range(clocks + 1), name=f"{name}_false")
    m.d.sync += false.eq(Mux(condition, 0, false + 1))
    m.d.comb += Assert(condition | (false < clocks))


def streams_of(dut):
    """The streams among the members of a component, as (name, flow, port)."""
    for name, member in dut.signature.members.items():
        if member.is_signature and isinstance(member.signature, stream.Signature):
            yield name, member.flow, getattr(dut, name)


def inputs_of(dut):
    """The signals of a component that whoever uses it drives: free inputs of a proof."""
    return [Value.cast(value) for path, member, value in dut.signature.flatten(dut) if member.flow == In]


class Free(wiring.Component):
    """Stands in for the component `like`: its outputs are free inputs of the proof."""

    def __init__(self, like):
        # Amaranth warns of components that are never elaborated.
        like._MustUse__silence = True
        super().__init__(dict(like.signature.members.items()))

    @property
    def outputs(self):
        return [Value.cast(value) for path, member, value in self.signature.flatten(self) if member.flow == Out]

    def elaborate(self, platform):
        return Module()


def contract_of(dut, *, only=None, skip=(), meanings=None, free=()):
    """Module and free inputs: assumes the contract of the inputs of `dut` and asserts that of its outputs.

    With `only`, that of the output of this name; none of those of `skip`. `meanings` has the `meaning` of streams, by
    name. Components of `free` stand in for parts of `dut` that keep the contract.
    """
    meanings = meanings or {}
    m = Module()
    m.submodules.dut = dut
    for name, flow, port in streams_of(dut):
        if flow == In:
            contract(m, port, Assume, name, meanings.get(name))
        elif only in (None, name) and name not in skip:
            contract(m, port, Assert, name, meanings.get(name))
    inputs = inputs_of(dut)
    for n, part in enumerate(free):
        for name, flow, port in streams_of(part):
            if flow == Out:
                contract(m, port, Assume, f"part{n}_{name}", meanings.get(name))
        inputs += part.outputs
    return m, inputs
