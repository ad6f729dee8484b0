"""Sizes and code points that the hardware, the model and the driver share. Units are in the names."""

from enum import IntEnum

LINE_BYTES = 64
"""One CXL.mem access."""
ROW_BYTES = 256
ROW_LINES = ROW_BYTES // LINE_BYTES
ROW_VALUES = 128
"""One token's K or V of one head at head dimension 128."""
PAGE_BYTES = 4096
PAGE_LINES = PAGE_BYTES // LINE_BYTES
PAGE_ROWS = PAGE_BYTES // ROW_BYTES
PAGE_BITS = 12
SECTOR_BYTES = 128
SECTOR_LINES = SECTOR_BYTES // LINE_BYTES
OPEN_SECTORS = 33
"""What an OPEN page reserves in the pool: its 64 lines and the line that says which of them are written."""
ENTRY_BYTES = 16
ENTRIES_PER_LINE = LINE_BYTES // ENTRY_BYTES


class PageState(IntEnum):
    EMPTY = 0
    OPEN = 1
    SEALED = 2
    POISONED = 3


class Codec(IntEnum):
    RAW = 0
    SPECKV = 1
    LOSSLESS = 2
    FIXED = 3
    VARIABLE = 4


class Dtype(IntEnum):
    FP16 = 0
    BF16 = 1


class ReqOpcode(IntEnum):
    """M2S Req (CXL 2.0 section 3.3.3; 10 is CXL 3.x)."""
    MEM_INV = 0
    MEM_RD = 1
    MEM_RD_DATA = 2
    MEM_RD_FWD = 3
    MEM_WR_FWD = 4
    MEM_SPEC_RD = 8
    MEM_INV_NT = 9
    MEM_CLN_EVCT = 10


class RwdOpcode(IntEnum):
    """M2S RwD (CXL 2.0 section 3.3.4; 4 is CXL 3.x)."""
    MEM_WR = 1
    MEM_WR_PTL = 2
    BI_CONFLICT = 4


class NdrOpcode(IntEnum):
    """S2M NDR (CXL 2.0 section 3.3.5)."""
    CMP = 0
    CMP_S = 1
    CMP_E = 2


class DrsOpcode(IntEnum):
    """S2M DRS (CXL 2.0 section 3.3.6)."""
    MEM_DATA = 0
    MEM_DATA_NXM = 1


class MetaField(IntEnum):
    META0_STATE = 0
    NO_OP = 3


class MetaValue(IntEnum):
    INVALID = 0
    ANY = 2
    SHARED = 3


class SnpType(IntEnum):
    NO_OP = 0
    DATA = 1
    CUR = 2
    INV = 3


class DevLoad(IntEnum):
    LIGHT = 0
    OPTIMAL = 1
    MODERATE = 2
    SEVERE = 3


class Opcode(IntEnum):
    """Commands of the queue in MMIO space."""
    NOP = 0
    CREATE = 1
    DESTROY = 2
    SEAL = 3
    FREE = 4
    PREFETCH = 5
    PIN = 6
    UNPIN = 7
    FLUSH = 8
    LOAD_DESCRIPTOR = 9


class Status(IntEnum):
    """How a command ended."""
    OK = 0
    BAD_OPCODE = 1
    BAD_CONTEXT = 2
    """The context number is not one that the device has, or (CREATE) is in use, or (others) is not."""
    BAD_RANGE = 3
    """The page range is empty, misaligned or leaves the window or the context."""
    OVERLAP = 4
    """CREATE: another context owns part of the range."""
    BAD_CODEC = 5
    """The codec is not built into this device."""
    BAD_GEOMETRY = 6
    """The field widths do not fit the length."""
    UNSUPPORTED = 7
    """A command that this device does not have yet."""
    MEMORY_ERROR = 8
    """Device DRAM answered with an error."""
    BAD_DESCRIPTOR = 9
    """The codec does not take the setting, or a stream descriptor is meant that the table does not have."""


class ErrorKind(IntEnum):
    """Kinds of error records."""
    NONE = 0
    READ_OUTSIDE = 1
    """A read outside any context or of another owner's context: answered with MemData-NXM."""
    WRITE_OUTSIDE = 2
    """A write outside any context or into another owner's context: dropped and completed."""
    BAD_REQ_OPCODE = 3
    BAD_RWD_OPCODE = 4
    WRITE_POISONED = 5
    """A write to a POISONED page: dropped and completed."""
    NO_ROOM = 6
    """The pool had no room: a new page became POISONED, or a write to a SEALED page was dropped."""
    PAGE_CORRUPT = 7
    """The CRC of a stored page was wrong: the page became POISONED."""
    ENTRY_CORRUPT = 8
    """The check bits of a page table entry were wrong: the page became POISONED."""
    MEMORY_READ = 9
    """DRAM answered a read with an error."""
    MEMORY_WRITE = 10
    """DRAM answered a write with an error."""
    COMMAND = 11
    """A command ended with a status other than OK (in `detail`)."""
    MMIO_ADDRESS = 12
    """An access to MMIO space that no register or command slot answers to."""
    HOST_POISON = 13
    """The host wrote poison: the page became POISONED."""


ENUMS = (PageState, Codec, Dtype, ReqOpcode, RwdOpcode, NdrOpcode, DrsOpcode, MetaField, MetaValue, SnpType,
         DevLoad, Opcode, Status, ErrorKind)
