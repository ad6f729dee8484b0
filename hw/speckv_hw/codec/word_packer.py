from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .pipeline import delay
from .quantised_payloads import (
    FRAGMENT_WORDS,
    HEADER_WORDS,
    LINE_ADDRESS_BITS,
    LINE_WORDS,
    WORD_BITS,
    Fragment,
    PageEnd,
)
from .shallow_fifo import ShallowFifo

__all__ = ["WordPacker"]

_PLACE_BITS = 4
_TURN_CLOCKS = _PLACE_BITS


class WordPacker(wiring.Component):
    """Packs fragments of 32-bit words tightly into the lines of pages, in a memory from which they are read.

    A fragment a clock, no back-pressure: who sends them must see to it that from the first line that is still needed
    to `line` there are less than 2^8. A page's lines have successive addresses, modulo that. A page is complete with
    its `last` fragment or, if it is `variable`, with the header that comes while the next page's first fragments may
    already have; pages have at least 8 fragments. Empty on reset.

    Members
    -------
    i : In(stream(Fragment), always ready)
    check : In(32)
        Of a row, with its head: goes to word 1 of the fragment; zero otherwise.
    line : Out(8)
        Address of the line that is being filled.
    done : Out(8)
        Lines before it are complete and can be read, but the first one of a page only once its end is known.
    ends : Out(stream(PageEnd))
        Not later than the last line of the page is `done`.
    address, enable : In
        The line that is read, and whether one is.
    data : Out(512)
        It, 1 clock later, until the next one is read.
    """

    i: In(stream.Signature(Fragment, always_ready=True))
    check: In(WORD_BITS)
    line: Out(LINE_ADDRESS_BITS)
    done: Out(LINE_ADDRESS_BITS)
    ends: Out(stream.Signature(PageEnd))
    address: In(LINE_ADDRESS_BITS)
    enable: In(1)
    data: Out(WORD_BITS * LINE_WORDS)

    def elaborate(self, platform):
        m = Module()
        fragment = self.i.payload
        words = [fragment.data.word_select(n, WORD_BITS) for n in range(FRAGMENT_WORDS)]
        words[1] = words[1] | self.check

        base, at_line = self._follow(m)
        turn = (base + fragment.turn)[:_PLACE_BITS]
        start = base + fragment.at
        columns = self._turn(m, words, turn)
        self._write(m, columns, at_line, start)
        return m

    def _follow(self, m):
        """Where pages, their lines and words go on. Returns the word and the line that a fragment is placed from."""
        fragment, valid = self.i.payload, self.i.valid
        place = Signal(_PLACE_BITS)
        first = Signal(init=1)
        page, before = Signal(LINE_ADDRESS_BITS), Signal(LINE_ADDRESS_BITS)
        """First line of the page, and of the one before."""
        complete = Signal(LINE_ADDRESS_BITS)
        """As `line`, but the last line of a page only when the end of the page is known."""
        awaits_header, bad = Signal(), Signal()
        base, end = Signal(_PLACE_BITS), Signal(range(64))
        following = Signal(LINE_ADDRESS_BITS)
        m.d.comb += [
            base.eq(Mux(fragment.header, 0, Mux(first, Mux(fragment.variable, HEADER_WORDS, 0), place))),
            end.eq(base + fragment.length),
            following.eq(self.line + end[_PLACE_BITS:] + (fragment.last & end[:_PLACE_BITS].any())),
        ]
        m.submodules.ends = ends = ShallowFifo(PageEnd)
        page_end = Signal(PageEnd)
        known = Signal()
        m.d.sync += known.eq(valid & (fragment.header | (fragment.last & ~fragment.variable)))
        with m.If(valid & fragment.header):
            m.d.sync += [awaits_header.eq(0), complete.eq(self.line)]
        with m.Elif(valid):
            m.d.sync += [
                self.line.eq(following),
                place.eq(Mux(fragment.last, 0, end)),
                bad.eq((bad | fragment.bad) & ~fragment.last),
            ]
            with m.If(fragment.length.any()):
                m.d.sync += first.eq(0)
            with m.If(~awaits_header & ~(fragment.last & fragment.variable)):
                m.d.sync += complete.eq(following)
            with m.If(fragment.last):
                m.d.sync += [
                    first.eq(1),
                    before.eq(page),
                    page.eq(following),
                    awaits_header.eq(fragment.variable),
                    page_end.lines.eq(following - page),
                    page_end.words.eq(end),
                    page_end.fits.eq(~(bad | fragment.bad)),
                ]
        # All is shown when it is written.
        clocks = _TURN_CLOCKS - 1
        m.d.comb += [
            ends.i.payload.eq(page_end),
            ends.i.valid.eq(delay(m, known, clocks)),
            self.done.eq(delay(m, complete, clocks + ShallowFifo.latency)),
            self.ends.payload.eq(ends.o.payload),
            self.ends.valid.eq(ends.o.valid),
            ends.o.ready.eq(self.ends.ready),
        ]
        return base, Mux(fragment.header, before, self.line)

    def _turn(self, m, words, turn):
        """The ring of a line's words, of which `words` are the first, turned up by `turn`, `_TURN_CLOCKS` clocks later.

        Powers of two from 1 on, as words that are not there need no multiplexer.
        """
        ring = [*words, *[None] * (LINE_WORDS - len(words))]
        left = turn
        for step in range(_PLACE_BITS):
            turned = []
            for n in range(LINE_WORDS):
                stay, move = ring[n], ring[n - (1 << step)]
                if stay is None or move is None:
                    chosen = move if stay is None else stay
                else:
                    chosen = Mux(left[0], move, stay)
                if chosen is not None:
                    word = Signal(WORD_BITS, name=f"turned{step}_{n}")
                    m.d.sync += word.eq(chosen)
                    chosen = word
                turned.append(chosen)
            ring = turned
            if step < _PLACE_BITS - 1:
                left = delay(m, left[1:], 1)
        return ring

    def _write(self, m, columns, line, start):
        """A memory for each word of a line."""
        fragment = self.i.payload
        # 1: line and word
        lines = Signal(LINE_ADDRESS_BITS)
        begin = Signal(_PLACE_BITS)
        m.d.sync += [lines.eq(line + start[_PLACE_BITS:]), begin.eq(start)]
        count = delay(m, Mux(self.i.valid, fragment.count, 0), 1)
        # 2: end
        end = Signal(_PLACE_BITS + 1)
        m.d.sync += end.eq(begin + count)
        begin2, line2 = delay(m, begin, 1), delay(m, lines, 1)
        next2 = Signal(LINE_ADDRESS_BITS)
        m.d.sync += next2.eq(lines + 1)
        # 3: which words, in which of both lines
        line3, next3 = delay(m, line2, 1), delay(m, next2, 1)
        setting = delay(m, Mux(fragment.header, fragment.setting, 0), _TURN_CLOCKS)
        header3 = delay(m, self.i.valid & fragment.header, _TURN_CLOCKS - 1)
        for n, word in enumerate(columns):
            here, beyond = Signal(name=f"here{n}"), Signal(name=f"beyond{n}")
            m.d.sync += [here.eq((begin2 <= n) & (end > n)), beyond.eq(end > n + LINE_WORDS)]
            # 4: the write
            enable, address = Signal(name=f"enable{n}"), Signal(LINE_ADDRESS_BITS, name=f"address{n}")
            m.d.sync += [enable.eq(here | beyond), address.eq(Mux(beyond, next3, line3))]
            m.submodules[f"column{n}"] = column = memory.Memory(
                shape=WORD_BITS, depth=1 << LINE_ADDRESS_BITS, init=[], attrs={"no_rw_check": 1})
            write, read = column.write_port(), column.read_port()
            if n == 0:
                is_header = delay(m, header3, 1)
                m.d.sync += enable.eq(here | beyond | header3)
                word = Mux(is_header, Cat(setting, Const(0, WORD_BITS - len(setting))), word)
            m.d.comb += [
                write.en.eq(enable),
                write.addr.eq(address),
                write.data.eq(word),
                read.addr.eq(self.address),
                read.en.eq(self.enable),
                self.data.word_select(n, WORD_BITS).eq(read.data),
            ]
