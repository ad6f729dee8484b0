"""What can be said against a command from its fields and the record of its context."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.csr.command import Command
from speckv_hw.table.context import ContextRecord
from speckv_hw.types import PAGE_WIDTH, Opcode
from speckv_model.codec import CODECS
from speckv_model.constants import Codec


class Faults(data.Struct):
    """What is wrong with a command."""
    codec: 1
    """It is not built in."""
    setting: 1
    """The codec does not take it."""
    empty: 1
    """The range has no pages."""
    granule: 1
    """The range does not begin and end on a granule."""
    window: 1
    """The range leaves the window."""
    context: 1
    """The range leaves its context."""
    geometry: 1
    """The fields of a page number are too wide."""
    streams: 1
    """CREATE: streams need descriptors that the table does not have."""
    descriptors: 1
    """LOAD_DESCRIPTOR: the table does not have all that are named, or none is."""


class CommandCheck(wiring.Component):
    """Checks a command; `faults` follows its inputs by `latency` clocks.

    Parameters
    ----------
    config : DeviceConfig

    Members
    -------
    command : In(Command)
    record : In(ContextRecord)
        Of the command's context.
    faults : Out(Faults)
    """

    latency = 2

    def __init__(self, config):
        self._config = config
        super().__init__({"command": In(Command), "record": In(ContextRecord), "faults": Out(Faults)})

    def elaborate(self, platform):
        m = Module()
        command, record = self.command, self.record
        found = Signal(Faults)
        built_in = [codec.value for codec in Codec if self._config.has_codec(codec)]
        end = command.first_page + command.pages
        m.d.sync += [
            found.codec.eq(~Cat(command.codec == codec for codec in built_in).any()),
            found.setting.eq(command.setting != 0),
            found.empty.eq(command.pages == 0),
            found.granule.eq((command.first_page | command.pages) % self._config.granule_pages != 0),
            found.window.eq(end > self._config.window_pages),
            found.context.eq((command.first_page < record.first_page)
                             | (end > record.first_page + record.pages)),
            self.faults.eq(found),
        ]
        for codec, module in CODECS.items():
            settings = module.SETTINGS
            with m.If(command.codec == codec.value):
                m.d.sync += found.setting.eq((command.setting < settings.start) | (command.setting >= settings.stop))
        self._check_descriptors(m, found)
        return m

    def _check_descriptors(self, m, found):
        """The geometry, and whether the table has the descriptors of all its streams, or those to be loaded."""
        command, descriptors = self.command, self._config.descriptors
        is_load = command.opcode == Opcode.LOAD_DESCRIPTOR.value
        stream_bits = command.head_bits + command.layer_bits + 1
        # The last number is that of the last stream that the range reaches, unless the geometry ends before.
        first = Signal(16)
        last = Signal(PAGE_WIDTH + 1)
        limit = Signal(range(2 * descriptors))
        m.d.sync += [
            found.geometry.eq((command.index_bits + stream_bits > PAGE_WIDTH)
                              | (command.pages >> command.index_bits == 0)),
            first.eq(Mux(is_load, command.descriptor, command.descriptor_base)),
            last.eq((command.pages - 1)[:len(last)] >> Mux(is_load, 0, command.index_bits)),
            limit.eq((1 << stream_bits) - 1),
        ]
        with m.If(stream_bits >= descriptors.bit_length()):
            m.d.sync += limit.eq(descriptors)
        m.d.sync += [
            self.faults.streams.eq(command.per_stream & (first + last >= descriptors) & (first + limit >= descriptors)),
            self.faults.descriptors.eq(found.empty | (first + last >= descriptors)),
        ]
