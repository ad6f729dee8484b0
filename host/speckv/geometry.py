"""How a sequence's K and V lie in the device's address window.

A stream is what one head of one layer has of one kind (K or V): its tokens follow each other without gaps, a
token's values in one head being `token_bytes` long, and it begins on a page. Inside a context the page number
is, from the top, ``layer | head | kind | index``.
"""

from dataclasses import dataclass

import numpy as np

from speckv_model.constants import LINE_BYTES, PAGE_BYTES

HEAD_DIMS = (64, 128, 256)
VALUE_BYTES = 2
K, V = 0, 1


@dataclass(frozen=True)
class Geometry:
    """Shape of one context.

    Parameters
    ----------
    layers, kv_heads : int
        At least 1.
    head_dim : int
        Values of a head: 64 (two tokens a row), 128 (one) or 256 (two rows a token).
    max_tokens : int
        Tokens that each layer can hold, at least 1.

    Raises
    ------
    TypeError, ValueError
        Where a parameter is not what is said above.
    """

    layers: int
    kv_heads: int
    head_dim: int
    max_tokens: int

    def __post_init__(self):
        for name in ("layers", "kv_heads", "head_dim", "max_tokens"):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, not {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value!r}")
        if self.head_dim not in HEAD_DIMS:
            raise ValueError(
                f"head_dim must be one of {', '.join(map(str, HEAD_DIMS))}, not {self.head_dim!r}"
            )

    @property
    def token_bytes(self):
        """What a token takes in one stream: always whole lines."""
        return self.head_dim * VALUE_BYTES

    @property
    def token_lines(self):
        return self.token_bytes // LINE_BYTES

    @property
    def page_tokens(self):
        """Tokens in a page of a stream: 32, 16 or 8."""
        return PAGE_BYTES // self.token_bytes

    @property
    def stream_pages(self):
        """Pages that a full stream uses."""
        return -(-self.max_tokens // self.page_tokens)

    @property
    def index_bits(self):
        return (self.stream_pages - 1).bit_length()

    @property
    def head_bits(self):
        return (self.kv_heads - 1).bit_length()

    @property
    def layer_bits(self):
        return (self.layers - 1).bit_length()

    @property
    def pages(self):
        """Window pages from the first to the last stream, the unused ones between them counted."""
        return self.stream_page(self.layers - 1, self.kv_heads - 1, V) + (1 << self.index_bits)

    def stream_page(self, layer, head, kind):
        """First page of a stream, counted from the context's first; arrays broadcast."""
        return (((layer << self.head_bits | head) << 1 | kind) << self.index_bits)

    def streams(self, layer):
        """First pages of the layer's streams, by head and then kind: int64, (kv_heads * 2)."""
        heads, kinds = np.arange(self.kv_heads)[:, None], np.array([K, V])
        return self.stream_page(layer, heads, kinds).ravel()

    def line_offsets(self, layer, start, stop):
        """Byte offsets of the lines of tokens `start` to `stop`: uint64, (kv_heads * 2, lines)."""
        lines = np.arange(start * self.token_bytes, stop * self.token_bytes, LINE_BYTES)
        return (self.streams(layer)[:, None] * PAGE_BYTES + lines).astype(np.uint64)

    def page_range(self, start, stop):
        """Pages of each stream that hold tokens `start` to `stop`: (first, count)."""
        first = start // self.page_tokens
        return first, -(-stop // self.page_tokens) - first if stop > start else 0

    def locate(self, page):
        """What a page of the context holds: (layer, head, "k" or "v", first token, last token + 1)."""
        index = page & (1 << self.index_bits) - 1
        stream = page >> self.index_bits
        head = stream >> 1 & (1 << self.head_bits) - 1
        return (
            stream >> 1 + self.head_bits,
            head,
            "kv"[stream & 1],
            index * self.page_tokens,
            (index + 1) * self.page_tokens,
        )

    def to_lines(self, k, v):
        """Lines, as `line_offsets` orders them, of K and V (tokens, kv_heads, head_dim): uint8, (n, 64)."""
        values = np.stack([k, v]).transpose(2, 0, 1, 3)
        return np.ascontiguousarray(values).view(np.uint8).reshape(-1, LINE_BYTES)

    def from_lines(self, lines, dtype):
        """The inverse of `to_lines`: K and V of `dtype`, each (tokens, kv_heads, head_dim)."""
        tokens = len(lines) // (self.kv_heads * 2 * self.token_lines)
        values = np.ascontiguousarray(lines).view(dtype).reshape(self.kv_heads, 2, tokens, self.head_dim)
        return tuple(values.transpose(1, 2, 0, 3))
