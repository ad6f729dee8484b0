"""Enumerations and payloads that more than one box uses. Values come from `speckv_model.constants`."""

from amaranth.hdl import unsigned
from amaranth.lib import data, enum

from speckv_model import constants

LINE_BITS = 512


def _mirror(source, width):
    """An Amaranth enumeration of `width` bits with the members of the IntEnum `source`."""
    return enum.EnumType(source.__name__, (enum.Enum,), _members(source, width), shape=unsigned(width))


def _members(source, width):
    members = enum.EnumType.__prepare__(source.__name__, (enum.Enum,), shape=unsigned(width))
    for member in source:
        members[member.name] = int(member)
    return members


PageState = _mirror(constants.PageState, 2)
Codec = _mirror(constants.Codec, 3)
Dtype = _mirror(constants.Dtype, 1)
ReqOpcode = _mirror(constants.ReqOpcode, 4)
RwdOpcode = _mirror(constants.RwdOpcode, 4)
NdrOpcode = _mirror(constants.NdrOpcode, 3)
DrsOpcode = _mirror(constants.DrsOpcode, 3)
MetaField = _mirror(constants.MetaField, 2)
MetaValue = _mirror(constants.MetaValue, 2)
SnpType = _mirror(constants.SnpType, 3)
DevLoad = _mirror(constants.DevLoad, 2)
Opcode = _mirror(constants.Opcode, 8)
Status = _mirror(constants.Status, 4)
ErrorKind = _mirror(constants.ErrorKind, 4)

# Widths are those of the largest configuration, so that a payload means the same in every device; bits that a
# smaller device never sets are constant zero and cost nothing after synthesis.
PAGE_WIDTH = 28
"""Window page number: a 2^40-byte window."""
SLOT_WIDTH = 12
"""Page cache slot."""
CONTEXT_WIDTH = 12
SECTOR_WIDTH = 31
"""Pool sector number."""
DRAM_LINE_WIDTH = 34
"""DRAM line number (64 B units)."""
DESCRIPTOR_WIDTH = 12
"""Stream descriptor."""
SETTING_WIDTH = 8
"""What a codec can be told."""
TIMEOUT_WIDTH = 24
"""Clocks that DRAM may take for an answer."""


class StreamInfo(data.Struct):
    """What the movers must know of the stream that a page belongs to."""
    context: CONTEXT_WIDTH
    codec: Codec
    """Of the context; how a page is encoded says the descriptor table."""
    dtype: Dtype
    by_row: 1
    """A read that misses fetches the row alone, where the codec lets it. Tells how `fixed` pages are laid out."""


class Entry(data.Struct):
    """A page table entry. All zeros is a valid EMPTY entry. `check` covers the bits below it."""
    state: PageState
    codec: Codec
    context: CONTEXT_WIDTH
    place: SECTOR_WIDTH
    lines: 7
    successor: 28
    confidence: 2
    spare: 3
    crc: 32
    check: 8

    def has_place(self):
        """Whether the page holds sectors of the pool."""
        return (self.state == PageState.OPEN) | (self.state == PageState.SEALED)


class FetchJob(data.Struct):
    slot: SLOT_WIDTH
    page: PAGE_WIDTH
    stream: StreamInfo
    single: 1
    """Only `row` is wanted; what cannot be had by rows comes as a whole."""
    row: 4


class FetchDone(data.Struct):
    slot: SLOT_WIDTH
    state: PageState
    base: 1
    """Lines that `written` does not name hold content too (a page that was reopened)."""
    written: 64
    """Of a SEALED page, the lines that were fetched."""
    poison: 64
    """Lines that DRAM answered with an error, and those of a single row that failed its check."""
    single: 1
    """A single row of a SEALED page was fetched: it adds to those that are there."""


class FillLine(data.Struct):
    slot: SLOT_WIDTH
    line: 6
    data: LINE_BITS


class SurePage(data.Struct):
    """A SEALED page whose lines come one after the other, and of which it is known that all will be right."""
    valid: 1
    slot: SLOT_WIDTH


class OpenKind(enum.Enum, shape=2):
    """Jobs of the opener: those that change what a page holds without moving its lines."""
    OPEN = 0
    """Reserve room for an OPEN page; what the page held before is freed."""
    FREE = 1
    """Give back what the page holds; it becomes EMPTY."""
    POISON = 2
    """Give back what the page holds; it becomes POISONED."""


