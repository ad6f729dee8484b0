"""Who shares a server or a queue: one is served at a time, in turn, and gets its own answer."""

import pytest
from amaranth.hdl import Array, Assert, Assume, Cat, Module, Mux, Signal
from amaranth.lib.wiring import In
from properties import contract, inputs_of, streams_of
from prove import prove, refute

from speckv_hw.stream import Arbiter, transfer
from speckv_hw.table.claims import Claims
from speckv_hw.table.share import Share


def share_properties(dut, clients, outstanding, answer_of):
    """A server that answers in order whatever is asked: an answer says which client's request it belongs to.

    `answer_of` is what the server says to the request of a client.
    """
    m = Module()
    m.submodules.dut = dut
    requests = [getattr(dut, f"request{n}") for n in range(clients)]
    responses = [getattr(dut, f"response{n}") for n in range(clients)]
    for name, flow, port in streams_of(dut):
        contract(m, port, Assume if flow == In else Assert, name)

    # What the server has taken and not answered, the oldest first.
    owners = [Signal(range(max(2, clients)), name=f"owner{n}") for n in range(outstanding)]
    level = Signal(range(outstanding + 1))
    taken, answered = transfer(dut.server_request), transfer(dut.server_response)
    asker = Signal(range(max(2, clients)))
    for n, request in enumerate(requests):
        with m.If(transfer(request)):
            m.d.comb += asker.eq(n)
    after = Signal.like(level)
    m.d.comb += after.eq(level - answered)
    m.d.sync += level.eq(after + taken)
    for n, owner in enumerate(owners):
        older = owners[n + 1] if n + 1 < outstanding else owner
        m.d.sync += owner.eq(Mux(taken & (after == n), asker, Mux(answered, older, owner)))
    m.d.comb += [
        Assume(~dut.server_response.valid | (level != 0)),
        Assume(~dut.server_response.valid | (dut.server_response.payload == answer_of(owners[0]))),
        Assert(Cat(transfer(request) for request in requests).bool() == taken),
        Assert(~taken | (dut.server_request.payload == Array(request.payload for request in requests)[asker])),
        Assert((level < outstanding) | ~taken),
        Assert(sum(transfer(response) for response in responses) == answered),
    ]
    for n, (request, response) in enumerate(zip(requests, responses)):
        m.d.comb += Assert(~response.valid | ((owners[0] == n) & (response.payload == answer_of(n))))
        for other in requests[:n]:
            m.d.comb += Assert(~(transfer(request) & transfer(other)))
        turns = Signal(range(clients + 1), name=f"turns{n}")
        with m.If(~request.valid | transfer(request)):
            m.d.sync += turns.eq(0)
        with m.Elif(taken):
            m.d.sync += turns.eq(turns + 1)
        m.d.comb += Assert(turns < clients)
    return m, inputs_of(dut), level


@pytest.mark.parametrize("clients, outstanding", [(2, 1), (3, 2), (3, 3)])
def test_share(clients, outstanding):
    m, inputs, _ = share_properties(Share(1, 2, clients, outstanding), clients, outstanding, lambda owner: owner)
    prove(m, inputs)


class FixedPriority(Arbiter):
    """An arbiter with the mistake that the first port always goes first."""

    def elaborate(self, platform):
        m = Module()
        held, chosen = Signal(), Signal.like(self.port)
        for n, port in reversed(list(enumerate(self.inputs))):
            with m.If(port.valid):
                m.d.comb += self.port.eq(n)
        with m.If(held):
            m.d.comb += self.port.eq(chosen)
        for n, port in enumerate(self.inputs):
            with m.If(self.port == n):
                m.d.comb += [self.o.payload.eq(port.payload), self.o.valid.eq(port.valid), port.ready.eq(self.o.ready)]
        m.d.sync += [held.eq(self.o.valid & ~self.o.ready), chosen.eq(self.port)]
        return m


