from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from ..stream import Fifo, Stage, chain
from ..types import LINE_BITS, DecodeStart
from .dequantiser import Dequantiser
from .narrow import Narrow
from .page_reader import PageReader
from .payloads import RowTag
from .row_reader import RowReader
from .run_expander import RunExpander
from .unpacker import Unpacker
from .widen import Widen

__all__ = ["SpeckvDecoder"]


class SpeckvDecoder(wiring.Component):
    """Decodes `speckv` pages (``docs/format.md``); any stored bytes give 64 lines, and none is left over.

    One beat a clock from INT8 rows, one every two clocks from raw rows, and from pairs one beat or one pair a
    clock, whatever takes longer; successive pages without a gap. Empty on reset.

    ::

        stored -> PageReader --body---> Narrow ---> Unpacker -> Stage -> RunExpander -> Dequantiser -> Widen -> lines
                             --header-> RowReader --^

    Parameters
    ----------
    lanes : int
        16-bit values in a beat.

    Members
    -------
    start : In(stream(DecodeStart))
        `codec` does not matter.
    stored : In(stream(512))
        The stored lines in order.
    lines : Out(stream(512))
        The 64 lines of the page in order.
    """

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "start": In(stream.Signature(DecodeStart)),
            "stored": In(stream.Signature(LINE_BITS)),
            "lines": Out(stream.Signature(LINE_BITS)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes
        m.submodules.page = page = PageReader()
        m.submodules.headers = headers = Fifo(RowReader.header_layout(), 1)
        m.submodules.rows = rows = RowReader(lanes)
        m.submodules.narrow = narrow = Narrow(LINE_BITS, 8 * lanes)
        m.submodules.unpacker = unpacker = Unpacker(lanes // 2, RowTag)
        # Cuts the chain of `ready` that would reach from the lines back to the headers.
        m.submodules.fragments = fragments = Stage(unpacker.o.payload.shape())
        m.submodules.expander = expander = RunExpander(lanes)
        m.submodules.dequantiser = dequantiser = Dequantiser(lanes)
        m.submodules.widen = widen = Widen(16 * lanes, LINE_BITS)

        chain(m, self.start, page.start)
        chain(m, self.stored, page.stored)
        chain(m, page.header, headers, rows.header)
        chain(m, rows, unpacker.requests)
        chain(m, page.body, narrow, unpacker, fragments, expander, dequantiser, widen)
        m.d.comb += [
            self.lines.payload.eq(widen.o.payload.data),
            self.lines.valid.eq(widen.o.valid),
            widen.o.ready.eq(self.lines.ready),
        ]
        return m
