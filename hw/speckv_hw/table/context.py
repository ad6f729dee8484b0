"""Payloads of the context table."""

from amaranth.lib import data, enum

from speckv_hw.types import CONTEXT_WIDTH, PAGE_WIDTH, Codec, Dtype, StreamInfo

SLOT_WIDTH = 16
"""Window slot: a granule of the window."""
LD_ID_WIDTH = 4


class ContextRecord(data.Struct):
    """A range of the window with an owner and a geometry. Lengths are in window pages, widths in bits."""
    valid: 1
    ld_id: LD_ID_WIDTH
    first_page: PAGE_WIDTH
    pages: PAGE_WIDTH + 1
    index_bits: 5
    head_bits: 5
    layer_bits: 5
    dtype: Dtype
    codec: Codec

    def stream_info(self, context):
        """Fields of the `StreamInfo` of a page of this context, which has number `context`."""
        return {"context": context, "codec": self.codec, "dtype": self.dtype}


def lookup_layout(sideband):
    """Who asks for which page; `sideband` comes back with the result."""
    return data.StructLayout({"page": PAGE_WIDTH, "ld_id": LD_ID_WIDTH, "sideband": sideband})


def result_layout(sideband):
    """`stream` is zero where there is no hit."""
    return data.StructLayout({"hit": 1, "page": PAGE_WIDTH, "stream": StreamInfo, "sideband": sideband})


class ContextOpKind(enum.Enum, shape=2):
    GET = 0
    """The reply has the record of `context`."""
    PUT = 1
    """Makes `record` that of `context`."""
    GET_SLOT = 2
    """The reply has what window slot `slot` names."""
    PUT_SLOT = 3
    """Makes `slot` name `context`, or nothing if not `valid`."""


class ContextOp(data.Struct):
    kind: ContextOpKind
    context: CONTEXT_WIDTH
    record: ContextRecord
    slot: SLOT_WIDTH
    valid: 1


class ContextReply(data.Struct):
    record: ContextRecord
    """GET: the record. Otherwise undefined."""
    valid: 1
    """GET_SLOT: the slot names `context`. Otherwise undefined."""
    context: CONTEXT_WIDTH
