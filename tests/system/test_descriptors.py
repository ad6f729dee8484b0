"""A codec for each stream: what is sealed is what the stream's descriptor says, compared with the codecs' model."""

import numpy as np
import pytest

import speckv
from speckv.device import Device
from speckv.traffic import kv_lines
from speckv_model.codec import CODECS, decode_pages, encode_pages
from speckv_model.constants import (
    ENTRY_BYTES,
    LINE_BYTES,
    PAGE_BYTES,
    PAGE_LINES,
    Codec,
    Dtype,
    Opcode,
    PageState,
    Status,
)
from speckv_model.table.entry import Entry

DTYPES = {"float16": Dtype.FP16, "bfloat16": Dtype.BF16}


def encodings_of(device):
    """Every codec of the device, with its default setting and the first and last that it takes."""
    found = []
    for name in device.config.codecs:
        module = CODECS[Codec[name.upper()]]
        settings = {module.DEFAULT_SETTING, module.SETTINGS[0], module.SETTINGS[-1]}
        found += [speckv.Encoding(name, setting) for setting in sorted(settings)]
    return found


def random_choices(device, rng, layers, kv_heads):
    """An encoding for each stream, every one used if there are streams enough."""
    encodings = encodings_of(device)
    order = np.resize(rng.permutation(len(encodings)), layers * kv_heads * 2)
    choices = np.array([encodings[n] for n in rng.permutation(order)], dtype=object)
    return choices.reshape(layers, kv_heads, 2, 2)


