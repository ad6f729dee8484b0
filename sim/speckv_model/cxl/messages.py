"""CXL.mem messages as NumPy records: what a link carries, in batches.

Source: CXL 2.0 section 3.3 (message fields), section 3.3.3 to 3.3.6 (opcodes and responses).
"""

from enum import IntEnum, IntFlag

import numpy as np

from ..constants import LINE_BYTES, MetaField, MetaValue, NdrOpcode, ReqOpcode, RwdOpcode, SnpType


class Channel(IntEnum):
    REQ = 0
    RWD = 1


class Expect(IntFlag):
    """Which responses a request gets."""
    NONE = 0
    NDR = 1
    DRS = 2


REQUEST = np.dtype([
    ("channel", "u1"), ("opcode", "u1"), ("snp_type", "u1"), ("meta_field", "u1"),
    ("meta_value", "u1"), ("ld_id", "u1"), ("traffic_class", "u1"), ("poison", "u1"),
    ("expect", "u1"), ("spare", "u1", 7),
    ("address", "<u8"),
    ("byte_enable", "<u8"),
    ("data", "u1", LINE_BYTES),
])
"""One request, 96 bytes. `address` is a byte address, line-aligned. Tags are given by the link."""

RESPONSE = np.dtype([
    ("kind", "u1"), ("ndr_opcode", "u1"), ("drs_opcode", "u1"), ("poison", "u1"),
    ("dev_load", "u1"), ("meta_field", "u1"), ("meta_value", "u1"), ("ld_id", "u1"),
    ("latency", "<u4"), ("accepted", "<u4"),
    ("data", "u1", LINE_BYTES),
])
"""What came back for a request, 80 bytes. `kind` is an `Expect` of what was received; `latency` is in device clocks
from the acceptance of the request to its last response, `accepted` in device clocks from the begin of the batch to
that acceptance (0 where the link has no clock)."""


def completion(meta_field, meta_value):
    """NDR opcode that answers a request with this metadata: arrays or ints in, array out (uint8)."""
    meta_field, meta_value = np.asarray(meta_field), np.asarray(meta_value)
    opcode = np.where(meta_value == MetaValue.ANY, NdrOpcode.CMP_E,
                      np.where(meta_value == MetaValue.SHARED, NdrOpcode.CMP_S, NdrOpcode.CMP))
    return np.where(meta_field == MetaField.META0_STATE, opcode, NdrOpcode.CMP).astype(np.uint8)


def expected(requests):
    """Responses that each of `requests` (dtype `REQUEST`, any shape) gets: uint8 array of `Expect` values."""
    opcode = requests["opcode"]
    is_read = (opcode == ReqOpcode.MEM_RD) | (opcode == ReqOpcode.MEM_RD_DATA)
    wants_state = (requests["meta_field"] == MetaField.META0_STATE) & (requests["snp_type"] != SnpType.NO_OP)
    req = np.where(is_read, np.where(wants_state, Expect.NDR | Expect.DRS, Expect.DRS),
                   np.where(opcode == ReqOpcode.MEM_SPEC_RD, Expect.NONE, Expect.NDR))
    return np.where(requests["channel"] == Channel.REQ, req, Expect.NDR).astype(np.uint8)


def reads(addresses, *, ld_id=0):
    """MemRd requests without metadata for the byte `addresses` (any shape, flattened): `REQUEST` array."""
    addresses = np.asarray(addresses, np.uint64).ravel()
    requests = np.zeros(addresses.size, REQUEST)
    requests["channel"] = Channel.REQ
    requests["opcode"] = ReqOpcode.MEM_RD
    requests["meta_field"] = MetaField.NO_OP
    requests["ld_id"] = ld_id
    requests["expect"] = Expect.DRS
    requests["address"] = addresses
    return requests


def hints(addresses, *, ld_id=0):
    """MemSpecRd requests for the byte `addresses`: `REQUEST` array."""
    requests = reads(addresses, ld_id=ld_id)
    requests["opcode"] = ReqOpcode.MEM_SPEC_RD
    requests["expect"] = Expect.NONE
    return requests


def writes(addresses, data, *, byte_enable=None, poison=0, ld_id=0):
    """MemWr requests (MemWrPtl where `byte_enable` is given).

    `addresses`: bytes, n; `data`: uint8, (n, 64); `byte_enable`: uint64, n, bit i enables byte i.
    """
    addresses = np.asarray(addresses, np.uint64).ravel()
    requests = np.zeros(addresses.size, REQUEST)
    requests["channel"] = Channel.RWD
    requests["opcode"] = RwdOpcode.MEM_WR if byte_enable is None else RwdOpcode.MEM_WR_PTL
    requests["meta_field"] = MetaField.NO_OP
    requests["ld_id"] = ld_id
    requests["poison"] = poison
    requests["expect"] = Expect.NDR
    requests["address"] = addresses
    requests["byte_enable"] = np.uint64(2**64 - 1) if byte_enable is None else byte_enable
    requests["data"] = np.asarray(data, np.uint8).reshape(addresses.size, LINE_BYTES)
    return requests
