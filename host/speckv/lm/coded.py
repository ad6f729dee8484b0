"""K and V as a format gives them back, and what the format did to them."""

from dataclasses import dataclass

import numpy as np

from speckv_model.constants import LINE_BYTES, PAGE_BYTES

from ..geometry import Geometry


@dataclass
class Damage:
    """What a format did to values.

    Parameters
    ----------
    values : int
        How many there were.
    worst, absolute, square : float
        The largest absolute error, the sum of absolute errors and that of squared errors.
    signal : float
        Sum of squares of the values, each channel's mean over the tokens taken off: that mean is large in K, carries
        nothing, and would flatter a ratio.
    """

    values: int = 0
    worst: float = 0.0
    absolute: float = 0.0
    square: float = 0.0
    signal: float = 0.0

    def __add__(self, other):
        return Damage(self.values + other.values, max(self.worst, other.worst), self.absolute + other.absolute,
                      self.square + other.square, self.signal + other.signal)

    @classmethod
    def between(cls, before, after):
        """Of values (tokens, kv_heads, head_dim) that became `after`."""
        before, error = before.astype(np.float32), np.abs(after.astype(np.float32) - before.astype(np.float32))
        centred = before - before.mean(axis=0)
        return cls(before.size, float(error.max(initial=0)), float(error.sum(dtype=np.float64)),
                   float(np.square(error).sum(dtype=np.float64)), float(np.square(centred).sum(dtype=np.float64)))

    @property
    def mean(self):
        """Mean absolute error."""
        return self.absolute / self.values

    @property
    def snr_db(self):
        """Signal over squared error, dB; None where there is no error."""
        return float(10 * np.log10(self.signal / self.square)) if self.square else None


class CodedStore:
    """A `KVStore` of one sequence that returns what `form` made of its pages; every append is whole pages.

    Parameters
    ----------
    layers, kv_heads, head_dim, max_tokens : int
        Shape of the cache.
    dtype : dtype
        ``float16`` or ``ml_dtypes.bfloat16``.
    form : speckv.formats.Format
        What pages are stored as, see `speckv.formats`.

    Attributes
    ----------
    stored : list of int (kv_heads * 2, pages)
        Bytes of every page encoded, an array for each append; streams in the order of `Geometry.streams`.
    damage : Damage
    """

    def __init__(self, layers, kv_heads, head_dim, max_tokens, dtype, form):
        self._geometry = Geometry(layers, kv_heads, head_dim, max_tokens)
        self._values = np.zeros((2, layers, max_tokens, kv_heads, head_dim), np.float32)
        self._lengths = [0] * layers
        self._dtype, self._form = np.dtype(dtype), form
        self.stored, self.damage = [], Damage()

    def append(self, layer, k, v):
        """Raises `ValueError` where the tokens are not whole pages."""
        if len(k) % self._geometry.page_tokens:
            raise ValueError(f"tokens must be whole pages of {self._geometry.page_tokens}, not {len(k)!r}")
        k, v = k.astype(self._dtype), v.astype(self._dtype)
        pages = self._geometry.to_lines(k, v).reshape(self._geometry.kv_heads * 2, -1, PAGE_BYTES)
        decoded, stored = self._form.code(layer, pages, self._dtype)
        read = self._geometry.from_lines(decoded.reshape(-1, LINE_BYTES), self._dtype)
        self.stored.append(stored)
        start, stop = self._lengths[layer], self._lengths[layer] + len(k)
        for kind, (before, after) in enumerate(zip((k, v), read)):
            self._values[kind, layer, start:stop] = after
            self.damage += Damage.between(before, after)
        self._lengths[layer] = stop

    def read(self, layer, start, stop):
        return tuple(self._values[:, layer, start:stop])
