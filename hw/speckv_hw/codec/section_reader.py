from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.lossless import FIRST_LINES, HEADER_BYTES, LOW_LINES, MOST_CHUNKS, PAGE_VALUES, high_lines
from speckv_model.constants import PAGE_ROWS
from speckv_model.constants import Dtype as ModelDtype

from ..stream import Fifo, transfer
from ..types import LINE_BITS, DecodeStart, Dtype
from .float16 import is_bf16
from .payloads import chunk
from .piece_fetcher import PieceFetcher
from .piece_maker import PIECE_BITS
from .section_fetcher import LINE_NUMBER_BITS, SectionFetcher

__all__ = ["SectionReader", "page_layout"]

_HIGH_LINES = high_lines(ModelDtype.FP16)
_LINE_PIECES = LINE_BITS // PIECE_BITS
_HEADER_PIECES = 8 * HEADER_BYTES // PIECE_BITS
_THIRD_PIECES = 4 * PAGE_VALUES // PIECE_BITS
_LINES = 1 << LINE_NUMBER_BITS - 1
"""Lines that fit into the memory."""
_MOST_LINES = _LINES // 4 * 3
"""So many wait there at most, so that it is seen from line numbers which one is before another."""
_PAGES = 5
"""Pages that may be here at once, in part."""


def page_layout():
    """What the header says of a page."""
    return data.StructLayout({"centres": 8 * PAGE_ROWS, "dtype": Dtype})


