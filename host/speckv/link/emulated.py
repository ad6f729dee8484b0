"""The link to the emulated device: the golden model in this process."""

import numpy as np

from speckv_model.constants import LINE_BYTES
from speckv_model.device import DeviceModel

from ..errors import LinkTimeout
from .base import Link


class EmulatedLink(Link):
    """Makes an emulated device and talks to it. The device starts out of reset, with zeros in its DRAM.

    Requests take effect in the order of the batch, commands when the doorbell is written. There is no clock:
    `clocks` counts the lines that requests moved, and what was asked of `run`.

    Parameters
    ----------
    config : DeviceConfig
        The device.
    """

    def __init__(self, config):
        super().__init__(config)
        self._device = DeviceModel(config)
        self._clocks = 0

    def submit(self, requests):
        self._check_open()
        requests = self._check_requests(requests)
        self._clocks += len(requests)
        return self._device.submit(requests)

    def mmio_read(self, address):
        self._check_open()
        self._check_mmio(address)
        return self._device.mmio_read(address)

    def mmio_write(self, address, value):
        self._check_open()
        self._check_mmio(address, value)
        self._device.mmio_write(address, value)

    def mmio_poll(self, address, mask, value, max_clocks=1_000_000):
        found = self.mmio_read(address)
        if found & mask != value:
            # Nothing happens in this device between accesses.
            raise LinkTimeout(f"register {address:#x} is {found:#x}, masked with {mask:#x} not {value:#x}")
        return found

    @property
    def clocks(self):
        return self._clocks

    def run(self, clocks):
        self._check_open()
        self._clocks += clocks

    def reset(self):
        self._check_open()
        self._device.reset()

    def dram_read(self, address, count):
        self._check_open()
        self._check_dram(address, count)
        line, skipped = divmod(address, LINE_BYTES)
        return self._lines(line, skipped + count)[skipped:skipped + count].tobytes()

    def dram_write(self, address, data):
        """As `Link.dram_write`; lines whose writes fail keep their content."""
        self._check_open()
        data = np.frombuffer(data, np.uint8)
        self._check_dram(address, len(data))
        line, skipped = divmod(address, LINE_BYTES)
        lines = self._lines(line, skipped + len(data))
        lines[skipped:skipped + len(data)] = data
        self._device.dram.write_lines(line, lines.reshape(-1, LINE_BYTES))

    def dram_fail(self, line, count, reads=True, writes=False, response="slverr"):
        self._check_open()
        self._check_dram(line * LINE_BYTES, count * LINE_BYTES)
        self._check_response(response)
        if reads:
            self._device.dram.fail(line, count)
        if writes:
            self._device.dram.fail_writes(line, count)

    def dram_heal(self):
        self._check_open()
        self._device.dram.heal()

    def close(self):
        self._closed = True
        self._device = None

    def _lines(self, line, count):
        """The DRAM lines from `line` on that hold the first `count` bytes: uint8, a multiple of 64."""
        return self._device.dram.read_lines(line, -(-count // LINE_BYTES))[0].ravel()
