"""What the host sees when the simulated device dies, stops, hangs or breaks a protocol."""

import os
import signal
import time

import numpy as np
import pytest
from loopback_device import MODE, Mode, loopback_executable

from speckv.errors import LinkError, LinkTimeout, SimulationDied
from speckv.link.simulated import SimulatedLink
from speckv_model.config import DeviceConfig
from speckv_model.cxl.messages import reads, writes

CONFIG = DeviceConfig.small()
LINES = np.zeros((100, 64), np.uint8)
ADDRESSES = np.arange(100) * 64


@pytest.fixture(scope="module")
def executable():
    return loopback_executable(CONFIG)


@pytest.fixture
def open_link(executable):
    links = []

    def start(mode=Mode.WELL, **options):
        link = SimulatedLink(CONFIG, executable=executable, **options)
        links.append(link)
        if mode:
            link.mmio_write(MODE, mode)
        return link
    yield start
    for link in links:
        link.close()


def assert_unusable(link):
    for method, arguments in (("submit", [reads([0])]), ("mmio_read", [0]), ("reset", []), ("run", [1])):
        with pytest.raises(LinkError, match="failed before"):
            getattr(link, method)(*arguments)
    with pytest.raises(ProcessLookupError):
        os.kill(link.pid, 0)


def test_killed(open_link):
    link = open_link()
    link.submit(writes(ADDRESSES, LINES))
    os.kill(link.pid, signal.SIGKILL)
    with pytest.raises(SimulationDied, match="signal 9") as caught:
        for _ in range(2):
            link.submit(reads(ADDRESSES))
    assert caught.value.exit_code == -signal.SIGKILL
    assert_unusable(link)


@pytest.mark.parametrize("size", [1, 100_000])
def test_stopped(open_link, size):
    link = open_link(timeout_s=1.0)
    os.kill(link.pid, signal.SIGSTOP)
    begin = time.monotonic()
    with pytest.raises(LinkTimeout, match="no sign of life from the simulated device for 1.0 s"):
        link.submit(reads(np.arange(size) % 64 * 64))
    assert time.monotonic() - begin < 5
    assert_unusable(link)


def test_slow_is_not_dead(open_link):
    link = open_link(timeout_s=1.0)
    seconds, clocks = 0.0, 1_000_000
    while seconds < 1.5:
        begin = time.monotonic()
        link.run(clocks)
        seconds = time.monotonic() - begin
        clocks = int(clocks * min(10, 2 / seconds))


def test_died_with_its_last_words(tmp_path):
    script = tmp_path / "device"
    script.write_text("#!/bin/sh\nfor i in $(seq 50); do echo line $i >&2; done\nexit 3\n")
    script.chmod(0o755)
    with pytest.raises(SimulationDied, match="(?s)exit code 3:\nline 31\n.*line 50$") as caught:
        SimulatedLink(CONFIG, executable=script)
    assert caught.value.exit_code == 3


def test_requests_that_are_never_answered(open_link):
    link = open_link(Mode.SWALLOW, hang_clocks=10_000)
    with pytest.raises(LinkError, match=r"no progress for 10000 clocks: 16 requests outstanding, "
                                        r"first tag 0x0000 \(Req opcode 1, address 0x0\)$"):
        link.submit(reads(ADDRESSES))
    assert_unusable(link)


def test_requests_that_are_never_accepted(open_link):
    link = open_link(Mode.REFUSE, hang_clocks=10_000)
    with pytest.raises(LinkError, match=r"no progress for 10000 clocks; not accepted: "
                                        r"tag 0x0000 \(RwD opcode 1, address 0x40\)$"):
        link.submit(writes(ADDRESSES[1:], LINES[1:]))
    assert_unusable(link)


def test_mmio_that_is_never_answered(open_link):
    link = open_link(Mode.MUTE, hang_clocks=10_000)
    with pytest.raises(LinkError, match="no progress for 10000 clocks: MMIO read of 0x0008 is not accepted"):
        link.mmio_read(8)
    assert_unusable(link)


def test_a_response_to_nobody(open_link):
    link = open_link(Mode.TWICE)
    with pytest.raises(LinkError, match="S2M NDR with tag 0x0000: nobody waits for it"):
        link.submit(writes(ADDRESSES, LINES))
    assert_unusable(link)


def test_a_response_of_the_wrong_kind(open_link):
    link = open_link()
    requests = reads(ADDRESSES)
    requests["expect"] = 1
    with pytest.raises(LinkError, match="S2M DRS with tag 0x0000: of the wrong kind"):
        link.submit(requests)
    assert_unusable(link)


def test_a_burst_that_crosses_a_page(open_link):
    link = open_link(Mode.CROSS)
    with pytest.raises(LinkError, match="AXI AR: the burst of 64 at 0x40 crosses 4 KiB"):
        link.submit(reads([64]))
    assert_unusable(link)


def test_an_offer_that_is_withdrawn(open_link):
    link = open_link(Mode.WITHDRAW, stall=500)
    with pytest.raises(LinkError, match="S2M DRS: valid fell before the payload was accepted"):
        link.submit(reads(np.arange(1000) % 64 * 64))
    assert_unusable(link)
