from amaranth.hdl import Cat, Module, Mux, Signal
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

    One piece of 64 bits a clock, zeros to the end of a line too. A page's first line comes last, since the lengths of
    the tiers are in it. Empty on reset.

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
        m.submodules.aside = aside = Fifo(PIECE_BITS, _ASIDE + 1)
        moved = Signal(range(_ASIDE + 1))
        """Pieces put aside."""
        second_pieces, third_pieces = Signal(8), Signal(8)
        place = Signal(range(_LINE_PIECES))
        """Of the next piece in its line."""
        full = place == _LINE_PIECES - 1
        free = ~self.o.valid | self.o.ready

        put, piece, header = Signal(), Signal(PIECE_BITS), Signal()
        """A piece goes into the line, which begins with the header."""

        def body(source, pieces):
            """Pieces of a tier go aside as long as they belong to the first line."""
            skip = source.p.empty
            to_aside = moved != _ASIDE
            m.d.comb += [
                piece.eq(source.p.data),
                put.eq(source.valid & ~skip & ~to_aside & free),
                aside.i.valid.eq(source.valid & ~skip & to_aside),
                source.ready.eq(skip | Mux(to_aside, aside.i.ready, free)),
            ]
            with m.If(transfer(aside.i)):
                m.d.sync += moved.eq(moved + 1)
            with m.If(transfer(source)):
                m.d.sync += pieces.eq(pieces + ~skip)

        m.d.comb += aside.i.payload.eq(piece)
        with m.FSM(name="page"):
            with m.State("SECOND"):
                body(self.second, second_pieces)
                with m.If(transfer(self.second) & self.second.p.last):
                    m.next = "THIRD"
            with m.State("THIRD"):
                body(self.third, third_pieces)
                with m.If(transfer(self.third) & self.third.p.last):
                    m.next = "REST"
            with m.State("REST"):
                # Zeros to the end of the line, if it has begun
                m.d.comb += put.eq(free & (place != 0))
                with m.If((place == 0) | (put & full)):
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
                m.d.comb += [piece.eq(Cat(second_pieces, third_pieces)), put.eq(free)]
                with m.If(free):
                    m.d.sync += [second_pieces.eq(0), third_pieces.eq(0)]
                    m.next = "ASIDE"
            with m.State("ASIDE"):
                some = moved != 0
                with m.If(some):
                    m.d.comb += piece.eq(aside.o.payload)
                m.d.comb += [
                    put.eq(free & (aside.o.valid | ~some)),
                    aside.o.ready.eq(free & some),
                    header.eq(1),
                ]
                with m.If(put):
                    m.d.sync += moved.eq(moved - some)
                    with m.If(full):
                        m.next = "SECOND"

        with m.If(transfer(self.o)):
            m.d.sync += self.o.valid.eq(0)
        with m.If(put):
            m.d.sync += [place.eq(place + 1), self.o.valid.eq(full), self.o.p.first.eq(header)]
            with m.Switch(place):
                for n in range(_LINE_PIECES):
                    with m.Case(n):
                        m.d.sync += self.o.p.data.word_select(n, PIECE_BITS).eq(piece)
        return m
