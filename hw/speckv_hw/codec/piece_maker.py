from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from .tier_packer import TierPacker

__all__ = ["PIECE_BITS", "PieceMaker"]

PIECE_BITS = 64


class PieceMaker(wiring.Component):
    """Makes pieces of 64 bits of a tier's chunks.

    Latency 1 clock after the completing chunk, one chunk a clock; order kept. A page's last piece is marked; it comes
    even if it is empty. Empty on reset.

    Parameters
    ----------
    places, width : int
        As of the `TierPacker`; a chunk has 16 or 32 bits.

    Members
    -------
    i : In(stream(TierPacker.chunk_layout(places, width)))
    o : Out(stream(piece_layout()))
        `data`, `last` and `empty`: nothing of the page is in it.
    """

    latency = 1

    def __init__(self, places, width):
        self._bits = places * width
        super().__init__({
            "i": In(stream.Signature(TierPacker.chunk_layout(places, width))),
            "o": Out(stream.Signature(self.piece_layout())),
        })

    @staticmethod
    def piece_layout():
        return data.StructLayout({"data": PIECE_BITS, "last": 1, "empty": 1})

    def elaborate(self, platform):
        m = Module()
        chunk, piece = self.i.p, self.o.p
        parts = PIECE_BITS // self._bits
        part = Signal(range(parts))
        complete = (part == parts - 1) | chunk.last
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(transfer(self.o)):
            m.d.sync += self.o.valid.eq(0)
        with m.If(transfer(self.i)):
            m.d.sync += [
                part.eq(Mux(complete, 0, part + 1)),
                self.o.valid.eq(complete),
                piece.last.eq(chunk.last),
                piece.empty.eq((part == 0) & chunk.empty),
            ]
            with m.Switch(part):
                with m.Case(0):
                    m.d.sync += piece.data.eq(chunk.data)
                for n in range(1, parts):
                    with m.Case(n):
                        m.d.sync += piece.data.word_select(n, self._bits).eq(chunk.data)
        return m
