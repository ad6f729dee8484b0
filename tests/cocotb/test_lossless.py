"""The `lossless` codec, Verilated: what its encoder makes of pages goes through its decoder; against the model."""

import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import connect, flipped
from runner import run

from speckv_hw.codec.lossless_decoder import LosslessDecoder
from speckv_hw.codec.lossless_encoder import LosslessEncoder


class Codec(wiring.Component):
    """An encoder and a decoder side by side, as `encoder__*` and `decoder__*`."""

    def __init__(self, lanes):
        self._parts = {"encoder": LosslessEncoder(lanes), "decoder": LosslessDecoder(lanes)}
        super().__init__({name: wiring.Out(part.signature) for name, part in self._parts.items()})

    def elaborate(self, platform):
        m = Module()
        for name, part in self._parts.items():
            m.submodules[name] = part
            connect(m, part, flipped(getattr(self, name)))
        return m


@pytest.mark.parametrize("lanes", [8, 32])
def test_lossless(lanes):
    run(Codec(lanes), f"lossless{lanes}", "tb_lossless", parameters={"lanes": lanes})
