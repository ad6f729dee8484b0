"""Executes the commands of the queue in MMIO space."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.csr.command import Command, Completion
from speckv_hw.csr.command_check import CommandCheck
from speckv_hw.csr.page_op import PageOp, PageOpDone, PageOpKind
from speckv_hw.stream import transfer
from speckv_hw.table.context import ContextOp, ContextOpKind, ContextRecord, ContextReply
from speckv_hw.table.descriptor import DescriptorOp, DescriptorOpKind
from speckv_hw.types import (
    PAGE_WIDTH,
    ErrorKind,
    ErrorRecord,
    Opcode,
    Status,
    TableFault,
    TableOp,
    TableRequest,
    TableResponse,
)
from speckv_model.constants import PAGE_BITS

PAGE_KINDS = {
    Opcode.DESTROY: PageOpKind.FREE,
    Opcode.SEAL: PageOpKind.SEAL,
    Opcode.FREE: PageOpKind.FREE,
    Opcode.PREFETCH: PageOpKind.PREFETCH,
    Opcode.FLUSH: PageOpKind.FLUSH,
}
"""What the commands that walk over pages do to each."""
NEW_RECORD = ("ld_id", "first_page", "pages", "index_bits", "head_bits", "layer_bits", "dtype", "codec")
"""Fields of a command that become those of its context's record."""
UNSUPPORTED = (Opcode.PIN, Opcode.UNPIN)


