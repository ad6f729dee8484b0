"""The link to the simulated device: Verilated RTL and a DRAM model in a process of their own."""

import enum
import os
import socket
import struct
import subprocess
import tempfile
import weakref

import numpy as np

from speckv_model.cxl.messages import RESPONSE
from speckv_sim.build import build

from ..errors import LinkError, LinkTimeout, SimulationDied
from .base import DRAM_RESPONSES, Link

PROTOCOL_VERSION = 4
_COMMAND = struct.Struct("<IIQQQQ")
_REPLY = struct.Struct("<IIQQ")
_BATCH = 16384
"""Requests sent at once; a batch that is longer goes in parts, each of which completes before the next."""
_PIECE = 1 << 24
"""Bytes of DRAM moved at once."""
_STDERR_LINES = 20

DRAM_COUNTS = np.dtype([(name, "<u8") for name in (
    "lines_read", "lines_written", "bytes_written", "read_bursts", "write_bursts", "most_read_bursts",
    "failed_lines_read", "failed_write_bursts", "unanswered_bursts")])
"""What passed between the device and its DRAM: whole lines, bytes enabled in those written, bursts, the most read
bursts that were accepted and whose last data the device had not yet taken at one time, lines read and bursts written
with an error as the answer, and bursts that were not answered."""


class _Op(enum.IntEnum):
    """As in sim/speckv_sim/harness/protocol.h, which says what they do."""
    RESET = 0
    RUN = 1
    MMIO_READ = 2
    MMIO_WRITE = 3
    MMIO_POLL = 4
    SUBMIT = 5
    DRAM_READ = 6
    DRAM_WRITE = 7
    DRAM_FAIL = 8
    DRAM_HEAL = 9
    SET = 10
    DRAM_COUNTS = 11


class _Setting(enum.IntEnum):
    LATENCY = 0
    JITTER = 1
    BYTES_PER_CLOCK = 2
    IN_FLIGHT = 3
    IDLE = 4
    STALL = 5
    HANG_CLOCKS = 6
    SEED = 7


class _Status(enum.IntEnum):
    OK = 0
    FAILED = 1
    TIMEOUT = 2
    PROGRESS = 3


_LIMITS = {
    _Setting.LATENCY: (1, 1 << 20),
    _Setting.JITTER: (0, 1 << 20),
    _Setting.BYTES_PER_CLOCK: (1, 64),
    _Setting.IN_FLIGHT: (1, 1 << 14),
    _Setting.IDLE: (0, 999),
    _Setting.STALL: (0, 999),
    _Setting.HANG_CLOCKS: (1, 1 << 40),
    _Setting.SEED: (0, (1 << 64) - 1),
}


