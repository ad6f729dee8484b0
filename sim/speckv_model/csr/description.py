"""What a register map is made of: fields, registers, maps of registers. The map itself is in `registers`."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum

REGISTER_BITS = 64
REGISTER_BYTES = REGISTER_BITS // 8


class Access(Enum):
    """How a register answers the host. A write to what cannot be written is ignored."""
    CONSTANT = "constant"
    """Fixed when the device is built."""
    RO = "ro"
    """Read only: shows a value of the device."""
    RW = "rw"
    """Read and write: holds what was written."""
    GUARDED = "rw, guarded"
    """Read and write, but the device may refuse what is written, by a rule in its description."""
    W1 = "w1"
    """Writing a one acts; reads as zero."""
    COUNTER = "counter"
    """Read only: counts events."""


@dataclass(frozen=True)
class Field:
    """Bits `lsb` to `lsb + width - 1` of a register. `reset`: a value or a function of the `DeviceConfig`."""
    name: str
    lsb: int
    width: int
    doc: str = ""
    reset: int | Callable = 0
    enum: type[IntEnum] | None = None

    def __post_init__(self):
        if self.lsb < 0 or self.width < 1 or self.lsb + self.width > REGISTER_BITS:
            raise ValueError(f"field {self.name} must lie in bits 0 to {REGISTER_BITS - 1}, "
                             f"not {self.lsb} to {self.lsb + self.width - 1}")

    @property
    def mask(self):
        """The field's bits within the register."""
        return ((1 << self.width) - 1) << self.lsb

    def reset_value(self, config):
        """Value after reset of a device built to `config`."""
        return self.reset(config) if callable(self.reset) else self.reset

    def insert(self, value):
        """`value` at the field's place. Raises `ValueError` where it does not fit."""
        if not 0 <= int(value) < 1 << self.width:
            raise ValueError(f"{self.name} must be from 0 to {(1 << self.width) - 1}, not {value!r}")
        return int(value) << self.lsb

    def extract(self, word):
        """The field's value in the register value `word`: a member of `enum` if there is one, else an int."""
        value = (int(word) & self.mask) >> self.lsb
        if self.enum is not None and value in self.enum._value2member_map_:
            return self.enum(value)
        return value


@dataclass(frozen=True)
class Register:
    """A 64-bit word with named fields at byte `offset`; `increment` (counters) is the width of its event."""
    name: str
    offset: int
    access: Access
    fields: tuple[Field, ...]
    doc: str = ""
    increment: int = 0

    def __post_init__(self):
        if self.offset < 0 or self.offset % REGISTER_BYTES:
            raise ValueError(f"offset of {self.name} must be a multiple of {REGISTER_BYTES}, "
                             f"not {self.offset!r}")
        taken = 0
        for field in self.fields:
            if taken & field.mask:
                raise ValueError(f"fields of {self.name} must not overlap, not {field.name!r}")
            taken |= field.mask

    def field(self, name):
        """The `Field` called `name`. Raises `KeyError` if there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"{self.name} has no field {name!r}")

    def reset_value(self, config):
        """What a read returns after reset of a device built to `config`."""
        return sum(field.insert(field.reset_value(config)) for field in self.fields)

    def pack(self, **values):
        """Register value with the fields `values`, all others zero. Raises `KeyError`, `ValueError`."""
        return sum(self.field(name).insert(value) for name, value in values.items())

    def unpack(self, word):
        """Dictionary of field name to value in the register value `word`."""
        return {field.name: field.extract(word) for field in self.fields}


class RegisterMap:
    """Registers by name (as attributes), by offset, and in order of offset."""

    def __init__(self, *registers):
        self._by_name = {}
        self._by_offset = {}
        for register in sorted(registers, key=lambda register: register.offset):
            if register.name in self._by_name or register.offset in self._by_offset:
                raise ValueError(f"registers must have names and offsets of their own, not {register.name!r} "
                                 f"at {register.offset:#x}")
            self._by_name[register.name] = register
            self._by_offset[register.offset] = register

    def __getattr__(self, name):
        try:
            return self.__dict__["_by_name"][name]
        except KeyError:
            raise AttributeError(f"no register is called {name!r}") from None

    def __iter__(self):
        return iter(self._by_name.values())

    def __len__(self):
        return len(self._by_name)

    def at(self, offset):
        """The register at byte `offset`, or None."""
        return self._by_offset.get(offset)

    def having(self, *access):
        """Registers with one of the kinds of `access`, in order of offset: tuple."""
        return tuple(register for register in self if register.access in access)
