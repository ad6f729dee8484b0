"""A priority encoder as a balanced tree."""

from amaranth.hdl import Cat, Const, Mux, Value

__all__ = ["first_one"]


def first_one(bits):
    """Whether any bit of `bits` is set, and the number of the lowest one that is (any number if none is).

    Both are values; their depth in logic grows with the logarithm of the width.
    """
    bits = Value.cast(bits)
    if len(bits) == 1:
        return bits, Const(0, 1)
    half = 1 << ((len(bits) - 1).bit_length() - 1)
    low_any, low = first_one(bits[:half])
    high_any, high = first_one(bits[half:])
    width = half.bit_length() - 1
    if width == 0:
        return low_any | high_any, ~low_any
    index = Mux(low_any, low, high)
    return low_any | high_any, Cat(index[:width], *[Const(0)] * max(0, width - len(index)), ~low_any)
