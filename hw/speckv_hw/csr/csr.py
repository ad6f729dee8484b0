"""MMIO space: registers, command queue, counters and error records."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.csr.command import Command, Completion
from speckv_hw.csr.command_queue import CommandQueue
from speckv_hw.csr.counters import Counters, Events
from speckv_hw.csr.error_log import ErrorLog
from speckv_hw.csr.mmio import MmioRequest, MmioResponse
from speckv_hw.csr.register_file import RegisterFile
from speckv_hw.types import TIMEOUT_WIDTH, ErrorKind, ErrorRecord
from speckv_model.csr.description import REGISTER_BITS, REGISTER_BYTES
from speckv_model.csr.registers import (
    ADDRESS_BITS,
    COMMAND_SLOT_BASE,
    COMMAND_SLOT_BYTES,
    COMPLETION_BASE,
    COUNTER_BASE,
    HDM_BASE_ALIGN_BITS,
    REGION_BYTES,
    REGISTER_BASE,
    REGISTERS,
)


class Csr(wiring.Component):
    """Answers MMIO requests, one at a time and in order, and holds what the host sets and sees through them.

    A request is answered `latency` clocks after its acceptance, a read of a counter up to `Counters.latency`
    later; one that is logged waits for the log. An address where nothing is reads as zero and ignores writes;
    that and a refused doorbell leave an error record. Registers have the reset values of their description.

    Parameters
    ----------
    config : DeviceConfig
    records : int
        Number of sources of error records.

    Members
    -------
    mmio_request : In(stream(MmioRequest))
    mmio_response : Out(stream(MmioResponse))
        One for each request.
    command : Out(stream(Command))
    completion : In(stream(Completion))
        To the command engine; see `CommandQueue`.
    record0, record1, ... : In(stream(ErrorRecord))
        Each waits for at most `records` others.
    events : In(Events)
        For the counters.
    ready : In
        The memories are swept; commands wait for it.
    pool_free_sectors : In
    hdm_base : Out
        Byte address at which the window begins.
    hdm_committed : Out
        The window is in use.
    prefetch_enable : Out
    memory_timeout : Out
        Clocks that DRAM may take for an answer; 0: any.
    """

    latency = 3

    def __init__(self, config, records):
        if not isinstance(records, int) or records < 1:
            raise ValueError(f"records must be a positive integer, not {records!r}")
        self._config = config
        self._records = records
        super().__init__({f"record{n}": In(stream.Signature(ErrorRecord)) for n in range(records)} | {
            "mmio_request": In(stream.Signature(MmioRequest)),
            "mmio_response": Out(stream.Signature(MmioResponse)),
            "command": Out(stream.Signature(Command)),
            "completion": In(stream.Signature(Completion)),
            "events": In(Events),
            "ready": In(1),
            "pool_free_sectors": In(range(config.pool_sectors + 1)),
            "hdm_base": Out(ADDRESS_BITS),
            "hdm_committed": Out(1),
            "prefetch_enable": Out(1),
            "memory_timeout": Out(TIMEOUT_WIDTH),
        })

    @property
    def records(self):
        """The streams of error records, in order."""
        return [getattr(self, f"record{n}") for n in range(self._records)]

    def elaborate(self, platform):
        m = Module()
        m.submodules.registers = registers = RegisterFile(self._config)
        m.submodules.queue = queue = CommandQueue(self._config)
        m.submodules.counters = counters = Counters()
        m.submodules.log = log = ErrorLog(self._records + 1)
        for source, sink in zip(self.records, log.records):
            wiring.connect(m, wiring.flipped(source), sink)
        wiring.connect(m, queue.command, wiring.flipped(self.command))
        wiring.connect(m, wiring.flipped(self.completion), queue.completion)

        request = Signal(MmioRequest)
        answer = Signal(REGISTER_BITS)
        aligned = request.address % REGISTER_BYTES == 0
        region = request.address // REGION_BYTES
        is_register = aligned & (region == REGISTER_BASE // REGION_BYTES) & registers.mapped
        is_command = self._is_slot(request, COMMAND_SLOT_BASE, COMMAND_SLOT_BYTES)
        is_completion = self._is_slot(request, COMPLETION_BASE, REGISTER_BYTES)
        own_log = log.records[self._records]
        m.d.comb += [
            registers.word.eq(request.address // REGISTER_BYTES),
            registers.data.eq(request.data),
            queue.slot.eq(Mux(is_command, request.address // COMMAND_SLOT_BYTES,
                              request.address // REGISTER_BYTES)),
            queue.word.eq(request.address // REGISTER_BYTES),
            queue.data.eq(request.data),
            queue.enable.eq(self.ready),
            counters.events.eq(self.events),
            counters.clear.eq(registers.pulses.COUNTERS_CLEAR.clear),
            counters.read.payload.eq(registers.word - COUNTER_BASE // REGISTER_BYTES),
            log.clear.eq(registers.pulses.ERROR_CLEAR.clear),
            own_log.payload.kind.eq(Mux(is_register, ErrorKind.COMMAND, ErrorKind.MMIO_ADDRESS)),
            own_log.payload.address.eq(request.address),
            own_log.payload.detail.eq(Mux(is_register, request.data, request.write)),
            self.mmio_response.payload.data.eq(answer),
        ]
        self._live_values(m, registers, queue, log)
        self._hdm(m, registers)
        self._command_tail(m, registers, queue)
        m.d.comb += [
            self.prefetch_enable.eq(registers.held.CONTROL.prefetch_enable),
            self.memory_timeout.eq(registers.held.MEMORY_TIMEOUT.clocks),
        ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.mmio_request.ready.eq(1)
                m.d.sync += [request.eq(self.mmio_request.payload), answer.eq(0)]
                with m.If(self.mmio_request.valid):
                    m.next = "ACCESS"
            with m.State("ACCESS"):
                m.d.comb += [
                    registers.write.eq(request.write & is_register),
                    queue.write.eq(request.write & is_command),
                ]
                m.next = "ANSWER"
                with m.If(is_register & registers.counter & ~request.write):
                    m.next = "COUNTER"
                with m.If(~(is_register | is_command | is_completion) | (queue.doorbell & queue.refused)):
                    m.next = "LOG"
            with m.State("LOG"):
                m.d.comb += own_log.valid.eq(1)
                with m.If(own_log.ready):
                    m.next = "ANSWER"
            with m.State("COUNTER"):
                m.d.comb += counters.read.valid.eq(1)
                with m.If(counters.read.ready):
                    m.next = "COUNT"
            with m.State("COUNT"):
                m.d.comb += counters.value.ready.eq(1)
                m.d.sync += answer.eq(counters.value.payload)
                with m.If(counters.value.valid):
                    m.next = "RESPOND"
            with m.State("ANSWER"):
                with m.If(~request.write):
                    with m.If(is_register):
                        m.d.sync += answer.eq(registers.value)
                    with m.Elif(is_completion):
                        m.d.sync += answer.eq(queue.completion_word)
                m.next = "RESPOND"
            with m.State("RESPOND"):
                m.d.comb += self.mmio_response.valid.eq(1)
                with m.If(self.mmio_response.ready):
                    m.next = "IDLE"
        return m

    def _is_slot(self, request, base, size):
        """Whether `request` means one of the command slots, each `size` bytes, from `base` on."""
        end = base + self._config.command_slots * size
        return (request.address % REGISTER_BYTES == 0) & (request.address >= base) & (request.address < end)

    def _live_values(self, m, registers, queue, log):
        """What the read-only registers show."""
        live = registers.live
        m.d.comb += [
            live.STATUS.ready.eq(self.ready),
            live.STATUS.busy.eq(queue.head != queue.tail),
            live.STATUS.pool_low.eq(self.pool_free_sectors < registers.held.POOL_LOW_WATER.sectors),
            live.STATUS.error.eq(log.count != 0),
            live.COMMAND_HEAD.head.eq(queue.head),
            live.POOL_FREE_SECTORS.sectors.eq(self.pool_free_sectors),
            live.ERROR_COUNT.count.eq(log.count),
            live.ERROR_FIRST_ADDRESS.address.eq(log.first.address),
            live.ERROR_LAST_ADDRESS.address.eq(log.last.address),
        ]
        for shown, record in ((live.ERROR_FIRST, log.first), (live.ERROR_LAST, log.last)):
            m.d.comb += [
                shown.kind.eq(record.kind.as_value()),
                shown.detail.eq(record.detail),
                shown.valid.eq(log.count != 0),
            ]

    def _hdm(self, m, registers):
        """Base and commitment of the window."""
        base = Signal(ADDRESS_BITS - HDM_BASE_ALIGN_BITS)
        commit = Signal(init=1)
        fits = base <= (1 << ADDRESS_BITS) - self._config.window_bytes >> HDM_BASE_ALIGN_BITS
        with m.If(registers.written.HDM_BASE & ~self.hdm_committed):
            m.d.sync += base.eq(self._written_field(registers, REGISTERS.HDM_BASE.field("base")))
        with m.If(registers.written.HDM_CONTROL):
            m.d.sync += commit.eq(self._written_field(registers, REGISTERS.HDM_CONTROL.field("commit")))
        m.d.comb += [
            self.hdm_base.eq(base << HDM_BASE_ALIGN_BITS),
            self.hdm_committed.eq(commit & fits),
            registers.live.HDM_BASE.base.eq(base),
            registers.live.HDM_CONTROL.commit.eq(commit),
            registers.live.HDM_CONTROL.committed.eq(self.hdm_committed),
            registers.live.HDM_CONTROL.error.eq(commit & ~fits),
        ]

    def _command_tail(self, m, registers, queue):
        """The doorbell."""
        m.d.comb += [
            queue.doorbell.eq(registers.written.COMMAND_TAIL),
            queue.new_tail.eq(self._written_field(registers, REGISTERS.COMMAND_TAIL.field("tail"))),
            registers.live.COMMAND_TAIL.tail.eq(queue.tail),
        ]

    @staticmethod
    def _written_field(registers, field):
        return registers.data[field.lsb:field.lsb + field.width]
