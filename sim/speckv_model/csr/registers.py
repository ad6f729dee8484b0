"""The one description of MMIO space: the RTL decoder, the host's map and docs/registers.md come from it.

Registers are 64 bits wide, at byte offsets that are multiples of eight. `REGISTERS` is the map;
`COMMAND_WORDS` are the words of a command slot and `COMPLETION_WORD` is what the device leaves when a command
is done.
"""

from ..config import DeviceConfig
from ..constants import Codec, Dtype, ErrorKind, Opcode, Status
from .description import REGISTER_BYTES, Access, Field, Register, RegisterMap

MAGIC = int.from_bytes(b"SPECKV", "little")
VERSION = 1

MMIO_BYTES = 1 << 16
REGION_BYTES = 1 << 14
"""MMIO space has four regions: registers, command slots, completion words, and one that is reserved."""
REGISTER_BASE = 0 * REGION_BYTES
COMMAND_SLOT_BASE = 1 * REGION_BYTES
COMPLETION_BASE = 2 * REGION_BYTES
COMMAND_SLOT_WORDS = 8
COMMAND_SLOT_BYTES = COMMAND_SLOT_WORDS * REGISTER_BYTES

HDM_BASE_ALIGN_BITS = 28
"""The HDM window is based at multiples of 256 MiB."""
ADDRESS_BITS = 52
"""Host physical addresses."""
COMMAND_COUNT_BITS = 16
"""COMMAND_TAIL and COMMAND_HEAD count modulo 2^16."""
ERROR_COUNT_BITS = 32
MEMORY_TIMEOUT_CLOCKS = 1 << 16
COUNTER_BASE = 0x200
COUNTER_BITS = 48
LATENCY_BUCKETS = 16


def _log2(value):
    return value.bit_length() - 1


def codec_bitmap(config):
    """Bit n is set where codec number n is built in."""
    return sum(1 << codec for codec in Codec if config.has_codec(codec))


def _error(name, offset, which):
    return Register(name, offset, Access.RO, (
        Field("kind", 0, 4, "Kind of the error.", enum=ErrorKind),
        Field("detail", 16, 16, "Tag of the request, opcode or status, by kind."),
        Field("valid", 63, 1, "An error was recorded since the last clear."),
    ), f"The {which} error since the last clear.")


def _error_address(name, offset, which):
    return Register(name, offset, Access.RO, (
        Field("address", 0, 40, "Byte offset in the window; in MMIO space: MMIO_ADDRESS, refused tail."),
    ), f"Where the {which} error happened.")


_COUNTERS = (
    ("CLOCKS", 0, "Device clocks."),
    ("REQ_READS", 1, "MemRd and MemRdData requests accepted."),
    ("REQ_WRITES", 1, "MemWr requests accepted."),
    ("REQ_PARTIAL_WRITES", 1, "MemWrPtl requests accepted."),
    ("REQ_HINTS", 1, "MemSpecRd requests accepted."),
    ("REQ_INVALIDATES", 1, "MemInv and MemInvNT requests accepted."),
    ("REQ_OTHER", 2, "Requests with another opcode, on either channel."),
    ("CACHE_HITS", 1, "Line accesses that found their page on chip."),
    ("CACHE_MISSES", 1, "Line accesses that did not."),
    ("PAGES_OPENED", 1, "Pages that became OPEN."),
    ("PAGES_SEALED", 1, "Pages that became SEALED."),
    ("PAGES_SPILLED", 1, "OPEN pages written to DRAM uncompressed."),
    ("PAGES_FETCHED", 1, "Pages brought on chip from DRAM."),
    ("PAGES_FREED", 1, "Pages given back."),
    ("PREFETCHES_ISSUED", 1, "Pages fetched before they were asked for."),
    ("PREFETCHES_USED", 1, "Prefetched pages that a request then touched."),
    ("PREFETCHES_DROPPED", 2, "Proposed pages that were not fetched."),
    ("TLB_HITS", 1, "Page table look-ups answered on chip."),
    ("TLB_MISSES", 1, "Page table look-ups that read DRAM."),
    ("SEAL_LINES_IN", 7, "Lines that went into the encoder."),
    ("SEAL_LINES_OUT", 7, "Stored lines that sealing wrote."),
    ("FETCH_LINES_IN", 7, "Stored lines that fetching read."),
    ("FETCH_LINES_OUT", 7, "Lines that fetching brought on chip."),
    ("DRAM_LINES_READ", 1, "Lines read from device DRAM, for any purpose."),
    ("DRAM_LINES_WRITTEN", 1, "Lines written to device DRAM, for any purpose."),
)


