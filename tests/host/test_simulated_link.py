"""The link, the harness and its DRAM model, around a device that stores lines as they are."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from loopback_device import CLOCKS, SCRATCH, loopback_executable

from speckv.errors import LinkClosed, LinkError, LinkTimeout
from speckv.link.simulated import SimulatedLink
from speckv_model.config import DeviceConfig
from speckv_model.constants import MetaField, NdrOpcode, ReqOpcode, SnpType
from speckv_model.cxl.messages import REQUEST, Channel, Expect, expected, hints, reads, writes
from speckv_sim.build import BuildError, build_verilog, without_initial_values

SEED = int(os.environ.get("SPECKV_SEED", "1"))
CONFIG = DeviceConfig.small()
LINES = 1 << 14
"""Lines that the loopback device tells apart: its DRAM, rounded down to a power of two."""


@pytest.fixture(scope="module")
def executable():
    return loopback_executable(CONFIG)


@pytest.fixture
def open_link(executable):
    links = []

    def start(**options):
        links.append(SimulatedLink(CONFIG, executable=executable, seed=SEED, **options))
        return links[-1]
    yield start
    for link in links:
        link.close()


@pytest.fixture
def link(open_link):
    return open_link()


@pytest.fixture
def rng():
    return np.random.default_rng(SEED)


def random_lines(rng, count):
    return rng.integers(0, 256, (count, 64), np.uint8)


def mixed_batch(rng, count, lines):
    """Requests of every kind to `lines` lines; most to few pages, so that order matters."""
    address = rng.integers(0, lines, count, np.uint64) * np.uint64(64)
    enable = rng.integers(0, 1 << 63, count, np.uint64) * np.uint64(2) + np.uint64(1)
    kinds = np.stack([
        reads(address, ld_id=3),
        reads(address),
        hints(address),
        writes(address, random_lines(rng, count), ld_id=5),
        writes(address, random_lines(rng, count), byte_enable=enable),
    ])
    kinds[1]["meta_field"], kinds[1]["snp_type"] = MetaField.META0_STATE, SnpType.INV
    kinds[1]["expect"] = expected(kinds[1])
    return kinds[rng.integers(0, len(kinds), count), np.arange(count)]


def reference(requests, memory):
    """What reads must return if requests take effect one by one; `memory` (uint8, (lines, 64)) is changed."""
    data = np.zeros((requests.size, 64), np.uint8)
    for i, request in enumerate(requests):
        line = int(request["address"]) // 64
        if request["channel"] == Channel.REQ:
            data[i] = memory[line]
        else:
            enabled = request["byte_enable"] >> np.arange(64, dtype=np.uint64) & np.uint64(1) != 0
            memory[line, enabled] = request["data"][enabled]
    return data


@pytest.mark.parametrize("traffic", [
    dict(),
    dict(idle=300, stall=300),
    dict(jitter=200, latency=3),
    dict(bytes_per_clock=8, in_flight=64, jitter=10),
    dict(in_flight=1, latency=1),
], ids=str)
def test_requests_to_a_page_take_effect_in_order(open_link, rng, traffic):
    link = open_link(**traffic)
    lines = 3 * 64
    memory = random_lines(rng, lines)
    link.dram_write(0, memory.tobytes())
    for _ in range(3):
        requests = mixed_batch(rng, 2000, lines)
        responses = link.submit(requests)
        data = reference(requests, memory)
        is_read = requests["expect"] & Expect.DRS != 0
        assert np.array_equal(responses["kind"], requests["expect"])
        assert np.array_equal(responses["data"][is_read], data[is_read])
        answered = requests["expect"] != 0
        assert np.array_equal(responses["ld_id"][answered], requests["ld_id"][answered])
    assert np.array_equal(np.frombuffer(link.dram_read(0, lines * 64), np.uint8).reshape(lines, 64), memory)


def test_long_batches_are_complete_and_in_order(link, rng):
    data = random_lines(rng, 40_000)
    address = np.arange(40_000) % LINES * 64
    assert (link.submit(writes(address, data))["kind"] == Expect.NDR).all()
    assert np.array_equal(link.submit(reads(address[-LINES:]))["data"], data[-LINES:])


def test_an_empty_batch_gets_an_empty_answer(link):
    clocks = link.clocks
    assert link.submit(np.zeros(0, REQUEST)).size == 0
    assert link.clocks == clocks


def test_responses_carry_their_fields(link):
    request = reads([0x1000])
    request["opcode"], request["expect"], request["ld_id"] = ReqOpcode.MEM_INV, Expect.NDR, 9
    response = link.submit(request)[0]
    assert response["kind"] == Expect.NDR
    assert response["ndr_opcode"] == NdrOpcode.CMP_E
    assert response["meta_field"] == MetaField.NO_OP
    assert response["ld_id"] == 9


def test_dram_errors_become_poison_until_healed(link, rng):
    data = random_lines(rng, 8)
    address = np.arange(8) * 64
    link.submit(writes(address, data))
    link.dram_fail(2, 3)
    assert link.submit(reads(address))["poison"].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    link.dram_heal()
    link.dram_fail(1, 1, reads=False, writes=True)
    link.submit(writes(address, data ^ 1))
    responses = link.submit(reads(address))
    assert not responses["poison"].any()
    data[np.arange(8) != 1] ^= 1
    assert np.array_equal(responses["data"], data)


@pytest.mark.parametrize("latency", [1, 50, 400])
def test_latency_of_dram(open_link, latency):
    link = open_link(latency=latency)
    own = 1  # the loopback device has one register stage on the way in and none on the way out
    assert link.submit(reads([0]))["latency"].tolist() == [latency + own]


@pytest.mark.parametrize("width", [8, 16, 24, 64])
def test_bandwidth_of_dram(open_link, rng, width):
    link = open_link(bytes_per_clock=width, in_flight=64, latency=10)
    count = 3000
    address = np.arange(count) * 64
    for requests in (reads(address), writes(address, random_lines(rng, count))):
        before = link.clocks
        link.submit(requests)
        per_line = (link.clocks - before) / count
        assert per_line == pytest.approx(max(64 / width, 1), rel=0.03)
    both = np.empty(2 * count, REQUEST)
    both[0::2], both[1::2] = reads(address), writes(address + (1 << 19), random_lines(rng, count))
    before = link.clocks
    link.submit(both)
    assert (link.clocks - before) / both.size == pytest.approx(64 / width, rel=0.05)


def test_requests_in_flight_are_limited(open_link):
    link = open_link(in_flight=1, latency=100)
    before = link.clocks
    link.submit(reads(np.arange(20) * 64))
    assert link.clocks - before >= 20 * 100
    link.configure(in_flight=16)
    before = link.clocks
    link.submit(reads(np.arange(20) * 64))
    assert link.clocks - before < 3 * 110


def test_responses_say_when_requests_were_accepted(open_link):
    link = open_link(in_flight=1, latency=100)
    responses = link.submit(reads(np.arange(20) * 64))
    # The next one is offered in the clock after the answer.
    assert np.array_equal(np.diff(responses["accepted"]), responses["latency"][:-1] + 1)
    link.configure(in_flight=64)
    responses = link.submit(reads(np.arange(20) * 64))
    assert np.array_equal(responses["accepted"], np.arange(20) + responses["accepted"][0])
    address = np.arange(20_000) % LINES * 64
    before = link.clocks
    accepted = link.submit(reads(address))["accepted"].astype(np.int64)
    assert (np.diff(accepted) > 0).all()
    assert accepted[-1] < link.clocks - before <= accepted[-1] + 110


def test_dram_counts(open_link, rng):
    link = open_link(in_flight=8, latency=100)
    link.submit(writes(np.arange(4) * 64, random_lines(rng, 4), byte_enable=np.full(4, 7, np.uint64)))
    good = 0, 0, 0
    assert link.dram_counts(line=16).tolist() == [(0, 0, 0, 0, 0, 0, *good), (0, 4, 12, 0, 4, 0, *good)]
    link.submit(reads(np.arange(12, 32) * 64))
    assert link.dram_counts().tolist() == [(4, 0, 0, 4, 0, 4, *good), (16, 0, 0, 16, 0, 8, *good)]
    link.dram_fail(2, 3, writes=True, response="decerr")
    link.submit(writes(np.arange(4) * 64, random_lines(rng, 4)))
    link.submit(reads(np.arange(8) * 64))
    assert link.dram_counts()[1].tolist()[6:] == (3, 2, 0)
    link.dram_heal()
    assert not any(map(any, link.dram_counts().tolist()))


def test_mmio(link):
    link.mmio_write(SCRATCH, 0xFEDC_BA98_7654_3210)
    assert link.mmio_read(SCRATCH) == 0xFEDC_BA98_7654_3210
    before = link.clocks
    count = link.mmio_read(CLOCKS)
    assert link.mmio_poll(CLOCKS, 0xFF00, (count & 0xFF00) + 0x100 & 0xFF00) >> 8 == (count >> 8) + 1
    assert 0 < link.clocks - before < 600


def test_a_poll_that_runs_out_leaves_the_link_usable(link):
    link.mmio_write(SCRATCH, 6)
    before = link.clocks
    with pytest.raises(LinkTimeout, match="0x0010 is 0x6 after 500 clocks, not 0x1 under the mask 0x3"):
        link.mmio_poll(SCRATCH, 3, 1, max_clocks=500)
    assert 500 <= link.clocks - before < 520
    assert link.mmio_read(SCRATCH) == 6


def test_run_advances_the_clock(link):
    count = link.mmio_read(CLOCKS)
    before = link.clocks
    link.run(1234)
    assert link.clocks - before >= 1234
    assert link.mmio_read(CLOCKS) - count == link.clocks - before


def test_reset_clears_registers_and_keeps_dram(link, rng):
    data = random_lines(rng, 4)
    link.submit(writes(np.arange(4) * 64, data))
    link.mmio_write(SCRATCH, 1)
    link.reset()
    assert link.mmio_read(SCRATCH) == 0
    assert np.array_equal(link.submit(reads(np.arange(4) * 64))["data"], data)


def test_reset_in_the_middle_of_traffic(link, rng):
    data = random_lines(rng, 1000)
    address = np.arange(1000) * 64
    link.submit(writes(address, data))
    for clocks in (1, 50, 150, 333):
        responses = link.submit_and_reset(reads(address), clocks)
        came = responses["kind"] == Expect.DRS
        assert came.sum() < 100
        assert np.array_equal(responses["data"][came], data[came])
        assert np.array_equal(link.submit(reads(address))["data"], data)


def test_dram_starts_random_or_zero(open_link):
    size = CONFIG.dram_bytes
    noise = open_link().dram_read(0, size)
    assert noise == open_link().dram_read(0, size)
    assert abs(np.frombuffer(noise, np.uint8).mean() - 127.5) < 1
    assert open_link().submit(reads([320]))["data"].tobytes() == noise[320:384]
    assert not any(open_link(dram_init="zero").dram_read(0, size))


def test_dram_bytes_come_back(link):
    noise = link.dram_read(0, 8192)
    link.dram_write(4090, b"across the blocks")
    assert link.dram_read(4090, 17) == b"across the blocks"
    assert link.dram_read(0, 8192) == noise[:4090] + b"across the blocks" + noise[4107:]
    assert link.dram_read(0, 0) == b""


def test_the_same_seed_gives_the_same_clocks(open_link, rng):
    requests = mixed_batch(rng, 500, 64)
    options = dict(idle=100, stall=200, jitter=30)
    first, second = open_link(**options), open_link(**options)
    assert np.array_equal(first.submit(requests), second.submit(requests))
    assert first.clocks == second.clocks


def test_wrong_arguments_are_refused_and_leave_the_link_usable(link):
    bad_address = reads([0])
    for address in (8, 1 << 52):
        bad_address["address"] = address
        with pytest.raises(ValueError, match="addresses must be multiples of 64"):
            link.submit(bad_address)
    bad_channel = reads([0])
    bad_channel["channel"] = 2
    with pytest.raises(ValueError, match="channel must be 0 or 1, not 2"):
        link.submit(bad_channel)
    with pytest.raises(TypeError, match="array of REQUEST"):
        link.submit([1, 2])
    with pytest.raises(ValueError, match="one dimension"):
        link.submit(reads([0])[None])
    with pytest.raises(ValueError, match="multiple of 8"):
        link.mmio_read(4)
    with pytest.raises(ValueError, match="multiple of 8 below"):
        link.mmio_write(1 << 16, 0)
    with pytest.raises(ValueError, match="64 bits"):
        link.mmio_write(0, -1)
    with pytest.raises(ValueError, match="clocks must"):
        link.run(-1)
    with pytest.raises(ValueError, match="max_clocks must"):
        link.mmio_poll(0, 0, 0, -1)
    with pytest.raises(ValueError, match="not inside"):
        link.dram_read(CONFIG.dram_bytes - 1, 2)
    with pytest.raises(ValueError, match="bytes_per_clock must be from 1 to 64"):
        link.configure(bytes_per_clock=65)
    with pytest.raises(TypeError, match="setting must be one of"):
        link.configure(speed=1)
    assert link.submit(reads([0]))["kind"] == Expect.DRS


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid, seconds=5):
    deadline = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(pid)


def test_a_closed_link_is_closed(open_link):
    link = open_link()
    with link:
        assert not link.closed
    assert link.closed
    link.close()
    assert not is_running(link.pid)
    for use in (lambda: link.submit(reads([0])), lambda: link.mmio_read(0), link.reset, lambda: link.run(1)):
        with pytest.raises(LinkClosed):
            use()
    assert issubclass(LinkClosed, LinkError)


def test_a_forgotten_link_ends_its_simulation(executable):
    link = SimulatedLink(CONFIG, executable=executable)
    pid = link.pid
    del link
    assert wait_until_gone(pid)


@pytest.mark.parametrize("work", ["import time; time.sleep(60)", "link.run(1 << 40)"])
def test_the_simulation_ends_with_its_host(executable, work):
    host = subprocess.Popen([sys.executable, "-c", f"""
