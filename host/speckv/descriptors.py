"""Stream descriptors: a codec and a setting for each stream of a model."""

import numpy as np

from speckv_model.constants import Opcode

from .encoding import make_encoding
from .errors import DescriptorsFreed, DescriptorsInUse, ShapeError
from .geometry import Geometry


class DescriptorSet:
    """What `Device.load_descriptors` returns: descriptors in the device that any number of contexts share.

    A context manager that frees itself. It is gone with its device, and when that is reset.
    """

    def __init__(self, device, first, encodings):
        self._device = device
        self._first = first
        self._encodings = encodings
        self._freed = False

    def __repr__(self):
        layers, kv_heads, _ = self._encodings.shape
        return f"<DescriptorSet {self._first}: {layers} layers of {kv_heads} heads{', freed' if self._freed else ''}>"

    @property
    def first(self):
        """The device's number of the first descriptor."""
        return self._first

    @property
    def shape(self):
        """(layers, kv_heads)"""
        return self._encodings.shape[:2]

    @property
    def encodings(self):
        """`Encoding` of each stream: object, (layers, kv_heads, 2)."""
        return self._encodings

    @property
    def freed(self):
        return self._freed

    def encoding(self, layer, head, kind):
        """The `Encoding` of K (`kind` 0) or V (1) of a head."""
        return self._encodings[layer, head, kind]

    def free(self):
        """Gives the descriptors back. Raises `DescriptorsInUse` while a context uses them."""
        if self._freed:
            raise DescriptorsFreed("the descriptors were freed; load them again")
        users = [context.number for context in self._device.contexts if context.descriptors is self]
        if users and not self._device.closed:
            raise DescriptorsInUse(f"the descriptors are used by contexts {', '.join(map(str, users))}; "
                                   "free those first")
        self._device._free_descriptors(self)
        self._freed = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self._freed and not self._device.closed:
            self.free()

    def check(self, device, geometry):
        """Raises `DescriptorsFreed` or `ShapeError` where a context of `device` with `geometry` cannot use it."""
        if self._freed:
            raise DescriptorsFreed("the descriptors were freed; load them again")
        if self._device is not device:
            raise DescriptorsFreed("the descriptors are not of this device, or were loaded before it was opened anew; "
                                   "load them with this device's load_descriptors")
        if self.shape != (geometry.layers, geometry.kv_heads):
            raise ShapeError(f"descriptors must be for the context's (layers, kv_heads), "
                             f"{(geometry.layers, geometry.kv_heads)}, not {self.shape}")


def as_encodings(choices, available):
    """`choices` as an array of `Encoding`: object, (layers, kv_heads, 2).

    Parameters
    ----------
    choices : array-like, (layers, kv_heads, 2)
        Of pairs (codec, setting); a setting of None is the codec's default.
    available : sequence of str
        Codecs that the device has.

    Raises
    ------
    ShapeError
        `choices` is not of that shape.
    UnknownCodec, TypeError, ValueError
        As `make_encoding`.
    """
    try:
        found = np.array(choices, dtype=object)
        if found.ndim == 3:
            # Pairs that are kept as objects of their own.
            found = np.array([list(pair) for pair in found.ravel()], dtype=object).reshape(*found.shape, -1)
    except (TypeError, ValueError):
        found = np.empty(0)
    if found.ndim != 4 or found.shape[2:] != (2, 2) or not found.size:
        raise ShapeError(f"choices must be (layers, kv_heads, 2) pairs of codec and setting, K before V, "
                         f"not of shape {np.shape(found)[:3]}")
    encodings = np.empty(found.shape[:3], dtype=object)
    for layer, head, kind in np.ndindex(encodings.shape):
        try:
            encodings[layer, head, kind] = make_encoding(found[layer, head, kind, 0], available,
                                                         found[layer, head, kind, 1])
        except (TypeError, ValueError) as error:
            error.add_note(f"It is that of {'KV'[kind]} of layer {layer}, head {head}.")
            raise
    return encodings


def descriptor_count(encodings):
    """Descriptors that `encodings` takes: widths of layer and head rounded up to powers of two, as in an address."""
    layers, kv_heads, _ = encodings.shape
    return 2 << (layers - 1).bit_length() + (kv_heads - 1).bit_length()


def load_commands(encodings, first):
    """Commands that load `encodings` into the descriptors from number `first` on, one for each run of equal ones."""
    layers, kv_heads, _ = encodings.shape
    geometry = Geometry(layers, kv_heads, 128, 1)
    numbers = geometry.stream_page(*np.indices(encodings.shape)).ravel()
    # Numbers that no stream has get what the one before has.
    taken = np.searchsorted(numbers, np.arange(descriptor_count(encodings)), side="right") - 1
    table = [encodings.flat[n] for n in taken]
    begins = [n for n in range(len(table)) if n == 0 or table[n] != table[n - 1]]
    return [dict(opcode=Opcode.LOAD_DESCRIPTOR, descriptor=first + begin, pages=end - begin, **table[begin].fields)
            for begin, end in zip(begins, [*begins[1:], len(table)])]
