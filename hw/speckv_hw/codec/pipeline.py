"""Fixed delays for pipelines."""

from amaranth.hdl import Signal

__all__ = ["delay"]


def delay(m, value, clocks, *, enable=1):
    """`value` as it was `clocks` clocks ago, counting only clocks with `enable`."""
    for _ in range(clocks):
        later = Signal.like(value, name="delayed")
        with m.If(enable):
            m.d.sync += later.eq(value)
        value = later
    return value
