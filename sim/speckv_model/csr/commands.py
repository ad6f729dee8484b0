"""What the commands of the queue in MMIO space do, and when they are refused."""

from enum import IntEnum

from ..codec import is_setting
from ..constants import PAGE_BITS, Codec, Dtype, ErrorKind, Opcode, Status
from ..table.context import ContextRecord
from ..table.descriptor import Encoding

PAGE_FIELD_BITS = 28
"""The widths of a context's geometry add up to this at most."""


class PageOpKind(IntEnum):
    """What the page cache does with a page on command."""
    SEAL = 0
    FREE = 1
    PREFETCH = 2
    FLUSH = 3


PAGE_COMMANDS = {
    Opcode.SEAL: PageOpKind.SEAL,
    Opcode.FREE: PageOpKind.FREE,
    Opcode.PREFETCH: PageOpKind.PREFETCH,
    Opcode.FLUSH: PageOpKind.FLUSH,
}
"""Commands that are done page by page."""


class CommandProcessor:
    """Executes commands against a context table and a device.

    Parameters
    ----------
    config : DeviceConfig
    contexts : ContextTable
    device_ops : device
        ``clear_table(page, count)`` empties page table entries, ``page_op(kind, page, context, record)``
        does a `PageOpKind` to a page of context number `context`; both return a `Status`.
        ``load_descriptors(first, count, encoding)`` makes stream descriptors the `Encoding`.
    errors : ErrorLog
        Where failed commands are recorded.
    """

    def __init__(self, config, contexts, device_ops, errors):
        self._config = config
        self._contexts = contexts
        self._device = device_ops
        self._errors = errors

    def execute(self, command):
        """Does `command` (a dictionary as `registers.unpack_command` returns) and returns its `Status`."""
        status = self._execute(command)
        if status != Status.OK:
            self._errors.record(ErrorKind.COMMAND, command["first_page"] << PAGE_BITS, status)
        return status

    def _execute(self, command):
        match command["opcode"]:
            case Opcode.NOP:
                return Status.OK
            case Opcode.CREATE:
                return self._create(command)
            case Opcode.DESTROY:
                return self._destroy(command)
            case Opcode.SEAL | Opcode.FREE | Opcode.PREFETCH | Opcode.FLUSH:
                return self._each_page(command)
            case Opcode.LOAD_DESCRIPTOR:
                return self._load_descriptor(command)
            case Opcode.PIN | Opcode.UNPIN:
                return Status.UNSUPPORTED
        return Status.BAD_OPCODE

    def _create(self, command):
        config = self._config
        number, first, pages = command["context"], command["first_page"], command["pages"]
        if number >= config.contexts or self._contexts.record(number) is not None:
            return Status.BAD_CONTEXT
        if not config.has_codec(command["codec"]):
            return Status.BAD_CODEC
        if (pages == 0 or first % config.granule_pages or pages % config.granule_pages
                or first + pages > config.window_pages):
            return Status.BAD_RANGE
        widths = command["index_bits"], command["head_bits"], command["layer_bits"]
        if sum(widths) + 1 > PAGE_FIELD_BITS or 1 << command["index_bits"] > pages:
            return Status.BAD_GEOMETRY
        record = ContextRecord(ld_id=command["ld_id"], first_page=first, pages=pages,
                               index_bits=widths[0], head_bits=widths[1], layer_bits=widths[2],
                               dtype=Dtype(command["dtype"]), codec=Codec(command["codec"]),
                               setting=command["setting"], per_stream=bool(command["per_stream"]),
                               descriptor_base=command["descriptor_base"])
        if not is_setting(record.codec, record.setting) or not self._has_descriptors(record):
            return Status.BAD_DESCRIPTOR
        if any(self._contexts.slot(slot) is not None for slot in self._slots(record)):
            return Status.OVERLAP
        if self._device.clear_table(first, pages) != Status.OK:
            return Status.MEMORY_ERROR
        for slot in self._slots(record):
            self._contexts.put_slot(slot, number)
        self._contexts.put(number, record)
        return Status.OK

    def _has_descriptors(self, record):
        """Whether every stream of `record` that takes its encoding from a descriptor has one."""
        streams = min(-(-record.pages >> record.index_bits), 2 << record.head_bits + record.layer_bits)
        return not record.per_stream or record.descriptor_base + streams <= self._config.descriptors

    def _load_descriptor(self, command):
        codec, setting = command["codec"], command["setting"]
        first, count = command["descriptor"], command["pages"]
        if not self._config.has_codec(codec):
            return Status.BAD_CODEC
        if not is_setting(codec, setting) or count == 0 or first + count > self._config.descriptors:
            return Status.BAD_DESCRIPTOR
        self._device.load_descriptors(first, count, Encoding(Codec(codec), setting))
        return Status.OK

    def _destroy(self, command):
        number = command["context"]
        record = self._named_context(number)
        if record is None:
            return Status.BAD_CONTEXT
        self._contexts.put(number, None)
        status = self._page_ops(PageOpKind.FREE, number, record, record.first_page, record.pages)
        for slot in self._slots(record):
            self._contexts.put_slot(slot, None)
        return status

    def _each_page(self, command):
        number, first, pages = command["context"], command["first_page"], command["pages"]
        record = self._named_context(number)
        if record is None:
            return Status.BAD_CONTEXT
        if pages == 0 or first < record.first_page or first + pages > record.end_page:
            return Status.BAD_RANGE
        return self._page_ops(PAGE_COMMANDS[command["opcode"]], number, record, first, pages)

    def _named_context(self, number):
        return self._contexts.record(number) if number < self._config.contexts else None

    def _page_ops(self, kind, number, record, first, pages):
        """Does `kind` to each page in turn; returns the first status that is not OK."""
        status = Status.OK
        for page in range(first, first + pages):
            ended = self._device.page_op(kind, page, number, record)
            if status == Status.OK:
                status = Status(ended)
        return status

    def _slots(self, record):
        granule = self._config.granule_pages
        return range(record.first_page // granule, record.end_page // granule)
