"""Cache of page table lines."""

from functools import reduce
from operator import xor

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, unsigned
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

    The set of a line is its number folded by XOR, so that one index in many streams spreads over the sets.
    Every request gets one result, in order, `latency` clocks after it is offered, a FILL one clock later; the next one
    is looked at a clock after the result was taken. What a request changes is changed for all that follow. FILL takes
    the ways of a set in turn (round robin), filled or not. `valid` bits are registers: nothing is cached after a
    reset, or a FLUSH.

    Parameters
    ----------
    config : DeviceConfig
        `tlb_sets` and `tlb_ways`.

    Members
    -------
    request : In(stream(TlbRequest))
        Accepted in the second clock that it is offered, a FILL in the third: `line` needs no registers here.
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
        op = Signal(TlbOp)
        page = Signal(self._config.page_bits)
        entry = Signal(Entry)
        quarter, set_, tag = page[:2], _folded(page[2:], set_bits), page[2 + set_bits:]
        # Read before the request is in registers.
        read_set = _folded(self.request.payload.page[2:self._config.page_bits], set_bits)

        turns = Array(Signal(range(ways), name=f"turn{n}") for n in range(sets))
        victim = Signal(range(ways))
        m.d.sync += victim.eq(turns[set_])
        hits = Signal(ways)
        judge = Signal()
        lines = []
        for way in range(ways):
            tags = Memory(shape=unsigned(max(len(tag), 1)), depth=sets, init=[])
            # A few wide lines: block memory is the smaller one all the same.
            entries = Memory(shape=unsigned(LINE_BITS), depth=sets, init=[], attrs={"ram_style": "block"})
            m.submodules[f"tags{way}"] = tags
            m.submodules[f"entries{way}"] = entries
            tags_read, tags_write = tags.read_port(), tags.write_port()
            entries_read = entries.read_port()
            entries_write = entries.write_port(granularity=LINE_BITS // ENTRIES_PER_LINE)
            lines.append(entries_read.data)

            valid = Signal(sets, name=f"valid{way}")
            m.d.comb += [
                # Never while writing, so that what a read gets that meets a write need not be defined.
                tags_read.en.eq(~judge),
                tags_read.addr.eq(read_set),
                entries_read.en.eq(~judge),
                entries_read.addr.eq(read_set),
                hits[way].eq(valid.bit_select(set_, 1) & (tags_read.data == tag)),
                tags_write.addr.eq(set_),
                tags_write.data.eq(tag),
                entries_write.addr.eq(set_),
                entries_write.data.eq(Mux(op == TlbOp.FILL, self.request.payload.line,
                                          Cat([entry] * ENTRIES_PER_LINE))),
            ]
            with m.If(judge):
                with m.Switch(op):
                    with m.Case(TlbOp.FILL):
                        with m.If(victim == way):
                            m.d.comb += [tags_write.en.eq(1), entries_write.en.eq(~0)]
                            m.d.sync += valid.bit_select(set_, 1).eq(1)
                    with m.Case(TlbOp.UPDATE):
                        m.d.comb += entries_write.en.eq(hits[way] << quarter)
                    with m.Case(TlbOp.DROP):
                        with m.If(hits[way]):
                            m.d.sync += valid.bit_select(set_, 1).eq(0)
                    with m.Case(TlbOp.FLUSH):
                        m.d.sync += valid.eq(0)

        with m.If(transfer(self.result)):
            m.d.sync += self.result.valid.eq(0)
        with m.FSM(name="step"):
            with m.State("LOOK"):
                m.d.sync += [
                    op.eq(self.request.payload.op),
                    page.eq(self.request.payload.page),
                    entry.eq(self.request.payload.entry),
                ]
                with m.If(self.request.valid & ~self.result.valid):
                    with m.If(self.request.payload.op == TlbOp.FILL):
                        m.next = "TURN"
                    with m.Else():
                        m.next = "JUDGE"
            with m.State("TURN"):
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.d.comb += [judge.eq(1), self.request.ready.eq(1)]
                line = _select(hits, lines)
                m.d.sync += [
                    self.result.valid.eq(1),
                    self.result.payload.hit.eq(hits.any()),
                    self.result.payload.entry.eq(line.word_select(quarter, len(line) // ENTRIES_PER_LINE)),
                ]
                with m.If(op == TlbOp.FILL):
                    m.d.sync += turns[set_].eq(Mux(victim == ways - 1, 0, victim + 1))
                m.next = "LOOK"
        return m


def _folded(line, bits):
    """The parts of `bits` bits of a line number, combined by XOR."""
    parts = [line[low:low + bits] for low in range(0, len(line), bits)] if bits else []
    return reduce(xor, parts) if parts else Const(0, 1)


def _select(hits, lines):
    """The one of `lines` that hit: an and-or, since at most one does."""
    chosen = lines[0] & hits[0].replicate(len(lines[0]))
    for way in range(1, len(lines)):
        chosen = chosen | (lines[way] & hits[way].replicate(len(lines[way])))
    return chosen
