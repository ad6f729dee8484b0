"""The device's DRAM as a sparse byte store that can be made to fail."""

import numpy as np

from ..constants import LINE_BYTES

__all__ = ["Dram"]

CHUNK_LINES = (1 << 20) // LINE_BYTES
QUARTER_BYTES = 16


class Dram:
    """Lines of 64 bytes, all zero at first; memory is taken 1 MiB at a time, where something was written.

    Parameters
    ----------
    config : DeviceConfig
        Gives the size.

    Attributes
    ----------
    bytes_read, bytes_written : int
        Traffic so far: whole lines for reads, enabled bytes for writes.
    """

    def __init__(self, config):
        self._lines = config.dram_bytes // LINE_BYTES
        self._chunks = {}
        self._read_failures = set()
        self._write_failures = set()
        self.bytes_read = 0
        self.bytes_written = 0

    def read_lines(self, line, count):
        """Reads `count` lines from line number `line` on.

        Returns `(data, error)`: uint8 (count, 64) and bool (count,), True where the memory answers with an
        error. The data of such a line is what is stored there; a device must not use it. Raises `ValueError`
        outside the memory.
        """
        data = np.empty((count, LINE_BYTES), np.uint8)
        for chunk, inside, part in self._parts(line, count):
            stored = self._chunks.get(chunk)
            data[part] = 0 if stored is None else stored[inside]
        self.bytes_read += data.size
        return data, self._flags(self._read_failures, line, count)

    def write_lines(self, line, data, enable=None):
        """Writes `data`, uint8 (count, 64), from line number `line` on.

        `enable`, bool (count, 4), names the 16-byte quarters to write; without it, all. Returns bool
        (count,), True where the memory answers with an error; those lines keep their content. Raises
        `ValueError` outside the memory or for another shape.
        """
        data = np.asarray(data, np.uint8)
        if data.ndim != 2 or data.shape[1] != LINE_BYTES:
            raise ValueError(f"data must have shape (count, {LINE_BYTES}), not {data.shape!r}")
        count = len(data)
        quarters = np.ones((count, LINE_BYTES // QUARTER_BYTES), bool)
        if enable is not None:
            if np.shape(enable) != quarters.shape:
                raise ValueError(f"enable must have shape {quarters.shape!r}, not {np.shape(enable)!r}")
            quarters &= np.asarray(enable, bool)
        error = self._flags(self._write_failures, line, count)
        self.bytes_written += QUARTER_BYTES * int(quarters.sum())
        quarters[error] = False
        bytes_enabled = np.repeat(quarters, QUARTER_BYTES, axis=1)
        for chunk, inside, part in self._parts(line, count):
            np.copyto(self._chunk(chunk)[inside], data[part], where=bytes_enabled[part])
        return error

    def fail(self, line, count=1):
        """Makes reads of `count` lines from `line` on answer with an error, until `heal`."""
        self._read_failures.update(range(line, line + count))

    def fail_writes(self, line, count=1):
        """Makes writes to `count` lines from `line` on fail and change nothing, until `heal`."""
        self._write_failures.update(range(line, line + count))

    def heal(self):
        """Ends all failures."""
        self._read_failures.clear()
        self._write_failures.clear()

    def flip(self, byte_address, bit):
        """Inverts bit `bit` (0 to 7) of the byte at `byte_address`, as a faulty cell would."""
        if not 0 <= bit < 8:
            raise ValueError(f"bit must be from 0 to 7, not {bit!r}")
        line, byte = divmod(byte_address, LINE_BYTES)
        [(chunk, inside, _)] = self._parts(line, 1)
        self._chunk(chunk)[inside, byte] ^= 1 << bit

    def _chunk(self, number):
        """The chunk of that number, made if it is not there."""
        chunk = self._chunks.get(number)
        if chunk is None:
            chunk = self._chunks[number] = np.zeros((CHUNK_LINES, LINE_BYTES), np.uint8)
        return chunk

    def _parts(self, line, count):
        """Yields, per chunk that the lines touch: its number, their place in it and in the access."""
        if line < 0 or count < 0 or line + count > self._lines:
            raise ValueError(f"lines must be below {self._lines}, not {count!r} from {line!r} on")
        done = 0
        while done < count:
            chunk, inside = divmod(line + done, CHUNK_LINES)
            part = min(count - done, CHUNK_LINES - inside)
            yield chunk, slice(inside, inside + part), slice(done, done + part)
            done += part

    @staticmethod
    def _flags(failures, line, count):
        if not failures:
            return np.zeros(count, bool)
        return np.fromiter((number in failures for number in range(line, line + count)), bool, count)
