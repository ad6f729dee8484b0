from amaranth.hdl import Array, Module, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import transfer
from .payloads import chunk

__all__ = ["ChunkQueue"]

_DEPTH = 16
_PAGES = 4


class ChunkQueue(wiring.Component):
    """Queue of the chunks of pages that can leave out what is left of a page, in no time.

    Holds 16 chunks of at most 4 pages. Latency 1 clock, one chunk a clock. Where the page's last chunk has not come
    yet, leaving it out lasts until it comes. Empty on reset.

    Parameters
    ----------
    width : int
        Bits of a chunk.

    Members
    -------
    i : In(stream(chunk(width)))
        Each page has at least one chunk.
    data : Out
        The next chunk of the page.
    present : Out
        There is one.
    ended : Out
        All of the page's chunks are taken.
    take : In
        The chunk is taken; only where `present`.
    turn : In
        The page is done with. Not before `present` or `ended`.
    """

    latency = 1

    def __init__(self, width):
        self._width = width
        super().__init__({
            "i": In(stream.Signature(chunk(width))),
            "data": Out(width),
            "present": Out(1),
            "ended": Out(1),
            "take": In(1),
            "turn": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = store = memory.Memory(shape=self._width, depth=_DEPTH, init=[])
        write = store.write_port()
        read = store.read_port(domain="comb")
        written = Signal(range(2 * _DEPTH))
        following = (written + 1)[:len(written)]
        place = Signal.like(written)

        # Where pages end, those that have come completely.
        ends = Array(Signal.like(written, name=f"end{n}") for n in range(_PAGES))
        first, last = Signal(range(2 * _PAGES)), Signal(range(2 * _PAGES))
        end = ends[first[:-1]]
        complete = first != last
        leaving = Signal()

        m.d.comb += [
            self.i.ready.eq(((written ^ place) != _DEPTH) & ((first ^ last) != _PAGES)),
            write.addr.eq(written),
            write.data.eq(self.i.payload.data),
            write.en.eq(transfer(self.i)),
            read.addr.eq(place),
            self.data.eq(read.data),
            self.ended.eq(complete & (place == end) & ~leaving),
            self.present.eq((place != written) & ~self.ended & ~leaving),
        ]
        with m.If(transfer(self.i)):
            m.d.sync += written.eq(following)
            with m.If(self.i.payload.last):
                m.d.sync += [ends[last[:-1]].eq(following), last.eq(last + 1)]
        with m.If(self.turn | leaving):
            m.d.sync += leaving.eq(~complete)
            with m.If(complete):
                m.d.sync += [place.eq(end), first.eq(first + 1)]
            with m.Else():
                m.d.sync += place.eq(written)
        with m.Elif(self.take):
            m.d.sync += place.eq(place + 1)
        return m