class ForgetfulShare(Share):
    """Shares without remembering who asked: the first client that waits for an answer gets it."""

    def elaborate(self, platform):
        m = Module()
        m.submodules.arbiter = arbiter = Arbiter(self._request, self._clients)
        waiting = Signal(self._clients)
        m.d.comb += [
            self.server_request.payload.eq(arbiter.o.payload),
            self.server_request.valid.eq(arbiter.o.valid & ~waiting.bit_select(arbiter.port, 1)),
            arbiter.o.ready.eq(self.server_request.ready & ~waiting.bit_select(arbiter.port, 1)),
        ]
        for n, port in enumerate(arbiter.inputs):
            request, response = getattr(self, f"request{n}"), getattr(self, f"response{n}")
            m.d.comb += [
                port.payload.eq(request.payload),
                port.valid.eq(request.valid),
                request.ready.eq(port.ready),
                response.payload.eq(self.server_response.payload),
            ]
            with m.If(waiting[n] & ~waiting[:n].any()):
                m.d.comb += [
                    response.valid.eq(self.server_response.valid),
                    self.server_response.ready.eq(response.ready),
                ]
            m.d.sync += waiting[n].eq((waiting[n] | transfer(port)) & ~transfer(response))
        return m


def test_answers_to_the_wrong_client_are_found():
    m, inputs, _ = share_properties(ForgetfulShare(1, 2, 2, 2), 2, 2, lambda owner: owner)
    refute(m, inputs)


def test_unfair_turns_are_found(monkeypatch):
    monkeypatch.setattr("speckv_hw.table.share.Arbiter", FixedPriority)
    m, inputs, _ = share_properties(Share(1, 2, 3, 3), 3, 3, lambda owner: owner)
    refute(m, inputs)


@pytest.mark.parametrize("outstanding", [1, 2, 3])
def test_every_place_of_a_share_can_be_taken(outstanding):
    m, inputs, level = share_properties(Share(1, 2, 2, outstanding), 2, outstanding, lambda owner: owner)
    m.d.comb += Assert(level != outstanding)
    refute(m, inputs)


def claim_properties(clients):
    """Walkers that claim lines and let go of them whenever they like: no two ever hold what is in conflict."""
    m = Module()
    m.submodules.dut = dut = Claims(clients)
    claims = [getattr(dut, f"claim{n}") for n in range(clients)]
    for n, claim in enumerate(claims):
        held, let_go = Signal(name=f"held{n}"), Signal(name=f"let_go{n}")
        was_waiting = Signal(name=f"was_waiting{n}")
        line, alone = Signal.like(claim.line), Signal.like(claim.alone)
        m.d.sync += [
            held.eq(Mux(held, ~let_go, claim.waiting & ~claim.blocked)),
            was_waiting.eq(claim.waiting & claim.blocked),
            line.eq(claim.line), alone.eq(claim.alone),
        ]
        m.d.comb += [Assume(claim.held == held), Assume(~(held & claim.waiting))]
        with m.If(held | was_waiting):
            m.d.comb += Assume((claim.line == line) & (claim.alone == alone))
        with m.If(was_waiting):
            m.d.comb += Assume(claim.waiting)
        claims[n] = (claim, let_go)
    for n, (own, _) in enumerate(claims):
        for other, _ in claims[:n]:
            conflict = (own.line == other.line) | own.alone | other.alone
            m.d.comb += Assert(~(own.held & other.held & conflict))
    # Somebody who waits may go on whenever nothing is held.
    some = Cat(claim.waiting for claim, _ in claims).any()
    m.d.comb += Assert(~some | Cat(claim.held for claim, _ in claims).any()
                       | Cat(claim.waiting & ~claim.blocked for claim, _ in claims).any())
    return m, inputs_of(dut) + [let_go for _, let_go in claims], [claim for claim, _ in claims]


@pytest.fixture(autouse=True)
def few_lines(monkeypatch):
    """Two bits tell lines apart well enough."""
    monkeypatch.setattr("speckv_hw.table.claims.LINE_WIDTH", 2)


@pytest.mark.parametrize("clients", [2, 3])
def test_claims(clients):
    prove(*claim_properties(clients)[:2])


def test_claims_of_different_lines_are_held_together():
    m, inputs, claims = claim_properties(2)
    m.d.comb += Assert(~(claims[0].held & claims[1].held))
    refute(m, inputs)
