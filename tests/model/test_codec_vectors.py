"""The checked-in vectors against the model, and against a plain decoder written from docs/format.md alone."""

import json
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from speckv_model import codec
from speckv_model.constants import PAGE_BYTES, Codec, Dtype, PageState
from speckv_model.mover.messages import pack_header, unpack_header
from speckv_model.table.entry import Entry

VECTORS = Path(__file__).parents[1] / "vectors"
SPECKV = json.loads((VECTORS / "speckv.json").read_text())
TABLE = json.loads((VECTORS / "table.json").read_text())


def joined(lines):
    return bytes.fromhex("".join(lines))


def plain_magnitude(bits, mantissa_bits):
    """Exact value of 15 magnitude bits, in units of the smallest subnormal."""
    field, mantissa = bits >> mantissa_bits, bits % (1 << mantissa_bits)
    return mantissa if field == 0 else (mantissa + (1 << mantissa_bits)) << (field - 1)


def plain_round(value, mantissa_bits):
    """Magnitude bits of the number nearest to a rational, ties to even."""
    field = 0
    while round(value / (1 << max(field - 1, 0))) >= 2 << mantissa_bits:
        field += 1
    unit = 1 << max(field - 1, 0)
    whole = round(value / unit)
    return whole + (max(field - 1, 0) << mantissa_bits)


def plain_decode(stored, mantissa_bits):
    """The 16-bit patterns of a `speckv` page that an encoder has written."""
    values, body = [], stored[64:]
    for row in range(16):
        maximum = int.from_bytes(stored[2 * row:2 * row + 2], "little")
        code = stored[32 + row]
        length = 256 if code == 65 else 128 if code == 64 else 2 * code
        piece, body = body[:length], body[length:]
        if code == 65:
            values += [int.from_bytes(piece[n:n + 2], "little") for n in range(0, 256, 2)]
            continue
        if code == 64:
            quantised = list(piece)
        else:
            quantised, latest = [], 0
            for delta, count in zip(piece[0::2], piece[1::2]):
                for _ in range(count + 1):
                    latest = (latest + delta) % 256
                    quantised.append(latest)
        for byte in quantised:
            signed = byte - 256 if byte >= 128 else byte
            exact = Fraction(abs(signed) * plain_magnitude(maximum, mantissa_bits), 127)
            values.append(plain_round(exact, mantissa_bits) | (signed < 0) << 15)
    assert not any(body) and len(body) < 64
    return values


@pytest.mark.parametrize("vector", SPECKV, ids=lambda vector: vector["name"].replace(" ", "-"))
def test_speckv(vector):
    dtype = Dtype[vector["dtype"]]
    page, stored, decoded = (np.frombuffer(joined(vector[name]), np.uint8)
                             for name in ("page", "stored", "decoded"))
    assert len(page) == len(decoded) == PAGE_BYTES and len(stored) == 64 * vector["lines"]
    assert np.array_equal(codec.encode(Codec.SPECKV, dtype, page), stored)
    assert np.array_equal(codec.decode(Codec.SPECKV, dtype, stored), decoded)
    assert decoded.view("<u2").tolist() == plain_decode(stored.tobytes(), 10 if dtype == Dtype.FP16 else 7)


def test_entry():
    fields = dict(TABLE["entry"])
    packed = bytes.fromhex(fields.pop("packed"))
    fields["state"], fields["codec"] = PageState[fields["state"]], Codec[fields["codec"]]
    entry = Entry(**fields)
    assert entry.pack() == packed and Entry.unpack(packed) == entry and entry.intact
    assert entry.crc == zlib.crc32(joined(SPECKV[0]["stored"]))


def test_spilled_page():
    vector = TABLE["spilled"]
    stored = np.frombuffer(joined(vector["stored"]), np.uint8).reshape(-1, 64)
    written, base, poison = unpack_header(stored[0])
    assert np.flatnonzero(written).tolist() == vector["written"]
    assert np.flatnonzero(poison).tolist() == vector["poison"]
    assert base == vector["base"]
    assert np.array_equal(pack_header(written, base, poison), stored[0])
    assert len(stored) == 1 + max(vector["written"]) + 1
    assert zlib.crc32(stored.tobytes()) == vector["crc"]
