"""Where the decoder keeps its K and V: an array, or a context of the device."""

from typing import Protocol

import numpy as np


class KVStore(Protocol):
    """One sequence's K and V.

    `append` takes float32 (tokens, kv_heads, head_dim) and rounds it (nearest, ties to even) to the store's
    16-bit dtype; `read` returns tokens `start` to `stop` of `layer` as float32, C-contiguous. So two stores
    of one dtype that lose nothing else give bit-equal results.
    """

    def append(self, layer, k, v): ...

    def read(self, layer, start, stop): ...


class ArrayStore:
    """K and V in a NumPy array: what every other store is compared with.

    Parameters
    ----------
    layers, kv_heads, head_dim, max_tokens : int
        Shape of the cache.
    dtype : dtype
        ``float16`` or ``ml_dtypes.bfloat16``.
    """

    def __init__(self, layers, kv_heads, head_dim, max_tokens, dtype=np.float16):
        self._values = np.zeros((2, layers, max_tokens, kv_heads, head_dim), dtype)
        self._lengths = [0] * layers

    def append(self, layer, k, v):
        start, stop = self._lengths[layer], self._lengths[layer] + len(k)
        self._values[:, layer, start:stop] = k, v
        self._lengths[layer] = stop

    def read(self, layer, start, stop):
        return tuple(self._values[:, layer, start:stop].astype(np.float32))


class DeviceStore:
    """K and V in `context` (`speckv.Context`) of a device."""

    def __init__(self, context):
        self._context = context

    def append(self, layer, k, v):
        self._context.append(layer, k.astype(self._context.dtype), v.astype(self._context.dtype))

    def read(self, layer, start, stop):
        return tuple(np.ascontiguousarray(x, np.float32) for x in self._context.read(layer, start, stop))
