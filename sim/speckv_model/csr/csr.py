"""MMIO space of the emulated device: registers, command queue, counters and error records."""

from ..constants import ErrorKind
from .commands import CommandProcessor
from .counters import Counters
from .description import REGISTER_BYTES, Access
from .error_log import ErrorLog
from .registers import (
    ADDRESS_BITS,
    COMMAND_COUNT_BITS,
    COMMAND_SLOT_BASE,
    COMMAND_SLOT_BYTES,
    COMMAND_WORDS,
    COMPLETION_BASE,
    COMPLETION_WORD,
    MMIO_BYTES,
    REGISTERS,
    unpack_command,
)

_COUNT_MASK = (1 << COMMAND_COUNT_BITS) - 1


class CsrModel:
    """Answers MMIO as the RTL does; a submitted command is complete when the doorbell write returns.

    Parameters
    ----------
    config : DeviceConfig
    contexts, device_ops
        See `CommandProcessor`; ``device_ops.free_sectors()`` says how many pool sectors are free.

    Attributes
    ----------
    errors : ErrorLog
    counters : Counters
    hdm_base : int
        Byte address at which the window begins.
    hdm_committed : bool
        Whether the window is in use.
    prefetch_enable : bool
    """

    def __init__(self, config, contexts, device_ops):
        self._config = config
        self._device = device_ops
        self.errors = ErrorLog()
        self.counters = Counters()
        self._commands = CommandProcessor(config, contexts, device_ops, self.errors)
        self._held = {register.name: register.reset_value(config)
                      for register in REGISTERS.having(Access.CONSTANT, Access.RW)}
        self._slots = [[0] * len(COMMAND_WORDS) for _ in range(config.command_slots)]
        self._completions = [0] * config.command_slots
        self._tail = self._head = 0
        self.hdm_base = REGISTERS.HDM_BASE.reset_value(config)
        self._hdm_commit = True

    @property
    def prefetch_enable(self):
        return bool(REGISTERS.CONTROL.field("prefetch_enable").extract(self._held["CONTROL"]))

    @property
    def hdm_committed(self):
        return self._hdm_commit and self._hdm_fits

    @property
    def _hdm_fits(self):
        return self.hdm_base + self._config.window_bytes <= 1 << ADDRESS_BITS

    def mmio_read(self, address):
        """The 64-bit word at byte `address` of MMIO space: zero, and an error record, where nothing is."""
        kind, index = self._decode(address)
        match kind:
            case "register":
                return self._read_register(index)
            case "completion":
                return self._completions[index]
            case "command":
                return 0
        self.errors.record(ErrorKind.MMIO_ADDRESS, address, 0)
        return 0

    def mmio_write(self, address, value):
        """Writes the 64-bit `value` at byte `address` of MMIO space: an error record where nothing is."""
        kind, index = self._decode(address)
        match kind:
            case "register":
                self._write_register(index, value)
            case "command":
                slot, word = index
                self._completions[slot] = 0
                if word < len(COMMAND_WORDS):
                    self._slots[slot][word] = value
            case None:
                self.errors.record(ErrorKind.MMIO_ADDRESS, address, 1)

    def _decode(self, address):
        """What answers at `address`: its kind and which of that kind; (None, None) if nothing does."""
        if not 0 <= address < MMIO_BYTES:
            raise ValueError(f"address must be from 0 to {MMIO_BYTES - 1}, not {address!r}")
        if REGISTERS.at(address) is not None:
            return "register", REGISTERS.at(address)
        slots = self._config.command_slots
        if address % REGISTER_BYTES == 0:
            slot, byte = divmod(address - COMMAND_SLOT_BASE, COMMAND_SLOT_BYTES)
            if 0 <= slot < slots:
                return "command", (slot, byte // REGISTER_BYTES)
            slot = (address - COMPLETION_BASE) // REGISTER_BYTES
            if 0 <= slot < slots:
                return "completion", slot
        return None, None

    def _read_register(self, register):
        if register.access == Access.COUNTER:
            return self.counters[register.name]
        if register.name in self._held:
            return self._held[register.name]
        errors = self.errors
        match register.name:
            case "STATUS":
                free, low_water = self._device.free_sectors(), self._held["POOL_LOW_WATER"]
                return register.pack(ready=1, busy=0, pool_low=free < low_water, error=errors.count > 0)
            case "HDM_BASE":
                return self.hdm_base
            case "HDM_CONTROL":
                return register.pack(commit=self._hdm_commit, committed=self.hdm_committed,
                                     error=self._hdm_commit and not self._hdm_fits)
            case "COMMAND_TAIL":
                return self._tail
            case "COMMAND_HEAD":
                return self._head
            case "POOL_FREE_SECTORS":
                return self._device.free_sectors()
            case "ERROR_COUNT":
                return errors.count
            case "ERROR_FIRST" | "ERROR_LAST":
                record = errors.first if register.name == "ERROR_FIRST" else errors.last
                return register.pack(kind=record.kind, detail=record.detail, valid=errors.count > 0)
            case "ERROR_FIRST_ADDRESS":
                return errors.first.address
            case "ERROR_LAST_ADDRESS":
                return errors.last.address
        return 0

    def _write_register(self, register, value):
        if register.access == Access.RW:
            self._held[register.name] = value & sum(field.mask for field in register.fields)
            return
        match register.name:
            case "HDM_BASE" if not self.hdm_committed:
                self.hdm_base = value & register.field("base").mask
            case "HDM_CONTROL":
                self._hdm_commit = bool(register.field("commit").extract(value))
            case "COMMAND_TAIL":
                self._doorbell(value & _COUNT_MASK)
            case "ERROR_CLEAR" if value & 1:
                self.errors.clear()
            case "COUNTERS_CLEAR" if value & 1:
                self.counters.clear()

    def _doorbell(self, tail):
        ahead = (tail - self._head) & _COUNT_MASK
        if ahead > self._config.command_slots:
            self.errors.record(ErrorKind.COMMAND, REGISTERS.COMMAND_TAIL.offset, tail)
            return
        self._tail = tail
        while self._head != self._tail:
            slot = self._head % self._config.command_slots
            command = unpack_command(self._slots[slot])
            status = self._commands.execute(command)
            self._completions[slot] = COMPLETION_WORD.pack(
                status=status, opcode=command["opcode"], tag=command["tag"], done=1)
            self._head = (self._head + 1) & _COUNT_MASK
