"""The eight check bits of page table entries and of rows."""

import numpy as np

POLYNOMIAL = 0x1D


def _table():
    table = np.arange(256, dtype=np.uint16)
    for _ in range(8):
        table = (table << 1) ^ np.where(table & 0x80, POLYNOMIAL, 0)
        table &= 0xff
    return table.astype(np.uint8)


_TABLE = _table()


def crc8(data):
    """CRC-8: polynomial 0x1D, initial value 0, not reflected, byte 0 first, no final inversion.

    Parameters
    ----------
    data : uint8 (..., n)

    Returns
    -------
    uint8 (...)
        Zero for zeros. The CRC is linear: crc8(a ^ b) = crc8(a) ^ crc8(b).
    """
    crc = np.zeros(data.shape[:-1], dtype=np.uint8)
    for byte in range(data.shape[-1]):
        crc = _TABLE[crc ^ data[..., byte]]
    return crc
