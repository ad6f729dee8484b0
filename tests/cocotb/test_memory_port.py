"""The Verilated memory port in front of cocotbext-axi's memory, which knows nothing of ours."""

from runner import run

from speckv_hw.config import DeviceConfig
from speckv_hw.mem.memory_port import MemoryPort


def test_memory_port():
    config = DeviceConfig.small()
    run(MemoryPort(config, readers=2, writers=2, read_depth=(128, 16)), "memory_port", "tb_memory_port",
        parameters={"config": config.to_dict()})