def _counter(index, name, increment, doc):
    return Register(name, COUNTER_BASE + index * REGISTER_BYTES, Access.COUNTER,
                    (Field("count", 0, COUNTER_BITS, "Wraps around."),), doc, increment)


def _latency(bucket):
    low = 0 if bucket == 0 else 1 << bucket
    high = "or more" if bucket == LATENCY_BUCKETS - 1 else f"to {(2 << bucket) - 1}"
    return _counter(bucket, f"LATENCY_{bucket}", 0, f"Reads answered after {low} {high} clocks.")


REGISTERS = RegisterMap(
    Register("IDENTITY", 0x000, Access.CONSTANT, (
        Field("magic", 0, 48, "`SPECKV` in ASCII, first letter lowest.", MAGIC),
        Field("version", 48, 16, "Version of this register map.", VERSION),
    ), "What answers here."),
    Register("CAPABILITY_0", 0x008, Access.CONSTANT, (
        Field("window_bits", 0, 8, "Bytes of the HDM window, log2.", lambda c: c.window_bits),
        Field("pool_bits", 8, 8, "Bytes of DRAM for page data, log2.", lambda c: _log2(c.pool_bytes)),
        Field("contexts", 16, 16, "Contexts that can exist at once.", lambda c: c.contexts),
        Field("window_slots", 32, 17, "Granules of the window.", lambda c: c.window_slots),
        Field("codecs", 56, 8, "Bit n: codec number n is built in.", codec_bitmap),
    ), "Window, pool and codecs."),
    Register("CAPABILITY_1", 0x010, Access.CONSTANT, (
        Field("cache_pages", 0, 16, "Pages that the page cache holds.", lambda c: c.cache_pages),
        Field("cache_ways", 16, 8, "Its associativity.", lambda c: c.cache_ways),
        Field("tlb_entries", 32, 17, "Page table entries that the TLB holds.", lambda c: c.tlb_entries),
        Field("tlb_ways", 56, 8, "Its associativity.", lambda c: c.tlb_ways),
    ), "On-chip memories."),
    Register("CAPABILITY_2", 0x018, Access.CONSTANT, (
        Field("requests_in_flight", 0, 16, "CXL.mem requests of each channel taken and not yet answered.",
              lambda c: c.requests_in_flight),
        Field("fetches_in_flight", 16, 8, "Pages on their way from DRAM.", lambda c: c.fetches_in_flight),
        Field("bursts_in_flight", 24, 8, "AXI4 bursts of each direction.", lambda c: c.bursts_in_flight),
        Field("command_slots", 32, 8, "Commands that the queue holds.", lambda c: c.command_slots),
        Field("lanes", 40, 8, "16-bit values that the codec handles in a clock.", lambda c: c.lanes),
        Field("descriptors", 48, 16, "Stream descriptors that the table holds.", lambda c: c.descriptors),
    ), "Concurrency, and the table of stream descriptors."),
    Register("STATUS", 0x020, Access.RO, (
        Field("ready", 0, 1, "Memories are swept after reset; until then commands wait."),
        Field("busy", 1, 1, "A submitted command is not complete."),
        Field("pool_low", 2, 1, "POOL_FREE_SECTORS is below POOL_LOW_WATER."),
        Field("error", 3, 1, "An error was recorded since the last clear."),
    ), "The device at a glance."),
    Register("CONTROL", 0x028, Access.RW, (
        Field("prefetch_enable", 0, 1, "Pages may be fetched before they are asked for.", 1),
    ), "Switches."),
    Register("HDM_BASE", 0x030, Access.GUARDED, (
        Field("base", HDM_BASE_ALIGN_BITS, ADDRESS_BITS - HDM_BASE_ALIGN_BITS, "Address bits 51 to 28."),
    ), "Host physical address of the window. While HDM_CONTROL.committed is set it cannot be changed."),
    Register("HDM_CONTROL", 0x038, Access.GUARDED, (
        Field("commit", 9, 1, "Put the window to use (CXL 2.0 HDM decoder control, bit 9).", 1),
        Field("committed", 10, 1, "The window is in use; read only.", 1),
        Field("error", 11, 1, "Committing failed: the window would end beyond 2^52; read only."),
    ), "While the window is not committed no address is inside it. To move it: clear `commit`, write "
       "HDM_BASE, set `commit`. After reset it is committed at address 0."),
    Register("COMMAND_TAIL", 0x040, Access.GUARDED, (
        Field("tail", 0, COMMAND_COUNT_BITS, "Commands submitted, modulo 2^16."),
    ), "Doorbell: commands up to `tail` are in their slots. A tail that is more than the number of slots "
       "ahead of COMMAND_HEAD, or behind what was submitted before, is refused: COMMAND_TAIL stays and an "
       "error of kind COMMAND is recorded, with this register's address and the refused tail as detail."),
    Register("COMMAND_HEAD", 0x048, Access.RO, (
        Field("head", 0, COMMAND_COUNT_BITS, "Commands completed, modulo 2^16."),
    ), "Progress of the command queue."),
    Register("POOL_SECTORS", 0x050, Access.CONSTANT, (
        Field("sectors", 0, 33, "128-byte sectors in all.", lambda c: c.pool_sectors),
    ), "Size of the pool."),
    Register("POOL_FREE_SECTORS", 0x058, Access.RO, (
        Field("sectors", 0, 33, "128-byte sectors that are free.", lambda c: c.pool_sectors),
    ), "Room left in the pool."),
    Register("POOL_LOW_WATER", 0x060, Access.RW, (
        Field("sectors", 0, 33, "Threshold of STATUS.pool_low.", lambda c: c.pool_sectors // 8),
    ), "When to warn that the pool runs out. After reset one eighth of the pool."),
    Register("MEMORY_TIMEOUT", 0x068, Access.RW, (
        Field("clocks", 0, 24, "0: none.", MEMORY_TIMEOUT_CLOCKS),
    ), "Clocks without an answer of device DRAM after which what was asked of it ends as an error."),
    Register("ERROR_COUNT", 0x080, Access.RO, (
        Field("count", 0, ERROR_COUNT_BITS, "Stays at its highest value once there."),
    ), "Errors recorded since the last clear."),
    _error("ERROR_FIRST", 0x088, "first"),
    _error_address("ERROR_FIRST_ADDRESS", 0x090, "first"),
    _error("ERROR_LAST", 0x098, "last"),
    _error_address("ERROR_LAST_ADDRESS", 0x0A0, "last"),
    Register("ERROR_CLEAR", 0x0A8, Access.W1, (Field("clear", 0, 1, "Forget all errors."),),
             "Start the error records anew."),
    Register("COUNTERS_CLEAR", 0x0B0, Access.W1, (Field("clear", 0, 1, "Set all counters to zero."),),
             "Start counting anew."),
    *(_latency(bucket) for bucket in range(LATENCY_BUCKETS)),
    *(_counter(LATENCY_BUCKETS + n, *counter) for n, counter in enumerate(_COUNTERS)),
)
"""The registers."""

COUNTERS = REGISTERS.having(Access.COUNTER)
"""The counters; their offsets are consecutive."""
EVENTS = tuple(register for register in COUNTERS if register.increment)
"""The counters that an event of their own feeds (CLOCKS and the latency buckets have none)."""


def _command_word(n, *fields):
    return Register(f"WORD_{n}", n * REGISTER_BYTES, Access.RW, fields)


COMMAND_WORDS = RegisterMap(
    _command_word(0, Field("opcode", 0, 8, "What to do.", enum=Opcode),
                  Field("context", 16, 12, "Number of the context."),
                  Field("tag", 32, 16, "Comes back in the completion word.")),
    _command_word(1, Field("first_page", 0, 28, "First window page.")),
    _command_word(2, Field("pages", 0, 29, "Number of pages; LOAD_DESCRIPTOR: of descriptors.")),
    _command_word(3, Field("index_bits", 0, 5, "CREATE: width of the page index within a stream."),
                  Field("head_bits", 8, 5, "CREATE: width of the KV head number."),
                  Field("layer_bits", 16, 5, "CREATE: width of the layer number."),
                  Field("dtype", 24, 1, "CREATE: what the 16-bit values are.", enum=Dtype),
                  Field("codec", 32, 3, "CREATE, LOAD_DESCRIPTOR: how pages are compressed.", enum=Codec),
                  Field("ld_id", 40, 4, "CREATE: the owner."),
                  Field("setting", 48, 8, "CREATE, LOAD_DESCRIPTOR: what the codec is told."),
                  Field("per_stream", 56, 1, "CREATE: each stream has its codec and setting from its descriptor."),
                  Field("by_row", 57, 1, "CREATE: a read that misses fetches its row alone, where the codec lets it: "
                        "`fixed`, whose rows have a check then.")),
    _command_word(4, Field("descriptor_base", 0, 16, "CREATE: number of the first stream's descriptor."),
                  Field("descriptor", 16, 16, "LOAD_DESCRIPTOR: number of the first descriptor.")),
)
"""The words of a command slot, at their offsets within it; the words after these are reserved."""

COMPLETION_WORD = Register("COMPLETION", 0, Access.RO, (
    Field("status", 0, 8, "How the command ended.", enum=Status),
    Field("opcode", 8, 8, "Of the command.", enum=Opcode),
    Field("tag", 32, 16, "Of the command."),
    Field("done", 63, 1, "The command is complete."),
), "Reads as zero until the command of the slot is complete, and again once a word of the slot is written.")


def command_slot_offset(slot):
    """Byte address of the first word of command slot `slot`."""
    return COMMAND_SLOT_BASE + slot * COMMAND_SLOT_BYTES


def completion_offset(slot):
    """Byte address of the completion word of command slot `slot`."""
    return COMPLETION_BASE + slot * REGISTER_BYTES


def pack_command(**fields):
    """Words of a command with the `fields` of `COMMAND_WORDS`, all others zero: list of ints, one a word.

    Raises `TypeError` for an unknown field and `ValueError` for a value that does not fit.
    """
    words = [register.pack(**{field.name: fields.pop(field.name, 0) for field in register.fields})
             for register in COMMAND_WORDS]
    if fields:
        raise TypeError(f"fields must be those of a command, not {', '.join(fields)}")
    return words


def unpack_command(words):
    """Dictionary of field name to value of the command in `words` (one int a word)."""
    command = {}
    for register, word in zip(COMMAND_WORDS, words):
        command |= register.unpack(word)
    return command


def read_config(read):
    """The `DeviceConfig` that a device reports. `read(offset)` returns the value of a register.

    Raises `ValueError` if no device of this version answers.
    """
    identity = REGISTERS.IDENTITY.unpack(read(REGISTERS.IDENTITY.offset))
    if identity != {"magic": MAGIC, "version": VERSION}:
        raise ValueError(f"identity must be SPECKV version {VERSION}, not {identity!r}")
    found = {}
    for register in (REGISTERS.CAPABILITY_0, REGISTERS.CAPABILITY_1, REGISTERS.CAPABILITY_2):
        found |= register.unpack(read(register.offset))
    found["pool_bytes"] = 1 << found.pop("pool_bits")
    bitmap = found.pop("codecs")
    return DeviceConfig(codecs=tuple(codec.name.lower() for codec in Codec if bitmap >> codec & 1), **found)