class CommandEngine(wiring.Component):
    """Executes one command at a time: checks it against its context, then walks over its slots and pages.

    A command is accepted together with its completion. CREATE makes the context visible at once and as the
    last thing, after the table range is clear and the descriptor table has its rule; DESTROY makes it
    invisible first, then frees its pages in ascending order, then gives back its window slots. A page that
    could not be treated does not stop the rest; the first status that is not OK is that of the command. Each
    window slot and each page takes 1 clock and the time of its answer, each stream descriptor 1 clock. Idle
    on reset, whatever was under way.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    command : In(stream(Command))
    completion : Out(stream(Completion))
        Transferred in the clock in which `command` is.
    manage : Out(stream(ContextOp))
    managed : In(stream(ContextReply))
        To the context table: each operation is answered, in order.
    table_request : Out(stream(TableRequest))
    table_response : In(stream(TableResponse))
        To the page table, for CREATE's CLEAR.
    descriptor_op : Out(stream(DescriptorOp))
        To the descriptor table.
    page_op : Out(stream(PageOp))
    page_op_done : In(stream(PageOpDone))
        To the page cache, one at a time.
    error : Out(stream(ErrorRecord))
        A record of each command that ends with a status other than OK.
    """

    def __init__(self, config):
        self._config = config
        self._granule_bits = (config.granule_pages - 1).bit_length()
        super().__init__({
            "command": In(stream.Signature(Command)),
            "completion": Out(stream.Signature(Completion)),
            "manage": Out(stream.Signature(ContextOp)),
            "managed": In(stream.Signature(ContextReply)),
            "table_request": Out(stream.Signature(TableRequest)),
            "table_response": In(stream.Signature(TableResponse)),
            "descriptor_op": Out(stream.Signature(DescriptorOp)),
            "page_op": Out(stream.Signature(PageOp)),
            "page_op_done": In(stream.Signature(PageOpDone)),
            "error": Out(stream.Signature(ErrorRecord)),
        })

    def elaborate(self, platform):
        m = Module()
        command = self.command.payload
        status = Signal(Status)
        record = Signal(ContextRecord)
        at = Signal(PAGE_WIDTH)
        left = Signal(PAGE_WIDTH + 1)
        asked = Signal()
        m.submodules.check = check = CommandCheck(self._config)
        wrong = check.faults
        m.d.comb += [
            check.command.eq(command),
            check.record.eq(record),
            self.completion.payload.status.eq(status),
            self.manage.payload.context.eq(command.context),
            self.manage.payload.slot.eq(at),
            self.manage.payload.record.eq(record),
            self.manage.payload.record.valid.eq(0),
            self.table_request.payload.op.eq(TableOp.CLEAR),
            self.table_request.payload.page.eq(record.first_page),
            self.table_request.payload.count.eq(record.pages),
            self.descriptor_op.payload.encoding.setting.eq(command.setting),
            Value.cast(self.descriptor_op.payload.encoding.codec).eq(command.codec),
            self.descriptor_op.payload.rule.per_stream.eq(command.per_stream),
            self.descriptor_op.payload.rule.setting.eq(command.setting),
            self.descriptor_op.payload.rule.first_page.eq(command.first_page),
            self.descriptor_op.payload.rule.index_bits.eq(command.index_bits),
            self.descriptor_op.payload.rule.base.eq(command.descriptor_base),
            self.page_op.payload.page.eq(at),
            self.page_op.payload.stream.context.eq(command.context),
            self.page_op.payload.stream.codec.eq(record.codec),
            self.page_op.payload.stream.dtype.eq(record.dtype),
            self.error.payload.kind.eq(ErrorKind.COMMAND),
            self.error.payload.address.eq(command.first_page << PAGE_BITS),
            self.error.payload.detail.eq(status.as_value()),
        ]
        with m.Switch(command.opcode):
            for opcode, kind in PAGE_KINDS.items():
                with m.Case(opcode.value):
                    m.d.comb += self.page_op.payload.kind.eq(kind)

        def end(value):
            m.d.sync += status.eq(value)
            m.next = "REPORT"

        def answered(request, reply):
            """Sends `request` once, then waits; high in the clock of the `reply`."""
            m.d.comb += [request.valid.eq(~asked), reply.ready.eq(asked)]
            with m.If(transfer(request)):
                m.d.sync += asked.eq(1)
            with m.If(transfer(reply)):
                m.d.sync += asked.eq(0)
            return transfer(reply)

        def walk(first, count, state):
            m.d.sync += [at.eq(first), left.eq(count)]
            m.next = state

        def walk_slots(context, state):
            walk(context.first_page >> self._granule_bits, context.pages >> self._granule_bits, state)

        def step():
            m.d.sync += [at.eq(at + 1), left.eq(left - 1)]

        with m.FSM():
            with m.State("IDLE"):
                m.d.sync += status.eq(Status.OK)
                with m.If(self.command.valid):
                    with m.Switch(command.opcode):
                        with m.Case(Opcode.NOP.value):
                            end(Status.OK)
                        with m.Case(Opcode.CREATE.value, *(opcode.value for opcode in PAGE_KINDS)):
                            m.next = "GET"
                            with m.If(command.context >= self._config.contexts):
                                end(Status.BAD_CONTEXT)
                        with m.Case(Opcode.LOAD_DESCRIPTOR.value):
                            m.next = "CHECK"
                        with m.Case(*(opcode.value for opcode in UNSUPPORTED)):
                            end(Status.UNSUPPORTED)
                        with m.Default():
                            end(Status.BAD_OPCODE)
            with m.State("GET"):
                m.d.comb += self.manage.payload.kind.eq(ContextOpKind.GET)
                with m.If(answered(self.manage, self.managed)):
                    m.d.sync += record.eq(self.managed.payload.record)
                    m.next = "CHECK"
                    with m.If(self.managed.payload.record.valid == (command.opcode == Opcode.CREATE.value)):
                        end(Status.BAD_CONTEXT)
            with m.State("CHECK"):
                m.next = "CHECKING"
            with m.State("CHECKING"):
                m.next = "JUDGE"
            with m.State("JUDGE"):
                with m.Switch(command.opcode):
                    with m.Case(Opcode.CREATE.value):
                        self._fill(m, record)
                        walk_slots(command, "PROBE")
                        with m.If(wrong.codec):
                            end(Status.BAD_CODEC)
                        with m.Elif(wrong.empty | wrong.granule | wrong.window):
                            end(Status.BAD_RANGE)
                        with m.Elif(wrong.geometry):
                            end(Status.BAD_GEOMETRY)
                        with m.Elif(wrong.setting | wrong.streams):
                            end(Status.BAD_DESCRIPTOR)
                    with m.Case(Opcode.LOAD_DESCRIPTOR.value):
                        walk(command.descriptor, command.pages, "LOAD")
                        with m.If(wrong.codec):
                            end(Status.BAD_CODEC)
                        with m.Elif(wrong.setting | wrong.descriptors):
                            end(Status.BAD_DESCRIPTOR)
                    with m.Case(Opcode.DESTROY.value):
                        m.next = "HIDE"
                    with m.Default():
                        walk(command.first_page, command.pages, "PAGE")
                        with m.If(wrong.empty | wrong.context):
                            end(Status.BAD_RANGE)

            with m.State("PROBE"):
                m.d.comb += self.manage.payload.kind.eq(ContextOpKind.GET_SLOT)
                with m.If(answered(self.manage, self.managed)):
                    step()
                    with m.If(self.managed.payload.valid):
                        end(Status.OVERLAP)
                    with m.Elif(left == 1):
                        m.next = "CLEAR"
            with m.State("CLEAR"):
                with m.If(answered(self.table_request, self.table_response)):
                    walk_slots(record, "CLAIM")
                    with m.If(self.table_response.payload.fault != TableFault.NONE):
                        end(Status.MEMORY_ERROR)
            with m.State("CLAIM"):
                m.d.comb += [
                    self.manage.payload.kind.eq(ContextOpKind.PUT_SLOT),
                    self.manage.payload.valid.eq(1),
                ]
                with m.If(answered(self.manage, self.managed)):
                    step()
                    with m.If(left == 1):
                        m.next = "RULE"
            with m.State("RULE"):
                m.d.comb += [
                    self.descriptor_op.payload.kind.eq(DescriptorOpKind.RULE),
                    self.descriptor_op.payload.number.eq(command.context),
                    self.descriptor_op.valid.eq(1),
                ]
                with m.If(self.descriptor_op.ready):
                    m.next = "SHOW"
            with m.State("SHOW"):
                m.d.comb += [
                    self.manage.payload.kind.eq(ContextOpKind.PUT),
                    self.manage.payload.record.valid.eq(1),
                ]
                with m.If(answered(self.manage, self.managed)):
                    m.next = "REPORT"

            with m.State("HIDE"):
                m.d.comb += self.manage.payload.kind.eq(ContextOpKind.PUT)
                with m.If(answered(self.manage, self.managed)):
                    walk(record.first_page, record.pages, "PAGE")
            with m.State("PAGE"):
                with m.If(answered(self.page_op, self.page_op_done)):
                    step()
                    with m.If(status == Status.OK):
                        m.d.sync += status.eq(self.page_op_done.payload.status)
                    with m.If(left == 1):
                        m.next = "REPORT"
                        with m.If(command.opcode == Opcode.DESTROY.value):
                            walk_slots(record, "RELEASE")
            with m.State("RELEASE"):
                m.d.comb += self.manage.payload.kind.eq(ContextOpKind.PUT_SLOT)
                with m.If(answered(self.manage, self.managed)):
                    step()
                    with m.If(left == 1):
                        m.next = "REPORT"

            with m.State("LOAD"):
                m.d.comb += [
                    self.descriptor_op.payload.kind.eq(DescriptorOpKind.LOAD),
                    self.descriptor_op.payload.number.eq(at),
                    self.descriptor_op.valid.eq(1),
                ]
                with m.If(self.descriptor_op.ready):
                    step()
                    with m.If(left == 1):
                        m.next = "REPORT"

            with m.State("REPORT"):
                failed = status != Status.OK
                m.d.comb += self.error.valid.eq(failed)
                with m.If(~failed | self.error.ready):
                    m.next = "COMPLETE"
            with m.State("COMPLETE"):
                m.d.comb += [self.completion.valid.eq(1), self.command.ready.eq(self.completion.ready)]
                with m.If(transfer(self.completion)):
                    m.next = "IDLE"
        return m

    def _fill(self, m, record):
        """Makes the record of a new context from the command."""
        m.d.sync += [Value.cast(record[name]).eq(self.command.payload[name]) for name in NEW_RECORD]
