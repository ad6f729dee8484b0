"""The device's command queue: fill slots, ring the doorbell, wait, read the completions."""

from speckv_model.constants import Opcode, Status
from speckv_model.csr.description import REGISTER_BYTES
from speckv_model.csr.registers import (
    COMMAND_COUNT_BITS,
    COMPLETION_WORD,
    REGISTERS,
    command_slot_offset,
    completion_offset,
    pack_command,
)

from .errors import CommandError, LinkError

COUNT_MASK = (1 << COMMAND_COUNT_BITS) - 1


class CommandQueue:
    """Runs commands on the device behind `link`, as many at once as its queue holds.

    Parameters
    ----------
    link : Link
    on_reset : callable
        Called where the device was reset since the last command; raises.
    max_clocks : int
        How long a batch of commands may take, device clocks.
    """

    def __init__(self, link, on_reset, max_clocks=20_000_000):
        self._on_reset = on_reset
        self._link = link
        self._slots = link.config.command_slots
        self._max_clocks = max_clocks
        self._tail = self._read_tail()

    @property
    def was_reset(self):
        """Whether the device has forgotten the commands that it was given."""
        return self._read_tail() != self._tail

    def restart(self):
        """Begins anew, after a reset of the device."""
        self._tail = self._read_tail()

    def run(self, *commands):
        """Runs `commands` (dictionaries of the fields of `COMMAND_WORDS`) in order and waits for their end.

        Raises
        ------
        CommandError
            The first status other than OK. The other commands of the same call have been run nevertheless.
        LinkTimeout
            The device did not finish in time.
        ContextsLost
            The device has been reset since the last command; none of `commands` was run.
        """
        if self.was_reset:
            self._on_reset()
        failed = None
        for i in range(0, len(commands), self._slots):
            batch = commands[i:i + self._slots]
            for command, status in zip(batch, self._run_batch(batch)):
                if status != Status.OK and failed is None:
                    failed = CommandError(command["opcode"], status, command)
        if self._tail == 0:
            # What the tail is after a reset must not be what it is otherwise.
            self._run_batch([{"opcode": Opcode.NOP}])
        if failed is not None:
            raise failed

    def _read_tail(self):
        return self._link.mmio_read(REGISTERS.COMMAND_TAIL.offset) & COUNT_MASK

    def _run_batch(self, batch):
        numbers = [self._tail + i & COUNT_MASK for i in range(len(batch))]
        for number, command in zip(numbers, batch):
            slot = command_slot_offset(number % self._slots)
            for word, value in enumerate(pack_command(**command, tag=number)):
                self._link.mmio_write(slot + word * REGISTER_BYTES, value)
        self._tail = self._tail + len(batch) & COUNT_MASK
        self._link.mmio_write(REGISTERS.COMMAND_TAIL.offset, self._tail)
        self._link.mmio_poll(REGISTERS.COMMAND_HEAD.offset, COUNT_MASK, self._tail, self._max_clocks)
        return [self._status(number) for number in numbers]

    def _status(self, number):
        completion = COMPLETION_WORD.unpack(self._link.mmio_read(completion_offset(number % self._slots)))
        if not completion["done"] or completion["tag"] != number:
            raise LinkError(f"command {number} was counted as complete, but its completion is {completion!r}")
        return completion["status"]