class OpenJob(data.Struct):
    kind: OpenKind
    slot: SLOT_WIDTH
    """Slot of the page in the cache; passed through to the answer."""
    page: PAGE_WIDTH
    stream: StreamInfo


class OpenDone(data.Struct):
    kind: OpenKind
    slot: SLOT_WIDTH
    refused: 1
    """OPEN: the page could not be opened; it is now what `state` says."""
    state: PageState


class SealKind(enum.Enum, shape=1):
    """Jobs of the sealer: those that write a page's lines to DRAM."""
    SPILL = 0
    """Write the OPEN page and its bitmap, uncompressed, into its reserved room."""
    SEAL = 1
    """Compress the page, place it, write it and free the reserved room."""


class SealJob(data.Struct):
    kind: SealKind
    slot: SLOT_WIDTH
    page: PAGE_WIDTH
    stream: StreamInfo
    base: 1
    written: 64
    poison: 64
    """Lines whose content is lost (SPILL carries it along; SEAL makes the page POISONED)."""


class SealDone(data.Struct):
    kind: SealKind
    slot: SLOT_WIDTH
    state: PageState
    """What the page is now: POISONED where it could not be written."""


class SlotLine(data.Struct):
    """Address of a line in the page cache."""
    slot: SLOT_WIDTH
    line: 6


class EncodeStart(data.Struct):
    codec: Codec
    dtype: Dtype
    by_row: 1
    """`fixed`: rows may be read alone, and have a check."""
    setting: SETTING_WIDTH


class StoredLine(data.Struct):
    """A line of an encoded page, with its place in it."""
    index: 6
    ahead: 1
    """It belongs to the page after the one whose result comes next."""
    data: LINE_BITS


class EncodeResult(data.Struct):
    lines: 7
    fits: 1
    """The encoded page takes fewer lines than the page itself; otherwise it must be stored as `raw`."""
    first: 6
    """Index of the line that is stored first: DRAM gets `first`, `first` + 1, ..., `lines` - 1, 0, ..., `first` - 1."""


class DecodeStart(data.Struct):
    codec: Codec
    dtype: Dtype
    by_row: 1
    """`fixed`: as the page was encoded."""
    lines: 7
    single: 1
    """The lines hold a row of a `fixed` page that was encoded `by_row`, and only that is wanted."""
    rate: 5
    """Units of 8 bytes that a single row takes."""
    skip: 3
    """Units of the first line that are before it."""


class ReadRequest(data.Struct):
    """A burst of `count` DRAM lines."""
    line: DRAM_LINE_WIDTH
    count: 7


class ReadData(data.Struct):
    data: LINE_BITS
    error: 1
    last: 1


class WriteRequest(data.Struct):
    line: DRAM_LINE_WIDTH
    count: 7


class WriteData(data.Struct):
    data: LINE_BITS
    enable: 4
    """Which 16-byte quarters of the line are written."""


class WriteDone(data.Struct):
    error: 1


class TableOp(enum.Enum, shape=2):
    LOOKUP = 0
    UPDATE = 1
    CLEAR = 2
    """Zero the entries of `count` pages from `page` on (multiples of four) and forget all cached entries."""


class TableRequest(data.Struct):
    op: TableOp
    page: PAGE_WIDTH
    count: 29
    entry: Entry


class TableFault(enum.Enum, shape=2):
    NONE = 0
    CORRUPT = 1
    """The entry's check bits are wrong."""
    MEMORY = 2
    """DRAM answered with an error."""


class TableResponse(data.Struct):
    entry: Entry
    fault: TableFault


class AllocateRequest(data.Struct):
    sectors: 6
    """Contiguous sectors that are wanted."""
    context: CONTEXT_WIDTH
    """Whose page it is."""


class AllocateResponse(data.Struct):
    ok: 1
    sector: SECTOR_WIDTH


class FreeRequest(data.Struct):
    sector: SECTOR_WIDTH
    sectors: 6


class ErrorRecord(data.Struct):
    kind: ErrorKind
    address: 40
    """Byte offset in the window, line-aligned; page-aligned where a page is meant."""
    detail: 16
    """Kind-dependent: tag of the request, opcode or status."""
