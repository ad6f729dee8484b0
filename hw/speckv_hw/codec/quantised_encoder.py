from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.fixed import GROUP_VALUES
from speckv_model.codec.variable import UNIT_VALUES
from speckv_model.constants import ROW_VALUES

from ..stream import chain, transfer
from ..types import LINE_BITS, Codec, EncodeResult, StoredLine
from .factor_selector import FactorSelector
from .narrow import Narrow
from .payloads import PageLine
from .peak_finder import PeakFinder
from .pipeline import delay
from .plane_collector import PlaneCollector
from .quantised_page_writer import QuantisedPageWriter
from .quantised_payloads import LINE_ADDRESS_BITS, SLOTS, RowRate, peak_beat, value_beat
from .row_scaler import RowScaler
from .scaling_lane import ScalingLane
from .shallow_fifo import ShallowFifo
from .word_packer import WordPacker

__all__ = ["QuantisedEncoder"]


class QuantisedEncoder(wiring.Component):
    """Encodes pages as `fixed` or `variable` (``docs/format.md``).

    One beat a clock, successive pages without a gap, but for one clock after a `variable` page and up to
    `PlaneCollector.codec_gap` clocks where the codec changes. Line 0 of a page comes last, the others in order; then
    the result. Every 64 lines are a page. A codec that is not `VARIABLE` means `fixed`. Of a page that does not fit the
    lines are meaningless. Empty on reset.

    ::

        lines -> Narrow -+-> values ---------------------------------> ScalingLanes -> PlaneCollector
                         +-> PeakFinder -+-> peaks ---> FactorSelector ----^               |
                                         +-> RowScaler -> rates ---^                   fragments
                                                                                           |
        stored, result <- QuantisedPageWriter <- memory of WordPacker <--------------------+

    Parameters
    ----------
    lanes : int
        16-bit values in a beat: 8, 16 or 32.

    Members
    -------
    lines : In(stream(PageLine))
    stored : Out(stream(StoredLine))
    result : Out(stream(EncodeResult))
    """

    def __init__(self, lanes):
        if lanes not in (8, 16, 32):
            raise ValueError(f"lanes must be 8, 16 or 32, not {lanes!r}")
        self._lanes = lanes
        super().__init__({
            "lines": In(stream.Signature(PageLine)),
            "stored": Out(stream.Signature(StoredLine)),
            "result": Out(stream.Signature(EncodeResult)),
        })

    def elaborate(self, platform):
        m = Module()
        lanes = self._lanes

        # Rows wait in `values` until it is known how they are quantised: so long as a row takes and 10 clocks.
        beats = 16 if lanes == 32 else 32
        m.submodules.values = values = ShallowFifo(value_beat(lanes), beats)
        m.submodules.peaks = peaks = ShallowFifo(peak_beat(lanes), beats)
        m.submodules.rates = rates = ShallowFifo(RowRate)
        m.submodules.finder = finder = PeakFinder(lanes)
        m.submodules.scaler = scaler = RowScaler()
        self._take_lines(m, values, finder)
        self._connect(m, finder.groups, peaks.i)
        self._connect(m, finder.rows, scaler.i)
        self._connect(m, scaler.o, rates.i)

        # From here nothing is held up: there is room at the end for all that is issued.
        m.submodules.collector = collector = PlaneCollector()
        m.submodules.packer = packer = WordPacker()
        m.submodules.writer = writer = QuantisedPageWriter()
        room = Signal()
        m.d.sync += room.eq(~(packer.line - writer.begin)[LINE_ADDRESS_BITS - 1])
        issue = self._issue(m, values, peaks, rates, room)
        self._quantise(m, issue, values, peaks, rates, collector)
        self._connect(m, collector.o, packer.i)
        m.d.comb += [
            packer.check.eq(collector.check),
            writer.done.eq(packer.done),
            packer.address.eq(writer.address),
            packer.enable.eq(writer.enable),
            writer.data.eq(packer.data),
        ]
        chain(m, packer.ends, writer.ends)
        chain(m, writer.stored, self.stored)
        chain(m, writer.result, self.result)
        return m

    def _connect(self, m, source, sink):
        """Connects streams without back-pressure."""
        m.d.comb += [sink.valid.eq(source.valid), sink.payload.eq(source.payload)]

    def _take_lines(self, m, values, finder):
        m.submodules.narrow = narrow = Narrow(LINE_BITS, 16 * self._lanes)
        page = Signal.like(finder.page)
        place = Signal(range(ROW_VALUES // self._lanes))
        beat = values.i.payload
        m.d.comb += [
            narrow.i.payload.data.eq(self.lines.payload.data),
            narrow.i.valid.eq(self.lines.valid),
            self.lines.ready.eq(narrow.i.ready),
            beat.values.eq(narrow.o.payload.data),
            beat.last.eq(place == ROW_VALUES // self._lanes - 1),
            values.i.valid.eq(narrow.o.valid),
            narrow.o.ready.eq(values.i.ready),
            finder.i.payload.eq(beat),
            finder.i.valid.eq(transfer(values.i)),
            finder.page.eq(page),
        ]
        with m.If(transfer(self.lines)):
            m.d.sync += [
                page.dtype.eq(self.lines.payload.dtype),
                page.setting.eq(self.lines.payload.setting),
                page.by_row.eq(self.lines.payload.by_row),
                page.variable.eq(self.lines.payload.codec == Codec.VARIABLE),
            ]
        with m.If(transfer(values.i)):
            m.d.sync += place.eq(place + 1)

    def _issue(self, m, values, peaks, rates, room):
        """Sends beats on if there is `room` and `PlaneCollector` may get them. Returns whether it does."""
        rate = rates.o.payload
        quiet = Signal(range(PlaneCollector.codec_gap))
        before = Signal()
        issue = Signal()
        last = issue & rate.variable & rate.last & values.o.payload.last
        m.d.comb += [
            issue.eq(rates.o.valid & room & ((rate.variable == before) | (quiet == 0))
                     & ~delay(m, last, PlaneCollector.header_gap)),
            values.o.ready.eq(issue),
            peaks.o.ready.eq(issue),
            rates.o.ready.eq(issue & values.o.payload.last),
        ]
        with m.If(issue):
            m.d.sync += [quiet.eq(PlaneCollector.codec_gap - 1), before.eq(rate.variable)]
        with m.Elif(quiet != 0):
            m.d.sync += quiet.eq(quiet - 1)
        return issue

    def _quantise(self, m, issue, values, peaks, rates, collector):
        m.submodules.selector = selector = FactorSelector(self._lanes)
        wait = FactorSelector.latency - 2
        """A lane takes the factor two clocks after its value."""
        clocks = wait + ScalingLane.latency
        rate = rates.o.payload
        beat_of_row = Signal(range(ROW_VALUES // self._lanes))
        with m.If(issue):
            m.d.sync += beat_of_row.eq(beat_of_row + 1)
        m.d.comb += [
            selector.peaks.eq(peaks.o.payload),
            selector.rate.eq(rate),
            selector.half.eq(beat_of_row[-1]),
        ]
        beat = delay(m, values.o.payload.values, wait)
        rate_after = [rate]
        for _ in range(clocks):
            rate_after.append(delay(m, rate_after[-1], 1))

        late = rate_after[wait + ScalingLane.late]
        sign_slot = Cat(rate.ternary & (rate.slots == SLOTS - n) for n in range(SLOTS))
        shared = {
            "dtype": rate_after[wait].dtype,
            "base": rate_after[wait + 1].base,
            "variable": rate_after[wait + ScalingLane.late - 2].variable,
            "zero": rate_after[wait + ScalingLane.late - 1].zero,
            "late_variable": late.variable,
            "ternary": late.ternary,
            "sign_slot": delay(m, Mux(rate.variable, 0, sign_slot), wait + ScalingLane.late),
        }
        bits, signs, exceeds = [], [], []
        for n in range(self._lanes):
            m.submodules[f"lane{n}"] = lane = ScalingLane()
            m.d.comb += [getattr(lane, name).eq(value) for name, value in shared.items()]
            m.d.comb += [lane.value.eq(beat[n]), lane.factor.eq(selector.factors[n // GROUP_VALUES])]
            bits.append(lane.o)
            signs.append(lane.sign)
            exceeds.append(lane.exceeds)
        codes = delay(m, selector.codes.as_value(), clocks - FactorSelector.code_latency)

        # Units are whole with their last beat.
        parts = UNIT_VALUES // self._lanes
        part = Signal(range(max(parts, 2)))
        valid = delay(m, issue, clocks)
        unit = collector.i.payload
        m.d.comb += [
            collector.i.valid.eq(valid & (part == parts - 1)),
            unit.bits.eq(self._gather(m, valid, Cat(bits), parts)),
            unit.signs.eq(self._gather(m, valid, Cat(signs), parts)),
            unit.exceeds.eq(self._gather(m, valid, Cat(exceeds).any(), parts).any()),
            unit.group_codes.eq(self._gather(m, valid, codes, parts)),
            unit.rate.eq(rate_after[clocks]),
            unit.last.eq(delay(m, values.o.payload.last, clocks)),
        ]
        with m.If(valid):
            m.d.sync += part.eq(Mux(part == parts - 1, 0, part + 1))

    def _gather(self, m, valid, piece, parts):
        """`piece` behind the `parts` - 1 valid ones before."""
        if parts == 1:
            return piece
        before = Signal(len(piece) * (parts - 1))
        whole = Cat(before, piece)
        with m.If(valid):
            m.d.sync += before.eq(whole[len(piece):])
        return whole
