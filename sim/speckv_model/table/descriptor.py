"""Stream descriptors: how the pages of a stream are to be encoded."""

from typing import NamedTuple

from ..constants import Codec


class Encoding(NamedTuple):
    """What the encoder is told of a page."""
    codec: Codec
    setting: int


class DescriptorTable:
    """Knows how a page is to be encoded: as its context says, or as the descriptor of its stream.

    Parameters
    ----------
    config : DeviceConfig
        `descriptors`; all of them say RAW and 0 to begin with.
    contexts : ContextTable
    """

    def __init__(self, config, contexts):
        self._contexts = contexts
        self._descriptors = [Encoding(Codec.RAW, 0)] * config.descriptors

    def load(self, first, count, encoding):
        """Makes `count` descriptors from number `first` on the `Encoding` given."""
        if not 0 <= first < first + count <= len(self._descriptors):
            raise ValueError(f"descriptors must be from 0 to {len(self._descriptors) - 1}, "
                             f"not {first!r} to {first + count - 1!r}")
        self._descriptors[first:first + count] = [encoding] * count

    def encoding(self, page, stream):
        """The `Encoding` of window `page`, of the `StreamInfo` `stream`. Numbers wrap around at the table's size."""
        record = self._contexts.record(stream.context)
        if not record.per_stream:
            return Encoding(stream.codec, record.setting)
        number = record.descriptor_base + (page - record.first_page >> record.index_bits)
        return self._descriptors[number % len(self._descriptors)]
