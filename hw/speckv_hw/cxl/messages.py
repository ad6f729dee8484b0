"""CXL.mem messages as stream payloads, with the field widths of CXL 2.0 section 3.3.

`Valid` is the stream's `valid`; reserved bits are left out. Wide fields come first so that they are word-aligned.
"""

from amaranth.lib import data

from speckv_hw.types import (
    LINE_BITS,
    DevLoad,
    DrsOpcode,
    MetaField,
    MetaValue,
    NdrOpcode,
    ReqOpcode,
    RwdOpcode,
    SnpType,
)


class Req(data.Struct):
    """M2S Req."""
    opcode: ReqOpcode
    snp_type: SnpType
    meta_field: MetaField
    meta_value: MetaValue
    tag: 16
    address: 47
    """Byte address, bits 51 to 5."""
    traffic_class: 2
    ld_id: 4

    def is_read(self):
        return (self.opcode == ReqOpcode.MEM_RD) | (self.opcode == ReqOpcode.MEM_RD_DATA)

    def is_hint(self):
        return self.opcode == ReqOpcode.MEM_SPEC_RD

    def is_invalidate(self):
        return (self.opcode == ReqOpcode.MEM_INV) | (self.opcode == ReqOpcode.MEM_INV_NT)

    def wants_state(self):
        """Whether a read is answered with a completion beside its data."""
        return (self.meta_field == MetaField.META0_STATE) & (self.snp_type != SnpType.NO_OP)


class RwD(data.Struct):
    """M2S RwD with its data and byte enables."""
    data: LINE_BITS
    byte_enable: 64
    opcode: RwdOpcode
    snp_type: SnpType
    meta_field: MetaField
    meta_value: MetaValue
    tag: 16
    address: 46
    """Byte address, bits 51 to 6."""
    poison: 1
    traffic_class: 2
    ld_id: 4

    def is_partial(self):
        return self.opcode == RwdOpcode.MEM_WR_PTL

    def is_write(self):
        return (self.opcode == RwdOpcode.MEM_WR) | self.is_partial()


class Ndr(data.Struct):
    """S2M NDR."""
    opcode: NdrOpcode
    meta_field: MetaField
    meta_value: MetaValue
    tag: 16
    ld_id: 4
    dev_load: DevLoad


class Drs(data.Struct):
    """S2M DRS with its data."""
    data: LINE_BITS
    opcode: DrsOpcode
    meta_field: MetaField
    meta_value: MetaValue
    tag: 16
    poison: 1
    ld_id: 4
    dev_load: DevLoad
