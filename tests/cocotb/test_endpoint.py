"""Endpoint and context table together, Verilated, before a page cache made of a dictionary."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped
from runner import run

from speckv_hw.config import DeviceConfig
from speckv_hw.cxl.endpoint import Access, Endpoint
from speckv_hw.table.context_table import ContextTable

ENDPOINT = ("m2s_req", "m2s_rwd", "s2m_ndr", "s2m_drs", "request", "read_response", "write_response", "hint", "error",
            "hdm_base", "enable")
CONTEXTS = ("manage", "managed", "swept")


class EndpointAndContexts(wiring.Component):
    """An endpoint whose look-ups a context table answers; without commands."""

    def __init__(self, config):
        self._endpoint, self._contexts = Endpoint(config), ContextTable(config, Access)
        self._ports = {name: part for part, names in ((self._endpoint, ENDPOINT), (self._contexts, CONTEXTS))
                       for name in names}
        super().__init__({name: part.signature.members[name] for name, part in self._ports.items()})

    def elaborate(self, platform):
        m = Module()
        m.submodules.endpoint, m.submodules.contexts = endpoint, contexts = self._endpoint, self._contexts
        connect(m, endpoint.lookup, contexts.lookup)
        connect(m, contexts.result, endpoint.result)
        for name, part in self._ports.items():
            ours, theirs = getattr(self, name), getattr(part, name)
            if self.signature.members[name].is_signature:
                connect(m, flipped(ours), theirs)
            elif name == "swept":
                m.d.comb += ours.eq(theirs)
            else:
                m.d.comb += theirs.eq(ours)
        return m


def test_endpoint():
    config = DeviceConfig.small()
    run(EndpointAndContexts(config), "endpoint", "tb_endpoint", parameters={"config": config.to_dict()})
