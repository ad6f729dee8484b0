"""Knows how a page is to be encoded: as its context says, or as the descriptor of its stream."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from speckv_hw.config import DeviceConfig
from speckv_hw.stream import transfer
from speckv_hw.table.descriptor import DescriptorOp, DescriptorOpKind, Encoding, EncodingRequest
from speckv_hw.types import DESCRIPTOR_WIDTH, PAGE_WIDTH, SETTING_WIDTH

__all__ = ["DescriptorTable"]


class DescriptorTable(wiring.Component):
    """Looks up the encoding of pages: rule of the context -> number of the stream -> descriptor.

    Asked once for each page that is sealed, off the way of the host's requests: one look-up at a time, `latency`
    clocks from the acceptance of a request to its result, which waits until it is taken. Operations take a clock each,
    and wait a clock where a memory is read; they hold for requests that are accepted later. Numbers of descriptors
    wrap around at the size of the table.

    A reset ends a look-up and starts a sweep that makes all descriptors RAW and 0, `descriptors` clocks, in which
    nothing is accepted. Rules are left alone: the pages of a context are asked for only after its rule was set.

    Parameters
    ----------
    config : DeviceConfig
        `contexts` and `descriptors`.

    Members
    -------
    request : In(stream(EncodingRequest))
    result : Out(stream(Encoding))
    op : In(stream(DescriptorOp))
        `number` must be below `contexts` or `descriptors`, and `first_page` of a rule begin a granule.
    swept : Out
        The sweep after reset has ended.
    """

    latency = 5

    def __init__(self, config: DeviceConfig):
        self._config = config
        super().__init__({
            "request": In(stream.Signature(EncodingRequest)),
            "result": Out(stream.Signature(Encoding)),
            "op": In(stream.Signature(DescriptorOp)),
            "swept": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        config, request, op = self._config, self.request.p, self.op.p
        granule_bits = config.page_bits - config.slot_bits
        # First pages are kept as granules, to save memory.
        rule_layout = data.StructLayout({
            "per_stream": 1, "setting": SETTING_WIDTH, "slot": config.slot_bits, "index_bits": 5,
            "base": DESCRIPTOR_WIDTH})
        m.submodules.rules = rules = Memory(shape=rule_layout, depth=config.contexts, init=[])
        m.submodules.descriptors = descriptors = Memory(shape=Encoding, depth=config.descriptors, init=[])
        rule_read, rule_write = rules.read_port(), rules.write_port()
        descriptor_read, descriptor_write = descriptors.read_port(), descriptors.write_port()
        rule = rule_read.data

        sweeping = Signal(init=1)
        sweep = Signal(range(config.descriptors))
        with m.If(sweeping):
            m.d.sync += sweep.eq(sweep + 1)
            with m.If(sweep == config.descriptors - 1):
                m.d.sync += sweeping.eq(0)
        # A memory is never read and written at once, so that what a read gets then need not be defined.
        reading_rule = Signal()
        reading_descriptor = Signal()
        m.d.comb += [
            self.swept.eq(~sweeping),
            self.op.ready.eq(~sweeping & ~reading_rule & ~reading_descriptor),
            rule_read.en.eq(reading_rule & ~rule_write.en),
            descriptor_read.en.eq(reading_descriptor & ~descriptor_write.en),
            rule_write.addr.eq(op.number),
            rule_write.data.per_stream.eq(op.rule.per_stream),
            rule_write.data.setting.eq(op.rule.setting),
            rule_write.data.slot.eq(op.rule.first_page >> granule_bits),
            rule_write.data.index_bits.eq(op.rule.index_bits),
            rule_write.data.base.eq(op.rule.base),
            rule_write.en.eq(transfer(self.op) & (op.kind == DescriptorOpKind.RULE)),
            descriptor_write.addr.eq(Mux(sweeping, sweep, op.number)),
            descriptor_write.data.eq(Mux(sweeping, 0, op.encoding.as_value())),
            descriptor_write.en.eq(sweeping | transfer(self.op) & (op.kind == DescriptorOpKind.LOAD)),
        ]

        asked = Signal(EncodingRequest)
        offset = Signal(PAGE_WIDTH)
        number = Signal(DESCRIPTOR_WIDTH)
        m.d.comb += [rule_read.addr.eq(asked.stream.context), descriptor_read.addr.eq(number + rule.base)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.request.ready.eq(~sweeping)
                m.d.sync += asked.eq(request)
                with m.If(transfer(self.request)):
                    m.next = "RULE"
            with m.State("RULE"):
                m.d.comb += reading_rule.eq(1)
                m.next = "OFFSET"
            with m.State("OFFSET"):
                m.d.sync += offset.eq(asked.page - (rule.slot << granule_bits))
                m.next = "STREAM"
            with m.State("STREAM"):
                m.d.sync += number.eq(offset >> rule.index_bits)
                m.next = "DESCRIPTOR"
            with m.State("DESCRIPTOR"):
                m.d.comb += reading_descriptor.eq(1)
                m.next = "RESULT"
            with m.State("RESULT"):
                m.d.comb += self.result.valid.eq(1)
                with m.If(rule.per_stream):
                    m.d.comb += self.result.payload.eq(descriptor_read.data)
                with m.Else():
                    m.d.comb += [
                        self.result.p.codec.eq(asked.stream.codec),
                        self.result.p.setting.eq(rule.setting),
                    ]
                with m.If(self.result.ready):
                    m.next = "IDLE"
        return m
