"""Writes the documentation of MMIO space: ``python -m speckv_model.csr.document > docs/registers.md``."""

import ast
import inspect
import textwrap

from ..constants import Codec, Dtype, ErrorKind, Opcode, Status
from .description import REGISTER_BYTES
from .registers import (
    COMMAND_SLOT_BASE,
    COMMAND_SLOT_BYTES,
    COMMAND_WORDS,
    COMPLETION_BASE,
    COMPLETION_WORD,
    COUNTER_BITS,
    COUNTERS,
    MMIO_BYTES,
    REGION_BYTES,
    REGISTER_BASE,
    REGISTERS,
)

INTRODUCTION = """\
# Registers and commands

Generated from `sim/speckv_model/csr/registers.py` by `python -m speckv_model.csr.document`; do not edit.

The device answers reads and writes of 64-bit words at byte addresses that are multiples of eight, one at a
time and in order. An access where this page names nothing reads as zero, ignores writes and leaves an error
of kind MMIO_ADDRESS (detail 0 for a read, 1 for a write). Bits that belong to no field read as zero and
ignore writes. A write to a word that cannot be written is ignored without an error.
"""

COMMAND_QUEUE = """\
The host writes a command into slot COMMAND_TAIL modulo the number of slots (CAPABILITY_2), then the new
tail into COMMAND_TAIL. Commands are executed one at a time, in order; COMMAND_HEAD counts those that are
complete, and the slot's completion word says how each ended. A command that ends with a status other than
OK also leaves an error of kind COMMAND, with the status as its detail and the byte offset of its first page
as its address. Slots are write only: they read as zero.
"""

COMMANDS = {
    Opcode.NOP: "Nothing.",
    Opcode.CREATE: "Makes a context of `pages` pages from `first_page` on, all EMPTY. The range begins and "
                   "ends on a granule (window pages / window slots) and belongs to no other context; "
                   "`index_bits` + `head_bits` + `layer_bits` + 1 is at most 28 and 2^`index_bits` at most "
                   "`pages`. Pages are sealed with `codec` and `setting`; with `per_stream` with those of stream "
                   "descriptor `descriptor_base` + (page - `first_page`) / 2^`index_bits`, as it is when the sealing "
                   "begins. The table must have the descriptors of all streams of the geometry that the range "
                   "reaches.",
    Opcode.DESTROY: "Ends a context and frees all its pages. No address reaches it any more.",
    Opcode.SEAL: "Seals those pages of the range that are OPEN.",
    Opcode.FREE: "Frees the pages of the range: they become EMPTY.",
    Opcode.PREFETCH: "Brings the pages of the range on chip.",
    Opcode.PIN: "Not in this version.",
    Opcode.UNPIN: "Not in this version.",
    Opcode.FLUSH: "Writes those pages of the range that are OPEN to DRAM, and forgets all of them on chip.",
    Opcode.LOAD_DESCRIPTOR: "Sets stream descriptors: `pages` (at least 1) of them, from `descriptor` on, "
                            "become `codec` and `setting`. After reset they are RAW and 0. A page that was filled "
                            "shortly before may be sealed shortly after: before a descriptor in use is changed, "
                            "FLUSH the pages that it is for.",
}


def _table(*rows):
    """Markdown table; the first of `rows` is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def _bits(field):
    return str(field.lsb) if field.width == 1 else f"{field.lsb + field.width - 1}:{field.lsb}"


def _meanings(enum):
    """Dictionary of member name to the string that follows the member in the source of `enum`."""
    body = ast.parse(textwrap.dedent(inspect.getsource(enum))).body[0].body
    return {assign.targets[0].id: " ".join(text.value.value.split())
            for assign, text in zip(body, body[1:])
            if isinstance(assign, ast.Assign) and isinstance(text, ast.Expr)}


def _enum_table(enum):
    meanings = _meanings(enum)
    return _table(("value", "name", "meaning"),
                  *((str(int(member)), member.name, meanings.get(member.name, "")) for member in enum))


def _fields_table(register):
    def reset(field):
        return "by configuration" if callable(field.reset) else f"{field.reset:#x}"

    return _table(("bits", "field", "after reset", "meaning"),
                  *((_bits(field), f"`{field.name}`", reset(field), field.doc) for field in register.fields))


def _words_table(*registers):
    """Fields of command or completion words, which have no reset value."""
    return _table(("word", "bits", "field", "meaning"),
                  *((str(register.offset // REGISTER_BYTES), _bits(field), f"`{field.name}`", field.doc)
                    for register in registers for field in register.fields))


def page():
    """The documentation as Markdown: str."""
    plain = [register for register in REGISTERS if register not in COUNTERS]
    last = COMPLETION_BASE + REGION_BYTES
    sections = [
        INTRODUCTION,
        _table(("addresses", "what"),
               (f"{REGISTER_BASE:#06x} - {COMMAND_SLOT_BASE - 1:#06x}", "registers"),
               (f"{COMMAND_SLOT_BASE:#06x} + {COMMAND_SLOT_BYTES} i", "command slot i"),
               (f"{COMPLETION_BASE:#06x} + {REGISTER_BYTES} i", "completion word of slot i"),
               (f"{last:#06x} - {MMIO_BYTES - 1:#06x}", "reserved")),
        "## Registers\n",
    ]
    for register in plain:
        sections += [f"### {register.offset:#06x} {register.name} ({register.access.value})\n",
                     register.doc + "\n", _fields_table(register)]
    sections += [
        "## Counters\n",
        f"Each is {COUNTER_BITS} bits wide, read only, zero after reset, and wraps around.\n",
        _table(("offset", "counter", "counts"),
               *((f"{register.offset:#06x}", register.name, register.doc) for register in COUNTERS)),
        "## Commands\n",
        COMMAND_QUEUE,
        _words_table(*COMMAND_WORDS),
        f"Completion word. {COMPLETION_WORD.doc}\n",
        _words_table(COMPLETION_WORD),
        _table(("opcode", "command", "what it does"),
               *((str(int(opcode)), opcode.name, text) for opcode, text in COMMANDS.items())),
    ]
    enums = {"Status of a completion": Status, "Kinds of errors": ErrorKind, "Codecs": Codec, "Dtypes": Dtype}
    for heading, enum in enums.items():
        sections += [f"## {heading}\n", _enum_table(enum)]
    return "\n".join(sections)


if __name__ == "__main__":
    print(page(), end="")
