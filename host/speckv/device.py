"""The driver of one device: contexts placed in its address window, lines, commands and statistics."""

import dataclasses
import weakref

import numpy as np

from speckv_model.constants import LINE_BYTES, PAGE_BYTES, DrsOpcode, Opcode
from speckv_model.csr.registers import REGISTERS, read_config
from speckv_model.cxl import messages

from .commands import CommandQueue
from .context import DTYPES, Context, as_dtype
from .descriptors import DescriptorSet, as_encodings, descriptor_count, load_commands
from .encoding import make_encoding
from .errors import (
    AddressError,
    ContextsLost,
    DescriptorsFull,
    DeviceMismatch,
    PoisonError,
    ShapeError,
    TooManyContexts,
    WindowFull,
)
from .geometry import Geometry
from .placement import Placement
from .stats import read_error, read_stats

NOBODY = -1


class Device:
    """What `speckv.open` returns; a context manager that closes itself. It belongs to one thread.

    The device is expected to be as after reset: without contexts.

    Parameters
    ----------
    link : Link
        The way to the device; closed with it.
    lookahead : int
        How many pages ahead of the one it reads `Context.read` tells the device what it will read; 0: not at
        all.
    ready_clocks : int
        How long the device may take to get ready, device clocks.

    Raises
    ------
    DeviceMismatch
        What answers is not a device of this design and of the link's configuration.
    LinkTimeout
        It did not get ready in time.
    """

    def __init__(self, link, *, lookahead=2, ready_clocks=10_000_000):
        self.link = link
        self.lookahead = lookahead
        self._ready_clocks = ready_clocks
        config = link.config
        self._wait_until_ready()
        try:
            found = read_config(link.mmio_read)
        except ValueError as error:
            raise DeviceMismatch(f"no device of this design answers: {error}") from None
        if dataclasses.replace(found, codecs=tuple(sorted(found.codecs))) != dataclasses.replace(
                config, codecs=tuple(sorted(config.codecs))):
            raise DeviceMismatch(f"the device was built as {found}, not as {config}")
        self.commands = CommandQueue(link, self._lost)
        self._forget_all()

    def _wait_until_ready(self):
        ready = REGISTERS.STATUS.pack(ready=1)
        self.link.mmio_poll(REGISTERS.STATUS.offset, ready, ready, self._ready_clocks)

    def _forget_all(self):
        """As after a reset of the device."""
        self.base = self.link.mmio_read(REGISTERS.HDM_BASE.offset)
        """Byte address of the window."""
        self._placement = Placement(self.config.window_slots, self.config.granule_pages)
        self._descriptors = Placement(self.config.descriptors, 1)
        self._contexts = {}
        self._descriptor_sets = weakref.WeakSet()
        self._owner = np.full(self.config.window_slots, NOBODY, np.int16)

    def _lost(self):
        raise ContextsLost(self.contexts)

    @property
    def config(self):
        """The `DeviceConfig` of the device."""
        return self.link.config

    @property
    def contexts(self):
        """Contexts that live, by number: tuple of `Context`."""
        return tuple(self._contexts[number] for number in sorted(self._contexts))

    @property
    def closed(self):
        return self.link.closed

    def create_context(self, layers, kv_heads, head_dim, max_tokens, dtype="float16", codec="raw", ld_id=0, *,
                       setting=None, rate=None, step=None, descriptors=None, by_row=False):
        """Makes room in the window for one sequence.

        Parameters
        ----------
        layers, kv_heads, head_dim, max_tokens : int
            Shape of the cache; `head_dim` is 64, 128 or 256.
        dtype : dtype or str
            ``float16`` or ``bfloat16`` (of `ml_dtypes`).
        codec : str
            One of ``config.codecs``.
        ld_id : int
            The owner, 0 to 15: only its requests reach the context.
        setting : int, optional
            What the codec is told; if neither this nor `rate` nor `step` is given, its default.
        rate : int, optional
            Codec ``fixed``: bytes for each row of 256 bytes, a multiple of 8 from 56 to 128.
        step : float, optional
            Codec ``variable``: values come back within half of it, but for the rounding to `dtype`.
        descriptors : DescriptorSet, optional
            A codec and a setting for each stream, of `load_descriptors`, in place of one for all.
        by_row : bool
            Reads that miss the device's page cache fetch single rows where the codec lets them (``fixed``): less DRAM
            traffic where single tokens are read, more latency where whole pages are. Each row has a check then, at the
            cost of some precision.

        Raises
        ------
        TypeError, ValueError, DtypeError, ShapeError
            A parameter is not what is said above, or `descriptors` are for other layers and heads.
        UnknownCodec
            The device does not have the codec.
        DescriptorsFreed
            The descriptors were freed or are not of this device.
        WindowFull, TooManyContexts
            The window has no free range for it, or the device no free context number.
        CommandError
            The device refused.
        """
        geometry = Geometry(layers, kv_heads, head_dim, max_tokens)
        dtype = as_dtype(dtype)
        encoding = make_encoding(codec, self.config.codecs, setting, rate=rate, step=step)
        if descriptors is not None:
            if codec != "raw":
                raise ValueError(f"codec must not be given together with descriptors, not {codec!r}; leave it out")
            descriptors.check(self, geometry)
        if not isinstance(ld_id, (int, np.integer)) or not 0 <= ld_id < 16:
            raise ValueError(f"ld_id must be from 0 to 15, not {ld_id!r}")
        number = next((n for n in range(self.config.contexts) if n not in self._contexts), None)
        if number is None:
            raise TooManyContexts(
                f"all {self.config.contexts} contexts of the device are in use; free one first"
            )
        first_page, pages = self._placement.allocate(geometry.pages)
        try:
            self.commands.run(dict(
                opcode=Opcode.CREATE, context=number, first_page=first_page, pages=pages, ld_id=ld_id,
                index_bits=geometry.index_bits, head_bits=geometry.head_bits, layer_bits=geometry.layer_bits,
                dtype=DTYPES[dtype], **encoding.fields, per_stream=descriptors is not None,
                descriptor_base=0 if descriptors is None else descriptors.first, by_row=bool(by_row)))
        except Exception:
            self._placement.free(first_page, pages)
            raise
        context = Context(self, number, geometry, dtype, encoding, ld_id, first_page, pages, descriptors)
        self._contexts[number] = context
        self._slots_of(context)[:] = number
        return context

    def load_descriptors(self, choices):
        """Gives each stream of a model its codec and setting; contexts of that model then share them.

        Parameters
        ----------
        choices : array-like, (layers, kv_heads, 2)
            Of pairs (codec name, setting), K before V; a setting of None is the codec's default.

        Returns
        -------
        DescriptorSet
            For `create_context`.

        Raises
        ------
        ShapeError, TypeError, ValueError
            `choices` are not what is said above; a note says of which stream.
        UnknownCodec
            The device does not have the codec.
        DescriptorsFull
            The device has no room for them.
        CommandError
            The device refused.
        """
        encodings = as_encodings(choices, self.config.codecs)
        count = descriptor_count(encodings)
        try:
            first, _ = self._descriptors.allocate(count)
        except WindowFull as full:
            raise DescriptorsFull(full.asked, full.available, full.free) from None
        try:
            self.commands.run(*load_commands(encodings, first))
        except Exception:
            self._descriptors.free(first, count)
            raise
        descriptors = DescriptorSet(self, first, encodings)
        self._descriptor_sets.add(descriptors)
        return descriptors

    def load(self, addresses, *, ld_id=0, poison="raise"):
        """Reads lines.

        Parameters
        ----------
        addresses : int or array of int
            Byte addresses, multiples of 64.
        ld_id : int
            Who asks.
        poison : "raise" or "mask"
            What to do where the device says that content is lost.

        Returns
        -------
        data : uint8, the shape of `addresses` and 64
        lost : bool, the shape of `addresses`
            Only with ``poison="mask"``.

        Raises
        ------
        AddressError
            An address is misaligned, outside the window, or (so the device says) in no context of the
            asker's.
        PoisonError
            The content of a line is lost (with ``poison="raise"``).
        ContextsLost
            The device was reset.
        """
        if poison not in ("raise", "mask"):
            raise ValueError(f"poison must be 'raise' or 'mask', not {poison!r}")
        addresses = self._check_addresses(addresses)
        responses = self.link.submit(messages.reads(addresses, ld_id=ld_id)).reshape(addresses.shape)
        self.check_answered(responses)
        self._refuse(addresses, responses["drs_opcode"] == DrsOpcode.MEM_DATA_NXM,
                     "addresses must be in a context of the asker's")
        lost = responses["poison"] != 0
        if poison == "raise" and lost.any():
            where = addresses[lost]
            raise PoisonError(f"{where.size} lines have lost their content, the first at {int(where[0]):#x}; "
                              f"{self.first_error_text()}", where.tolist())
        data = np.ascontiguousarray(responses["data"])
        return data if poison == "raise" else (data, lost)

    def store(self, addresses, data, *, byte_enable=None, poison=False, ld_id=0):
        """Writes lines.

        Parameters
        ----------
        addresses : int or array of int
            Byte addresses, multiples of 64.
        data : uint8, the shape of `addresses` and 64
        byte_enable : int or uint64 array of the shape of `addresses`, optional
            Bit i: byte i of the line is written; the others keep what they hold. All of them if not given.
        poison : bool or array of bool
            The content is lost: the page becomes poisoned.
        ld_id : int
            Who writes.

        Raises
        ------
        AddressError
            An address is misaligned, outside the window or in no context; nothing is written.
        ShapeError
            `data` is not (lines, 64) bytes.
        """
        addresses = self._check_addresses(addresses)
        slots = (addresses - np.uint64(self.base)) // np.uint64(PAGE_BYTES * self.config.granule_pages)
        self._refuse(addresses, self._owner[slots] == NOBODY, "addresses must be in a context")
        data = np.asarray(data)
        if data.dtype != np.uint8 or data.shape != (*addresses.shape, LINE_BYTES):
            raise ShapeError(f"data must be uint8 of shape {(*addresses.shape, LINE_BYTES)}, "
                             f"not {data.dtype} of shape {data.shape!r}")
        if byte_enable is not None:
            byte_enable = np.broadcast_to(np.asarray(byte_enable, np.uint64), addresses.shape).ravel()
        poison = np.broadcast_to(np.asarray(poison, bool), addresses.shape).ravel()
        self.link.submit(
            messages.writes(addresses, data, byte_enable=byte_enable, poison=poison, ld_id=ld_id)
        )

    def check_answered(self, responses):
        """Raises `ContextsLost` where `responses` name addresses without a context because the device was reset."""
        if np.any(responses["drs_opcode"] == DrsOpcode.MEM_DATA_NXM) and self.commands.was_reset:
            self._lost()

    def recover(self):
        """Takes a device into use again that was reset: all contexts and descriptors end, and it is as newly opened.

        Returns
        -------
        tuple of Context
            Those that were lost; using one raises `ContextsLost`.

        Raises
        ------
        LinkTimeout
            It did not get ready in time.
        ValueError
            The device has not been reset, as far as can be seen.
        """
        if not self.commands.was_reset:
            raise ValueError("the device must have been reset, but knows the commands that it was given")
        return self._begin_anew()

    def reset(self):
        """Resets the device and takes it into use again: see `recover`, also for what it returns and raises."""
        self.link.reset()
        return self._begin_anew()

    def _begin_anew(self):
        self._wait_until_ready()
        lost = self.contexts
        for context in lost:
            context._lost = True
        for descriptors in self._descriptor_sets:
            descriptors._freed = True
        self.commands.restart()
        self._forget_all()
        return lost

    def stats(self):
        """A `Stats` snapshot: counters, pool, errors."""
        return read_stats(self.link, sum(context.held_bytes for context in self._contexts.values()))

    def first_error_text(self):
        """What the device recorded as its first error, in words."""
        record = read_error(self.link)
        return "the device recorded no error" if record is None else f"first error of the device: {record}"

    def clear_errors(self):
        """Forgets the device's error records."""
        self.link.mmio_write(REGISTERS.ERROR_CLEAR.offset, REGISTERS.ERROR_CLEAR.pack(clear=1))

    def clear_counters(self):
        """Sets all counters to zero."""
        self.link.mmio_write(REGISTERS.COUNTERS_CLEAR.offset, REGISTERS.COUNTERS_CLEAR.pack(clear=1))

    def close(self):
        """Ends the link; contexts go with it. May be called more than once."""
        self.link.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _destroy(self, context):
        """Gives back what `context` holds."""
        self.commands.run(dict(opcode=Opcode.DESTROY, context=context.number))
        self._slots_of(context)[:] = NOBODY
        del self._contexts[context.number]
        self._placement.free(context.first_page, context.pages)

    def _free_descriptors(self, descriptors):
        """Makes room in the table of stream descriptors; what they say does not matter any more."""
        self._descriptors.free(descriptors.first, descriptor_count(descriptors.encodings))

    def _slots_of(self, context):
        """The part of the slot owners that `context` covers, a view."""
        granule = self.config.granule_pages
        return self._owner[context.first_page // granule:(context.first_page + context.pages) // granule]

    def _check_addresses(self, addresses):
        """`addresses` as a uint64 array, each checked to be a line of the window."""
        addresses = np.asarray(addresses)
        if addresses.dtype.kind not in "iu":
            raise TypeError(f"addresses must be integers, not {addresses.dtype}")
        self._refuse(addresses, addresses % LINE_BYTES != 0, f"addresses must be multiples of {LINE_BYTES}")
        end = self.base + self.config.window_bytes
        self._refuse(addresses, (addresses < self.base) | (addresses >= end),
                     f"addresses must be in the window, {self.base:#x} to {end:#x}")
        return addresses.astype(np.uint64)

    @staticmethod
    def _refuse(addresses, wrong, message):
        """Raises `AddressError` naming the first of `addresses` that is `wrong` (bool)."""
        if np.any(wrong):
            where = addresses[wrong]
            more = f" and {where.size - 1} more" if where.size > 1 else ""
            raise AddressError(f"{message}, not {int(where.flat[0]):#x}{more}", where.tolist())
