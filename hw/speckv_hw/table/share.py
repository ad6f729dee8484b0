"""Several clients of one server."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import Arbiter, Fifo, transfer

__all__ = ["Share"]


class Share(wiring.Component):
    """Shares a server, which answers every request once and in order, among `clients`, round robin.

    Combinational from requests to the server and from its answers to the clients; one request a clock; an
    answer can pass from the clock after its request on (two clocks after it if `outstanding` is above 2). A
    client must take its answers without waiting for anybody else's. Empty on reset.

    Parameters
    ----------
    request, response : shape-like
        Shapes of the payloads.
    clients : int
        Number of clients.
    outstanding : int
        Requests that the server has taken and not answered, at most.

    Members
    -------
    request0, request1, ... : In(stream)
    response0, response1, ... : Out(stream)
    server_request : Out(stream)
    server_response : In(stream)
    """

    def __init__(self, request, response, clients, outstanding):
        self._request = request
        self._clients = clients
        self._outstanding = outstanding
        members = {
            "server_request": Out(stream.Signature(request)),
            "server_response": In(stream.Signature(response)),
        }
        for n in range(clients):
            members[f"request{n}"] = In(stream.Signature(request))
            members[f"response{n}"] = Out(stream.Signature(response))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.arbiter = arbiter = Arbiter(self._request, self._clients)
        m.submodules.owners = owners = Fifo(arbiter.port.shape(), self._outstanding)
        for n, port in enumerate(arbiter.inputs):
            wiring.connect(m, wiring.flipped(getattr(self, f"request{n}")), port)

        m.d.comb += [
            self.server_request.payload.eq(arbiter.o.payload),
            self.server_request.valid.eq(arbiter.o.valid & owners.i.ready),
            arbiter.o.ready.eq(self.server_request.ready & owners.i.ready),
            owners.i.payload.eq(arbiter.port),
            owners.i.valid.eq(transfer(self.server_request)),
            owners.o.ready.eq(transfer(self.server_response)),
        ]
        for n in range(self._clients):
            response = getattr(self, f"response{n}")
            m.d.comb += response.payload.eq(self.server_response.payload)
            with m.If(owners.o.valid & (owners.o.payload == n)):
                m.d.comb += [
                    response.valid.eq(self.server_response.valid),
                    self.server_response.ready.eq(response.ready),
                ]
        return m
