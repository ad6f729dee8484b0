"""Contexts: which pages of the window are whose, and how their addresses are to be read."""

from dataclasses import dataclass

import numpy as np

from ..constants import Codec, Dtype
from ..mover.messages import StreamInfo


@dataclass(frozen=True)
class ContextRecord:
    """A range of the window with an owner and a geometry.

    Parameters
    ----------
    ld_id : int
        Owner: the logical device whose requests may touch the pages.
    first_page, pages : int
        Window pages; `first_page` is granule-aligned.
    index_bits, head_bits, layer_bits : int
        Widths of the fields of a page number inside the context.
    dtype : Dtype
    codec : Codec
    setting : int
        What the codec is told.
    per_stream : bool
        Codec and setting are those of each stream's descriptor instead.
    descriptor_base : int
        Number of the first stream's descriptor.
    by_row : bool
        A read that misses fetches the row alone, where the codec lets it; stored rows have a check for it.
    """

    ld_id: int = 0
    first_page: int = 0
    pages: int = 0
    index_bits: int = 0
    head_bits: int = 0
    layer_bits: int = 0
    dtype: Dtype = Dtype.FP16
    codec: Codec = Codec.RAW
    setting: int = 0
    per_stream: bool = False
    descriptor_base: int = 0
    by_row: bool = False

    def stream_info(self, context):
        """The `StreamInfo` of a page of this context, which has number `context`."""
        return StreamInfo(context, self.codec, self.dtype, self.by_row)

    @property
    def end_page(self):
        """First page behind the context."""
        return self.first_page + self.pages


class ContextTable:
    """Finds the context of a page by the window slot that the page lies in.

    Parameters
    ----------
    config : DeviceConfig
    """

    def __init__(self, config):
        self._config = config
        self._records = [None] * config.contexts
        self._slot_context = np.full(config.window_slots, -1, dtype=np.int32)
        # What `find` needs of the records, as arrays by context number.
        self._owner = np.full(config.contexts, -1, dtype=np.int32)
        self._first = np.zeros(config.contexts, dtype=np.int64)
        self._end = np.zeros(config.contexts, dtype=np.int64)

    def record(self, context):
        """Record of context number `context`, or None."""
        return self._records[self._index("context", context, self._config.contexts)]

    def put(self, context, record):
        """Makes `record` (None: no context) the record of number `context`."""
        context = self._index("context", context, self._config.contexts)
        self._records[context] = record
        self._owner[context] = -1 if record is None else record.ld_id
        self._first[context] = 0 if record is None else record.first_page
        self._end[context] = 0 if record is None else record.end_page

    def slot(self, slot):
        """Context number that window slot `slot` names, or None."""
        context = int(self._slot_context[self._index("slot", slot, self._config.window_slots)])
        return None if context < 0 else context

    def put_slot(self, slot, context):
        """Makes window slot `slot` name `context` (None: nothing)."""
        context = -1 if context is None else self._index("context", context, self._config.contexts)
        self._slot_context[self._index("slot", slot, self._config.window_slots)] = context

    def find(self, pages, ld_ids):
        """Context numbers that own `pages` for the askers `ld_ids`.

        Parameters
        ----------
        pages : integers (...)
            Page numbers; those outside the window belong to nobody.
        ld_ids : integers, broadcast against `pages`

        Returns
        -------
        int32 (...)
            -1 where there is no context, or another owner's.
        """
        pages, ld_ids = np.broadcast_arrays(np.asarray(pages, dtype=np.int64), np.asarray(ld_ids))
        inside = (pages >= 0) & (pages < self._config.window_pages)
        context = self._slot_context[np.where(inside, pages, 0) // self._config.granule_pages]
        hit = (inside & (context >= 0) & (self._owner[context] == ld_ids)
               & (pages >= self._first[context]) & (pages < self._end[context]))
        return np.where(hit, context, -1).astype(np.int32)

    def lookup(self, page, ld_id):
        """Record of the context that owns `page` for the asker `ld_id`, or None."""
        context = int(self.find(page, ld_id))
        return None if context < 0 else self._records[context]

    def _index(self, name, value, size):
        if not 0 <= value < size:
            raise ValueError(f"{name} must be from 0 to {size - 1}, not {value!r}")
        return value
