"""The page table over the memory port and an AXI4 memory, Verilated: three clients that share table lines."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Out, connect, flipped
from clients_table import ClientsTable
from runner import run

from speckv_hw.config import DeviceConfig
from speckv_hw.mem.axi4 import Axi4Signature
from speckv_hw.mem.memory_port import MemoryPort

CLIENTS = 3


class TableAndMemory(wiring.Component):
    """A page table whose lines are behind `axi`."""

    def __init__(self, config):
        self._table = ClientsTable(config, clients=CLIENTS)
        self._memory = MemoryPort(config, readers=1, writers=1, read_depth=16)
        members = {name: member for name, member in self._table.signature.members.items()
                   if name.startswith(("request", "response")) or name in ("hit", "miss")}
        super().__init__(members | {"axi": Out(Axi4Signature(config.dram_address_bits))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table, m.submodules.memory = table, memory = self._table, self._memory
        for name in ("read_request", "read_data", "write_request", "write_data", "write_done"):
            kind, part = name.split("_")
            connect(m, getattr(table, name), getattr(memory, f"{kind}0_{part}"))
        connect(m, flipped(self.axi), memory.axi)
        for n in range(CLIENTS):
            connect(m, flipped(getattr(self, f"request{n}")), getattr(table, f"request{n}"))
            connect(m, getattr(table, f"response{n}"), flipped(getattr(self, f"response{n}")))
        m.d.comb += [self.hit.eq(table.hit), self.miss.eq(table.miss)]
        return m


def test_page_table():
    config = DeviceConfig.small()
    run(TableAndMemory(config), "page_table", "tb_page_table",
        parameters={"config": config.to_dict(), "clients": CLIENTS})
