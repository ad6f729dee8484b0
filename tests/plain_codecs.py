"""The page formats in plain Python, written from docs/format.md alone: what the model is compared with.

Pages are lists of 2048 numbers of 16 bits, stored pages are bytes; `mantissa_bits` is 10 for FP16 and 7 for BF16.
Encoders return None for a page that does not fit.
"""

from fractions import Fraction


def exact_magnitude(bits, mantissa_bits):
    """Exact value of 15 magnitude bits, in units of the smallest subnormal."""
    field, mantissa = bits >> mantissa_bits, bits % (1 << mantissa_bits)
    return mantissa if field == 0 else (mantissa + (1 << mantissa_bits)) << (field - 1)


def round_to_dtype(value, mantissa_bits):
    """Magnitude bits of the number nearest to a rational, ties to even."""
    field = 0
    while round(value / (1 << max(field - 1, 0))) >= 2 << mantissa_bits:
        field += 1
    unit = 1 << max(field - 1, 0)
    whole = round(value / unit)
    return whole + (max(field - 1, 0) << mantissa_bits)


def decode_speckv(stored, mantissa_bits):
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
            exact = Fraction(abs(signed) * exact_magnitude(maximum, mantissa_bits), 127)
            values.append(round_to_dtype(exact, mantissa_bits) | (signed < 0) << 15)
    assert not any(body) and len(body) < 64
    return values


def number(data, at, width):
    """The `width` bits of bytes from bit `at` on; bits beyond the end are zero."""
    return int.from_bytes(data, "little") >> at & (1 << width) - 1


def numbers(data, count, width):
    """`count` numbers of `width` bits, one after the other."""
    whole = int.from_bytes(data, "little")
    return [whole >> at & (1 << width) - 1 for at in range(0, count * width, width)]


