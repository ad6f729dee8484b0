"""The checked-in vectors against the model, and against plain decoders written from docs/format.md alone."""

import json
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import plain_codecs
import pytest
from codec_pages import SEED, all_kinds, as_pages, mixed_pages

from speckv_model import codec
from speckv_model.constants import PAGE_BYTES, Codec, Dtype, PageState
from speckv_model.mover.messages import pack_header, unpack_header
from speckv_model.table.entry import Entry

VECTORS = Path(__file__).parents[1] / "vectors"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
SPECKV = json.loads((VECTORS / "speckv.json").read_text())
NEW = {which: json.loads((VECTORS / f"{which.name.lower()}.json").read_text())
       for which in (Codec.LOSSLESS, Codec.FIXED, Codec.VARIABLE)}
TABLE = json.loads((VECTORS / "table.json").read_text())


def joined(lines):
    return bytes.fromhex("".join(lines))


DECODERS = {(Codec.LOSSLESS, False): plain_codecs.decode_lossless, (Codec.FIXED, False): plain_codecs.decode_fixed,
            (Codec.FIXED, True): partial(plain_codecs.decode_fixed, by_row=True),
            (Codec.VARIABLE, False): plain_codecs.decode_variable}
"""By codec and whether rows are read alone."""
MANTISSA_BITS = {Dtype.FP16: 10, Dtype.BF16: 7}


@pytest.mark.parametrize("which, vector", [(which, vector) for which, vectors in NEW.items() for vector in vectors],
                         ids=lambda one: "-".join([one["name"], one["dtype"]]).replace(" ", "-")
                         if isinstance(one, dict) else one.name)
def test_vector(which, vector):
    dtype = Dtype[vector["dtype"]]
    page, stored, decoded = (np.frombuffer(joined(vector[name]), np.uint8)
                             for name in ("page", "stored", "decoded"))
    assert len(page) == len(decoded) == PAGE_BYTES and len(stored) == 64 * vector["lines"]
    by_row = vector.get("by_row", False)
    assert np.array_equal(codec.encode(which, dtype, page, vector["setting"], by_row), stored)
    assert np.array_equal(codec.decode(which, dtype, stored, by_row), decoded)
    assert decoded.view("<u2").tolist() == DECODERS[which, by_row](stored.tobytes(), MANTISSA_BITS[dtype])
    if which == Codec.LOSSLESS:
        assert np.array_equal(page, decoded)


@pytest.mark.parametrize("which, by_row", DECODERS, ids=lambda one: getattr(one, "name", "by-row" * (one is True)))
@pytest.mark.parametrize("dtype", list(Dtype))
def test_any_bytes_decode_as_the_document_says(which, by_row, dtype):
    rng = np.random.default_rng([SEED, which, int(dtype)])
    print(f"SPECKV_SEED={SEED}")
    for _ in range(8):
        lines = int(rng.integers(0, 128))
        stored = rng.integers(0, 256, 64 * lines, dtype=np.uint8)
        # Sparse bytes too: random ones are rarely zero where zero means something.
        stored[rng.random(len(stored)) < rng.choice([0, 0.5, 0.95])] = 0
        want = DECODERS[which, by_row](stored.tobytes(), MANTISSA_BITS[dtype])
        assert codec.decode(which, dtype, stored, by_row).view("<u2").tolist() == want


@pytest.mark.parametrize("which, settings, by_row", [
    (Codec.LOSSLESS, [0], False), (Codec.FIXED, range(7, 17), False), (Codec.FIXED, [7, 8, 15, 16], True),
    (Codec.VARIABLE, [0, 90, 117, 128, 143, 160, 255], False)],
    ids=lambda one: getattr(one, "name", "by-row" * (one is True)))
