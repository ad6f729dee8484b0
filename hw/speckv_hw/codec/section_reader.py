from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import CHUNK_BYTES, FIRST_LINES, HEADER_BYTES, LOW_LINES, high_lines
from speckv_model.constants import PAGE_ROWS
from speckv_model.constants import Dtype as ModelDtype

from ..stream import transfer
from ..types import LINE_BITS, DecodeStart, Dtype
from .float16 import is_bf16
from .piece_maker import PIECE_BITS
from .piece_reader import PieceReader

__all__ = ["SectionReader"]

_HIGH_LINES = high_lines(ModelDtype.FP16)
_LINE_PIECES = LINE_BITS // PIECE_BITS
_HEADER_PIECES = HEADER_BYTES // CHUNK_BYTES
_SECOND_PIECES = 64
_THIRD_LINES = 17
"""What the tiers can take of their pieces: 2048 codes, of two bits, or of four from anywhere in a line on."""


class SectionReader(wiring.Component):
    """Takes the stored lines of `lossless` pages apart into sections.

    Latency 0, one line a clock; a page takes six more. Takes exactly as many lines as the start says; the sections of
    fixed length are filled up with lines of zeros, and lines of the middle that no code can be in are dropped. Idle on
    reset.

    Members
    -------
    start : In(stream(DecodeStart))
        `codec` does not matter.
    stored : In(stream(512))
    header : Out(stream)
        `centres` of a page's rows and its `dtype`.
    first, high, low : Out(stream(512))
        8, 12 (of FP16 pages only) and 32 lines of each page.
    second, third : Out(stream(512))
        Lines that have pieces of these tiers.
    second_page, third_page : Out(stream(PieceReader.page_layout()))
        Which pieces that are, for each page.
    """

    @staticmethod
    def header_layout():
        return data.StructLayout({"centres": data.ArrayLayout(8, PAGE_ROWS), "dtype": Dtype})

    def __init__(self):
        lines = stream.Signature(LINE_BITS)
        page = stream.Signature(PieceReader.page_layout())
        super().__init__({
            "start": In(stream.Signature(DecodeStart)),
            "stored": In(lines),
            "header": Out(stream.Signature(self.header_layout())),
            "first": Out(lines),
            "high": Out(lines),
            "second": Out(lines),
            "third": Out(lines),
            "low": Out(lines),
            "second_page": Out(page),
            "third_page": Out(page),
        })

    def elaborate(self, platform):
        m = Module()
        dtype = Signal(Dtype)
        stored_left = Signal(7)
        middle_left = Signal(7)
        line = Signal(7)
        """Of the section."""
        chunks = Signal(8)
        for port in (self.first, self.high, self.low):
            m.d.comb += port.payload.eq(Mux(stored_left == 0, 0, self.stored.payload))
        for port in (self.second, self.third):
            m.d.comb += port.payload.eq(self.stored.payload)
        with m.If(transfer(self.stored)):
            m.d.sync += stored_left.eq(stored_left - 1)

        def section(port, lines, following):
            """A section of fixed length."""
            there = stored_left != 0
            m.d.comb += [
                port.valid.eq(self.stored.valid | ~there),
                self.stored.ready.eq(port.ready & there),
            ]
            with m.If(transfer(port)):
                m.d.sync += line.eq(line + 1)
                with m.If(line == lines - 1):
                    m.d.sync += line.eq(0)
                    m.next = following

        # Where the tiers are in the middle, in pieces and in lines
        pieces = Signal(11)
        third_at = Signal(9)
        second_last = Signal(5)
        third_line, third_end = Signal(6), Signal(7)
        second_any = Signal()
        second_page, third_page = self.second_page.payload, self.third_page.payload
        with m.FSM(name="section"):
            with m.State("START"):
                fixed = Mux(is_bf16(self.start.payload.dtype), FIRST_LINES + LOW_LINES,
                            FIRST_LINES + _HIGH_LINES + LOW_LINES)
                lines = self.start.payload.lines
                m.d.comb += self.start.ready.eq(1)
                with m.If(self.start.valid):
                    m.d.sync += [
                        dtype.eq(self.start.payload.dtype),
                        stored_left.eq(lines),
                        middle_left.eq(Mux(lines > fixed, lines - fixed, 0)),
                    ]
                    m.next = "FIRST"
            with m.State("FIRST"):
                section(self.first, FIRST_LINES, "HIGH")
            with m.State("HIGH"):
                with m.If(is_bf16(dtype)):
                    m.next = "HEADER"
                with m.Else():
                    section(self.high, _HIGH_LINES, "HEADER")
            with m.State("HEADER"):
                # The header is looked at before its line is taken. Without one all is zero.
                there = middle_left != 0
                for row in range(PAGE_ROWS):
                    m.d.comb += self.header.payload.centres[row].eq(
                        Mux(there, self.stored.payload.word_select(row, 8), 0))
                m.d.comb += [
                    self.header.payload.dtype.eq(dtype),
                    self.header.valid.eq(self.stored.valid | ~there),
                ]
                m.d.sync += [
                    chunks.eq(Mux(there, self.stored.payload.word_select(PAGE_ROWS, 8), 0)),
                    pieces.eq(middle_left * _LINE_PIECES),
                ]
                with m.If(transfer(self.header)):
                    m.next = "TIERS"
            with m.State("TIERS"):
                m.d.sync += [
                    third_at.eq(chunks + _HEADER_PIECES),
                    second_page.start.eq(_HEADER_PIECES),
                    second_page.pieces.eq(Mux(chunks > _SECOND_PIECES, _SECOND_PIECES, chunks)),
                ]
                m.next = "LENGTHS"
            with m.State("LENGTHS"):
                there = pieces - _HEADER_PIECES
                with m.If(pieces == 0):
                    m.d.sync += second_page.pieces.eq(0)
                with m.Elif(second_page.pieces > there):
                    m.d.sync += second_page.pieces.eq(there)
                m.d.sync += [
                    third_page.start.eq(third_at[:3]),
                    third_line.eq(third_at[3:]),
                    third_end.eq(Mux(middle_left > third_at[3:] + _THIRD_LINES, third_at[3:] + _THIRD_LINES,
                                     middle_left)),
                ]
                m.next = "PAGES"
            with m.State("PAGES"):
                both = self.second_page.ready & self.third_page.ready
                third_lines = Mux(third_end > third_line, third_end - third_line, 0)
                m.d.comb += [
                    third_page.pieces.eq(Mux(third_lines == 0, 0, third_lines * _LINE_PIECES - third_page.start)),
                    self.second_page.valid.eq(both),
                    self.third_page.valid.eq(both),
                ]
                m.d.sync += [
                    second_any.eq(second_page.pieces != 0),
                    second_last.eq((second_page.pieces + _HEADER_PIECES - 1)[3:]),
                ]
                with m.If(both):
                    m.next = "MIDDLE"
            with m.State("MIDDLE"):
                to_second = second_any & (line <= second_last)
                to_third = (line >= third_line) & (line < third_end)
                ready = (self.second.ready | ~to_second) & (self.third.ready | ~to_third)
                with m.If(middle_left == 0):
                    m.next = "LOW"
                with m.Else():
                    m.d.comb += [
                        self.stored.ready.eq(ready),
                        self.second.valid.eq(self.stored.valid & ready & to_second),
                        self.third.valid.eq(self.stored.valid & ready & to_third),
                    ]
                    with m.If(transfer(self.stored)):
                        m.d.sync += [line.eq(line + 1), middle_left.eq(middle_left - 1)]
                        with m.If(middle_left == 1):
                            m.d.sync += line.eq(0)
                            m.next = "LOW"
            with m.State("LOW"):
                section(self.low, LOW_LINES, "START")
        return m
