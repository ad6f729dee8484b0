from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Regear"]


class Regear(wiring.Component):
    """Cuts a stream of words into words of another number of units, low bits first.

    Latency 1 clock, one word a clock at the side of the narrower words; order kept. Empty on reset.

    Parameters
    ----------
    unit : int
        Bits of a unit.
    taken, given : int
        Units in a word that comes in and in one that goes out; small, without a common divisor.

    Members
    -------
    i : In(stream(unit * taken))
    o : Out(stream(unit * given))
    """

    latency = 1

    def __init__(self, unit, taken, given):
        self._unit, self._taken, self._given = unit, taken, given
        super().__init__({
            "i": In(stream.Signature(unit * taken)),
            "o": Out(stream.Signature(unit * given)),
        })

    def elaborate(self, platform):
        m = Module()
        unit, taken, given = self._unit, self._taken, self._given
        # Units wait in `held` with the last one at its end, wherever they begin.
        most = max(taken, given)
        held = Signal(unit * most)
        left = Signal(range(most))
        free = Signal()
        m.d.comb += free.eq(~self.o.valid | self.o.ready)
        with m.If(free):
            m.d.sync += self.o.valid.eq(0)

        with m.Switch(left):
            for waiting in range(most):
                waits = held[unit * (most - waiting):]
                with m.Case(waiting):
                    if waiting >= given:
                        with m.If(free):
                            m.d.sync += [
                                self.o.valid.eq(1),
                                self.o.payload.eq(waits[:unit * given]),
                                left.eq(waiting - given),
                            ]
                        continue
                    together = Cat(waits, self.i.payload)
                    enough = waiting + taken >= given
                    m.d.comb += self.i.ready.eq(free if enough else 1)
                    with m.If(self.i.valid & self.i.ready):
                        m.d.sync += [
                            held.eq(Cat(held, self.i.payload)[-unit * most:]),
                            left.eq(waiting + taken - (given if enough else 0)),
                        ]
                        if enough:
                            m.d.sync += [self.o.valid.eq(1), self.o.payload.eq(together[:unit * given])]
        return m
