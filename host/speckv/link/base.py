"""What every link to a device offers: CXL.mem messages in batches, MMIO, and the clock."""

from abc import ABC, abstractmethod

import numpy as np

from speckv_model.cxl.messages import REQUEST

from ..errors import LinkClosed

ADDRESS_BITS = 52
DRAM_RESPONSES = {"slverr": 2, "decerr": 3, "none": 4}
"""What failing DRAM answers, and the number of that in the protocol of the simulated link."""
"""Host physical addresses of CXL.mem requests."""
MMIO_BYTES = 1 << 16


class Link(ABC):
    """A way to a device.

    A link belongs to one thread. It is a context manager that closes itself. After a `LinkError` it cannot be
    used any more, except that it can be closed.

    Ordering of `submit`: requests to the same 4 KiB page take effect in the order of the batch; others in any
    order. A batch is finished when `submit` returns, so batches take effect one after the other.

    Every method raises `LinkClosed` after `close`, and `LinkError` where the device or the way to it fails.

    Parameters
    ----------
    config : DeviceConfig
        The device at the other end.
    """

    def __init__(self, config):
        self._config = config
        self._closed = False

    @property
    def config(self):
        """The `DeviceConfig` of the device."""
        return self._config

    @property
    def closed(self):
        return self._closed

    # CXL.mem
    @abstractmethod
    def submit(self, requests):
        """Sends `requests` (`REQUEST`, n) and returns what came back (`RESPONSE`, n), in the same order.

        Each request must say in `expect` which responses it gets (see `speckv_model.cxl.messages.expected`).

        Raises
        ------
        TypeError, ValueError
            `requests` is not such an array, or an address does not fit or is not that of a line.
        """

    # MMIO
    @abstractmethod
    def mmio_read(self, address):
        """The 64-bit register at byte `address`, as an int."""

    @abstractmethod
    def mmio_write(self, address, value):
        """Writes the 64-bit register at byte `address`."""

    @abstractmethod
    def mmio_poll(self, address, mask, value, max_clocks=1_000_000):
        """Reads the register at byte `address` until ``register & mask == value``; returns the register.

        Raises
        ------
        LinkTimeout
            After `max_clocks` device clocks. The link stays usable.
        """

    # The clock
    @property
    @abstractmethod
    def clocks(self):
        """Device clocks so far (0 for a device without a clock)."""

    @abstractmethod
    def run(self, clocks):
        """Lets the device run for `clocks` clocks without new requests."""

    @abstractmethod
    def reset(self):
        """Resets the device. Its DRAM keeps its content."""

    # Device DRAM, for tests
    @abstractmethod
    def dram_read(self, address, count):
        """`count` bytes of device DRAM from byte `address` on, as bytes, behind the device's back."""

    @abstractmethod
    def dram_write(self, address, data):
        """Overwrites device DRAM from byte `address` on with bytes-like `data`, behind the device's back."""

    @abstractmethod
    def dram_fail(self, line, count, reads=True, writes=False, response="slverr"):
        """From now on reads and/or writes of `count` lines from line `line` on fail.

        `response`: ``slverr`` and ``decerr`` are the errors that AXI4 has; with ``none`` DRAM does not answer until
        `dram_heal`.
        """

    @abstractmethod
    def dram_heal(self):
        """Ends all errors of `dram_fail`."""

    # Its end
    @abstractmethod
    def close(self):
        """Gives everything back. May be called more than once."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # What implementations share
    def _check_open(self):
        if self._closed:
            raise LinkClosed("the link is closed")

    def _check_requests(self, requests):
        """`requests` as a contiguous `REQUEST` array, checked."""
        if not isinstance(requests, np.ndarray) or requests.dtype != REQUEST:
            kind = getattr(requests, "dtype", type(requests))
            raise TypeError(f"requests must be an array of REQUEST, not {kind!r}")
        if requests.ndim != 1:
            raise ValueError(f"requests must have one dimension, not shape {requests.shape!r}")
        address = requests["address"]
        wrong = (address >> np.uint64(ADDRESS_BITS) != 0) | (address % np.uint64(64) != 0)
        if wrong.any():
            raise ValueError(f"addresses must be multiples of 64 below 2^{ADDRESS_BITS}, "
                             f"not {int(address[wrong][0]):#x}")
        if (requests["channel"] > 1).any():
            raise ValueError(f"channel must be 0 or 1, not {requests['channel'].max()}")
        return np.ascontiguousarray(requests)

    def _check_mmio(self, address, *values):
        if not 0 <= address < MMIO_BYTES or address % 8:
            raise ValueError(f"address must be a multiple of 8 below {MMIO_BYTES:#x}, not {address!r}")
        for value in values:
            if not 0 <= value < 1 << 64:
                raise ValueError(f"value must have 64 bits, not {value!r}")

    def _check_response(self, response):
        if response not in DRAM_RESPONSES:
            raise ValueError(f"response must be one of {', '.join(DRAM_RESPONSES)}, not {response!r}")

    def _check_dram(self, address, count):
        if address < 0 or count < 0 or address + count > self.config.dram_bytes:
            raise ValueError(f"bytes {address!r} to {address + count!r} are not inside the "
                             f"{self.config.dram_bytes} bytes of DRAM")
