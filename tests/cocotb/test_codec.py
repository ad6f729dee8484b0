"""The page codec, Verilated: what the encoder makes of pages goes through the decoder; against the model."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped
from runner import run

from speckv_hw.codec.page_decoder import PageDecoder
from speckv_hw.codec.page_encoder import PageEncoder
from speckv_hw.config import DeviceConfig


class Codec(wiring.Component):
    """An encoder and a decoder side by side, as `encoder__*` and `decoder__*`."""

    def __init__(self, config):
        self._parts = {"encoder": PageEncoder(config), "decoder": PageDecoder(config)}
        super().__init__({name: wiring.Out(part.signature) for name, part in self._parts.items()})

    def elaborate(self, platform):
        m = Module()
        for name, part in self._parts.items():
            m.submodules[name] = part
            connect(m, part, flipped(getattr(self, name)))
        return m


@pytest.mark.parametrize("lanes", [8, 32])
def test_codec(lanes):
    config = DeviceConfig.small(lanes=lanes)
    run(Codec(config), f"codec{lanes}", "tb_codec", parameters={"config": config.to_dict()})
