"""Cache of page table lines."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import transfer
from speckv_hw.types import LINE_BITS, PAGE_WIDTH, Entry
from speckv_model.constants import ENTRIES_PER_LINE

__all__ = ["Tlb", "TlbOp", "TlbRequest", "TlbResult"]


class TlbOp(enum.Enum, shape=3):
    LOOKUP = 0
    FILL = 1
    """Takes in `line`, the table line of `page`; it must not be cached."""
    UPDATE = 2
    """Makes `entry` the entry of `page`, if its line is cached."""
    DROP = 3
    """Forgets the line of `page`."""
    FLUSH = 4
    """Forgets everything."""


class TlbRequest(data.Struct):
    op: TlbOp
    page: PAGE_WIDTH
    entry: Entry
    line: LINE_BITS


class TlbResult(data.Struct):
    hit: 1
    """The line of `page` was cached."""
    entry: Entry
    """LOOKUP with `hit`: the entry of `page`."""


class Tlb(wiring.Component):
    """Set-associative cache of table lines (four entries each), in synchronous-read memory.

    Every request gets one result, in order, 2 clocks after it is offered; the next one is looked at a clock
    after the result was taken. What a request changes is changed for all that follow. FILL takes the ways of
    a set in turn (round robin), filled or not. `valid` bits are registers: nothing is cached after a reset,
    or a FLUSH.

    Parameters
    ----------
    config : DeviceConfig
        `tlb_sets` and `tlb_ways`.

    Members
    -------
    request : In(stream(TlbRequest))
        Accepted in the second clock that it is offered, so that its payload needs no registers here.
    result : Out(stream(TlbResult))
    """

    latency = 2

    def __init__(self, config):
        self._config = config
        super().__init__({
            "request": In(stream.Signature(TlbRequest)),
            "result": Out(stream.Signature(TlbResult)),
        })

    def elaborate(self, platform):
        m = Module()
        sets, ways = self._config.tlb_sets, self._config.tlb_ways
        set_bits = (sets - 1).bit_length()
        request = self.request.payload
        quarter = request.page[:2]
        line = request.page[2:self._config.page_bits]
        set_ = line[:set_bits]
        tag = line[set_bits:]

        # First clock: read the set. Second clock: judge, change, answer.
        read = Signal()
        m.d.comb += self.request.ready.eq(read)
        m.d.sync += read.eq(self.request.valid & ~read & ~self.result.valid)
        with m.If(transfer(self.result)):
            m.d.sync += self.result.valid.eq(0)

        op = request.op
        turn = Array(Signal(range(max(ways, 2)), name=f"turn{n}") for n in range(sets))[set_]
        hits = Signal(ways)
        lines = []
        for way in range(ways):
            tags = Memory(shape=unsigned(max(len(tag), 1)), depth=sets, init=[])
            entries = Memory(shape=unsigned(LINE_BITS), depth=sets, init=[])
            m.submodules[f"tags{way}"] = tags
            m.submodules[f"entries{way}"] = entries
            tags_read, tags_write = tags.read_port(), tags.write_port()
            entries_read = entries.read_port()
            entries_write = entries.write_port(granularity=LINE_BITS // ENTRIES_PER_LINE)
            lines.append(entries_read.data)

            valid = Signal(sets, name=f"valid{way}")
            was_valid = Signal(name=f"was_valid{way}")
            m.d.sync += was_valid.eq(valid.bit_select(set_, 1))
            m.d.comb += [
                # Never while writing, so that what a read meets in the same clock need not be defined.
                tags_read.en.eq(~read),
                entries_read.en.eq(~read),
                tags_read.addr.eq(set_),
                entries_read.addr.eq(set_),
                hits[way].eq(was_valid & (tags_read.data == tag)),
                tags_write.addr.eq(set_),
                tags_write.data.eq(tag),
                entries_write.addr.eq(set_),
                entries_write.data.eq(Mux(op == TlbOp.FILL, request.line,
                                          Cat([request.entry] * ENTRIES_PER_LINE))),
            ]
            with m.If(read):
                with m.Switch(op):
                    with m.Case(TlbOp.FILL):
                        with m.If(turn == way):
                            m.d.comb += [tags_write.en.eq(1), entries_write.en.eq(~0)]
                            m.d.sync += valid.bit_select(set_, 1).eq(1)
                    with m.Case(TlbOp.UPDATE):
                        m.d.comb += entries_write.en.eq(hits[way] << quarter)
                    with m.Case(TlbOp.DROP):
                        with m.If(hits[way]):
                            m.d.sync += valid.bit_select(set_, 1).eq(0)
                    with m.Case(TlbOp.FLUSH):
                        m.d.sync += valid.eq(0)

        with m.If(read):
            m.d.sync += [
                self.result.valid.eq(1),
                self.result.payload.hit.eq(hits.any()),
                self.result.payload.entry.eq(Entry(_select(hits, lines).word_select(quarter,
                Entry.as_shape().size))),
            ]
            with m.If(op == TlbOp.FILL):
                m.d.sync += turn.eq(Mux(turn == ways - 1, 0, turn + 1))
        return m


def _select(hits, lines):
    """The one of `lines` that hit: an and-or, since at most one does."""
    chosen = lines[0] & hits[0].replicate(len(lines[0]))
    for way in range(1, len(lines)):
        chosen = chosen | (lines[way] & hits[way].replicate(len(lines[way])))
    return chosen
