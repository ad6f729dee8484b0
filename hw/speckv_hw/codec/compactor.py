from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .pipeline import delay

__all__ = ["Compactor", "prefix_counts"]


def prefix_counts(m, mask, name):
    """For each bit of `mask` how many below it are set, and how many are in all, `log2` clocks later.

    Returns the counts, the total and the number of clocks.
    """
    lanes = len(mask)
    levels = (lanes - 1).bit_length()
    # sums[i]: set bits in the block that ends with bit i (Kogge-Stone).
    sums = [mask[lane] for lane in range(lanes)]
    for level in range(levels):
        reach = 1 << level
        following = []
        for lane in range(lanes):
            total = sums[lane] + sums[lane - reach] if lane >= reach else sums[lane]
            one = Signal(level + 2, name=f"{name}{level}_{lane}")
            m.d.sync += one.eq(total)
            following.append(one)
        sums = following
    return [0, *sums[:-1]], sums[-1], levels


class Compactor(wiring.Component):
    """Moves the chosen ones of a beat's elements to its front, in order.

    `latency` clocks, one beat a clock, always in motion; nothing here needs a reset. Elements behind the chosen ones
    are meaningless.

    Parameters
    ----------
    lanes : int
        Elements, a power of two.
    width : int
        Bits of an element.

    Members
    -------
    data : In(lanes * width)
    mask : In(lanes)
    o : Out(lanes * width)
    count : Out
        How many were chosen.
    """

    def __init__(self, lanes, width):
        self._lanes = lanes
        self._width = width
        super().__init__({
            "data": In(lanes * width),
            "mask": In(lanes),
            "o": Out(lanes * width),
            "count": Out(range(lanes + 1)),
        })

    @property
    def latency(self):
        return 2 * (self._lanes - 1).bit_length()

    def elaborate(self, platform):
        m = Module()
        lanes, width = self._lanes, self._width
        gaps, holes, clocks = prefix_counts(m, ~self.mask, "gaps")
        items = delay(m, self.data, clocks)
        chosen = delay(m, self.mask, clocks)
        # Down by one, two, four ...: elements never meet, since the gaps below them never shrink upwards.
        row = [(items.word_select(lane, width), gaps[lane], chosen[lane]) for lane in range(lanes)]
        for level in range(clocks):
            step = 1 << level
            following = []
            for lane in range(lanes):
                item, gap, valid = row[lane]
                from_above = row[lane + step] if lane + step < lanes else None
                later = [Signal(width, name=f"item{level}_{lane}"), Signal(clocks, name=f"gap{level}_{lane}"),
                         Signal(name=f"valid{level}_{lane}")]
                stays = valid & ~_bit(gap, level)
                if from_above is None:
                    values = (item, gap, stays)
                else:
                    item_above, gap_above, valid_above = from_above
                    comes = valid_above & _bit(gap_above, level)
                    values = (Mux(comes, item_above, item), Mux(comes, gap_above, gap), comes | stays)
                m.d.sync += [signal.eq(value) for signal, value in zip(later, values)]
                following.append(later)
            row = following
        m.d.comb += [
            self.o.eq(Cat(item for item, _, _ in row)),
            self.count.eq(lanes - delay(m, holes, clocks)),
        ]
        return m


def _bit(value, place):
    return (value >> place) & 1