def pages_of(dtype, rng, count):
    """Captured K and V: uint8, (count, 64, 64)."""
    lines = kv_lines(dtype)
    first = int(rng.integers(len(lines) // 4)) * 4
    return lines[(first + np.arange(count * PAGE_LINES)) % len(lines)].reshape(count, PAGE_LINES, LINE_BYTES)


def sealed(encoding, dtype, pages):
    """What `pages` (uint8, (n, 64, 64)) are read back as, and the codec in each page's entry."""
    codec = Codec[encoding.codec.upper()]
    stored, lines, fits = encode_pages(codec, dtype, pages.reshape(-1, PAGE_BYTES), encoding.setting)
    decoded = decode_pages(codec, dtype, stored, lines).reshape(pages.shape)
    return np.where(fits[:, None, None], decoded, pages), np.where(fits, codec, Codec.RAW)


class Streams:
    """A context and what the pages of its streams must hold."""

    def __init__(self, device, context):
        self._device, self.context = device, context
        self.encoding = context.encoding
        self._dtype = DTYPES[context.dtype.name]
        self._held = {}

    def write(self, rng, stream, first, count):
        """Writes `count` pages of a stream (layer, head, kind) from page `first` on, which seals them."""
        pages = pages_of(self._dtype, rng, count)
        self._device.store(self._addresses(stream, first, count), pages, ld_id=self.context.ld_id)
        self._held[stream, first] = sealed(self.encoding(*stream), self._dtype, pages)

    def overwrite(self, stream, first, line, data):
        """Writes one line of a page that `write` sealed, and seals the page again."""
        pages, _ = self._held[stream, first]
        pages[0, line] = data
        self._device.store(self._addresses(stream, first, 1)[0, line], data, ld_id=self.context.ld_id)
        page = self.context.first_page + int(self.context.geometry.stream_page(*stream)) + first
        self._device.commands.run(dict(opcode=Opcode.SEAL, context=self.context.number, first_page=page, pages=1))
        again, codecs = sealed(self.encoding(*stream), self._dtype, pages[:1])
        pages[0] = again[0]
        self._held[stream, first][1][0] = codecs[0]

    def check(self):
        """Everything is read as it must be; and with what codec it was stored."""
        used = set()
        for (stream, first), (pages, codecs) in self._held.items():
            got = self._device.load(self._addresses(stream, first, len(pages)), ld_id=self.context.ld_id)
            np.testing.assert_array_equal(got, pages, f"stream {stream}, {self.context.encoding(*stream)}")
            base = self.context.first_page + int(self.context.geometry.stream_page(*stream)) + first
            for page, codec in enumerate(codecs, base):
                entry = Entry.unpack(self._device.link.dram_read(ENTRY_BYTES * page, ENTRY_BYTES))
                assert (entry.state, entry.codec) == (PageState.SEALED, codec)
                used.add(Codec(codec).name.lower())
        return used

    def _addresses(self, stream, first, count):
        page = int(self.context.geometry.stream_page(*stream)) + first
        lines = np.arange(count * PAGE_LINES).reshape(count, PAGE_LINES)
        return self.context.address + page * PAGE_BYTES + lines * LINE_BYTES


def all_streams(context):
    return list(np.ndindex(context.geometry.layers, context.geometry.kv_heads, 2))


def load(device, descriptors, **fields):
    """A LOAD_DESCRIPTOR that begins with the first of `descriptors`."""
    device.commands.run(dict(opcode=Opcode.LOAD_DESCRIPTOR, descriptor=descriptors.first) | fields)


def flush(device, context):
    device.commands.run(
        dict(opcode=Opcode.FLUSH, context=context.number, first_page=context.first_page, pages=context.pages))


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_stream_is_sealed_by_its_own_codec(device, seed, dtype):
    """Contexts that share descriptors, others' between them, and contexts that have one codec."""
    rng = np.random.default_rng(seed)
    shared = device.load_descriptors(random_choices(device, rng, 3, 2))
    other = device.load_descriptors(random_choices(device, rng, 1, 5))
    contexts = [device.create_context(3, 2, 128, 40, dtype, ld_id=1, descriptors=shared),
                device.create_context(1, 5, 64, 200, dtype, descriptors=other),
                device.create_context(2, 2, 128, 100, dtype, "speckv"),
                device.create_context(3, 2, 256, 20, dtype, descriptors=shared)]
    streams = [Streams(device, context) for context in contexts]
    work = [(held, stream) for held in streams for stream in all_streams(held.context)]
    for n in rng.permutation(len(work)):
        held, stream = work[n]
        held.write(rng, stream, int(rng.integers(2)), 1)
    used = set().union(*(held.check() for held in streams))
    assert used == set(device.config.codecs)
    for held, stream in (work[n] for n in rng.permutation(len(work))[:12]):
        (first,) = (first for each, first in held._held if each == stream)
        held.overwrite(stream, first, int(rng.integers(PAGE_LINES)), pages_of(Dtype.FP16, rng, 1)[0, 5])
    for held in streams:
        held.check()
    for context in contexts:
        context.free()
    shared.free()
    other.free()
    stats = device.stats()
    assert stats.pool_free_sectors == stats.pool_sectors and stats.error_count == 0


def test_the_last_descriptors_of_the_table(device, seed):
    """A context of as few pages as there can be, whose streams need the end of the table."""
    rng = np.random.default_rng(seed)
    device.load_descriptors([[[("raw", 0)] * 2]] * (device.config.descriptors // 8))
    descriptors = device.load_descriptors(random_choices(device, rng, 3, 3))
    last = device.load_descriptors(random_choices(device, rng, 1, 5))
    assert last.first + 16 == device.config.descriptors
    for held in (Streams(device, device.create_context(3, 3, 128, 16, descriptors=descriptors)),
                 Streams(device, device.create_context(1, 5, 128, 1, descriptors=last))):
        for stream in all_streams(held.context):
            held.write(rng, stream, 0, 1)
        held.check()


def test_refused_descriptors_leave_the_old_ones(device, seed):
    rng = np.random.default_rng(seed)
    descriptors = device.load_descriptors(random_choices(device, rng, 2, 1))
    end = device.config.descriptors
    for fields, status in [
        (dict(pages=4, codec=7), Status.BAD_CODEC),
        (dict(pages=4, codec=5), Status.BAD_CODEC),
        (dict(pages=4, setting=1), Status.BAD_DESCRIPTOR),
        (dict(pages=4, codec=Codec.SPECKV, setting=255), Status.BAD_DESCRIPTOR),
        (dict(pages=0), Status.BAD_DESCRIPTOR),
        (dict(pages=end + 1 - descriptors.first), Status.BAD_DESCRIPTOR),
        (dict(pages=1 << 28), Status.BAD_DESCRIPTOR),
        (dict(descriptor=end, pages=1), Status.BAD_DESCRIPTOR),
    ]:
        device.clear_errors()
        with pytest.raises(speckv.CommandError, match=status.name):
            load(device, descriptors, **fields)
        assert device.stats().first_error.detail == status
    held = Streams(device, device.create_context(2, 1, 128, 100, descriptors=descriptors))
    for stream in all_streams(held.context):
        held.write(rng, stream, 0, 3)
    held.check()


def test_a_context_without_its_descriptors_is_refused(device):
    """And one whose codec does not take the setting; both touch nothing."""
    granule, end = device.config.granule_pages, device.config.descriptors
    fields = dict(opcode=Opcode.CREATE, context=0, first_page=0, pages=granule)
    for changes in (dict(setting=1), dict(codec=Codec.SPECKV, setting=128), dict(per_stream=1, descriptor_base=end),
                    dict(per_stream=1, descriptor_base=end - 1), dict(per_stream=1, descriptor_base=0xFFFF),
                    dict(per_stream=1, head_bits=2, descriptor_base=end - 7)):
        with pytest.raises(speckv.CommandError, match="BAD_DESCRIPTOR"):
            device.commands.run(fields | changes)
    context = device.create_context(1, 1, 128, 16)
    assert (context.number, context.first_page) == (0, 0)


def test_descriptors_change_between_pages(device, seed):
    """Pages that were sealed before stay as they are."""
    rng = np.random.default_rng(seed)
    before, after = speckv.Encoding("speckv", 0), speckv.Encoding("raw", 0)
    descriptors = device.load_descriptors([[[before, before]]])
    held = Streams(device, device.create_context(1, 1, 128, 100, descriptors=descriptors))
    held.write(rng, (0, 0, 0), 0, 3)
    flush(device, held.context)
    load(device, descriptors, pages=2, **after.fields)
    held.encoding = lambda *stream: after
    held.write(rng, (0, 0, 0), 3, 2)
    held.write(rng, (0, 0, 1), 0, 2)
    held.check()


def test_after_a_reset_all_descriptors_are_raw(device, seed):
    rng = np.random.default_rng(seed)
    table = device.config.descriptors
    device.load_descriptors([[[("speckv", 0)] * 2]] * (table // 2))
    device.link.reset()
    again = Device(device.link)
    # A stream of one page for each descriptor.
    pages = -(-table // again.config.granule_pages) * again.config.granule_pages
    again.commands.run(dict(opcode=Opcode.CREATE, context=0, pages=pages, per_stream=1,
                            layer_bits=(table - 1).bit_length() - 1))
    data = pages_of(Dtype.FP16, rng, table)
    addresses = np.arange(table * PAGE_LINES).reshape(table, PAGE_LINES) * LINE_BYTES
    again._owner[:] = 0
    again.store(addresses, data)
    np.testing.assert_array_equal(again.load(addresses), data)
    assert again.stats()["PAGES_SEALED"] == table
