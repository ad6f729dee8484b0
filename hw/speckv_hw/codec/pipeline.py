"""Fixed delays for pipelines."""

from amaranth.hdl import Signal

__all__ = ["delay"]


def delay(m, value, clocks, *, enable=1, reset=True):
    """`value` as it was `clocks` clocks ago, counting only clocks with `enable`. Without `reset` it is undefined at
    first: registers whose reset is free can be cleared by what `value` depends on, without logic before them."""
    for _ in range(clocks):
        later = Signal.like(value, name="delayed", reset_less=not reset)
        with m.If(enable):
            m.d.sync += later.eq(value)
        value = later
    return value
