"""A device that is no more than a dictionary of lines, to look at what the driver sends."""

import numpy as np
import pytest

from speckv.device import Device
from speckv.errors import LinkTimeout
from speckv.link.base import Link
from speckv_model.config import DeviceConfig
from speckv_model.constants import PAGE_BYTES, DrsOpcode, Opcode, ReqOpcode, Status
from speckv_model.csr.registers import (
    COMMAND_SLOT_BASE,
    COMPLETION_BASE,
    COMPLETION_WORD,
    REGISTERS,
    command_slot_offset,
    completion_offset,
    unpack_command,
)
from speckv_model.cxl.messages import RESPONSE, Channel


class FakeLink(Link):
    """Lines in a dictionary, commands that end at once.

    `lose(address)` makes a line read as poison; `refuse` is the status that commands of an opcode end with;
    `batches` and `commands` record what came.
    """

    def __init__(self, config):
        super().__init__(config)
        self.registers = {register.offset: register.reset_value(config) for register in REGISTERS}
        self.registers[REGISTERS.STATUS.offset] = REGISTERS.STATUS.pack(ready=1)
        self.lines, self.lost, self.ranges, self.refuse = {}, set(), {}, {}
        self.batches, self.commands = [], []

    def submit(self, requests):
        requests = self._check_requests(requests)
        self.batches.append(requests)
        responses = np.zeros(requests.size, RESPONSE)
        responses["kind"] = requests["expect"]
        for request, response in zip(requests, responses):
            address = int(request["address"])
            if not any(first <= address // PAGE_BYTES < last for first, last in self.ranges.values()):
                response["drs_opcode"] = DrsOpcode.MEM_DATA_NXM
            elif request["channel"] == Channel.RWD:
                self.lines[address] = request["data"].copy()
            elif request["opcode"] == ReqOpcode.MEM_RD:
                response["data"] = self.lines.get(address, 0)
                response["poison"] = address in self.lost
        return responses

    def lose(self, *addresses):
        self.lost.update(map(int, addresses))

    def mmio_read(self, address):
        self._check_open()
        self._check_mmio(address)
        return self.registers.get(address, 0)

    def mmio_write(self, address, value):
        self._check_open()
        self._check_mmio(address, value)
        self.registers[address] = value
        if address == REGISTERS.COMMAND_TAIL.offset:
            head = self.registers[REGISTERS.COMMAND_HEAD.offset]
            while head != value:
                self._execute(head % self.config.command_slots)
                head = head + 1 & 0xFFFF
            self.registers[REGISTERS.COMMAND_HEAD.offset] = head

    def _execute(self, slot):
        base = command_slot_offset(slot)
        assert COMMAND_SLOT_BASE <= base < COMPLETION_BASE
        command = unpack_command([self.registers.get(base + 8 * word, 0) for word in range(5)])
        self.commands.append(command)
        status = self.refuse.get(command["opcode"], Status.OK)
        if status == Status.OK and command["opcode"] == Opcode.CREATE:
            self.ranges[command["context"]] = command["first_page"], command["first_page"] + command["pages"]
        if status == Status.OK and command["opcode"] == Opcode.DESTROY:
            first, last = self.ranges.pop(command["context"])
            self.lines = {a: line for a, line in self.lines.items() if not first <= a // PAGE_BYTES < last}
        self.registers[completion_offset(slot)] = COMPLETION_WORD.pack(
            status=status, opcode=command["opcode"], tag=command["tag"], done=1)

    def mmio_poll(self, address, mask, value, max_clocks=1_000_000):
        found = self.mmio_read(address)
        if found & mask != value:
            raise LinkTimeout(f"register {address:#x} is {found:#x}")
        return found

    clocks = 0

    def run(self, clocks):
        pass

    def reset(self):
        pass

    def dram_read(self, address, count):
        raise NotImplementedError

    def dram_write(self, address, data):
        raise NotImplementedError

    def dram_fail(self, line, count, reads=True, writes=False, response="slverr"):
        raise NotImplementedError

    def dram_heal(self):
        raise NotImplementedError

    def close(self):
        self._closed = True


@pytest.fixture
def link():
    """A `FakeLink` of the small configuration."""
    return FakeLink(DeviceConfig.small())


@pytest.fixture
def device(link):
    """The driver over `link`."""
    with Device(link) as device:
        yield device
