"""Finds the context that a page belongs to, and whether the asker owns it."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from speckv_hw.stream import transfer
from speckv_hw.table.context import (
    ContextOp,
    ContextOpKind,
    ContextRecord,
    ContextReply,
    lookup_layout,
    result_layout,
)
from speckv_hw.types import PAGE_WIDTH

__all__ = ["ContextTable"]


class ContextTable(wiring.Component):
    """Looks pages up: window slot -> context number -> record, and whether owner and range agree.

    ::

        lookup --+-- slot map --+-- records --+-- judge -- result
        manage --+   clock 1        clock 2       clock 3  managed

    Latency `latency` clocks when not stalled, throughput one lookup a clock, in order; `ready` of `lookup`
    and `manage` depends on that of `result` combinationally. Management shares the pipeline and goes before
    lookups, but only one operation is under way at a time, so that lookups keep at least three clocks of
    four. It is carried out in order with the lookups: a write holds for those accepted after it. It waits
    while `result` is stalled; a reply that is not taken delays no lookup.

    A reset empties the pipeline and starts a sweep that clears both memories, `max(window_slots, contexts)`
    clocks, in which nothing is accepted.

    Parameters
    ----------
    config : DeviceConfig
        `window_slots` and `contexts`.
    sideband : shape-like
        Shape of what comes back with a result.

    Members
    -------
    lookup : In(stream(lookup_layout(sideband)))
    result : Out(stream(result_layout(sideband)))
        `hit`: the page lies in a valid context, which `ld_id` owns.
    manage : In(stream(ContextOp))
        `slot` and `context` must be below `window_slots` and `contexts`, and records inside the window.
    managed : Out(stream(ContextReply))
    swept : Out
        The sweep after reset has ended.
    """

    latency = 3

    def __init__(self, config, sideband):
        self._config = config
        self._lookup = lookup_layout(sideband)
        super().__init__({
            "lookup": In(stream.Signature(self._lookup)),
            "result": Out(stream.Signature(result_layout(sideband))),
            "manage": In(stream.Signature(ContextOp)),
            "managed": Out(stream.Signature(ContextReply)),
            "swept": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        slots, contexts = self._config.window_slots, self._config.contexts
        page_bits, slot_bits = self._config.page_bits, self._config.slot_bits
        slot_layout = data.StructLayout({"valid": 1, "context": self._config.context_bits})
        # Records are kept with the end of their range, so that a lookup compares but does not add.
        stored_layout = data.StructLayout({"record": ContextRecord, "end_page": PAGE_WIDTH + 1})
        m.submodules.slot_map = slot_map = Memory(shape=slot_layout, depth=slots, init=[])
        m.submodules.records = records = Memory(shape=stored_layout, depth=contexts, init=[])
        slot_read, slot_write = slot_map.read_port(), slot_map.write_port()
        record_read, record_write = records.read_port(), records.write_port()

        sweeping = Signal(init=1)
        # Of the memories the smaller one is swept several times.
        sweep = Signal(range(max(slots, contexts)))
        with m.If(sweeping):
            m.d.sync += sweep.eq(sweep + 1)
            with m.If(sweep == max(slots, contexts) - 1):
                m.d.sync += sweeping.eq(0)

        # Acceptance. The reply register is kept free for the one operation under way.
        managing = Signal()
        advance = Signal()
        m.d.comb += [
            self.swept.eq(~sweeping),
            advance.eq(~self.result.valid | self.result.ready),
            self.manage.ready.eq(advance & ~sweeping & ~managing),
            self.lookup.ready.eq(advance & ~sweeping & ~transfer(self.manage)),
        ]
        with m.If(transfer(self.manage)):
            m.d.sync += managing.eq(1)
        with m.Elif(transfer(self.managed)):
            m.d.sync += managing.eq(0)

        # Clock 1: the slot map is read or written; never both, so that what a read gets that meets a write
        # need not be defined.
        op = self.manage.payload
        page = self.lookup.payload.page
        m.d.comb += [
            slot_read.en.eq(advance & ~slot_write.en),
            slot_read.addr.eq(Mux(transfer(self.manage), op.slot, page[page_bits - slot_bits:page_bits])),
            slot_write.addr.eq(Mux(sweeping, sweep, op.slot)),
            slot_write.data.valid.eq(op.valid & ~sweeping),
            slot_write.data.context.eq(op.context),
            slot_write.en.eq(sweeping | transfer(self.manage) & (op.kind == ContextOpKind.PUT_SLOT)),
        ]

        stage = data.StructLayout({"is_lookup": 1, "is_op": 1, "lookup": self._lookup})
        first, second = Signal(stage), Signal(stage)
        first_op = Signal(ContextOp)
        end_page = Signal(PAGE_WIDTH + 1)
        second_slot = Signal(slot_layout)
        with m.If(advance):
            m.d.sync += [
                first.is_lookup.eq(transfer(self.lookup)),
                first.is_op.eq(transfer(self.manage)),
                first.lookup.eq(self.lookup.payload),
                first_op.eq(op),
                end_page.eq(op.record.first_page + op.record.pages),
            ]

        # Clock 2: the same with the record.
        m.d.comb += [
            record_read.en.eq(advance & ~record_write.en),
            record_read.addr.eq(Mux(first.is_op, first_op.context, slot_read.data.context)),
            record_write.addr.eq(Mux(sweeping, sweep, first_op.context)),
            record_write.data.record.eq(Mux(sweeping, 0, first_op.record)),
            record_write.data.end_page.eq(end_page),
            record_write.en.eq(sweeping | first.is_op & (first_op.kind == ContextOpKind.PUT)),
        ]
        with m.If(advance):
            m.d.sync += [second.eq(first), second_slot.eq(slot_read.data)]

        # Clock 3: owner and range are judged.
        record, asked = record_read.data.record, second.lookup
        hit = Signal()
        m.d.comb += hit.eq(second_slot.valid & record.valid & (record.ld_id == asked.ld_id)
                           & (asked.page >= record.first_page) & (asked.page < record_read.data.end_page))
        with m.If(transfer(self.managed)):
            m.d.sync += self.managed.valid.eq(0)
        with m.If(advance):
            m.d.sync += [
                self.result.valid.eq(second.is_lookup),
                self.result.payload.hit.eq(hit),
                self.result.payload.page.eq(asked.page),
                self.result.payload.stream.eq(0),
                self.result.payload.sideband.eq(asked.sideband),
            ]
            with m.If(hit):
                for field, value in record.stream_info(second_slot.context).items():
                    m.d.sync += self.result.payload.stream[field].eq(value)
            with m.If(second.is_op):
                m.d.sync += [
                    self.managed.valid.eq(1),
                    self.managed.payload.record.eq(record),
                    self.managed.payload.valid.eq(second_slot.valid),
                    self.managed.payload.context.eq(second_slot.context),
                ]
        return m
