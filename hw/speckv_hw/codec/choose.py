"""A choice among values in few LUTs."""

from amaranth.hdl import Mux, Value

__all__ = ["choose"]


def choose(index, values):
    """That of 2^n `values` of the same width which the n bits of `index` name.

    Four take two LUTs of four inputs a bit: the first one gives the bit where it is of value 0 or 1, else the index's
    low bit, by which the second one chooses between values 2 and 3. Mapping alone finds no way with less than three.
    """
    values = [Value.cast(value) for value in values]
    assert len({len(value) for value in values}) == 1
    if len(values) == 1:
        return values[0]
    if len(values) == 2:
        return Mux(index[0], values[1], values[0])
    return choose(index[2:], [_of_four(index, *values[n:n + 4]) for n in range(0, len(values), 4)])


def _of_four(index, a, b, c, d):
    first = Mux(index[1], index[0].replicate(len(a)), Mux(index[0], b, a))
    return Mux(index[1], (first & d) | (~first & c), first)
