"""The register map: consistent, readable by a host, and documented as it is."""

from pathlib import Path

import pytest

from speckv_model.config import DeviceConfig
from speckv_model.constants import Codec, Dtype, ErrorKind, Opcode
from speckv_model.csr import document
from speckv_model.csr.description import Access, Field, Register, RegisterMap
from speckv_model.csr.registers import (
    COMMAND_SLOT_BASE,
    COUNTER_BASE,
    COUNTERS,
    REGISTERS,
    command_slot_offset,
    completion_offset,
    pack_command,
    read_config,
    unpack_command,
)

CONFIGS = [
    DeviceConfig.default(),
    DeviceConfig.small(),
    DeviceConfig(window_bits=40, pool_bytes=1 << 38, window_slots=1 << 16, cache_pages=4096,
                 tlb_entries=1 << 16, requests_in_flight=4096, fetches_in_flight=64, bursts_in_flight=64,
                 command_slots=64, descriptors=4096, lanes=8, codecs=tuple(codec.name.lower() for codec in Codec)),
]


def test_map_lies_in_its_region():
    assert all(0 <= register.offset < COMMAND_SLOT_BASE for register in REGISTERS)


def test_counters_are_consecutive():
    assert [register.offset for register in COUNTERS] == [COUNTER_BASE + 8 * n for n in range(len(COUNTERS))]


@pytest.mark.parametrize("config", CONFIGS, ids=DeviceConfig.digest)
def test_configuration_reads_back(config):
    assert read_config(lambda offset: REGISTERS.at(offset).reset_value(config)) == config


def test_stranger_is_refused():
    with pytest.raises(ValueError, match="identity must be SPECKV version 1"):
        read_config(lambda offset: 0)


def test_fields_pack_and_unpack():
    word = REGISTERS.ERROR_FIRST.pack(kind=ErrorKind.NO_ROOM, detail=0x1234, valid=1)
    assert word == 1 << 63 | 0x1234 << 16 | 6
    assert REGISTERS.ERROR_FIRST.unpack(word) == {"kind": ErrorKind.NO_ROOM, "detail": 0x1234, "valid": 1}


def test_command_packs_and_unpacks():
    fields = dict(opcode=Opcode.CREATE, context=0xABC, tag=0xBEEF, first_page=0xFFFFFFF,
                  pages=1 << 28, index_bits=31, head_bits=1, layer_bits=30, dtype=Dtype.BF16,
                  codec=Codec.SPECKV, ld_id=15, setting=0x81, per_stream=1, descriptor_base=0x8001,
                  descriptor=0x1234)
    words = pack_command(**fields)
    assert words == [0xBEEF << 32 | 0xABC << 16 | 1, 0xFFFFFFF, 1 << 28,
                     1 << 56 | 0x81 << 48 | 15 << 40 | 1 << 32 | 1 << 24 | 30 << 16 | 1 << 8 | 31,
                     0x1234 << 16 | 0x8001]
    assert unpack_command(words) == fields
    assert pack_command(opcode=Opcode.NOP) == [0] * 5


def test_command_of_unknown_fields_is_refused():
    with pytest.raises(TypeError, match="fields must be those of a command, not colour"):
        pack_command(colour=1)
    with pytest.raises(ValueError, match="context must be from 0 to 4095, not 4096"):
        pack_command(context=4096)


def test_slot_addresses():
    assert command_slot_offset(3) == 0x40C0
    assert completion_offset(3) == 0x8018


def test_unknown_enumeration_values_stay_numbers():
    assert REGISTERS.ERROR_FIRST.unpack(15)["kind"] == 15


def test_bad_descriptions_are_refused():
    with pytest.raises(ValueError, match="must lie in bits 0 to 63"):
        Field("wide", 60, 5)
    with pytest.raises(ValueError, match="offset of ODD must be a multiple of 8, not 4"):
        Register("ODD", 4, Access.RO, ())
    with pytest.raises(ValueError, match="fields of TWICE must not overlap, not 'b'"):
        Register("TWICE", 0, Access.RO, (Field("a", 0, 4), Field("b", 3, 4)))
    with pytest.raises(ValueError, match="names and offsets of their own, not 'B' at 0x0"):
        RegisterMap(Register("A", 0, Access.RO, ()), Register("B", 0, Access.RO, ()))
    with pytest.raises(AttributeError, match="no register is called 'NOWHERE'"):
        _ = REGISTERS.NOWHERE
    with pytest.raises(KeyError, match="STATUS has no field 'mood'"):
        REGISTERS.STATUS.pack(mood=1)


def test_every_command_and_register_is_documented():
    page = document.page()
    assert set(document.COMMANDS) == set(Opcode)
    assert all(f"{register.offset:#06x}" in page and register.name in page for register in REGISTERS)


def test_documentation_is_current():
    checked_in = Path(__file__).parents[2] / "docs" / "registers.md"
    assert checked_in.read_text() == document.page(), \
        "run: python -m speckv_model.csr.document > docs/registers.md"
