"""A choice of four that takes two LUTs of four inputs a bit."""

from amaranth.hdl import Cat, Mux, Value

__all__ = ["mux4"]


def mux4(index, values):
    """That of four `values` of the same width which the two bits of `index` name.

    Bit by bit: a first LUT gives the bit where it is of value 0 or 1, else the index's low bit, by which the second one
    chooses between value 2 and 3. Mapping finds no way with less than three.
    """
    def choice(bits):
        first = Mux(index[1], index[0], Mux(index[0], bits[1], bits[0]))
        return Mux(index[1], Mux(first, bits[3], bits[2]), first)

    return Cat(choice(bits) for bits in zip(*(Value.cast(value) for value in values)))