class SectionReader(wiring.Component):
    """Keeps the stored lines of `lossless` pages and takes them apart into sections.

    All lines go into one memory, from which each section fetches its own in its own time, the header first; so the
    sections of several pages may be under way at once. One line a clock into memory, and one out of it. Takes exactly
    as many lines as the start says, and gives all words of the sections of fixed length; those of lines that are not
    there are zero. Empty on reset.

    Parameters
    ----------
    lanes : int
        Values in a beat.

    Members
    -------
    start : In(stream(DecodeStart))
        `codec` does not matter.
    stored : In(stream(512))
    page : Out(stream(page_layout()))
    first, low : Out(stream(2 * lanes)), Out(stream(8 * lanes))
        A beat a word.
    high : Out(stream(4 * lanes))
        Of FP16 pages only.
    second, third : Out(stream(chunk(64)))
        Pieces of each page up to its `last`; at least one.
    done : In
        All of the oldest page is used.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        pieces = stream.Signature(chunk(PIECE_BITS))
        super().__init__({
            "start": In(stream.Signature(DecodeStart)),
            "stored": In(stream.Signature(LINE_BITS)),
            "page": Out(stream.Signature(page_layout())),
            "first": Out(stream.Signature(2 * lanes)),
            "high": Out(stream.Signature(4 * lanes)),
            "low": Out(stream.Signature(8 * lanes)),
            "second": Out(pieces),
            "third": Out(pieces),
            "done": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        m.submodules.lines = lines = memory.Memory(
            shape=LINE_BITS, depth=_LINES, init=[], attrs={"no_rw_check": 1})
        read = lines.read_port()
        sections = {
            "low": SectionFetcher(LOW_LINES, 8 * lanes),
            "first": SectionFetcher(FIRST_LINES, 2 * lanes),
            "high": SectionFetcher(_HIGH_LINES, 4 * lanes),
        }
        m.submodules.pieces = pieces = PieceFetcher()
        header = stream.Signature(LINE_NUMBER_BITS).create()
        written = Signal(LINE_NUMBER_BITS)
        jobs, received = self._take_lines(m, lines.write_port(), written)

        # Low bits and first codes must not wait: a line comes as soon as the one before is cut, or it is late for good.
        askers = []
        for name, section in sections.items():
            m.submodules[name] = section
            port = getattr(self, name)
            m.d.comb += [
                port.payload.eq(section.o.payload),
                port.valid.eq(section.o.valid),
                section.o.ready.eq(port.ready),
                section.line.eq(read.data),
            ]
            askers.append((section.request, section.arrives))
        for name in ("second", "third"):
            port, source = getattr(self, name), getattr(pieces, name)
            m.d.comb += [port.payload.eq(source.payload), port.valid.eq(source.valid), source.ready.eq(port.ready)]
        m.d.comb += pieces.line.eq(read.data)
        askers += [(header, Signal()), (pieces.request, pieces.arrives)]
        # The header is not looked at before all lines up to the low bits are there.
        low = sections["low"]
        there = [low.absent | (low.request.payload != written), 1, 1, 1, 1]
        asks = [port.valid & one for (port, _), one in zip(askers, there)]
        for n, (port, arrives) in enumerate(askers):
            chosen = asks[n] & ~Cat(asks[:n]).any() if n else asks[n]
            m.d.comb += port.ready.eq(chosen)
            m.d.sync += arrives.eq(chosen)
            with m.If(chosen):
                m.d.comb += read.addr.eq(port.payload)

        self._read_headers(m, jobs, written, received, header, read.data, sections, pieces)
        return m

    def _take_lines(self, m, write, written):
        """Lines into the memory. Returns the stream of pages, and the number of pages that are complete."""
        start = self.start.p
        job = data.StructLayout({"line": LINE_NUMBER_BITS, "lines": 7, "dtype": Dtype})
        m.submodules.jobs = jobs = Fifo(job, _PAGES)
        m.submodules.ends = ends = Fifo(LINE_NUMBER_BITS, _PAGES)
        kept = Signal(LINE_NUMBER_BITS)
        """The oldest line that is needed."""
        left = Signal(7)
        received = Signal(range(_PAGES + 3))
        begins = transfer(self.start)
        taken = transfer(self.stored)
        m.d.comb += [
            self.start.ready.eq((left == 0) & jobs.i.ready & ends.i.ready),
            jobs.i.valid.eq(begins),
            ends.i.valid.eq(begins),
            jobs.i.p.line.eq(written),
            jobs.i.p.lines.eq(start.lines),
            jobs.i.p.dtype.eq(start.dtype),
            ends.i.payload.eq(written + start.lines),
            ends.o.ready.eq(self.done),
            self.stored.ready.eq((left != 0) & ((written - kept)[:LINE_NUMBER_BITS] < _MOST_LINES)),
            write.addr.eq(written),
            write.data.eq(self.stored.payload),
            write.en.eq(taken),
        ]
        with m.If(begins):
            m.d.sync += left.eq(start.lines)
        with m.If(taken):
            m.d.sync += [left.eq(left - 1), written.eq(written + 1)]
        with m.If((taken & (left == 1)) | (begins & (start.lines == 0))):
            m.d.sync += received.eq(received + 1)
        with m.If(self.done):
            m.d.sync += kept.eq(ends.o.payload)
        return jobs.o, received

    def _read_headers(self, m, jobs, written, received, request, line, sections, pieces):
        job = jobs.p
        bf16 = is_bf16(job.dtype)
        front = Signal(5)
        fixed = front + LOW_LINES
        m.d.comb += front.eq(Mux(bf16, FIRST_LINES, FIRST_LINES + _HIGH_LINES))
        number = Signal.like(received)
        """Of the page, as `received` counts."""
        middle, low, end = (Signal(LINE_NUMBER_BITS, name=name) for name in ("middle", "low", "end"))
        lines = Signal(7)
        """Of the middle."""
        has = Signal()
        chunks, third_chunks = Signal(8), Signal(8)
        available, beyond = Signal(10), Signal(10)
        third_at = Signal(7)
        absent = [Signal(name=f"absent{n}") for n in range(2)]
        length = [Signal(8, name=f"length{n}") for n in range(2)]
        to_low = (written - low)[:LINE_NUMBER_BITS]
        complete = (received - number)[:len(received)]
        m.submodules.page = page = Fifo(page_layout(), 1)
        centres = Signal(8 * PAGE_ROWS)
        page_ports = {name: section.pages for name, section in sections.items()}
        second, third = pieces.second_pages, pieces.third_pages
        m.d.comb += [
            self.page.payload.eq(page.o.payload),
            self.page.valid.eq(page.o.valid),
            page.o.ready.eq(self.page.ready),
            request.payload.eq(middle),
            page.i.p.dtype.eq(job.dtype),
            page.i.p.centres.eq(centres),
            *(port.p.end.eq(end) for port in page_ports.values()),
            page_ports["first"].p.line.eq(job.line),
            page_ports["first"].p.absent.eq(job.lines == 0),
            page_ports["high"].p.line.eq(job.line + FIRST_LINES),
            page_ports["high"].p.absent.eq(job.lines <= FIRST_LINES),
            page_ports["low"].p.line.eq(low),
            page_ports["low"].p.absent.eq(job.lines <= front),
            *(port.p.absent.eq(one) for port, one in zip((second, third), absent)),
            *(port.p.pieces.eq(one) for port, one in zip((second, third), length)),
            second.p.line.eq(middle),
            second.p.place.eq(_HEADER_PIECES),
            third.p.line.eq(middle + third_at[3:]),
            third.p.place.eq(third_at[:3]),
        ]
        with m.FSM(name="header"):
            with m.State("START"):
                m.d.sync += [
                    lines.eq(Mux(job.lines > fixed, job.lines - fixed, 0)),
                    middle.eq(job.line + front),
                    end.eq(job.line + job.lines),
                ]
                with m.If(jobs.valid):
                    m.next = "PLACES"
            with m.State("PLACES"):
                m.d.sync += [has.eq(lines != 0), low.eq(middle + lines)]
                m.next = "WAIT"
            with m.State("WAIT"):
                # Header and all before the low bits are there, or what there is of them.
                m.d.comb += request.valid.eq(has & ~to_low[-1])
                with m.If(transfer(request)):
                    m.next = "HEADER"
                with m.Elif(~has & (complete != 0) & ~complete.all()):
                    m.next = "HEADER"
            with m.State("HEADER"):
                m.d.sync += [
                    centres.eq(Mux(has, line[:8 * PAGE_ROWS], 0)),
                    chunks.eq(Mux(has, line.word_select(PAGE_ROWS, 8), 0)),
                    third_chunks.eq(Mux(has, line.word_select(PAGE_ROWS + 1, 8), 0)),
                    available.eq(Mux(has, lines * _LINE_PIECES - _HEADER_PIECES, 0)),
                ]
                m.next = "LIMITS"
            with m.State("LIMITS"):
                with m.If(chunks > MOST_CHUNKS):
                    m.d.sync += chunks.eq(MOST_CHUNKS)
                with m.If(third_chunks > _THIRD_PIECES):
                    m.d.sync += third_chunks.eq(_THIRD_PIECES)
                m.next = "THIRD"
            with m.State("THIRD"):
                m.d.sync += [
                    third_at.eq(chunks + _HEADER_PIECES),
                    beyond.eq(Mux(available > chunks, available - chunks, 0)),
                ]
                m.next = "LENGTHS"
            with m.State("LENGTHS"):
                for n, (wanted, there) in enumerate(((chunks, available), (third_chunks, beyond))):
                    some = (wanted != 0) & (there != 0)
                    m.d.sync += [absent[n].eq(~some), length[n].eq(Mux(some, Mux(there < wanted, there, wanted), 1))]
                m.next = "GIVE"
            with m.State("GIVE"):
                ports = [page.i, *page_ports.values(), second, third]
                ready = Cat(port.ready for port in ports).all()
                for port in ports:
                    m.d.comb += port.valid.eq(ready & ~bf16 if port is page_ports["high"] else ready)
                m.d.comb += jobs.ready.eq(ready)
                with m.If(ready):
                    m.d.sync += number.eq(number + 1)
                    m.next = "START"