class SimulatedLink(Link):
    """Starts a simulated device and talks to it. The device starts out of reset.

    The first use of a configuration builds the device, which takes minutes; see `speckv_sim.build`.

    Parameters
    ----------
    config : DeviceConfig
        The device.
    latency : int
        Clocks from DRAM's acceptance of an address to its first data, and from the last data written to the
        response.
    jitter : int
        DRAM adds 0 to `jitter` clocks to each burst, at random; then bursts with different AXI ids overtake
        each other.
    bytes_per_clock : int
        Bandwidth of DRAM, reads and writes together, 1 to 64.
    in_flight : int, optional
        Most unfinished requests of each channel; ``config.requests_in_flight`` if not given.
    idle, stall : int
        Permille of the clocks in which the host offers no new request, or takes no response, at random.
    seed : int
        Of everything random in the simulation.
    dram_init : str
        What DRAM holds at first: ``random`` or ``zero``.
    hang_clocks : int
        Clocks without any progress after which outstanding requests, or MMIO, count as hung: `LinkError`.
    timeout_s : float
        Seconds without a sign of life from the process that count as its death: `LinkTimeout`.
    random_reset : bool
        Build the device without initial values: see `speckv_sim.build.build`.
    executable : path-like, optional
        The simulation to start, instead of one that is built from `config`.

    Raises
    ------
    speckv_sim.build.BuildError
        The device could not be built.
    """

    def __init__(self, config, *, latency=100, jitter=0, bytes_per_clock=64, in_flight=None, idle=0, stall=0,
                 seed=1, dram_init="random", hang_clocks=1_000_000, timeout_s=60.0, random_reset=False,
                 executable=None):
        super().__init__(config)
        if dram_init not in ("random", "zero"):
            raise ValueError(f"dram_init must be 'random' or 'zero', not {dram_init!r}")
        self._clocks = 0
        self._failure = None
        executable = executable or build(config, random_reset)
        noise = (int(seed) % (1 << 63)) * 2 + 1 if dram_init == "random" else 0
        self._stderr = tempfile.TemporaryFile()
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(timeout_s)
        self._timeout_s = timeout_s
        with theirs:
            arguments = theirs.fileno(), config.dram_bytes, noise, seed
            self._process = subprocess.Popen(
                [str(executable), *map(str, arguments)], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=self._stderr, stderr=self._stderr)
        # Also runs when the link is garbage and when Python exits.
        self._end = weakref.finalize(self, _end, self._process, self._socket, self._stderr, os.getpid())
        version, _ = self._converse()
        if version != PROTOCOL_VERSION:
            self.close()
            raise LinkError(f"the simulation speaks protocol version {version}, not {PROTOCOL_VERSION}")
        self.configure(latency=latency, jitter=jitter, bytes_per_clock=bytes_per_clock,
                       in_flight=in_flight or config.requests_in_flight, idle=idle, stall=stall,
                       hang_clocks=hang_clocks, seed=seed)

    def configure(self, **settings):
        """Changes settings of the simulation from now on.

        Takes `latency`, `jitter`, `bytes_per_clock`, `in_flight`, `idle`, `stall`, `hang_clocks` and `seed`,
        with the meaning that they have for the class. Raises `ValueError` where one is out of range.
        """
        for name, value in settings.items():
            if name.upper() not in _Setting.__members__:
                known = ", ".join(setting.name.lower() for setting in _Setting)
                raise TypeError(f"setting must be one of {known}, not {name!r}")
            setting = _Setting[name.upper()]
            low, high = _LIMITS[setting]
            if not low <= value <= high:
                raise ValueError(f"{name} must be from {low} to {high}, not {value!r}")
            self._call(_Op.SET, setting, int(value))

    @property
    def pid(self):
        """Process number of the simulation."""
        return self._process.pid

    # CXL.mem
    def submit(self, requests):
        self._check_open()
        requests = self._check_requests(requests)
        responses = np.empty(requests.size, RESPONSE)
        clocks = self._clocks
        for begin in range(0, requests.size, _BATCH):
            part, before = slice(begin, begin + _BATCH), self._clocks - clocks
            self._call(_Op.SUBMIT, payload=requests[part], answer=responses[part])
            responses["accepted"][part] += np.uint32(before)
        return responses

    def submit_and_reset(self, requests, clocks):
        """Sends up to 16384 `requests` and resets the device after `clocks` clocks, or once all are answered.

        Returns what came back until then: `RESPONSE`, with `kind` 0 where nothing came.
        """
        self._check_open()
        requests = self._check_requests(requests)
        if requests.size > _BATCH:
            raise ValueError(f"requests must be at most {_BATCH}, not {requests.size}")
        if clocks < 1:
            raise ValueError(f"clocks must be positive, not {clocks!r}")
        responses = np.empty(requests.size, RESPONSE)
        self._call(_Op.SUBMIT, clocks, payload=requests, answer=responses)
        return responses

    def submit_and_write(self, requests, clocks, address, value):
        """As `submit` of up to 16384 `requests`, and `clocks` clocks after its begin writes `value` to a register.

        Waits for the responses, but for nothing that the register sets off.
        """
        self._check_open()
        self._check_mmio(address, value)
        requests = self._check_requests(requests)
        if requests.size > _BATCH:
            raise ValueError(f"requests must be at most {_BATCH}, not {requests.size}")
        if clocks < 1:
            raise ValueError(f"clocks must be positive, not {clocks!r}")
        responses = np.empty(requests.size, RESPONSE)
        self._call(_Op.SUBMIT, 0, clocks, address, value, payload=requests, answer=responses)
        return responses

    # MMIO
    def mmio_read(self, address):
        self._check_mmio(address)
        return self._call(_Op.MMIO_READ, address)

    def mmio_write(self, address, value):
        self._check_mmio(address, value)
        self._call(_Op.MMIO_WRITE, address, value)

    def mmio_poll(self, address, mask, value, max_clocks=1_000_000):
        self._check_mmio(address, mask, value)
        if max_clocks < 0:
            raise ValueError(f"max_clocks must not be negative, not {max_clocks!r}")
        return self._call(_Op.MMIO_POLL, address, mask, value, max_clocks)

    # The clock
    @property
    def clocks(self):
        return self._clocks

    def run(self, clocks):
        if clocks < 0:
            raise ValueError(f"clocks must not be negative, not {clocks!r}")
        self._call(_Op.RUN, clocks)

    def reset(self):
        self._call(_Op.RESET)

    # Device DRAM, for tests
    def dram_read(self, address, count):
        self._check_dram(address, count)
        data = np.empty(count, np.uint8)
        for begin in range(0, count, _PIECE):
            piece = data[begin:begin + _PIECE]
            self._call(_Op.DRAM_READ, address + begin, piece.size, answer=piece)
        return data.tobytes()

    def dram_write(self, address, data):
        data = np.frombuffer(data, np.uint8)
        self._check_dram(address, data.size)
        for begin in range(0, data.size, _PIECE):
            self._call(_Op.DRAM_WRITE, address + begin, payload=data[begin:begin + _PIECE])

    def dram_fail(self, line, count, reads=True, writes=False, response="slverr"):
        self._check_dram(line * 64, count * 64)
        self._check_response(response)
        self._call(_Op.DRAM_FAIL, line, count, bool(reads) + 2 * bool(writes), DRAM_RESPONSES[response])

    def dram_heal(self):
        self._call(_Op.DRAM_HEAL)

    def dram_counts(self, line=0):
        """What DRAM took and gave since the last call: `DRAM_COUNTS`, (2,).

        The first part is for lines below the `line` of the last call (0 at first), the second for the others; a
        burst counts where it begins.
        """
        self._check_dram(line * 64, 0)
        counts = np.empty(2, DRAM_COUNTS)
        self._call(_Op.DRAM_COUNTS, line, answer=counts)
        return counts

    # Its end
    def close(self):
        self._closed = True
        self._end()

    # The socket
    def _call(self, op, a=0, b=0, c=0, d=0, payload=None, answer=None):
        """Sends a command with array `payload`, fills array `answer`, returns the value of the reply."""
        self._check_open()
        if self._failure:
            raise LinkError(f"the link failed before: {self._failure}")
        data = b"" if payload is None else memoryview(payload.view(np.uint8))
        value, status = self._converse(_COMMAND.pack(op, len(data), a, b, c, d), data, answer)
        if status == _Status.TIMEOUT:
            raise LinkTimeout(f"the register at {a:#06x} is {value:#x} after {d} clocks, "
                              f"not {c:#x} under the mask {b:#x}")
        return value

    def _converse(self, command=b"", data=b"", answer=None):
        """One command and its reply; the simulation ends if anything but both of them as a whole happens."""
        try:
            self._socket.sendall(command)
            self._socket.sendall(data)
            return self._receive(answer)
        except TimeoutError:
            error = LinkTimeout(f"no sign of life from the simulated device for {self._timeout_s} s")
        except ConnectionError:
            error = self._death()
        except BaseException as other:
            self._fail(other)
            raise
        raise self._fail(error)

    def _receive(self, answer=None):
        while True:
            header = bytearray(_REPLY.size)
            self._fill(memoryview(header))
            status, count, value, self._clocks = _REPLY.unpack(header)
            if status != _Status.PROGRESS:
                break
        if status == _Status.FAILED:
            text = bytearray(count)
            self._fill(memoryview(text))
            raise LinkError(text.decode(errors="replace"))
        if count:
            self._fill(memoryview(answer.view(np.uint8)))
        return value, status

    def _fill(self, view):
        while view:
            got = self._socket.recv_into(view)
            if not got:
                raise ConnectionResetError
            view = view[got:]

    def _fail(self, error):
        """Ends the simulation, after `error`, which it returns."""
        self._failure = str(error) or type(error).__name__
        self._end()
        return error

    def _death(self):
        try:
            exit_code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return LinkError("the simulated device closed the link")
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").splitlines()
        return SimulationDied(exit_code, "\n".join(lines[-_STDERR_LINES:]))


def _end(process, connection, stderr, owner):
    """Ends the simulation, but not from a fork of the process that started it."""
    connection.close()
    stderr.close()
    if os.getpid() == owner:
        process.kill()
        process.wait()
