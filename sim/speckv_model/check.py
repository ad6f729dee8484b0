"""The check bits of page table entries and of rows."""

import numpy as np


def _table(polynomial, width):
    table = np.arange(256, dtype=np.uint32) << width - 8
    for _ in range(8):
        table = table << 1 ^ np.where(table >> width - 1 & 1, polynomial, 0).astype(np.uint32)
    return (table & (1 << width) - 1).astype(np.uint8 if width == 8 else np.uint16)


_TABLE8 = _table(0x1D, 8)
_TABLE16 = _table(0x1021, 16)


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
        crc = _TABLE8[crc ^ data[..., byte]]
    return crc


def crc16(data):
    """CRC-16: polynomial 0x1021; else as `crc8`. uint8 (..., n) to uint16 (...)."""
    crc = np.zeros(data.shape[:-1], dtype=np.uint16)
    for byte in range(data.shape[-1]):
        crc = crc << 8 ^ _TABLE16[crc >> 8 ^ data[..., byte]]
    return crc
