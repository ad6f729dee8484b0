"""The checked-in vectors against the model, and against plain decoders written from docs/format.md alone."""

import json
import os
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
DOCUMENT = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
SEED = int(os.environ.get("SPECKV_SEED", "1"))
SPECKV = json.loads((VECTORS / "speckv.json").read_text())
NEW = {which: json.loads((VECTORS / f"{which.name.lower()}.json").read_text())
       for which in (Codec.LOSSLESS, Codec.FIXED, Codec.VARIABLE)}
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


def number(data, at, width):
    """The `width` bits of bytes from bit `at` on; bits beyond the end are zero."""
    return int.from_bytes(data, "little") >> at & (1 << width) - 1


def numbers(data, count, width):
    """`count` numbers of `width` bits, one after the other."""
    whole = int.from_bytes(data, "little")
    return [whole >> at & (1 << width) - 1 for at in range(0, count * width, width)]


def plain_lossless(stored, mantissa_bits):
    """The 16-bit patterns of a `lossless` page."""
    high_lines = 12 if mantissa_bits == 10 else 0
    n = max(len(stored) // 64 - 40 - high_lines, 0)
    first_bytes, high_bytes, middle, low_bytes = (
        stored[64 * at:64 * (at + lines)]
        for at, lines in ((0, 8), (8, high_lines), (8 + high_lines, n), (8 + high_lines + n, 32)))
    firsts = numbers(first_bytes, 2048, 2)
    rest = [low | high << 8 for low, high in
            zip(numbers(low_bytes, 2048, 8), numbers(high_bytes, 2048, 3) if high_lines else [0] * 2048)]
    centres, chunks = numbers(middle, 16, 8), number(middle, 128, 8)
    seconds = iter(numbers(middle[24:24 + 8 * chunks], 2048, 2))
    thirds = iter(numbers(middle[24 + 8 * chunks:], 2048, 4))
    second = [next(seconds) if code == 3 or centres[value // 128] == 0 else None for value, code in enumerate(firsts)]
    third = [next(thirds) if code == 3 or centres[value // 128] == 0 else None for value, code in enumerate(second)]

    ones = (1 << 15 - mantissa_bits) - 1
    values = []
    for value in range(2048):
        c, a, b, d = centres[value // 128], firsts[value], second[value], third[value]
        if c == 0:
            e = a + 4 * b + 16 * d
        elif d is not None:
            e = 0 if d == 14 else ones if d == 15 else c - 5 - d if d <= 8 else c + d - 7
        elif b is not None:
            e = c + (-3, 1, -4)[b]
        else:
            e = c - a
        w = rest[value]
        values.append((w >> mantissa_bits) << 15 | e % (ones + 1) << mantissa_bits | w % (1 << mantissa_bits))
    return values


def plain_nearest(value, mantissa_bits):
    """Magnitude bits of a rational rounded to the dtype."""
    infinity = 0x7FFF - (1 << mantissa_bits) + 1
    smallest = Fraction(2) ** (2 - (1 << 14 - mantissa_bits) - mantissa_bits)
    return min(plain_round(value / smallest, mantissa_bits), infinity - 1)


def plain_table(ternary):
    """The tables `step` and `inverse` by j and g, from their formulae."""
    t, f = (3, Fraction(5, 6)) if ternary else (1, Fraction(3, 4))
    width = [[Fraction(9 + j, 8) * f ** g / t for g in range(4)] for j in range(8)]
    return [[round(2 ** 14 * w) for w in row] for row in width], [[round(2 ** 14 / w) for w in row] for row in width]


def plain_place(cells, j, g, n):
    """Where in units of 1/16 of a cell the value of cell `n` of `cells` is."""
    if g == 0 and n == cells * (8 + j) // (9 + j):
        return max(16 * n + 8, -(-16 * cells * (8 + j) // (9 + j)))
    return 16 * n + 8


def plain_fixed_row(body, mantissa_bits):
    """The 16-bit patterns of a row of `fixed`."""
    setting = len(body) // 8
    ternary = setting % 2 == 0
    low_bits = setting // 2 - 3 if ternary else setting // 2 - 1
    s = min(body[0], 240)
    if s == 0:
        return [0] * 128
    exponent, j = (s - 1) // 8 - 14, (s - 1) % 8
    planes = body[32 if ternary else 8:]
    cells = (3 if ternary else 1) << low_bits
    width = plain_table(ternary)[0][j]
    decoded = {}
    values = []
    for value in range(128):
        group, inside = divmod(value, 8)
        g = number(body, 16 + 2 * group, 2)
        n = sum(number(planes, 128 * (1 + plane) + value, 1) << plane for plane in range(low_bits))
        if ternary:
            packed = number(body, 48 + 13 * group, 13)
            digits = packed % 256 // 3 ** inside if inside < 5 else packed // 256 // 3 ** (inside - 5)
            n += digits % 3 << low_bits
        if (g, n) not in decoded:
            exact = plain_place(cells, j, g, n) * width[g] * Fraction(2) ** (exponent - 18 - low_bits)
            decoded[g, n] = plain_nearest(exact, mantissa_bits)
        values.append(number(planes, value, 1) << 15 | decoded[g, n])
    return values


def plain_fixed(stored, mantissa_bits):
    """The 16-bit patterns of a `fixed` page."""
    length = 8 * min(max(len(stored) // 128, 7), 16)
    stored = stored.ljust(16 * length, bytes(1))
    return sum((plain_fixed_row(stored[length * row:length * (row + 1)], mantissa_bits) for row in range(16)), [])


def plain_variable(stored, mantissa_bits):
    """The 16-bit patterns of a `variable` page."""
    stored = stored.ljust(4096, bytes(1))
    step = Fraction(8 + stored[0] % 8, 8) * Fraction(2) ** (stored[0] // 8 - 20)
    values, at = [], 36
    for unit in range(64):
        width = min(number(stored, 32 + 4 * unit, 4), 12)
        planes = numbers(stored[at:at + 4 * width], width, 32)
        at += 4 * width
        for value in range(32):
            q = sum((plane >> value & 1) << place for place, plane in enumerate(planes))
            negative = width > 0 and q >> width - 1 == 1
            magnitude = (1 << width) - q if negative else q
            values.append(negative << 15 | plain_nearest(magnitude * step, mantissa_bits))
    return values


PLAIN = {Codec.LOSSLESS: plain_lossless, Codec.FIXED: plain_fixed, Codec.VARIABLE: plain_variable}


@pytest.mark.parametrize("which, vector", [(which, vector) for which, vectors in NEW.items() for vector in vectors],
                         ids=lambda one: "-".join([one["name"], one["dtype"]]).replace(" ", "-")
                         if isinstance(one, dict) else one.name)
def test_vector(which, vector):
    dtype = Dtype[vector["dtype"]]
    page, stored, decoded = (np.frombuffer(joined(vector[name]), np.uint8)
                             for name in ("page", "stored", "decoded"))
    assert len(page) == len(decoded) == PAGE_BYTES and len(stored) == 64 * vector["lines"]
    assert np.array_equal(codec.encode(which, dtype, page, vector["setting"]), stored)
    assert np.array_equal(codec.decode(which, dtype, stored), decoded)
    assert decoded.view("<u2").tolist() == PLAIN[which](stored.tobytes(), 10 if dtype == Dtype.FP16 else 7)
    if which == Codec.LOSSLESS:
        assert np.array_equal(page, decoded)


@pytest.mark.parametrize("which", PLAIN, ids=lambda which: which.name)
@pytest.mark.parametrize("dtype", list(Dtype))
def test_any_bytes_decode_as_the_document_says(which, dtype):
    rng = np.random.default_rng([SEED, which, int(dtype)])
    print(f"SPECKV_SEED={SEED}")
    for _ in range(8):
        lines = int(rng.integers(0, 128))
        stored = rng.integers(0, 256, 64 * lines, dtype=np.uint8)
        # Sparse bytes too: random ones are rarely zero where zero means something.
        stored[rng.random(len(stored)) < rng.choice([0, 0.5, 0.95])] = 0
        want = PLAIN[which](stored.tobytes(), 10 if dtype == Dtype.FP16 else 7)
        assert codec.decode(which, dtype, stored).view("<u2").tolist() == want


def document_rows(heading, columns):
    """The number cells of the first table behind `heading` in the document, without the header; empty cells left
    out."""
    lines = DOCUMENT[DOCUMENT.index(heading):].splitlines()
    table = lines[next(n for n, line in enumerate(lines) if line.startswith("|")) + 2:]
    table = table[:next(n for n, line in enumerate(table) if not line.startswith("|"))]
    rows = [[cell.strip() for cell in line.strip("|").split("|") if cell.strip()] for line in table]
    assert all(len(row) == columns for row in rows)
    return rows


def test_tables_of_the_document():
    for name, which in (("`step` = round", 0), ("`inverse` = round", 1)):
        even, odd = (plain_table(ternary)[which] for ternary in (True, False))
        want = [[j, *even[j], *odd[j]] for j in range(8)]
        assert [[int(cell) for cell in row] for row in document_rows(name, 9)] == want
    cells = {setting: 3 << setting // 2 - 3 if setting % 2 == 0 else 1 << setting // 2 - 1 for setting in range(7, 17)}
    rates = document_rows("cells from zero to the group's scale", 9)
    assert {int(row[0]): int(row[5]) for row in rates} == cells
    for setting, lines, length, planes, low, _, digit, edge, ratio in rates:
        setting, even = int(setting), int(setting) % 2 == 0
        assert (int(lines), int(length)) == (2 * setting, 8 * setting)
        assert 16 * int(planes) == 8 * setting - (32 if even else 8) and int(low) == int(planes) - 1
        assert digit == ("base 3" if even else "none")
        assert int(edge) == cells[setting] * (Fraction(5, 6) if even else Fraction(3, 4))
        assert ratio == f"{32 / setting:.2f}"
    for setting, *bounds in document_rows("The **place** of a cell", 9):
        for j, bound in enumerate(bounds):
            b = cells[int(setting)] * (8 + j) // (9 + j)
            place = plain_place(cells[int(setting)], j, 0, b)
            assert bound == (f"{b}" if place == 16 * b + 8 else f"{b}: {place}")


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
