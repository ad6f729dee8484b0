from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import HEADER_BYTES

from ..stream import Fifo, transfer
from ..types import LINE_BITS
from .piece_maker import PIECE_BITS, PieceMaker

__all__ = ["MiddleWriter"]

_LINE_PIECES = LINE_BITS // PIECE_BITS
_HEADER_PIECES = 8 * HEADER_BYTES // PIECE_BITS
_ASIDE = _LINE_PIECES - _HEADER_PIECES
"""Pieces that share the first line with the header, which is known last."""


class MiddleWriter(wiring.Component):
    """Makes the lines of a page's middle: the row centres, and the codes of the second and third tier.

    One piece of 64 bits a clock, a clock more for a line that is not full. A page's first line comes last, since the
    length of the second tier is in it. Empty on reset.

    Members
    -------
    centres : In(stream(64))
        Two for each page.
    second, third : In(stream(PieceMaker.piece_layout))
    o : Out(stream)
        `data` of a line and `first`: it is the page's first, and the last to come.
    """

    def __init__(self):
        pieces = stream.Signature(PieceMaker.piece_layout())
        super().__init__({
            "centres": In(stream.Signature(PIECE_BITS)),
            "second": In(pieces),
            "third": In(pieces),
            "o": Out(stream.Signature(data.StructLayout({"data": LINE_BITS, "first": 1}))),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.aside = aside = Fifo(PIECE_BITS, 16)
        moved = Signal(range(_ASIDE + 1))
        """Pieces put aside."""
        pieces = Signal(8)
        """Pieces of the second tier."""
        place = Signal(range(_LINE_PIECES))
        """Of the next piece in its line."""
        free = ~self.o.valid | self.o.ready

        put, piece, ends, header = Signal(), Signal(PIECE_BITS), Signal(), Signal()
        """A piece goes into the line, as its last one if it `ends`."""

        def body(source):
            """Pieces of a tier go aside as long as they belong to the first line."""
            skip = source.payload.empty
            to_aside = moved != _ASIDE
            m.d.comb += [
                piece.eq(source.payload.data),
                put.eq(source.valid & ~skip & ~to_aside & free),
                aside.i.valid.eq(source.valid & ~skip & to_aside),
                source.ready.eq(skip | Mux(to_aside, aside.i.ready, free)),
            ]
            with m.If(transfer(aside.i)):
                m.d.sync += moved.eq(moved + 1)

        m.d.comb += aside.i.payload.eq(piece)
        with m.FSM(name="page"):
            with m.State("SECOND"):
                body(self.second)
                with m.If(transfer(self.second)):
                    m.d.sync += pieces.eq(pieces + ~self.second.payload.empty)
                    with m.If(self.second.payload.last):
                        m.next = "THIRD"
            with m.State("THIRD"):
                body(self.third)
                with m.If(transfer(self.third) & self.third.payload.last):
                    m.next = "REST"
            with m.State("REST"):
                # Zeros to the end of the line, if it has begun
                m.d.comb += [put.eq(free & (place != 0)), ends.eq(1)]
                with m.If(free):
                    m.next = "CENTRES"
            with m.State("CENTRES"):
                m.d.comb += [
                    piece.eq(self.centres.payload),
                    put.eq(free & self.centres.valid),
                    self.centres.ready.eq(free),
                ]
                with m.If(put & (place == 1)):
                    m.next = "PIECES"
            with m.State("PIECES"):
                m.d.comb += [piece.eq(pieces), put.eq(free), ends.eq(moved == 0), header.eq(1)]
                with m.If(free):
                    m.d.sync += pieces.eq(0)
                    m.next = "ASIDE"
                    with m.If(ends):
                        m.next = "SECOND"
            with m.State("ASIDE"):
                m.d.comb += [
                    piece.eq(aside.o.payload),
                    put.eq(free & aside.o.valid),
                    aside.o.ready.eq(free),
                    ends.eq(moved == 1),
                    header.eq(1),
                ]
                with m.If(put):
                    m.d.sync += moved.eq(moved - 1)
                    with m.If(ends):
                        m.next = "SECOND"

        line = self.o.payload.data
        full = ends | (place == _LINE_PIECES - 1)
        with m.If(transfer(self.o)):
            m.d.sync += self.o.valid.eq(0)
        with m.If(put):
            m.d.sync += [
                place.eq(Mux(full, 0, place + 1)),
                self.o.valid.eq(full),
                self.o.payload.first.eq(header),
            ]
            with m.Switch(place):
                with m.Case(0):
                    m.d.sync += line.eq(Cat(piece, Const(0, LINE_BITS - PIECE_BITS)))
                for n in range(1, _LINE_PIECES):
                    with m.Case(n):
                        m.d.sync += line.word_select(n, PIECE_BITS).eq(piece)
        return m
