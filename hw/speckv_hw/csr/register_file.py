"""Address decoder and storage of the registers, made from their description."""

from amaranth.hdl import Module, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_model.csr.description import REGISTER_BITS, REGISTER_BYTES, Access
from speckv_model.csr.registers import REGION_BYTES, REGISTERS

REGISTER_WORDS = REGION_BYTES // REGISTER_BYTES
"""Words of MMIO space that belong to registers."""


def _fields(*access):
    return data.StructLayout({
        register.name: data.StructLayout({field.name: field.width for field in register.fields})
        for register in REGISTERS.having(*access)
    })


LiveValues = _fields(Access.RO, Access.GUARDED)
"""Values that registers show and others hold: by register, by field."""
HeldValues = _fields(Access.RW)
"""Values that the host wrote: by register, by field."""
Pulses = _fields(Access.W1)
"""High in the clock in which the host writes a one: by register, by field."""
Written = data.StructLayout({register.name: 1 for register in REGISTERS.having(Access.GUARDED)})
"""High in the clock in which the host writes the register: by register."""


class RegisterFile(wiring.Component):
    """The registers of `speckv_model.csr.registers`, except that it does not hold the counters.

    Reads are combinational; a write takes effect with the clock in which `write` is high.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    word : In
        Register number: byte offset / 8.
    write : In
        Writes `data` into the register `word`.
    data : In
    value : Out
        What the register shows; zero for a counter and where no register is.
    mapped : Out
        There is a register here.
    counter : Out
        It is a counter: whoever holds the counters has its value.
    live : In(LiveValues)
    held : Out(HeldValues)
    pulses : Out(Pulses)
    written : Out(Written)
    """

    def __init__(self, config):
        self._config = config
        super().__init__({
            "word": In(range(REGISTER_WORDS)),
            "write": In(1),
            "data": In(REGISTER_BITS),
            "value": Out(REGISTER_BITS),
            "mapped": Out(1),
            "counter": Out(1),
            "live": In(LiveValues),
            "held": Out(HeldValues, init={
                register.name: {field.name: field.reset_value(config) for field in register.fields}
                for register in REGISTERS.having(Access.RW)
            }),
            "pulses": Out(Pulses),
            "written": Out(Written),
        })

    def elaborate(self, platform):
        m = Module()
        with m.Switch(self.word):
            for register in REGISTERS:
                with m.Case(register.offset // REGISTER_BYTES):
                    m.d.comb += self.mapped.eq(1)
                    self._access(m, register)
        return m

    def _access(self, m, register):
        """Statements for the clocks in which `word` names `register`."""
        match register.access:
            case Access.CONSTANT:
                m.d.comb += self.value.eq(register.reset_value(self._config))
            case Access.RO:
                self._show(m, register, self.live[register.name])
            case Access.RW:
                self._show(m, register, self.held[register.name])
                with m.If(self.write):
                    self._store(m.d.sync, register, self.held[register.name])
            case Access.GUARDED:
                self._show(m, register, self.live[register.name])
                m.d.comb += self.written[register.name].eq(self.write)
            case Access.W1:
                with m.If(self.write):
                    self._store(m.d.comb, register, self.pulses[register.name])
            case Access.COUNTER:
                m.d.comb += self.counter.eq(1)

    def _show(self, m, register, values):
        for field in register.fields:
            m.d.comb += self.value[field.lsb:field.lsb + field.width].eq(Value.cast(values[field.name]))

    def _store(self, domain, register, values):
        for field in register.fields:
            domain += values[field.name].eq(self.data[field.lsb:field.lsb + field.width])
