"""The first error, the last error and how many there were."""

from dataclasses import dataclass

from ..constants import ErrorKind
from .registers import ERROR_COUNT_BITS


@dataclass(frozen=True)
class ErrorRecord:
    """What happened (`kind`), where (`address`, byte offset in the window), and a `detail` by kind."""
    kind: ErrorKind = ErrorKind.NONE
    address: int = 0
    detail: int = 0


class ErrorLog:
    """Keeps the first and the last error since the last `clear`, and their number.

    Attributes
    ----------
    first, last : ErrorRecord
        Of kind NONE while there is no error.
    count : int
        Stays at 2^32 - 1 once there.
    """

    def __init__(self):
        self.clear()

    def clear(self):
        """Forgets all errors."""
        self.first = self.last = ErrorRecord()
        self.count = 0

    def record(self, kind, address, detail=0):
        """Takes note of an error: an `ErrorKind`, its byte address and 16 bits of detail."""
        self.last = ErrorRecord(ErrorKind(kind), int(address), int(detail))
        if self.count == 0:
            self.first = self.last
        self.count = min(self.count + 1, (1 << ERROR_COUNT_BITS) - 1)
