from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.codec.fixed import GROUP_VALUES

from .payloads import PageLine
from .pipeline import delay
from .quantised_payloads import RowPeak, peak_beat, value_beat

__all__ = ["PeakFinder"]


class PeakFinder(wiring.Component):
    """Finds the largest magnitude of each group of eight values and of each row, as its 15 bits.

    Infinity and NaN are larger than all numbers. Groups come `group_latency` clocks after their beat, rows `latency`
    clocks after their last one; one beat a clock, no back-pressure; idle on reset.

    Parameters
    ----------
    lanes : int
        Values in a beat: 8, 16 or 32.

    Members
    -------
    i : In(stream(value_beat), always ready)
    page : In
        What is known of the beat's page, as in `PageLine`: `dtype`, `setting`, `by_row` and `variable`.
    groups : Out(stream(peak_beat), always ready)
    rows : Out(stream(RowPeak), always ready)
    """

    group_latency = GROUP_VALUES.bit_length() - 1

    def __init__(self, lanes):
        self._lanes = lanes
        super().__init__({
            "i": In(stream.Signature(value_beat(lanes), always_ready=True)),
            "page": In(self.page_layout()),
            "groups": Out(stream.Signature(peak_beat(lanes), always_ready=True)),
            "rows": Out(stream.Signature(RowPeak, always_ready=True)),
        })

    @staticmethod
    def page_layout():
        fields = data.Layout.cast(PageLine)
        return data.StructLayout({"dtype": fields["dtype"].shape, "setting": fields["setting"].shape, "by_row": 1,
                                  "variable": 1})

    @property
    def latency(self):
        return self._lanes.bit_length()

    def elaborate(self, platform):
        m = Module()
        level = [self.i.payload.values[n][:15] for n in range(self._lanes)]
        while len(level) > 1:
            larger = [Signal(15, name=f"larger{len(level) // 2}_{n}") for n in range(len(level) // 2)]
            m.d.sync += [one.eq(Mux(a > b, a, b)) for one, a, b in zip(larger, level[0::2], level[1::2])]
            level = larger
            if len(level) == self._lanes // GROUP_VALUES:
                m.d.comb += [peak.eq(one) for peak, one in zip(self.groups.payload, level)]
        m.d.comb += self.groups.valid.eq(delay(m, self.i.valid, self.group_latency))

        found, = level
        stages = self.latency - 1
        valid = delay(m, self.i.valid, stages)
        last = delay(m, self.i.payload.last, stages)
        page = delay(m, self.page, stages)
        row = self.rows.payload
        more = Signal()
        m.d.sync += self.rows.valid.eq(valid & last)
        with m.If(valid):
            m.d.sync += [
                row.dtype.eq(page.dtype), row.setting.eq(page.setting), row.by_row.eq(page.by_row),
                row.variable.eq(page.variable), more.eq(~last),
            ]
            with m.If(~more | (found > row.magnitude)):
                m.d.sync += row.magnitude.eq(found)
        return m