@pytest.mark.parametrize("dtype", list(Dtype))
def test_pages_encode_as_the_document_says(which, settings, by_row, dtype):
    print(f"SPECKV_SEED={SEED}")
    rng = np.random.default_rng([SEED, which, int(dtype)])
    encoder = getattr(plain_codecs, f"encode_{which.name.lower()}")
    rows = all_kinds(rng, dtype)
    held = 0
    for setting in settings:
        how = [setting] * (which != Codec.LOSSLESS) + [True] * by_row
        alike = codec.encode_pages(which, dtype, as_pages(np.repeat(rows, 16, axis=0)), setting)[2]
        # Pages of rows that fit, and pages of any.
        pages = np.concatenate([as_pages(rng.permutation(rows[alike])[:64]), mixed_pages(rng, dtype, 4)])
        stored, lines, fits = codec.encode_pages(which, dtype, pages, setting, by_row)
        held += fits.sum()
        for page in range(len(pages)):
            values = pages[page].view("<u2").tolist()
            want = encoder(values, MANTISSA_BITS[dtype], *how)
            assert (want is not None) == fits[page]
            if fits[page]:
                assert want == stored[page, :lines[page]].tobytes() and not stored[page, lines[page]:].any()
    assert held >= 4 * len(settings)


@pytest.mark.parametrize("which, at, text", [
    (Codec.LOSSLESS, 64 * 20, "0a 0f 15 14 12 00 01"), (Codec.LOSSLESS, 64 * 20 + 16, "0a"),
    (Codec.LOSSLESS, 64 * 20 + 24 + 80, "dc eb ee ee"),
    (Codec.FIXED, 0, "79 f8 ff ff ff ff 07 00 00"), (Codec.FIXED, 32, "02 00"), (Codec.FIXED, 48, "06 00"),
    (Codec.VARIABLE, 0, "80 00 00 00 06 00 66 66 ba cc bb bb 87 99 00 00  00 00"),
    (Codec.VARIABLE, 32, "00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  04 00 00 00 01 00 00 00 02 00")],
    ids=lambda one: getattr(one, "name", ""))
def test_examples_of_the_document(which, at, text):
    section = DOCUMENT.split(f"\n## `{which.name.lower()}`\n")[1].split("\n## ")[0]
    assert text in section
    assert joined(NEW[which][0]["stored"])[at:].startswith(bytes.fromhex(text))


def test_checked_example_of_the_document():
    text = "79 fc ff ff af 20 07 00 00"
    vector = next(vector for vector in NEW[Codec.FIXED] if vector["name"] == "example by row")
    assert text in DOCUMENT and joined(vector["stored"]).startswith(bytes.fromhex(text))


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
    for name, which in (("`step`", 0), ("`inverse`", 1)):
        for ternary, columns in ((True, 11), (False, 9)):
            heading = f"{name} = round" if ternary else f"{name}, odd N"
            want = [[j, *row] for j, row in enumerate(plain_codecs.tables(ternary)[which])]
            assert [[int(cell) for cell in row] for row in document_rows(heading, columns)] == want
    cells = {setting: 3 << setting // 2 - 3 if setting % 2 == 0 else 1 << setting // 2 - 1 for setting in range(7, 17)}
    rates = document_rows("nor its entry says it", 8)
    assert {int(row[0]): int(row[5]) for row in rates} == cells
    for setting, lines, length, planes, low, _, digit, ratio in rates:
        setting, even = int(setting), int(setting) % 2 == 0
        assert (int(lines), int(length)) == (2 * setting, 8 * setting)
        assert 16 * int(planes) == 8 * setting - (32 if even else 8) and int(low) == int(planes) - 1
        assert digit == ("base 3" if even else "none")
        assert ratio == f"{32 / setting:.2f}"
    for setting, *bounds in document_rows("The **place** of a cell", 9):
        for j, bound in enumerate(bounds):
            b = cells[int(setting)] * (8 + j) // (9 + j)
            place = plain_codecs.place_of(cells[int(setting)], j, 0, b)
            assert bound == (f"{b}" if place == 16 * b + 8 else f"{b}: {place}")


@pytest.mark.parametrize("vector", SPECKV, ids=lambda vector: vector["name"].replace(" ", "-"))
def test_speckv(vector):
    dtype = Dtype[vector["dtype"]]
    page, stored, decoded = (np.frombuffer(joined(vector[name]), np.uint8)
                             for name in ("page", "stored", "decoded"))
    assert len(page) == len(decoded) == PAGE_BYTES and len(stored) == 64 * vector["lines"]
    assert np.array_equal(codec.encode(Codec.SPECKV, dtype, page), stored)
    assert np.array_equal(codec.decode(Codec.SPECKV, dtype, stored), decoded)
    assert decoded.view("<u2").tolist() == plain_codecs.decode_speckv(stored.tobytes(), MANTISSA_BITS[dtype])


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
