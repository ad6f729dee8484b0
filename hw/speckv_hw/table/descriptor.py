"""Payloads of the descriptor table."""

from amaranth.lib import data, enum

from speckv_hw.types import DESCRIPTOR_WIDTH, PAGE_WIDTH, SETTING_WIDTH, Codec, StreamInfo


class Encoding(data.Struct):
    """What the encoder is told of a page."""
    codec: Codec
    setting: SETTING_WIDTH


class EncodingRequest(data.Struct):
    """Asks for the `Encoding` of a page."""
    page: PAGE_WIDTH
    stream: StreamInfo


class EncodingRule(data.Struct):
    """How the encoding of a page follows from its context."""
    per_stream: 1
    """It is descriptor `base` + ((page - `first_page`) >> `index_bits`), else the context's codec and `setting`."""
    setting: SETTING_WIDTH
    first_page: PAGE_WIDTH
    index_bits: 5
    base: DESCRIPTOR_WIDTH


class DescriptorOpKind(enum.Enum, shape=1):
    LOAD = 0
    """Descriptor `number` becomes `encoding`."""
    RULE = 1
    """The rule of context `number` becomes `rule`."""


class DescriptorOp(data.Struct):
    kind: DescriptorOpKind
    number: DESCRIPTOR_WIDTH
    encoding: Encoding
    rule: EncodingRule
