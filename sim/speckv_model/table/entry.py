"""The page table entry: 16 bytes in device DRAM."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from ..check import crc8
from ..constants import ENTRY_BYTES, Codec, PageState

CHECKED_BYTES = ENTRY_BYTES - 1

FIELDS = {"state": 2, "codec": 3, "context": 12, "place": 31, "lines": 7, "successor": 28, "confidence": 2,
          "spare": 3, "crc": 32, "check": 8}
"""Width in bits of every field, least significant first."""


def check(raw):
    """Check bits of packed entries: CRC-8, polynomial 0x1D, initial value 0, not reflected, byte 0 first.

    Parameters
    ----------
    raw : uint8 (..., 15) or (..., 16)
        Packed entries; the byte that holds the check bits, if there, is not looked at.

    Returns
    -------
    uint8 (...)
        Zero for an entry that is all zeros. The CRC is linear: check(a ^ b) = check(a) ^ check(b).
    """
    return crc8(np.asarray(raw, dtype=np.uint8)[..., :CHECKED_BYTES])


@dataclass(frozen=True)
class Entry:
    """What the device knows of one window page. The default is that of an EMPTY page: all zeros.

    Parameters
    ----------
    state : PageState
    codec : int
        How the stored lines are encoded, a `Codec`.
    context : int
        Context that owns the page.
    place : int
        First pool sector of the page.
    lines : int
        Stored lines.
    successor, confidence : int
        Window page that followed this one lately, and how sure that is.
    spare : int
        Zero.
    crc : int
        CRC-32 of the stored lines.
    check : int
        Check bits of the fields above; see `sealed`.
    """

    state: PageState = PageState.EMPTY
    codec: int = Codec.RAW
    context: int = 0
    place: int = 0
    lines: int = 0
    successor: int = 0
    confidence: int = 0
    spare: int = 0
    crc: int = 0
    check: int = 0

    def __post_init__(self):
        for name, width in FIELDS.items():
            if not 0 <= getattr(self, name) < 1 << width:
                raise ValueError(f"{name} must be from 0 to {(1 << width) - 1}, not {getattr(self, name)!r}")

    @property
    def has_place(self):
        """Whether the page holds sectors of the pool."""
        return self.state in (PageState.OPEN, PageState.SEALED)

    @property
    def intact(self):
        """Whether the check bits agree with the fields, and all are zero if the page is EMPTY."""
        return self.check == self.sealed().check and (self.state != PageState.EMPTY or self == Entry())

    def sealed(self):
        """The same entry with the check bits that belong to it."""
        return dataclasses.replace(self, check=int(check(np.frombuffer(self.pack(), dtype=np.uint8))))

    def pack(self):
        """The entry as it lies in DRAM, 16 bytes."""
        value, offset = 0, 0
        for name, width in FIELDS.items():
            value |= int(getattr(self, name)) << offset
            offset += width
        return value.to_bytes(ENTRY_BYTES, "little")

    @classmethod
    def unpack(cls, raw):
        """The entry in `raw`, 16 bytes or uint8 (16,). Raises `ValueError` for another length."""
        raw = bytes(raw)
        if len(raw) != ENTRY_BYTES:
            raise ValueError(f"raw must be {ENTRY_BYTES} bytes, not {len(raw)!r}")
        value, fields = int.from_bytes(raw, "little"), {}
        for name, width in FIELDS.items():
            fields[name] = value & ((1 << width) - 1)
            value >>= width
        return cls(**fields | {"state": PageState(fields["state"])})


POISONED = Entry(state=PageState.POISONED)
"""What a lookup answers for an entry that cannot be trusted."""
