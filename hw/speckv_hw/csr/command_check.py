"""What can be said against a command from its fields and the record of its context."""

from amaranth.hdl import Cat, Module
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from speckv_hw.csr.command import Command
from speckv_hw.table.context import ContextRecord
from speckv_hw.types import PAGE_WIDTH
from speckv_model.constants import Codec


class Faults(data.Struct):
    """What is wrong with a command."""
    codec: 1
    """It is not built in."""
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

    latency = 1

    def __init__(self, config):
        self._config = config
        super().__init__({"command": In(Command), "record": In(ContextRecord), "faults": Out(Faults)})

    def elaborate(self, platform):
        m = Module()
        command, record, faults = self.command, self.record, self.faults
        built_in = [codec.value for codec in Codec if self._config.has_codec(codec)]
        end = command.first_page + command.pages
        widths = command.index_bits + command.head_bits + command.layer_bits + 1
        m.d.sync += [
            faults.codec.eq(~Cat(command.codec == codec for codec in built_in).any()),
            faults.empty.eq(command.pages == 0),
            faults.granule.eq((command.first_page | command.pages) % self._config.granule_pages != 0),
            faults.window.eq(end > self._config.window_pages),
            faults.context.eq((command.first_page < record.first_page)
                              | (end > record.first_page + record.pages)),
            faults.geometry.eq((widths > PAGE_WIDTH) | (command.pages >> command.index_bits == 0)),
        ]
        return m
