"""Claims of table lines, so that walkers never work on the same line at once."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.types import PAGE_WIDTH

__all__ = ["Claim", "Claims"]

LINE_WIDTH = PAGE_WIDTH - 2


class Claim(wiring.Signature):
    """A walker's claim of table line `line`, or with `alone` of the whole table; with `changes` to change it.

    A walker that is `waiting` may go on in any clock in which it is not `blocked`; from the next clock on it
    has the claim `held`, whatever `blocked` says, until it lets go of it.
    """

    def __init__(self):
        super().__init__({
            "line": Out(LINE_WIDTH),
            "alone": Out(1),
            "changes": Out(1),
            "waiting": Out(1),
            "held": Out(1),
            "blocked": In(1),
        })


class Claims(wiring.Component):
    """Blocks walkers whose claims are in conflict with one that is held, or with one that goes first.

    Combinational. Of walkers that wait those that want to be alone go first, then those that are to change the line, so
    that who looks it up after a change was taken sees it, then those with the lower number. A walker waits at most as
    long as the others' requests under way take.

    Parameters
    ----------
    clients : int
        Number of walkers.

    Members
    -------
    claim0, claim1, ... : In(Claim())
    """

    def __init__(self, clients):
        self._clients = clients
        super().__init__({f"claim{n}": In(Claim()) for n in range(clients)})

    def elaborate(self, platform):
        m = Module()
        claims = [getattr(self, f"claim{n}") for n in range(self._clients)]
        for n, own in enumerate(claims):
            for k, other in enumerate(claims):
                if k == n:
                    continue
                goes_first = Signal(name=f"goes_first{k}_{n}")
                with m.If(other.alone != own.alone):
                    m.d.comb += goes_first.eq(other.alone)
                with m.Elif(other.changes != own.changes):
                    m.d.comb += goes_first.eq(other.changes)
                with m.Else():
                    m.d.comb += goes_first.eq(k < n)
                with m.If((own.line == other.line) | own.alone | other.alone):
                    with m.If(other.held | (other.waiting & goes_first)):
                        m.d.comb += own.blocked.eq(1)
        return m