def decode_lossless(stored, mantissa_bits):
    """The 16-bit patterns of a `lossless` page."""
    high_lines = 12 if mantissa_bits == 10 else 0
    n = max(len(stored) // 64 - 40 - high_lines, 0)
    first_bytes, high_bytes, middle, low_bytes = (
        stored[64 * at:64 * (at + lines)]
        for at, lines in ((0, 8), (8, high_lines), (8 + high_lines, n), (8 + high_lines + n, 32)))
    firsts = numbers(first_bytes, 2048, 2)
    rest = [low | high << 8 for low, high in
            zip(numbers(low_bytes, 2048, 8), numbers(high_bytes, 2048, 3) if high_lines else [0] * 2048)]
    centres, chunks = numbers(middle, 16, 8), min(number(middle, 128, 8), 64)
    third_end = 24 + 8 * chunks + 8 * number(middle, 136, 8)
    seconds = iter(numbers(middle[24:24 + 8 * chunks], 2048, 2))
    thirds = iter(numbers(middle[24 + 8 * chunks:third_end], 2048, 4))
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


def nearest(value, mantissa_bits):
    """Magnitude bits of a rational rounded to the dtype."""
    infinity = 0x7FFF - (1 << mantissa_bits) + 1
    smallest = Fraction(2) ** (2 - (1 << 14 - mantissa_bits) - mantissa_bits)
    return min(round_to_dtype(value / smallest, mantissa_bits), infinity - 1)


def fractions(ternary):
    """Values of the fractions by f."""
    if ternary:
        return [*(Fraction(5, 6) ** f for f in range(8)), Fraction(25, 54), Fraction(2, 3)]
    return [Fraction(3, 4) ** f for f in range(8)]


def codes_of(ternary, by_row):
    """For each group where its code is in the row, in bits, its width, and f of each of its codes."""
    widths = ((2, 1) if by_row else (3, 2)) if ternary else (3, 2) if by_row else (3, 3)
    codes, at = [], 8
    for group in range(16):
        width = widths[group // 8]
        f = list(range(1 << width))
        if ternary and width < 3:
            f = [0, 1, 2, 8] if width == 2 else [0, 9]
        codes.append((at, width, f))
        at += width
    return codes


def tables(ternary):
    """The tables `step` and `inverse` by j and f, from their formulae."""
    width = [[Fraction(9 + j, 8) * each / (3 if ternary else 1) for each in fractions(ternary)] for j in range(8)]
    return [[round(2 ** 14 * w) for w in row] for row in width], [[round(2 ** 14 / w) for w in row] for row in width]


def place_of(cells, j, f, n):
    """Where in units of 1/16 of a cell the value of cell `n` of `cells` is."""
    if f == 0 and n == cells * (8 + j) // (9 + j):
        return max(16 * n + 8, -(-16 * cells * (8 + j) // (9 + j)))
    return 16 * n + 8


def decode_fixed_row(body, mantissa_bits, by_row):
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
    width = tables(ternary)[0][j]
    fraction = [f[number(body, at, bits)] for at, bits, f in codes_of(ternary, by_row)]
    decoded = {}
    values = []
    for value in range(128):
        group, inside = divmod(value, 8)
        f = fraction[group]
        n = sum(number(planes, 128 * (1 + plane) + value, 1) << plane for plane in range(low_bits))
        if ternary:
            packed = number(body, 48 + 13 * group, 13)
            digits = packed % 256 // 3 ** inside if inside < 5 else packed // 256 // 3 ** (inside - 5)
            n += digits % 3 << low_bits
        if (f, n) not in decoded:
            exact = place_of(cells, j, f, n) * width[f] * Fraction(2) ** (exponent - 18 - low_bits)
            decoded[f, n] = nearest(exact, mantissa_bits)
        values.append(number(planes, value, 1) << 15 | decoded[f, n])
    return values


def decode_fixed(stored, mantissa_bits, by_row=False):
    """The 16-bit patterns of a `fixed` page."""
    length = 8 * min(max(len(stored) // 128, 7), 16)
    stored = stored.ljust(16 * length, bytes(1))
    rows = (stored[at:at + length] for at in range(0, 16 * length, length))
    return sum((decode_fixed_row(row, mantissa_bits, by_row) for row in rows), [])


def decode_variable(stored, mantissa_bits):
    """The 16-bit patterns of a `variable` page."""
    stored = stored.ljust(4096, bytes(1))
    step = Fraction(8 + stored[0] % 8, 8) * Fraction(2) ** (stored[0] // 8 - 20)
    values, at = [], 36
    for unit in range(64):
        width = min(number(stored, 32 + 4 * unit, 4), 12)
        planes = numbers(stored[at:at + 4 * width], width, 32)
        at += 4 * width
        for value in range(32):
            q = sum((plane >> value & 1) << n for n, plane in enumerate(planes))
            negative = width > 0 and q >> width - 1 == 1
            values.append(negative << 15 | nearest(((1 << width) - q if negative else q) * step, mantissa_bits))
    return values


def pack(codes, width):
    """The bytes of codes of `width` bits, one after the other."""
    whole = sum(code << width * n for n, code in enumerate(codes))
    return whole.to_bytes(-(-len(codes) * width // 8), "little")


def crc16(data):
    """CRC-16 of rows, bit by bit."""
    crc = 0
    for byte in data:
        for place in range(7, -1, -1):
            top = crc >> 15 ^ byte >> place & 1
            crc = crc << 1 & 0xFFFF ^ (0x1021 if top else 0)
    return crc


def whole_lines(data):
    return data.ljust(-(-len(data) // 64) * 64, bytes(1))


def encode_lossless(values, mantissa_bits):
    ones = (1 << 15 - mantissa_bits) - 1
    codes, centres = [], []
    for at in range(0, 2048, 128):
        fields = [value >> mantissa_bits & ones for value in values[at:at + 128]]
        finite = sorted((0 if e == ones else e for e in fields), reverse=True)
        c = max(finite[24], finite[0] - 6, 1)
        row = [lossless_code(e, c, ones) for e in fields]
        if None in row:
            c, row = 0, [(e % 4, e // 4 % 4, e // 16) for e in fields]
        codes += row
        centres.append(c)
    seconds = [code[1] for code in codes if len(code) > 1]
    thirds = [code[2] for code in codes if len(code) > 2]
    chunks = -(-len(seconds) // 32)
    middle = bytes(centres) + bytes([chunks, -(-len(thirds) // 16)]) + bytes(6)
    middle += pack(seconds, 2).ljust(8 * chunks, bytes(1)) + pack(thirds, 4)
    rest = [(value >> 15) << mantissa_bits | value % (1 << mantissa_bits) for value in values]
    high = pack([w >> 8 for w in rest], 3) if mantissa_bits == 10 else b""
    stored = pack([code[0] for code in codes], 2) + high + whole_lines(middle) + bytes(w & 0xFF for w in rest)
    return stored if len(stored) < 64 * 64 else None


def lossless_code(e, c, ones):
    """First, second and third code of an exponent as far as it has them; None if it has none."""
    below = c - e
    if 0 <= below <= 2:
        return (below,)
    if below in (3, -1, 4):
        return 3, (3, -1, 4).index(below)
    if e in (0, ones):
        return 3, 3, 15 if e else 14
    if 5 <= below <= 13:
        return 3, 3, below - 5
    return (3, 3, 7 - below) if -6 <= below <= -2 else None


def cell_of(value, exponent, inverse, low_bits, cells, mantissa_bits):
    """The cell of a finite value."""
    e, m = value >> mantissa_bits & (1 << 15 - mantissa_bits) - 1, value % (1 << mantissa_bits)
    bias = (1 << 14 - mantissa_bits) - 1
    whole = (m + (1 << mantissa_bits) if e else m) << 10 - mantissa_bits
    return min(whole * inverse >> 24 - low_bits + exponent + bias - max(e, 1), cells - 1)


def encode_fixed(values, mantissa_bits, setting, by_row=False):
    rows = [encode_fixed_row(values[at:at + 128], mantissa_bits, setting, by_row) for at in range(0, 2048, 128)]
    return None if None in rows else b"".join(rows)


def encode_fixed_row(values, mantissa_bits, setting, by_row):
    ternary = setting % 2 == 0
    low_bits = setting // 2 - 3 if ternary else setting // 2 - 1
    cells = (3 if ternary else 1) << low_bits
    largest = max(value & 0x7FFF for value in values)
    if largest == 0:
        return bytes(8 * setting)
    exponent = (largest >> mantissa_bits) - (1 << 14 - mantissa_bits) + 1
    if not -14 <= exponent <= 15:
        return None
    j = largest >> mantissa_bits - 3 & 7
    inverse = tables(ternary)[1][j]

    def cell(value, f):
        return cell_of(value, exponent, inverse[f], low_bits, cells, mantissa_bits)

    codes, numbers_of_cells, size = 0, [], fractions(ternary)
    for group, (at, _, f) in enumerate(codes_of(ternary, by_row)):
        own = values[8 * group:8 * group + 8]
        peak = max(value & 0x7FFF for value in own)
        c = next((c for c in range(len(f) - 1) if cell(peak, f[c]) >= cells * size[f[c + 1]] / size[f[c]]), len(f) - 1)
        codes |= c << at - 8
        numbers_of_cells += [cell(value, f[c]) for value in own]
    digits = [n >> low_bits for n in numbers_of_cells]
    packed = [sum(digit * 3 ** n for n, digit in enumerate(digits[at:at + 5])) |
              sum(digit * 3 ** n for n, digit in enumerate(digits[at + 5:at + 8])) << 8 for at in range(0, 128, 8)]
    body = pack(packed, 13) if ternary else b""
    body += pack([value >> 15 for value in values], 1)
    for plane in range(low_bits):
        body += pack([n >> plane & 1 for n in numbers_of_cells], 1)
    scale = bytes([1 + 8 * (exponent + 14) + j])
    head = 5 if ternary else 7
    if not by_row:
        return scale + codes.to_bytes(head, "little") + body
    head = scale + codes.to_bytes(head - 2, "little")
    return head + crc16(head + body).to_bytes(2, "little") + body


def encode_variable(values, mantissa_bits, setting):
    ones = (1 << 15 - mantissa_bits) - 1
    if any(value >> mantissa_bits & ones == ones for value in values):
        return None
    smallest = Fraction(2) ** (2 - (1 << 14 - mantissa_bits) - mantissa_bits)
    unit = smallest / (Fraction(8 + setting % 8, 8) * Fraction(2) ** (setting // 8 - 20))
    quotients = [round((-1 if value >> 15 else 1) * exact_magnitude(value & 0x7FFF, mantissa_bits) * unit)
                 for value in values]
    widths, body = [], b""
    for at in range(0, 2048, 32):
        q = quotients[at:at + 32]
        width = next(b for b in range(300) if all(-(1 << b) <= 2 * n < 1 << b for n in q)) if any(q) else 0
        widths.append(width)
        for plane in range(width):
            body += pack([n >> plane & 1 for n in q], 1)
    if max(widths) > 12:
        return None
    return whole_lines(bytes([setting, 0, 0, 0]) + pack(widths, 4) + body)
