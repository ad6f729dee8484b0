"""Formats that K and V can be stored in, and the device's codecs as such."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from speckv_model.codec import decode_pages, encode_pages
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, Codec

from .context import DTYPES


class Format(Protocol):
    """A way to store pages; `name` and `setting` (str) tell it from all others, `lossless` (bool) says whether values
    come back bit by bit."""

    name: str
    setting: str
    lossless: bool

    def code(self, layer, pages, dtype):
        """What becomes of pages.

        Parameters
        ----------
        layer : int
        pages : uint8 (streams, n, 4096)
            Streams of the layer in the order of `Geometry.streams`.
        dtype : dtype
            Of the values.

        Returns
        -------
        decoded : uint8 (streams, n, 4096)
        stored : int64 (streams, n)
            Bytes that each page takes.
        """


@dataclass(frozen=True)
class CodecFormat:
    """Codecs of the device.

    Parameters
    ----------
    name, setting : str
    streams : tuple
        (codec name, setting) for all streams, or nested tuples of these: (layers, kv_heads, 2), K first.
    by_row : bool
        Whether pages are stored as in a context whose rows are read alone.
    """

    name: str
    setting: str
    streams: tuple
    by_row: bool = False

    @classmethod
    def of(cls, codec, setting=0, by_row=False):
        """`codec` (name) with one `setting` (int) for every stream."""
        return cls(codec, f"{setting}{' by row' * by_row}", (codec, setting), by_row)

    @property
    def lossless(self):
        return self.streams[0] in ("raw", "lossless")

    @property
    def codecs(self):
        """Names of the codecs that streams have: set of str."""
        if isinstance(self.streams[0], str):
            return {self.streams[0]}
        return {codec for layer in self.streams for head in layer for codec, _ in head}

    def of_stream(self, layer, stream):
        """(codec name, setting) of a stream of a layer."""
        if isinstance(self.streams[0], str):
            return self.streams
        return self.streams[layer][stream // 2][stream % 2]

    def code(self, layer, pages, dtype):
        dtype = DTYPES[np.dtype(dtype)]
        decoded, stored = np.empty_like(pages), np.empty(pages.shape[:2], np.int64)
        choices = [self.of_stream(layer, stream) for stream in range(len(pages))]
        for choice in set(choices):
            chosen = [stream for stream, each in enumerate(choices) if each == choice]
            codec, setting = Codec[choice[0].upper()], choice[1]
            flat = pages[chosen].reshape(-1, PAGE_BYTES)
            lines_of, lines, fits = encode_pages(codec, dtype, flat, setting, self.by_row)
            out = np.where(fits[:, None], decode_pages(codec, dtype, lines_of, lines, self.by_row), flat)
            decoded[chosen] = out.reshape(len(chosen), -1, PAGE_BYTES)
            stored[chosen] = np.where(fits, lines * LINE_BYTES, PAGE_BYTES).reshape(len(chosen), -1)
        return decoded, stored
