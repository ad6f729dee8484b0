from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import CHUNK_BYTES, FIRST_LINES, HEADER_BYTES, LOW_LINES, PAGE_VALUES, high_lines
from speckv_model.constants import LINE_BYTES, PAGE_ROWS
from speckv_model.constants import Dtype as ModelDtype

from ..stream import Fifo, chain, transfer
from ..types import LINE_BITS, DecodeStart, Dtype
from .code_packer import CHUNK_BITS
from .float16 import is_bf16
from .narrow import Narrow
from .payloads import chunk

__all__ = ["LosslessReader", "LosslessPage"]

HEADER_WORDS = HEADER_BYTES // CHUNK_BYTES
LINE_WORDS = LINE_BYTES // CHUNK_BYTES
SECOND_WORDS = 2 * PAGE_VALUES // CHUNK_BITS
THIRD_WORDS = 4 * PAGE_VALUES // CHUNK_BITS
MIDDLE_LINES = -(-(HEADER_WORDS + SECOND_WORDS + THIRD_WORDS) // LINE_WORDS)
"""Of the middle of a page, all that can matter."""


_THIRDS = 32
"""Words of the third tier that fit where they wait for their beats: more than a page of real values has, so that the
next page's header is read meanwhile."""


class LosslessPage(data.Struct):
    """What is known of a page once its header was read."""
    dtype: Dtype
    centres: 8 * PAGE_ROWS
    has_second: 1
    has_third: 1


class LosslessReader(wiring.Component):
    """Takes the stored lines of `lossless` pages apart into their sections.

    One line a clock; each section has a queue of its own, so that the lines of a page come in while those before are
    still in use. Sections of fixed length come out complete: lines that are not stored are zeros. Takes exactly as many
    lines as the start says. Empty on reset.

    Members
    -------
    start : In(stream(DecodeStart))
    stored : In(stream(512))
    page : Out(stream(LosslessPage))
    first, high, low : Out(stream(chunk(512)))
        8 lines, 12 (FP16) or none, and 32 of each page.
    second, third : Out(stream(chunk(64)))
        Of a page that has any, up to the one that is `last`.
    """

    start: In(stream.Signature(DecodeStart))
    stored: In(stream.Signature(LINE_BITS))
    page: Out(stream.Signature(LosslessPage))
    first: Out(stream.Signature(chunk(LINE_BITS)))
    high: Out(stream.Signature(chunk(LINE_BITS)))
    low: Out(stream.Signature(chunk(LINE_BITS)))
    second: Out(stream.Signature(chunk(CHUNK_BITS)))
    third: Out(stream.Signature(chunk(CHUNK_BITS)))

    def elaborate(self, platform):
        m = Module()
        queues = {}
        for name, depth in (("first", 16), ("high", 32), ("middle", 32), ("low", 48)):
            m.submodules[name] = queues[name] = Fifo(chunk(LINE_BITS), depth)
        for name in ("first", "high", "low"):
            chain(m, queues[name], getattr(self, name))
        # Lines of the middle that a page has, of those that matter
        m.submodules.lengths = lengths = Fifo(data.StructLayout({"lines": range(MIDDLE_LINES + 1), "dtype": Dtype}), 4)
        self._take_lines(m, queues, lengths.i)
        self._read_middle(m, queues["middle"].o, lengths.o)
        return m

    def _take_lines(self, m, queues, lengths):
        start = self.start.p
        bf16 = is_bf16(start.dtype)
        fixed = Mux(bf16, FIRST_LINES + LOW_LINES, FIRST_LINES + LOW_LINES + high_lines(ModelDtype.FP16))
        left = Signal(7)
        middle = Signal(7)
        dtype = Signal(Dtype)
        wanted = Signal(7)
        beyond = Signal(7)
        m.d.comb += beyond.eq(Mux(start.lines > fixed, start.lines - fixed, 0))
        m.d.comb += [
            lengths.p.lines.eq(Mux(beyond > MIDDLE_LINES, MIDDLE_LINES, beyond)),
            lengths.p.dtype.eq(start.dtype),
        ]
        sections = (("first", FIRST_LINES, "HIGH"), ("high", high_lines(ModelDtype.FP16), "MIDDLE"),
                    ("middle", 0, "LOW"), ("low", LOW_LINES, "START"))

        def begin(name):
            lines = dict((section, lines) for section, lines, _ in sections)[name]
            return wanted.eq(lines)

        with m.FSM(name="section"):
            with m.State("START"):
                m.d.comb += [lengths.valid.eq(self.start.valid), self.start.ready.eq(lengths.ready)]
                m.d.sync += [left.eq(start.lines), middle.eq(beyond), dtype.eq(start.dtype), begin("first")]
                with m.If(transfer(self.start)):
                    m.next = "FIRST"
            for name, _, following in sections:
                with m.State(name.upper()):
                    queue = queues[name].i
                    # Lines of the middle beyond those that matter are taken and dropped.
                    dropped = (middle - wanted >= MIDDLE_LINES) if name == "middle" else 0
                    stored = left != 0
                    m.d.comb += [
                        queue.payload.data.eq(Mux(stored, self.stored.payload, 0)),
                        queue.valid.eq(Mux(stored, self.stored.valid, 1) & ~dropped),
                        self.stored.ready.eq(stored & (queue.ready | dropped)),
                    ]
                    passed = (queue.ready | dropped) & (~stored | self.stored.valid)
                    skips = is_bf16(dtype) if name == "high" else (middle == 0) if name == "middle" else 0
                    with m.If(skips):
                        m.d.comb += [queue.valid.eq(0), self.stored.ready.eq(0)]
                    with m.Elif(passed):
                        m.d.sync += [wanted.eq(wanted - 1), left.eq(left - stored)]
                    with m.If(skips | (passed & (wanted == 1))):
                        if name == "first":
                            m.d.sync += begin("high")
                        elif name == "high":
                            m.d.sync += wanted.eq(middle)
                        elif name == "middle":
                            m.d.sync += begin("low")
                        m.next = following

    def _read_middle(self, m, lines, lengths):
        """Header, second tier and third tier of a page from its words."""
        m.submodules.narrow = narrow = Narrow(LINE_BITS, CHUNK_BITS)
        m.submodules.thirds = thirds = Fifo(chunk(CHUNK_BITS), _THIRDS)
        m.submodules.seconds = seconds = Fifo(chunk(CHUNK_BITS), SECOND_WORDS)
        chain(m, lines, narrow)
        chain(m, thirds, self.third)
        chain(m, seconds, self.second)
        words = narrow.o
        page = self.page.p
        left = Signal(range(LINE_WORDS * MIDDLE_LINES + 1))
        centres = Signal(8 * PAGE_ROWS)
        chunks, third_left = Signal(8), Signal(8)
        last_word = left == 1
        m.d.comb += [
            page.dtype.eq(lengths.p.dtype),
            page.centres.eq(centres),
            seconds.i.p.data.eq(words.p.data),
            thirds.i.p.data.eq(words.p.data),
            seconds.i.p.last.eq((chunks == 1) | last_word),
            thirds.i.p.last.eq((third_left == 1) | last_word),
        ]
        with m.If(transfer(words)):
            m.d.sync += left.eq(left - 1)
        count, third_count = Signal(8), Signal(8)
        m.d.comb += third_count.eq(Mux(words.p.data[8:16] > THIRD_WORDS, THIRD_WORDS, words.p.data[8:16]))
        m.d.comb += count.eq(Mux(words.p.data[:8] > SECOND_WORDS, SECOND_WORDS, words.p.data[:8]))
        with m.FSM(name="middle"):
            with m.State("PAGE"):
                m.d.sync += [left.eq(LINE_WORDS * lengths.p.lines), centres.eq(0)]
                with m.If(lengths.valid):
                    with m.If(lengths.p.lines == 0):
                        m.d.comb += [page.centres.eq(0), self.page.valid.eq(1), lengths.ready.eq(self.page.ready)]
                    with m.Else():
                        m.next = "LOWER"
            for name, following in (("LOWER", "UPPER"), ("UPPER", "COUNT")):
                with m.State(name):
                    m.d.comb += words.ready.eq(1)
                    with m.If(words.valid):
                        m.d.sync += centres.eq(centres[CHUNK_BITS:] | words.p.data << CHUNK_BITS)
                        m.next = following
            with m.State("COUNT"):
                m.d.comb += [
                    page.has_second.eq(count != 0),
                    page.has_third.eq((third_count != 0) & (count < left - 1)),
                    self.page.valid.eq(words.valid),
                    words.ready.eq(self.page.ready),
                ]
                m.d.sync += [
                    chunks.eq(count),
                    third_left.eq(third_count),
                ]
                with m.If(transfer(words)):
                    m.d.comb += lengths.ready.eq(1)
                    m.next = "SECOND"
            with m.State("SECOND"):
                with m.If(chunks != 0):
                    m.d.comb += [seconds.i.valid.eq(words.valid), words.ready.eq(seconds.i.ready)]
                    with m.If(transfer(words)):
                        m.d.sync += chunks.eq(chunks - 1)
                        with m.If(last_word):
                            m.next = "PAGE"
                with m.Else():
                    m.d.comb += [
                        thirds.i.valid.eq(words.valid & (third_left != 0)),
                        words.ready.eq(thirds.i.ready | (third_left == 0)),
                    ]
                    with m.If(transfer(words)):
                        m.d.sync += third_left.eq(Mux(third_left == 0, 0, third_left - 1))
                        with m.If(last_word):
                            m.next = "PAGE"
