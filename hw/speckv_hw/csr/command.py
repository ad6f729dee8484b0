"""Payloads between the command queue and the command engine."""

from amaranth.lib import data

from speckv_hw.types import CONTEXT_WIDTH, PAGE_WIDTH, SETTING_WIDTH, Dtype, Status


class Command(data.Struct):
    """A command as the host wrote it: `opcode` and `codec` may have values that mean nothing."""
    opcode: 8
    context: CONTEXT_WIDTH
    tag: 16
    first_page: PAGE_WIDTH
    pages: PAGE_WIDTH + 1
    index_bits: 5
    head_bits: 5
    layer_bits: 5
    dtype: Dtype
    codec: 3
    ld_id: 4
    setting: SETTING_WIDTH
    per_stream: 1
    descriptor_base: 16
    descriptor: 16


class Completion(data.Struct):
    status: Status
