"""The command queue in MMIO space: slots, doorbell and completion words."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from speckv_hw.csr.command import Command, Completion
from speckv_hw.stream import transfer
from speckv_hw.types import Status
from speckv_model.csr.description import REGISTER_BITS
from speckv_model.csr.registers import COMMAND_COUNT_BITS, COMMAND_SLOT_WORDS, COMMAND_WORDS, COMPLETION_WORD


class _Finished(data.Struct):
    """What the memory of completion words holds."""
    status: Status
    opcode: 8
    tag: 16


class CommandQueue(wiring.Component):
    """Takes commands out of their slots one at a time, in order, and keeps how they ended.

    A command is offered `latency` clocks after its doorbell if the queue was empty, and accepted together
    with its completion; then the next one follows. Empty on reset, and no completion word is set.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    slot, word : In
        Which word of which slot.
    write : In
        Writes `data` there, and clears the slot's completion word.
    data : In
    completion_word : Out
        Completion word of the `slot` of the clock before.
    doorbell : In
        Submits the commands up to number `new_tail`.
    new_tail : In
    refused : Out
        Not so: that is more than the slots hold, or behind `tail`. Combinational.
    tail, head : Out
        Commands submitted and completed, modulo 2^16.
    enable : In
        Commands are offered; otherwise they wait.
    command : Out(stream(Command))
    completion : In(stream(Completion))
        Transferred in the clock in which `command` is.
    """

    latency = len(COMMAND_WORDS) + 2

    def __init__(self, config):
        self._slots = config.command_slots
        super().__init__({
            "slot": In(range(self._slots)),
            "word": In(range(COMMAND_SLOT_WORDS)),
            "write": In(1),
            "data": In(REGISTER_BITS),
            "completion_word": Out(REGISTER_BITS),
            "doorbell": In(1),
            "new_tail": In(COMMAND_COUNT_BITS),
            "refused": Out(1),
            "tail": Out(COMMAND_COUNT_BITS),
            "head": Out(COMMAND_COUNT_BITS),
            "enable": In(1),
            "command": Out(stream.Signature(Command)),
            "completion": In(stream.Signature(Completion)),
        })

    def elaborate(self, platform):
        m = Module()
        serving = Signal(range(self._slots))
        m.d.comb += serving.eq(self.head)
        self._doorbell(m)
        self._fetch(m, serving)
        self._complete(m, serving)
        return m

    def _doorbell(self, m):
        submitted = Signal(COMMAND_COUNT_BITS)
        asked = Signal(COMMAND_COUNT_BITS)
        m.d.comb += [
            submitted.eq(self.tail - self.head),
            asked.eq(self.new_tail - self.head),
            self.refused.eq((asked > self._slots) | (asked < submitted)),
        ]
        with m.If(self.doorbell & ~self.refused):
            m.d.sync += self.tail.eq(self.new_tail)

    def _fetch(self, m, serving):
        """Reads the words of the slot that is served, one a clock, and offers the command that they make."""
        depth = self._slots * COMMAND_SLOT_WORDS
        m.submodules.words = words = Memory(shape=REGISTER_BITS, depth=depth, init=[])
        write_port = words.write_port()
        read_port = words.read_port()
        asking = Signal(range(COMMAND_SLOT_WORDS))
        got = Signal(range(COMMAND_SLOT_WORDS))
        m.d.comb += [
            write_port.addr.eq(Cat(self.word, self.slot)),
            write_port.data.eq(self.data),
            write_port.en.eq(self.write),
            read_port.addr.eq(Cat(asking, serving)),
        ]
        m.d.sync += got.eq(asking)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(self.enable & (self.tail != self.head)):
                    m.d.sync += asking.eq(asking + 1)
                    m.next = "READ"
            with m.State("READ"):
                m.d.sync += asking.eq(asking + 1)
                with m.Switch(got):
                    for n, register in enumerate(COMMAND_WORDS):
                        with m.Case(n):
                            for field in register.fields:
                                value = read_port.data[field.lsb:field.lsb + field.width]
                                m.d.sync += Value.cast(self.command.payload[field.name]).eq(value)
                with m.If(got == len(COMMAND_WORDS) - 1):
                    m.next = "OFFER"
            with m.State("OFFER"):
                m.d.sync += asking.eq(0)
                m.d.comb += [self.command.valid.eq(1), self.completion.ready.eq(1)]
                with m.If(transfer(self.completion)):
                    m.d.sync += self.head.eq(self.head + 1)
                    m.next = "IDLE"

    def _complete(self, m, serving):
        """Keeps how commands ended and shows it."""
        m.submodules.finished = finished = Memory(shape=_Finished, depth=self._slots, init=[])
        write_port = finished.write_port()
        read_port = finished.read_port()
        done = Signal(self._slots)
        shown = Signal()
        m.d.comb += [
            write_port.addr.eq(serving),
            write_port.data.status.eq(self.completion.payload.status),
            write_port.data.opcode.eq(self.command.payload.opcode),
            write_port.data.tag.eq(self.command.payload.tag),
            write_port.en.eq(transfer(self.completion)),
            read_port.addr.eq(self.slot),
        ]
        with m.If(transfer(self.completion)):
            m.d.sync += done.bit_select(serving, 1).eq(1)
        with m.If(self.write):
            m.d.sync += done.bit_select(self.slot, 1).eq(0)
        m.d.sync += shown.eq(done.bit_select(self.slot, 1))
        with m.If(shown):
            m.d.comb += self._completion_field("done").eq(1)
            for name in ("status", "opcode", "tag"):
                m.d.comb += self._completion_field(name).eq(Value.cast(read_port.data[name]))

    def _completion_field(self, name):
        field = COMPLETION_WORD.field(name)
        return self.completion_word[field.lsb:field.lsb + field.width]
