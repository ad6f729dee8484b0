"""The emulated device behind the link that host programs use."""

import numpy as np
import pytest

from speckv.errors import LinkClosed, LinkTimeout
from speckv.link import EmulatedLink
from speckv_model.config import DeviceConfig
from speckv_model.constants import Codec, DrsOpcode, Opcode, Status
from speckv_model.csr.registers import (
    COMPLETION_WORD,
    MAGIC,
    REGISTERS,
    command_slot_offset,
    completion_offset,
    pack_command,
    read_config,
)
from speckv_model.cxl import messages


@pytest.fixture
def link():
    with EmulatedLink(DeviceConfig.small()) as link:
        yield link


def create(link):
    words = pack_command(opcode=Opcode.CREATE, pages=link.config.granule_pages, codec=Codec.RAW)
    for n, word in enumerate(words):
        link.mmio_write(command_slot_offset(0) + 8 * n, word)
    link.mmio_write(REGISTERS.COMMAND_TAIL.offset, 1)
    link.mmio_poll(REGISTERS.COMMAND_HEAD.offset, 0xFFFF, 1)
    assert COMPLETION_WORD.unpack(link.mmio_read(completion_offset(0)))["status"] == Status.OK


def test_lines_and_registers(link):
    assert link.mmio_read(REGISTERS.IDENTITY.offset) & (1 << 48) - 1 == MAGIC
    assert read_config(link.mmio_read) == link.config
    create(link)
    lines = np.arange(10 * 64, dtype=np.uint8).reshape(10, 64)
    written = link.submit(messages.writes(np.arange(10) * 64, lines))
    assert (written["kind"] == messages.Expect.NDR).all()
    answers = link.submit(messages.reads(np.arange(11) * 64))
    np.testing.assert_array_equal(answers["data"][:10], lines)
    assert not answers["data"][10].any()
    assert len(link.submit(messages.reads([]))) == 0


def test_clocks(link):
    assert link.clocks == 0
    link.submit(messages.reads([0, 64]))
    link.run(5)
    assert link.clocks == 7


def test_poll_times_out(link):
    assert link.mmio_poll(REGISTERS.STATUS.offset, 1, 1) & 1
    with pytest.raises(LinkTimeout):
        link.mmio_poll(REGISTERS.STATUS.offset, 1, 0)
    link.mmio_read(0)


def test_requests_are_checked(link):
    with pytest.raises(TypeError, match="must be an array of REQUEST"):
        link.submit(np.zeros(3))
    with pytest.raises(ValueError, match="multiples of 64"):
        link.submit(messages.reads([32]))
    with pytest.raises(ValueError, match="multiple of 8"):
        link.mmio_read(4)


def test_reset_keeps_dram(link):
    create(link)
    link.dram_write(4096, b"kept")
    link.reset()
    assert link.dram_read(4096, 4) == b"kept"
    assert link.submit(messages.reads([0]))["drs_opcode"][0] == DrsOpcode.MEM_DATA_NXM
    assert link.mmio_read(REGISTERS.COMMAND_HEAD.offset) == 0


@pytest.mark.parametrize("address, count", [(0, 64), (3, 5), (60, 8), (130, 200), (64, 0)])
def test_dram_bytes(link, address, count):
    data = np.random.default_rng(1).integers(0, 256, count, np.uint8).tobytes()
    link.dram_write(0, bytes([7]) * 512)
    link.dram_write(address, data)
    assert link.dram_read(0, 512) == bytes([7]) * address + data + bytes([7]) * (512 - address - count)


def test_dram_bounds(link):
    with pytest.raises(ValueError):
        link.dram_read(link.config.dram_bytes - 3, 4)
    with pytest.raises(ValueError):
        link.dram_write(-1, b"x")


def test_dram_faults(link):
    create(link)
    link.dram_fail(0, 1, reads=True)
    assert link.submit(messages.reads([0]))["poison"][0]
    link.dram_heal()
    link.dram_fail(0, 1, reads=False, writes=True)
    link.submit(messages.writes([0], np.ones((1, 64), np.uint8)))
    assert link.mmio_read(REGISTERS.ERROR_COUNT.offset) > 0


def test_closed(link):
    link.close()
    link.close()
    assert link.closed
    uses = [lambda: link.submit(messages.reads([0])), lambda: link.mmio_read(0),
            lambda: link.mmio_write(0, 0), lambda: link.mmio_poll(0, 0, 0), lambda: link.run(1), link.reset,
            lambda: link.dram_read(0, 1), lambda: link.dram_write(0, b""), lambda: link.dram_fail(0, 1),
            link.dram_heal]
    for use in uses:
        with pytest.raises(LinkClosed):
            use()
