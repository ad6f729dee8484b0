"""The page table with clients that ask for anything, for tests in which a client looks up what it has changed."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from speckv_hw.stream import Arbiter
from speckv_hw.table.kept_entries import RETRY_CLOCKS
from speckv_hw.table.page_table import PageTable
from speckv_hw.types import TableOp, TableRequest, TableResponse


class ClientsTable(wiring.Component):
    """A `PageTable` with three of its clients, one of each operation, behind each of `clients`.

    Members are the page table's. A client's responses are in order for each operation alone.
    """

    latency = PageTable.latency

    def __init__(self, config, clients=2, retry_clocks=RETRY_CLOCKS):
        self._clients = clients
        self._table = PageTable(config, tuple(TableOp) * clients, retry_clocks)
        self._others = [name for name in self._table.signature.members if not name.startswith(("request", "response"))]
        super().__init__({name: self._table.signature.members[name] for name in self._others}
                         | {f"request{n}": In(stream.Signature(TableRequest)) for n in range(clients)}
                         | {f"response{n}": Out(stream.Signature(TableResponse)) for n in range(clients)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.table = table = self._table
        for name in self._others:
            if name in ("hit", "miss"):
                m.d.comb += getattr(self, name).eq(getattr(table, name))
            else:
                connect(m, getattr(table, name), flipped(getattr(self, name)))
        for n in range(self._clients):
            request = getattr(self, f"request{n}")
            m.submodules[f"merge{n}"] = merge = Arbiter(TableResponse, len(TableOp))
            connect(m, merge.o, flipped(getattr(self, f"response{n}")))
            for k, op in enumerate(TableOp):
                port = getattr(table, f"request{len(TableOp) * n + k}")
                connect(m, getattr(table, f"response{len(TableOp) * n + k}"), merge.inputs[k])
                m.d.comb += port.payload.eq(request.payload)
                with m.If(request.payload.op == op):
                    m.d.comb += [port.valid.eq(request.valid), request.ready.eq(port.ready)]
        return m
