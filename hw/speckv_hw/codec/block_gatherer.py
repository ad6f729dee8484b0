from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec import fixed
from speckv_model.codec.variable import UNIT_VALUES
from speckv_model.constants import ROW_VALUES

from ..stream import transfer
from .quantised_lane import CELL_PLANES
from .quantised_reader import HEAD_WORDS, PIECE_WORDS, PieceTag
from .word_unpacker import WORD_BITS

__all__ = ["BlockGatherer", "Block"]

PLANE_BITS = 8 * fixed.PLANE_BYTES


class Block(data.Struct):
    """A unit of a `variable` page, which is its first piece, or a row of a `fixed` one."""
    tag: PieceTag
    first: WORD_BITS * PIECE_WORDS
    """`fixed`: up to the signs."""
    cells: data.ArrayLayout(PLANE_BITS, CELL_PLANES)
    """`fixed`: planes of the cells' numbers; what lies in those that the row does not have is meaningless."""

    @property
    def head(self):
        """What a row has before its planes, at the upper end."""
        return self.first[:WORD_BITS * HEAD_WORDS]

    @property
    def signs(self):
        return self.first[WORD_BITS * HEAD_WORDS:]


class BlockGatherer(wiring.Component):
    """Puts the pieces of rows together and shows each block as long as its beats take.

    A piece a clock, a beat a clock where pieces do not lack; `latency` clocks from the last piece. Empty on reset.

    Parameters
    ----------
    lanes : int
        Values of a beat.

    Members
    -------
    pieces : In(stream)
        `data` and `tag`.
    block : Out(Block)
    place : Out
        Number of the beat in it.
    valid : Out
        There is a block.
    next : In
        The beat is done.
    """

    latency = 2

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "pieces": In(stream.Signature(data.StructLayout({"data": WORD_BITS * PIECE_WORDS, "tag": PieceTag}))),
            "block": Out(Block),
            "place": Out(range(ROW_VALUES // lanes)),
            "valid": Out(1),
            "next": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        piece = self.pieces.p
        gathered = Signal(Block, reset_less=True)
        shown = Signal(Block, reset_less=True)
        complete = Signal()
        done = Signal()
        last = Mux(shown.tag.variable, UNIT_VALUES // self._lanes - 1, ROW_VALUES // self._lanes - 1)
        free = ~self.valid | done
        m.d.comb += [
            self.block.eq(shown),
            done.eq(self.valid & self.next & (self.place == last)),
            self.pieces.ready.eq(~complete | free),
        ]
        with m.If(self.valid & self.next):
            m.d.sync += self.place.eq(Mux(done, 0, self.place + 1))
        with m.If(free):
            m.d.sync += [shown.eq(gathered), self.valid.eq(complete), complete.eq(0)]
        with m.If(transfer(self.pieces)):
            m.d.sync += [gathered.tag.eq(piece.tag), complete.eq(piece.tag.last)]
            with m.Switch(piece.tag.index):
                with m.Case(0):
                    m.d.sync += gathered.first.eq(piece.data)
                for n in range(CELL_PLANES // 2):
                    with m.Case(n + 1):
                        m.d.sync += [gathered.cells[2 * n].eq(piece.data[:PLANE_BITS]),
                                     gathered.cells[2 * n + 1].eq(piece.data[PLANE_BITS:2 * PLANE_BITS])]
        return m
