"""Arithmetic modulo the polynomial of the CRC-16 of rows."""

from functools import cache

__all__ = ["CHECK_BITS", "ORDER", "power_of_x"]

CHECK_BITS = 16
_POLYNOMIAL = 1 << CHECK_BITS | 0x1021
ORDER = 32767
"""x to this power is 1 modulo the polynomial."""


@cache
def _powers():
    powers = [1]
    while len(powers) < ORDER:
        value = powers[-1] << 1
        powers.append(value ^ _POLYNOMIAL if value >> CHECK_BITS else value)
    return powers


def power_of_x(exponent):
    """x to the `exponent`, which may be negative, modulo the polynomial, as the integer of its bits."""
    return _powers()[exponent % ORDER]
