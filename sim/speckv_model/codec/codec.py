"""All codecs behind one interface, for one page or for many."""

import numpy as np

from ..constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, PAGE_ROWS, ROW_VALUES, Codec, Dtype
from . import fixed, lossless, raw, speckv, variable

CODECS = {Codec.RAW: raw, Codec.SPECKV: speckv, Codec.LOSSLESS: lossless, Codec.FIXED: fixed,
          Codec.VARIABLE: variable}
"""Modules with `encode_pages(pages, dtype, setting)`, `decode_pages(stored, lines, dtype)` and `SETTINGS`, the range of
settings that the codec takes; those of `ROW_CODECS` take `by_row` too."""
ROW_CODECS = {Codec.FIXED}
"""Codecs that store a page in another way where rows of it are to be read alone."""


def is_setting(codec, setting):
    """Whether `setting` (int) is one that `codec` (a `Codec` of `CODECS`) takes."""
    return setting in _module(codec).SETTINGS


def encode_pages(codec, dtype, pages, setting=None, by_row=False):
    """Encodes pages.

    Parameters
    ----------
    codec : Codec
    dtype : Dtype
    pages : uint8 (n, 4096)
    setting : int, optional
        What the codec can be told, one of its `SETTINGS`; the codec's `DEFAULT_SETTING` if not given.
    by_row : bool
        Whether rows are to be read alone; makes a difference to `ROW_CODECS` only.

    Returns
    -------
    stored : uint8 (n, 64, 64)
        Stored lines; those from the page's `lines` on are zero.
    lines : int64 (n,)
        Lines that the encoded page takes.
    fits : bool (n,)
        Whether the lines are usable; a page that does not fit must be stored as `raw`.

    Raises
    ------
    ValueError
        For a codec, dtype or setting that does not exist and for pages of another shape.
    """
    pages = np.asarray(pages)
    if pages.dtype != np.uint8 or pages.ndim != 2 or pages.shape[1] != PAGE_BYTES:
        raise ValueError(f"pages must be a uint8 array of shape (n, {PAGE_BYTES}), "
                         f"not {pages.dtype} {pages.shape}")
    values = np.ascontiguousarray(pages).view("<u2").reshape(len(pages), PAGE_ROWS, ROW_VALUES)
    module = _module(codec)
    setting = module.DEFAULT_SETTING if setting is None else int(setting)
    if setting not in module.SETTINGS:
        raise ValueError(f"setting of {Codec(codec).name} must be from {module.SETTINGS[0]} to {module.SETTINGS[-1]}, "
                         f"not {setting!r}")
    return module.encode_pages(values, Dtype(dtype), setting, **_variant(codec, by_row))


def decode_pages(codec, dtype, stored, lines=None, by_row=False):
    """Decodes pages; any stored bytes decode to something.

    Parameters
    ----------
    codec : Codec
    dtype : Dtype
    stored : uint8 (n, width, 64)
        Stored lines.
    lines : int (n,), optional
        How many lines of each page count, `width` if not given; what lies beyond reads as zero.
    by_row : bool
        As the pages were encoded.

    Returns
    -------
    uint8 (n, 4096)

    Raises
    ------
    ValueError
        For a codec or dtype that does not exist and for lines of another shape.
    """
    stored = np.asarray(stored)
    if stored.dtype != np.uint8 or stored.ndim != 3 or stored.shape[2] != LINE_BYTES:
        raise ValueError(f"stored must be a uint8 array of shape (n, width, {LINE_BYTES}), "
                         f"not {stored.dtype} {stored.shape}")
    if lines is None:
        lines = np.full(len(stored), stored.shape[1])
    values = _module(codec).decode_pages(stored, lines, Dtype(dtype), **_variant(codec, by_row))
    return np.ascontiguousarray(values, dtype="<u2").view(np.uint8).reshape(len(stored), PAGE_BYTES)


def encode(codec, dtype, page, setting=None, by_row=False):
    """Encodes one page. uint8 (4096,) to uint8 (lines * 64,), or None if it does not fit; raises as
    `encode_pages`."""
    stored, lines, fits = encode_pages(codec, dtype, np.asarray(page)[None], setting, by_row)
    return stored[0, :lines[0]].reshape(-1) if fits[0] else None


def decode(codec, dtype, stored, by_row=False):
    """Decodes one page. uint8 (lines * 64,) to uint8 (4096,); raises as `decode_pages`."""
    stored = np.asarray(stored)
    if stored.ndim != 1 or len(stored) % LINE_BYTES or len(stored) >= 2 * PAGE_BYTES:
        raise ValueError(f"stored must be fewer than {2 * PAGE_LINES} whole lines of {LINE_BYTES} bytes, "
                         f"not shape {stored.shape}")
    return decode_pages(codec, dtype, stored.reshape(1, -1, LINE_BYTES), by_row=by_row)[0]


def _variant(codec, by_row):
    return {"by_row": bool(by_row)} if codec in ROW_CODECS else {}


def _module(codec):
    try:
        return CODECS[Codec(codec)]
    except (KeyError, ValueError):
        names = ", ".join(known.name for known in CODECS)
        raise ValueError(f"codec must be one of {names}, not {codec!r}") from None
