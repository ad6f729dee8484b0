"""What the device knows of a context, and how the command engine reads and changes it."""

from amaranth.lib import data, enum

from speckv_hw.types import CONTEXT_WIDTH, PAGE_WIDTH, Codec, Dtype, StreamInfo

WINDOW_SLOT_WIDTH = 16
"""Window slot (granule) number."""


class ContextRecord(data.Struct):
    """A context: a range of window pages with an owner and a geometry."""
    valid: 1
    ld_id: 4
    first_page: PAGE_WIDTH
    pages: PAGE_WIDTH + 1
    index_bits: 5
    head_bits: 5
    layer_bits: 5
    dtype: Dtype
    codec: Codec
    descriptor_base: 16


class ContextOpKind(enum.Enum, shape=2):
    GET = 0
    """Read the record of `context`."""
    PUT = 1
    """Replace the record of `context` by `record`."""
    GET_SLOT = 2
    """Read which context owns window slot `slot`."""
    PUT_SLOT = 3
    """Give window slot `slot` to `context`, or to nobody where `owned` is 0."""


class ContextOp(data.Struct):
    kind: ContextOpKind
    context: CONTEXT_WIDTH
    slot: WINDOW_SLOT_WIDTH
    owned: 1
    record: ContextRecord


class ContextReply(data.Struct):
    """Answer to any `ContextOp`, in order; the fields that the op does not ask for are undefined."""
    record: ContextRecord
    owned: 1
    context: CONTEXT_WIDTH


def context_lookup(sideband):
    """Payload of a lookup: a window page, who asks, and what travels along."""
    return data.StructLayout({"page": PAGE_WIDTH, "ld_id": 4, "sideband": sideband})


def context_result(sideband):
    """Payload of a lookup's result; `stream` counts only where `hit` is set."""
    return data.StructLayout({"hit": 1, "page": PAGE_WIDTH, "stream": StreamInfo, "sideband": sideband})
