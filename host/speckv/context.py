"""A context: the K and V of one sequence in the device."""

import numpy as np
from ml_dtypes import bfloat16

from speckv_model.constants import PAGE_BYTES, Dtype, Opcode
from speckv_model.cxl import messages

from .errors import AddressError, ContextFreed, ContextsLost, DtypeError, PoisonError, ShapeError
from .lines import reads_with_hints, runs

DTYPES = {np.dtype(np.float16): Dtype.FP16, np.dtype(bfloat16): Dtype.BF16}


def as_dtype(dtype):
    """The dtype of a context that `dtype` (dtype or name) means. Raises `DtypeError` where there is none."""
    try:
        found = np.dtype(bfloat16 if isinstance(dtype, str) and dtype == "bfloat16" else dtype)
    except TypeError:
        found = None
    if found not in DTYPES:
        raise DtypeError(f"dtype must be float16 or bfloat16 (of ml_dtypes), not {dtype!r}")
    return found


class Context:
    """What `Device.create_context` returns; a context manager that frees itself.

    Arrays of K and of V are (tokens, kv_heads, head_dim) and of the context's dtype. Every method raises
    `ContextFreed` after `free`.
    """

    def __init__(self, device, number, geometry, dtype, encoding, ld_id, first_page, pages, descriptors=None):
        self._device = device
        self._number = number
        self._geometry = geometry
        self._dtype = dtype
        self._encoding = encoding
        self._descriptors = descriptors
        self._ld_id = ld_id
        self._first_page = first_page
        self._pages = pages
        self._lengths = [0] * geometry.layers
        self._freed = False
        self._lost = False

    def __repr__(self):
        shape = self._geometry
        codec = "a codec per stream" if self._descriptors else f"{self.codec} {self.setting}"
        return (
            f"<Context {self._number}: {shape.layers} layers, {shape.kv_heads} heads of {shape.head_dim}, "
            f"{shape.max_tokens} tokens, {self._dtype}, {codec}{', freed' if self._freed else ''}>"
        )

    @property
    def number(self):
        """The device's number of the context."""
        return self._number

    @property
    def geometry(self):
        return self._geometry

    @property
    def dtype(self):
        """The NumPy dtype of its values."""
        return self._dtype

    @property
    def codec(self):
        """Name of its codec, or None where each stream has its own."""
        return None if self._descriptors else self._encoding.codec

    @property
    def setting(self):
        """What the codec is told, or None where each stream has its own."""
        return None if self._descriptors else self._encoding.setting

    @property
    def descriptors(self):
        """The `DescriptorSet` that says how each stream is encoded, or None where all are encoded alike."""
        return self._descriptors

    def encoding(self, layer, head, kind):
        """The `Encoding` (codec, setting) of K (`kind` 0) or V (1) of a head."""
        return self._descriptors.encoding(layer, head, kind) if self._descriptors else self._encoding

    @property
    def ld_id(self):
        """Its owner."""
        return self._ld_id

    @property
    def first_page(self):
        """First window page of the context."""
        return self._first_page

    @property
    def pages(self):
        """Window pages that the context owns."""
        return self._pages

    @property
    def address(self):
        """Byte address of its first line."""
        return self._device.base + self._first_page * PAGE_BYTES

    @property
    def held_bytes(self):
        """Bytes of K and V that were written to it."""
        return sum(self._lengths) * self._geometry.kv_heads * 2 * self._geometry.token_bytes

    @property
    def freed(self):
        return self._freed

    def length(self, layer):
        """Tokens that `layer` holds."""
        self._check_layer(layer)
        return self._lengths[layer]

    def line_addresses(self, layer, start, stop):
        """Byte addresses of the lines of tokens `start` to `stop`, K first: uint64, (kv_heads, 2, lines)."""
        self._check_layer(layer)
        offsets = self._geometry.line_offsets(layer, start, stop) + np.uint64(self.address)
        return offsets.reshape(self._geometry.kv_heads, 2, offsets.shape[1])

    def append(self, layer, k, v):
        """Writes K and V of the tokens that follow those that `layer` holds.

        Raises
        ------
        ShapeError, DtypeError
            `k` or `v` is not (tokens, kv_heads, head_dim) of the context's dtype.
        AddressError
            No such layer, or more tokens than the context was created for.
        """
        self._check_layer(layer)
        self.write(layer, self._lengths[layer], k, v)

    def write(self, layer, start, k, v):
        """As `append`, but from token `start` on, which may overwrite tokens that `layer` holds.

        Where the device was reset nothing is written; the next read or command says so.
        """
        self._check_layer(layer)
        tokens = self._check_values(k, v)
        if not 0 <= start <= self._lengths[layer]:
            raise AddressError(
                f"start must be from 0 to the {self._lengths[layer]} tokens that layer {layer} holds, "
                f"not {start!r}"
            )
        if start + tokens > self._geometry.max_tokens:
            raise AddressError(f"tokens {start} to {start + tokens} do not fit: the context was created for "
                               f"{self._geometry.max_tokens} tokens a layer (max_tokens)")
        addresses = self.line_addresses(layer, start, start + tokens)
        self._device.link.submit(messages.writes(addresses, self._geometry.to_lines(k, v), ld_id=self._ld_id))
        self._lengths[layer] = max(self._lengths[layer], start + tokens)

    def read(self, layer, start, stop, *, poison="raise"):
        """K and V of tokens `start` to `stop` of `layer`.

        Parameters
        ----------
        poison : "raise" or "mask"
            What to do where the device says that content is lost.

        Returns
        -------
        k, v : (stop - start, kv_heads, head_dim) of the context's dtype
        lost : bool, (2, stop - start, kv_heads)
            Only with ``poison="mask"``: K ([0]) and V ([1]) of which tokens and heads are lost; their values
            mean nothing.

        Raises
        ------
        AddressError
            The layer does not hold these tokens.
        PoisonError
            The content of some lines is lost (with ``poison="raise"``).
        ContextsLost
            The device was reset.
        """
        if poison not in ("raise", "mask"):
            raise ValueError(f"poison must be 'raise' or 'mask', not {poison!r}")
        self._check_held(layer, start, stop)
        addresses = self.line_addresses(layer, start, stop)
        requests, is_read = reads_with_hints(addresses.ravel(), self._device.lookahead, self._ld_id)
        responses = self._device.link.submit(requests)[is_read]
        self._device.check_answered(responses)
        lost = responses["poison"].reshape(
            self._geometry.kv_heads, 2, stop - start, self._geometry.token_lines).any(axis=-1)
        if poison == "raise" and lost.any():
            raise self._poison_error(layer, start, lost, addresses.ravel()[responses["poison"] != 0])
        k, v = map(np.ascontiguousarray, self._geometry.from_lines(responses["data"], self._dtype))
        return (k, v) if poison == "raise" else (k, v, lost.transpose(1, 2, 0))

    def seal(self, layer=None, start=0, stop=None):
        """Compresses the pages that hold tokens `start` to `stop` (the end) of `layer` (all), full or not.

        A page that was not full opens again when it is written to.
        """
        self._run(Opcode.SEAL, layer, start, stop)

    def flush(self, layer=None, start=0, stop=None):
        """Moves what the page cache has of tokens `start` to `stop` (the end) of `layer` (all) to DRAM."""
        self._run(Opcode.FLUSH, layer, start, stop)

    def prefetch(self, layer, start=0, stop=None):
        """Asks the device to fetch tokens `start` to `stop` (the end) of `layer` ahead of use."""
        self._run(Opcode.PREFETCH, layer, start, stop)

    def free(self):
        """Gives all pages and the range of the window back; what it held cannot be read again."""
        self._check_usable()
        self._device._destroy(self)
        self._freed = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if not self._freed and not self._lost and not self._device.closed:
            self.free()

    def _run(self, opcode, layer, start, stop):
        """Runs `opcode` on the pages of every stream concerned that hold tokens `start` to `stop`."""
        self._check_usable()
        commands = []
        for each in range(self._geometry.layers) if layer is None else [layer]:
            end = self.length(each) if stop is None else stop
            # Without `stop`, a layer that ends before `start` is left out.
            self._check_held(each, start if stop is not None else min(start, end), end)
            first, count = self._geometry.page_range(start, end)
            if count:
                commands += [dict(opcode=opcode, context=self._number, pages=count,
                                  first_page=self._first_page + int(stream) + first)
                             for stream in self._geometry.streams(each)]
        self._device.commands.run(*commands)

    def _poison_error(self, layer, start, lost, addresses):
        tokens = [(layer, head, "kv"[kind], start + first, start + last)
                  for head in range(self._geometry.kv_heads) for kind in range(2)
                  for first, last in runs(np.flatnonzero(lost[head, kind]))]
        named = "; ".join(f"{kind.upper()} of head {head}, tokens {first} to {last}"
                          for _, head, kind, first, last in tokens[:8])
        more = f" and {len(tokens) - 8} more ranges" if len(tokens) > 8 else ""
        return PoisonError(
            f"layer {layer} has lost content: {named}{more}; {self._device.first_error_text()}; "
            "read with poison='mask' for the rest",
            addresses.tolist(),
            tokens,
        )

    def _check_usable(self):
        if self._lost:
            raise ContextsLost([self])
        if self._freed:
            raise ContextFreed(f"context {self._number} was freed; create another one")
        if self._device.closed:
            raise ContextFreed(f"context {self._number} went with its device, which is closed")

    def _check_layer(self, layer):
        self._check_usable()
        if not isinstance(layer, (int, np.integer)) or not 0 <= layer < self._geometry.layers:
            raise AddressError(f"layer must be from 0 to {self._geometry.layers - 1}, not {layer!r}")

    def _check_held(self, layer, start, stop):
        self._check_layer(layer)
        if not 0 <= start <= stop <= self._lengths[layer]:
            raise AddressError(
                f"tokens {start!r} to {stop!r} are not among the {self._lengths[layer]} tokens that "
                f"layer {layer} holds"
            )

    def _check_values(self, k, v):
        """Number of tokens of `k` and `v`, checked."""
        wanted = (self._geometry.kv_heads, self._geometry.head_dim)
        for name, values in (("k", k), ("v", v)):
            if not isinstance(values, np.ndarray) or values.dtype != self._dtype:
                found = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
                raise DtypeError(f"{name} must be an array of {self._dtype}, not {found}; "
                                 f"convert it with {name}.astype(context.dtype)")
            if values.ndim != 3 or values.shape[1:] != wanted:
                raise ShapeError(
                    f"{name} must be (tokens, {wanted[0]}, {wanted[1]}) for (tokens, kv_heads, head_dim), "
                    f"not {values.shape!r}"
                )
        if len(k) != len(v):
            raise ShapeError(f"k and v must have as many tokens, not {len(k)} and {len(v)}")
        return len(k)
