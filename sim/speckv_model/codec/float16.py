"""The two 16-bit formats of KV values, FP16 and BF16, seen as sign, exponent and mantissa."""

import numpy as np

from ..constants import Dtype

_MANTISSA_BITS = {Dtype.FP16: 10, Dtype.BF16: 7}


def mantissa_bits(dtype):
    """Stored mantissa bits of `dtype`: 10 or 7."""
    return _MANTISSA_BITS[Dtype(dtype)]


def max_finite(dtype):
    """The 15 bits of the largest finite magnitude of `dtype`; larger ones are infinity and NaN."""
    bits = mantissa_bits(dtype)
    return 0x7FFF - (1 << bits)


def exponent_mantissa(values, dtype):
    """Exponent and whole mantissa of `values`, whose magnitude is ``mantissa * 2**(exponent + a constant of
    dtype)``.

    Subnormals and zero have exponent 1 and no leading one in the mantissa; the sign is ignored; an exponent
    of all ones counts as an ordinary number.

    Parameters
    ----------
    values : uint16 array
    dtype : Dtype

    Returns
    -------
    exponent, mantissa : int32 arrays of the shape of `values`
    """
    bits = mantissa_bits(dtype)
    magnitude = values.astype(np.int32) & 0x7FFF
    field = magnitude >> bits
    mantissa = (magnitude & (1 << bits) - 1) | (field != 0).astype(np.int32) << bits
    return np.maximum(field, 1), mantissa


def exponent_field(values, dtype):
    """The exponent bits of `values` as they are. uint16 array to int32 array of the same shape."""
    return (values.astype(np.int32) & 0x7FFF) >> mantissa_bits(dtype)


def exponent_ones(dtype):
    """The exponent field of infinity and NaN: 31 or 255."""
    return 0x7FFF >> mantissa_bits(dtype)


def bias(dtype):
    """What the exponent field of 1.0 is: 15 or 127."""
    return exponent_ones(dtype) >> 1


def round_magnitude(integer, exponent, dtype):
    """The magnitude ``integer * 2**exponent`` rounded to `dtype`: nearest, ties to even, subnormals included.

    What would round to infinity becomes the largest finite number.

    Parameters
    ----------
    integer : int array, from 0 to 2^40
    exponent : int array, broadcast against `integer`
    dtype : Dtype

    Returns
    -------
    uint16 array, 15 bits
    """
    bits = mantissa_bits(dtype)
    integer, exponent = np.broadcast_arrays(np.asarray(integer, np.int64), np.asarray(exponent, np.int64))
    # Double precision holds the integer exactly, so its exponent is the place of the leading one.
    length = np.frexp(integer.astype(np.float64))[1]
    # Exponent field of the result before rounding; at 1 the spacing is that of subnormals.
    field = np.maximum(length + exponent - 1 + bias(dtype), 1)
    # The unit in the last place is 2**(field - bias - bits).
    shift = field - bias(dtype) - bits - exponent
    down = np.clip(shift, 0, 62)
    whole = np.where(shift > 0, integer >> down, integer << np.clip(-shift, 0, 20))
    rest = integer & ((np.int64(1) << down) - 1)
    half = np.int64(1) << np.maximum(down - 1, 0)
    whole += (shift > 0) & ((rest > half) | ((rest == half) & (whole & 1 == 1)))
    # The exponent's lowest bit and the leading one are in the same place; zero has no leading one.
    rounded = np.minimum(whole + ((field - 1) << bits), max_finite(dtype))
    return np.where(integer == 0, 0, rounded).astype(np.uint16)
