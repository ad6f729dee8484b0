"""Encoded pages that wait for their place in DRAM."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import transfer
from speckv_hw.types import LINE_BITS, StoredLine

__all__ = ["PAGES", "PageBuffer"]

PAGES = 4
"""As many pages as are in the sealer between the page cache and DRAM."""


class PageBuffer(wiring.Component):
    """Takes the lines of encoded pages in any order, and gives them page by page in that in which they are stored.

    Who starts a page in the encoder must know that less than `PAGES` pages are inside. A line a clock on both sides.

    Members
    -------
    stored : In(stream of StoredLine)
        Always ready.
    ended : In
        The result of the page that comes in is taken in this clock: the next one begins.
    first, last : In
        Of the page that goes out: the line that is given first, and the highest one, after which line 0 is given.
    read : In
        High while the page goes out, low for at least one clock before.
    lines : Out(stream of 512 bits)
    left : In
        The page that goes out has ended, wherever its lines came from.
    """

    def __init__(self):
        super().__init__({
            "stored": In(stream.Signature(StoredLine)),
            "ended": In(1),
            "first": In(6),
            "last": In(6),
            "read": In(1),
            "lines": Out(stream.Signature(LINE_BITS)),
            "left": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        # What is read while the encoder writes is not used: lines leave only after their page's result.
        m.submodules.buffer = buffer = memory.Memory(shape=LINE_BITS, depth=64 * PAGES, init=[],
                                                     attrs={"no_rw_check": 1})
        write_port = buffer.write_port()
        read_port = buffer.read_port()
        page_in, page_out = Signal(range(PAGES)), Signal(range(PAGES))
        index, ahead = Signal(6), Signal(6)
        m.d.comb += [
            write_port.addr.eq(Cat(self.stored.p.index, (page_in + self.stored.p.ahead)[:len(page_in)])),
            write_port.data.eq(self.stored.p.data),
            write_port.en.eq(self.stored.valid),
            self.stored.ready.eq(1),
            ahead.eq(Mux(transfer(self.lines), Mux(index == self.last, 0, index + 1), index)),
            read_port.addr.eq(Cat(ahead, page_out)),
            self.lines.payload.eq(read_port.data),
        ]
        m.d.sync += [
            page_in.eq(page_in + self.ended),
            page_out.eq(page_out + self.left),
            # The first line is read one clock before it is wanted; from then on the next one is always under way.
            self.lines.valid.eq(self.read),
            index.eq(Mux(self.read, ahead, self.first)),
        ]
        return m
