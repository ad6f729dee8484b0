"""The whole device, Verilated, between a host and an AXI4 memory that are random, against the golden model."""

from runner import run

from speckv_hw.config import DeviceConfig
from speckv_hw.top import Device


def test_device():
    config = DeviceConfig.small(lanes=8)
    run(Device(config), "device", "tb_device", parameters={"config": config.to_dict()})
