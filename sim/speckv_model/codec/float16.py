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