from speckv.link.simulated import SimulatedLink
from speckv_model.config import DeviceConfig
link = SimulatedLink(DeviceConfig.small(), executable={str(executable)!r})
print(link.pid, flush=True)
{work}
"""], stdout=subprocess.PIPE, text=True)
    with host:
        pid = int(host.stdout.readline())
        assert is_running(pid)
        host.kill()
    assert wait_until_gone(pid)


def test_an_interrupted_link_ends_its_simulation(open_link):
    link = open_link()

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            link.run(1 << 40)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert wait_until_gone(link.pid)
    with pytest.raises(LinkError, match="failed before: KeyboardInterrupt"):
        link.run(1)


def test_a_build_is_made_once(executable):
    before = executable.stat().st_mtime_ns
    assert loopback_executable(CONFIG) == executable
    assert executable.stat().st_mtime_ns == before


EMPTY = "module speckv(clk);\n  input clk;\nendmodule\n"


def test_missing_tools_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SPECKV_BUILD", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuildError, match=r"needs g\+\+, make, perl"):
        build_verilog(EMPTY)


def test_errors_of_the_tools_are_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("SPECKV_BUILD", str(tmp_path))
    with pytest.raises(BuildError, match="(?s)verilator ended with exit code 1:.*syntax error"):
        build_verilog(EMPTY.replace("endmodule", "nonsense\nendmodule"))
    assert not [path for path in tmp_path.rglob("*") if path.is_dir() and path.parent.name == "sim"]


def test_initial_values_are_taken_out_but_for_tables():
    table = """  initial begin
    table[0] = 8'h00;
    table[1] = 8'h41;
  end
"""
    assert without_initial_values("""
  reg [3:0] state = 4'h0;
  wire [3:0] next = 4'h3;
  reg \\seen$1  = 1'h1;
  reg [7:0] memory [1:0];
  initial begin
    memory[0] = 8'h00;
    memory[1] = 8'h00;
  end
""" + table + """  always @* begin
    bits[3] = 1'h0;
  end
""") == """
  reg [3:0] state ;
  wire [3:0] next = 4'h3;
  reg \\seen$1 ;
  reg [7:0] memory [1:0];
""" + table + """  always @* begin
    bits[3] = 1'h0;
  end
"""
