"""A host of a whole device, with a golden model that is asked the same."""

from bench import Packing
from cxl_host import CxlHost

from speckv_hw.csr.mmio import MmioRequest
from speckv_model.csr.registers import (
    COMPLETION_WORD,
    REGISTERS,
    command_slot_offset,
    completion_offset,
    pack_command,
)
from speckv_model.device import DeviceModel

__all__ = ["DeviceHost"]

MMIO = Packing(MmioRequest)
MMIO_CLOCKS = 200
COMMAND_CLOCKS = 40_000
READY_CLOCKS = 5000


class DeviceHost(CxlHost):
    """A `CxlHost` that also uses the MMIO port, in device and model alike.

    Parameters
    ----------
    bench : Bench
    config : DeviceConfig
    idle, stall : float
        Probabilities of idle clocks on request streams and of back-pressure on response streams.

    Attributes
    ----------
    model : DeviceModel
    """

    def __init__(self, bench, config, *, idle=0.0, stall=0.0):
        self._mmio_request = bench.source("mmio_request", idle=idle)
        self._mmio_response = bench.sink("mmio_response", stall=stall)
        super().__init__(bench, DeviceModel(config), idle=idle, stall=stall)

    def forget(self):
        super().forget()
        self._commands = 0

    async def reset(self):
        """Resets everything, whatever is under way, and waits until the device is ready."""
        await self._bench.reset()
        self.forget()
        self.model.reset()
        await self.wait_until_ready()

    async def wait_until_ready(self):
        """Waits until the device has swept its memories."""
        begin = self._bench.clock
        while not await self.mmio_read(REGISTERS.STATUS.offset) & 1:
            assert self._bench.clock - begin < READY_CLOCKS, "the device does not become ready"
            await self._bench.tick(100)

    async def mmio_read(self, address):
        return await self._mmio(write=0, address=address)

    async def mmio_write(self, address, value):
        assert await self._mmio(write=1, address=address, data=value) == 0

    async def _mmio(self, **fields):
        self._mmio_request.queue.append(MMIO.pack(**fields))
        await self._bench.until(lambda: self._mmio_response.queue, MMIO_CLOCKS, "an MMIO response")
        return self._mmio_response.queue.popleft()

    async def compare(self, *names):
        """Registers that must be the same in device and model."""
        for name in names:
            expected = self.model.mmio_read(getattr(REGISTERS, name).offset)
            got = await self.counter(name)
            assert got == expected, f"{name}: {got:#x}, not {expected:#x}"

    async def counter(self, name):
        """Value of the device's register `name`."""
        return await self.mmio_read(getattr(REGISTERS, name).offset)

    async def submit_command(self, **fields):
        """Puts a command into the device's queue, and has the model do it. Returns its slot."""
        slot = self._commands % self.model.config.command_slots
        self._commands += 1
        for n, word in enumerate(pack_command(tag=self._commands, **fields)):
            await self._write_both(command_slot_offset(slot) + 8 * n, word)
        await self._write_both(REGISTERS.COMMAND_TAIL.offset, self._commands)
        return slot

    async def _write_both(self, address, value):
        self.model.mmio_write(address, value)
        await self.mmio_write(address, value)

    async def command(self, **fields):
        """Does a command in both and compares how it ends. Returns its `Status`."""
        offset = completion_offset(await self.submit_command(**fields))
        begin = self._bench.clock
        while not (completion := await self.mmio_read(offset)):
            assert self._bench.clock - begin < COMMAND_CLOCKS, f"{fields} does not end"
            await self._bench.tick(20)
        assert completion == self.model.mmio_read(offset), f"completion of {fields}"
        return COMPLETION_WORD.unpack(completion)["status"]
