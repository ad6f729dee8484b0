"""The driver over a dictionary of lines: what it sends, what it returns, and every bad input by its name."""

import dataclasses

import numpy as np
import pytest
from ml_dtypes import bfloat16

import speckv
from speckv.device import Device
from speckv.geometry import HEAD_DIMS
from speckv_model.codec import CODECS
from speckv_model.config import PRESETS
from speckv_model.constants import PAGE_BYTES, Codec, Dtype, ErrorKind, Opcode, ReqOpcode, RwdOpcode, Status
from speckv_model.csr.registers import REGISTERS


def values(tokens, heads=2, head_dim=128, dtype=np.float16, seed=1):
    """Random K and V."""
    k, v = np.random.default_rng(seed).standard_normal((2, tokens, heads, head_dim))
    return k.astype(dtype), v.astype(dtype)


def error_record(link, **fields):
    link.registers[REGISTERS.ERROR_FIRST.offset] = REGISTERS.ERROR_FIRST.pack(**fields, valid=1)


# Contexts
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_appended_is_read_back(device, head_dim, dtype):
    context = device.create_context(3, 2, head_dim, 100, dtype, "speckv")
    parts = [values(tokens, head_dim=head_dim, dtype=context.dtype, seed=tokens) for tokens in (1, 40, 7, 52)]
    for layer in (2, 0):
        for k, v in parts:
            context.append(layer, k, v)
    k, v = (np.concatenate(part) for part in zip(*parts))
    assert [context.length(layer) for layer in range(3)] == [100, 0, 100]
    for start, stop in [(0, 100), (0, 1), (31, 33), (99, 100), (50, 50)]:
        for layer in (0, 2):
            got = context.read(layer, start, stop)
            for found, wanted in zip(got, (k, v)):
                assert found.dtype == context.dtype and found.shape == (stop - start, 2, head_dim)
                assert found.tobytes() == wanted[start:stop].tobytes()


def test_create_tells_the_device_the_geometry(device, link):
    device.create_context(6, 2, 128, 1024, bfloat16, "speckv", ld_id=5)
    command = link.commands[-1]
    assert (command["opcode"], command["context"], command["first_page"]) == (Opcode.CREATE, 0, 0)
    assert (command["index_bits"], command["head_bits"], command["layer_bits"]) == (6, 1, 3)
    assert (command["dtype"], command["codec"], command["ld_id"]) == (Dtype.BF16, Codec.SPECKV, 5)
    assert command["pages"] == 6 * 2 * 2 * 64
    other = device.create_context(1, 1, 128, 1)
    assert link.commands[-1]["pages"] == device.config.granule_pages
    assert other.first_page == 6 * 2 * 2 * 64 and other.number == 1


def test_all_heads_of_a_layer_go_in_one_batch(device, link):
    context = device.create_context(1, 2, 128, 100)
    context.append(0, *values(33))
    assert [batch.size for batch in link.batches] == [33 * 2 * 2 * 4]
    assert set(link.batches[0]["opcode"]) == {RwdOpcode.MEM_WR}
    assert not np.any(link.batches[0]["poison"])


def test_reads_announce_the_pages_ahead(link):
    with Device(link, lookahead=2) as device:
        context = device.create_context(1, 1, 128, 100)
        context.append(0, *values(80, heads=1))
        link.batches.clear()
        context.read(0, 8, 70)
    (batch,) = link.batches
    is_hint = batch["opcode"] == ReqOpcode.MEM_SPEC_RD
    pages = batch["address"] // PAGE_BYTES
    reads, hints = pages[~is_hint], pages[is_hint]
    assert reads.size == 62 * 2 * 4
    # Every page but the first is announced once, and never after the page two before it has begun.
    order = list(dict.fromkeys(reads.tolist()))
    assert hints.tolist() == order[1:]
    for i, page in enumerate(order[1:], 1):
        announced = np.flatnonzero(is_hint & (pages == page))[0]
        begun = np.flatnonzero(~is_hint & (pages == order[max(i - 2, 0)]))[0]
        assert announced < begun


def test_without_lookahead_there_are_only_reads(link):
    with Device(link, lookahead=0) as device:
        context = device.create_context(1, 1, 128, 100)
        context.append(0, *values(80, heads=1))
        context.read(0, 0, 80)
    assert set(link.batches[-1]["opcode"]) == {ReqOpcode.MEM_RD}


def test_tokens_can_be_overwritten(device):
    context = device.create_context(1, 2, 128, 50)
    (k, v), (newer_k, newer_v) = values(30), values(25, seed=2)
    context.append(0, k, v)
    context.write(0, 20, newer_k, newer_v)
    assert context.length(0) == 45
    np.testing.assert_array_equal(context.read(0, 0, 45)[0], np.concatenate([k[:20], newer_k]))
    context.write(0, 0, k, v)
    assert context.length(0) == 45


def test_commands_cover_the_pages_of_every_stream(device, link):
    context = device.create_context(2, 2, 128, 100)
    context.append(0, *values(33))
    context.append(1, *values(5))
    link.commands.clear()
    context.seal()
    stream = 8
    assert [(c["opcode"], c["first_page"], c["pages"]) for c in link.commands] == [
        (Opcode.SEAL, 0, 3),
        (Opcode.SEAL, stream, 3),
        (Opcode.SEAL, 2 * stream, 3),
        (Opcode.SEAL, 3 * stream, 3),
        (Opcode.SEAL, 4 * stream, 1),
        (Opcode.SEAL, 5 * stream, 1),
        (Opcode.SEAL, 6 * stream, 1),
        (Opcode.SEAL, 7 * stream, 1),
    ]
    link.commands.clear()
    context.prefetch(0, 16, 32)
    assert [(c["opcode"], c["first_page"], c["pages"]) for c in link.commands] == [
        (Opcode.PREFETCH, stream * i + 1, 1) for i in range(4)]
    link.commands.clear()
    context.flush(1)
    assert {c["opcode"] for c in link.commands} == {Opcode.FLUSH} and len(link.commands) == 4


def test_a_freed_range_and_number_are_given_again(device, link):
    first, second = (device.create_context(1, 1, 128, 100) for _ in range(2))
    first.append(0, *values(3, heads=1))
    first.free()
    assert link.commands[-1]["opcode"] == Opcode.DESTROY
    again = device.create_context(1, 1, 128, 100)
    assert (again.number, again.first_page) == (first.number, first.first_page)
    assert not device.load(again.line_addresses(0, 0, 3)).any()
    assert device.contexts == (again, second)


def test_leaving_a_context_frees_it(device):
    with device.create_context(1, 1, 128, 1) as context:
        assert not context.freed
    assert context.freed and device.contexts == ()


# Lines
def test_lines_are_stored_and_loaded(device, link):
    context = device.create_context(1, 1, 128, 100)
    addresses = context.address + 64 * np.arange(6).reshape(2, 3)
    data = np.random.default_rng(1).integers(0, 256, (2, 3, 64), np.uint8)
    device.store(addresses, data)
    np.testing.assert_array_equal(device.load(addresses), data)
    assert device.load(context.address).shape == (64,)
    device.store(context.address, data[0, 0], byte_enable=0xF0, poison=True, ld_id=3)
    request = link.batches[-1][0]
    assert (request["opcode"], request["byte_enable"], request["poison"], request["ld_id"]) == (
        RwdOpcode.MEM_WR_PTL, 0xF0, 1, 3)


@pytest.mark.parametrize("address, message", [
    (1, "multiples of 64, not 0x1$"), (-64, "in the window"), (1 << 28, "in the window.*not 0x10000000$"),
    ([0, 1 << 27], "in a context.*not 0x8000000$"), (1 << 51, "in the window"),
])
def test_an_address_outside_is_refused(device, link, address, message):
    device.create_context(1, 1, 128, 100)
    address = np.asarray(address)
    with pytest.raises(speckv.AddressError, match=message) as caught:
        device.load(address)
    assert len(caught.value.addresses) == 1
    link.batches.clear()
    with pytest.raises(speckv.AddressError, match=message):
        device.store(address, np.zeros((*address.shape, 64), np.uint8))
    assert not link.batches


def test_addresses_and_data_of_a_wrong_kind_are_refused(device):
    device.create_context(1, 1, 128, 100)
    with pytest.raises(TypeError, match="addresses must be integers, not float64"):
        device.load(64.0)
    with pytest.raises(speckv.ShapeError, match=r"uint8 of shape \(2, 64\), not uint8 of shape \(2, 32\)"):
        device.store([0, 64], np.zeros((2, 32), np.uint8))
    with pytest.raises(speckv.ShapeError, match="not float16"):
        device.store(0, np.zeros(64, np.float16))
    with pytest.raises(ValueError, match="poison must be 'raise' or 'mask', not 'ignore'"):
        device.load(0, poison="ignore")


# Poison
def test_poison_names_what_is_lost(device, link):
    context = device.create_context(2, 2, 128, 100)
    k, v = values(40)
    context.append(1, k, v)
    addresses = context.line_addresses(1, 0, 40)
    link.lose(addresses[1, 0, 20 * 4 + 1], addresses[1, 0, 21 * 4], addresses[0, 1, 39 * 4 + 3])
    error_record(link, kind=ErrorKind.MEMORY_READ, detail=7)
    with pytest.raises(
        speckv.PoisonError, match="layer 1.*K of head 1, tokens 20 to 22.*MEMORY_READ"
    ) as caught:
        context.read(1, 0, 40)
    assert caught.value.tokens == [(1, 0, "v", 39, 40), (1, 1, "k", 20, 22)]
    assert len(caught.value.addresses) == 3
    context.read(1, 0, 20)
    got_k, got_v, lost = context.read(1, 10, 40, poison="mask")
    expected = np.zeros((2, 30, 2), bool)
    expected[0, 10:12, 1] = expected[1, 29, 0] = True
    np.testing.assert_array_equal(lost, expected)
    np.testing.assert_array_equal(got_k, k[10:])
    with pytest.raises(speckv.PoisonError, match=f"1 lines.*{int(addresses[0, 1, 159]):#x}"):
        device.load(addresses[0, 1, -1])
    data, lost = device.load(addresses[0, 1, -2:], poison="mask")
    assert lost.tolist() == [False, True]


# Bad input
@pytest.mark.parametrize(
    "name, bad, error, message",
    [
        (
            "k",
            lambda x: x.astype(np.float32),
            speckv.DtypeError,
            r"k must be an array of float16, not float32.*astype",
        ),
        (
            "v",
            lambda x: x.astype(bfloat16),
            speckv.DtypeError,
            r"v must be an array of float16, not bfloat16",
        ),
        ("v", lambda x: x.tolist(), speckv.DtypeError, r"v must be an array of float16, not list"),
        ("k", lambda x: x[:, :1], speckv.ShapeError, r"k must be \(tokens, 2, 128\).*not \(4, 1, 128\)"),
        ("k", lambda x: x[0], speckv.ShapeError, r"not \(2, 128\)"),
        ("v", lambda x: x[..., :64], speckv.ShapeError, r"not \(4, 2, 64\)"),
        ("v", lambda x: x[:3], speckv.ShapeError, r"as many tokens, not 4 and 3"),
    ],
)
def test_wrong_values_are_refused_and_nothing_is_sent(device, link, name, bad, error, message):
    context = device.create_context(1, 2, 128, 100)
    k, v = values(4)
    arguments = {"k": k, "v": v}
    arguments[name] = bad(arguments[name])
    with pytest.raises(error, match=message):
        context.append(0, **arguments)
    assert not link.batches and context.length(0) == 0


@pytest.mark.parametrize(
    "use",
    [
        lambda c: c.read(2, 0, 1),
        lambda c: c.read(0, 0, 11),
        lambda c: c.read(0, -1, 5),
        lambda c: c.read(0, 5, 4),
        lambda c: c.read(-1, 0, 1),
        lambda c: c.append(2, *values(1)),
        lambda c: c.append(0, *values(7)),
        lambda c: c.write(0, 11, *values(1)),
        lambda c: c.length(7),
        lambda c: c.seal(2),
        lambda c: c.prefetch(0, 0, 99),
        lambda c: c.seal(0, -1),
        lambda c: c.flush(0, 5, 4),
    ],
)
def test_a_layer_or_token_outside_is_refused(device, link, use):
    context = device.create_context(2, 2, 128, 16)
    context.append(0, *values(10))
    link.batches.clear()
    link.commands.clear()
    with pytest.raises(speckv.AddressError):
        use(context)
    assert not link.batches and not link.commands


def test_more_tokens_than_asked_for_are_refused_by_number(device):
    context = device.create_context(1, 2, 128, 16)
    with pytest.raises(speckv.AddressError, match="tokens 0 to 17 do not fit.*16 tokens"):
        context.append(0, *values(17))


def test_a_freed_context_is_refused(device, link):
    context = device.create_context(1, 2, 128, 16)
    context.append(0, *values(4))
    context.free()
    for use in (
        lambda: context.read(0, 0, 1),
        lambda: context.append(0, *values(1)),
        context.free,
        context.seal,
        lambda: context.length(0),
        context.flush,
        lambda: context.prefetch(0),
    ):
        with pytest.raises(speckv.ContextFreed, match="context 0 was freed"):
            use()


def test_a_context_goes_with_its_device(link):
    device = Device(link)
    context = device.create_context(1, 2, 128, 16)
    device.close()
    with pytest.raises(speckv.ContextFreed, match="closed"):
        context.read(0, 0, 0)


def test_an_unknown_codec_is_refused(device, link):
    for codec in ("zstd", "LOSSLESS", None):
        with pytest.raises(speckv.UnknownCodec, match=f"raw, speckv.*not {codec!r}") as caught:
            device.create_context(1, 2, 128, 16, codec=codec)
        assert caught.value.available == device.config.codecs
    assert not link.commands


@pytest.mark.parametrize("dtype", [np.float32, "float64", np.int16, "half a float", None])
def test_an_unknown_dtype_is_refused(device, link, dtype):
    with pytest.raises(speckv.DtypeError, match="dtype must be float16 or bfloat16"):
        device.create_context(1, 2, 128, 16, dtype)
    assert not link.commands


@pytest.mark.parametrize("ld_id", [-1, 16, "0"])
def test_an_unknown_owner_is_refused(device, ld_id):
    with pytest.raises(ValueError, match="ld_id must be from 0 to 15"):
        device.create_context(1, 2, 128, 16, ld_id=ld_id)


def test_a_context_larger_than_what_is_left_is_refused(device, link):
    held = device.create_context(1, 1, 128, 16 * 16384)
    link.commands.clear()
    with pytest.raises(speckv.WindowFull) as caught:
        device.create_context(1, 1, 128, 16 * 16385)
    assert (caught.value.asked, caught.value.available) == (65536, 32768)
    with pytest.raises(speckv.WindowFull):
        device.create_context(80, 8, 128, 1 << 24)
    assert not link.commands
    held.free()
    device.create_context(1, 1, 128, 16 * 32768)


def test_context_numbers_run_out_by_name(device):
    contexts = [device.create_context(1, 1, 128, 1) for _ in range(16)]
    with pytest.raises(speckv.TooManyContexts, match="all 16"):
        device.create_context(1, 1, 128, 1)
    contexts[3].free()
    assert device.create_context(1, 1, 128, 1).number == 3


def test_a_refused_command_is_an_error_by_name(device, link):
    link.refuse[Opcode.CREATE] = Status.OVERLAP
    with pytest.raises(speckv.CommandError, match="CREATE.*context 0.*OVERLAP") as caught:
        device.create_context(1, 1, 128, 1)
    assert caught.value.status == Status.OVERLAP
    del link.refuse[Opcode.CREATE]
    context = device.create_context(1, 1, 128, 1)
    assert context.first_page == 0, "the range of the refused context was given back"
    context.append(0, *values(1, heads=1))
    link.refuse[Opcode.SEAL] = Status.UNSUPPORTED
    with pytest.raises(speckv.CommandError, match="SEAL.*UNSUPPORTED"):
        context.seal()


# What codecs are told
@pytest.fixture
def device_with_settings(link):
    """A driver over a device that also has the codecs with settings, and its link."""
    link = type(link)(speckv.DeviceConfig.small(codecs=("raw", "speckv", "fixed", "variable")))
    with Device(link) as device:
        yield device, link


@pytest.mark.parametrize("arguments, codec, setting", [
    (dict(), Codec.RAW, 0),
    (dict(codec="speckv"), Codec.SPECKV, 0),
    (dict(codec="speckv", setting=0), Codec.SPECKV, 0),
    (dict(codec="fixed"), Codec.FIXED, None),
    (dict(codec="fixed", setting=16), Codec.FIXED, 16),
    (dict(codec="fixed", setting=np.int64(7)), Codec.FIXED, 7),
    (dict(codec="fixed", rate=56), Codec.FIXED, 7),
    (dict(codec="fixed", rate=64), Codec.FIXED, 8),
    (dict(codec="fixed", rate=128), Codec.FIXED, 16),
    (dict(codec="variable"), Codec.VARIABLE, None),
    (dict(codec="variable", step=1 / 16), Codec.VARIABLE, 128),
    (dict(codec="variable", step=0.07), Codec.VARIABLE, 128),
    (dict(codec="variable", step=9 / 128), Codec.VARIABLE, 129),
    (dict(codec="variable", step=2**-20), Codec.VARIABLE, 0),
    (dict(codec="variable", step=1e9), Codec.VARIABLE, 255),
])
def test_what_the_codec_is_told(device_with_settings, arguments, codec, setting):
    device, link = device_with_settings
    context = device.create_context(1, 2, 128, 16, **arguments)
    setting = CODECS[codec].DEFAULT_SETTING if setting is None else setting
    command = link.commands[-1]
    assert (command["codec"], command["setting"], command["per_stream"]) == (codec, setting, 0)
    assert (context.codec, context.setting, context.descriptors) == (codec.name.lower(), setting, None)
    assert context.encoding(0, 1, 1) == (codec.name.lower(), setting)


@pytest.mark.parametrize("arguments, error, message", [
    (dict(codec="fixed", setting=6), ValueError, "setting of codec 'fixed' must be from 7 to 16, not 6"),
    (dict(codec="fixed", setting=17), ValueError, "from 7 to 16, not 17"),
    (dict(codec="variable", setting=256), ValueError, "setting of codec 'variable' must be from 0 to 255, not 256"),
    (dict(codec="speckv", setting=1), ValueError, "setting of codec 'speckv' must be 0, not 1"),
    (dict(codec="fixed", setting="8"), TypeError, "setting must be an int, not '8'"),
    (dict(codec="fixed", setting=True), TypeError, "setting must be an int, not True"),
    (dict(codec="fixed", rate=100), ValueError, "rate must be a multiple of 8 bytes from 56 to 128 .*not 100"),
    (dict(codec="fixed", rate=136), ValueError, "not 136"),
    (dict(codec="speckv", rate=64), ValueError, "rate must only be given with codec 'fixed', not with 'speckv'"),
    (dict(codec="fixed", step=0.5), ValueError, "step must only be given with codec 'variable', not with 'fixed'"),
    (dict(codec="variable", step=0), ValueError, "step must be a number from 9.53674e-07 on .*not 0"),
    (dict(codec="variable", step=float("nan")), ValueError, "not nan"),
    (dict(codec="fixed", setting=8, rate=64), ValueError, "only one of .* must be given, not setting and rate"),
    (dict(codec="lossless", setting=0), speckv.UnknownCodec, "raw, speckv, fixed, variable.*not 'lossless'"),
])
def test_what_no_codec_can_be_told(device_with_settings, arguments, error, message):
    device, link = device_with_settings
    with pytest.raises(error, match=message):
        device.create_context(1, 2, 128, 16, **arguments)
    assert not link.commands


# Stream descriptors
def choices_of(layers, kv_heads, seed=0):
    rng = np.random.default_rng(seed)
    return np.array([("raw", 0), ("speckv", None)], dtype=object)[rng.integers(2, size=(layers, kv_heads, 2))]


def loaded(link):
    """What the commands so far have made of the table: dictionary of number to (codec, setting)."""
    table = {}
    for command in link.commands:
        if command["opcode"] == Opcode.LOAD_DESCRIPTOR:
            for number in range(command["descriptor"], command["descriptor"] + command["pages"]):
                table[number] = command["codec"], command["setting"]
    return table


@pytest.mark.parametrize("layers, kv_heads", [(1, 1), (3, 3), (2, 5), (6, 2)])
def test_descriptors_are_numbered_as_addresses_are(device, link, layers, kv_heads):
    """Contexts find the descriptor of each stream at the number that their page numbers name."""
    other = device.load_descriptors(choices_of(2, 1))
    choices = choices_of(layers, kv_heads, seed=1)
    descriptors = device.load_descriptors(choices.tolist())
    table = loaded(link)
    context = device.create_context(layers, kv_heads, 64, 100, "bfloat16", descriptors=descriptors)
    command = link.commands[-1]
    assert (command["per_stream"], command["descriptor_base"]) == (1, descriptors.first)
    assert other.first != descriptors.first and descriptors.shape == (layers, kv_heads)
    assert context.descriptors is descriptors and context.codec is context.setting is None
    for layer, head, kind in np.ndindex(choices.shape[:3]):
        number = descriptors.first + (context.geometry.stream_page(layer, head, kind) >> command["index_bits"])
        name = choices[layer, head, kind, 0]
        assert table[number] == (Codec[name.upper()], 0)
        assert context.encoding(layer, head, kind) == descriptors.encoding(layer, head, kind) == (name, 0)


def test_equal_descriptors_go_in_one_command(device, link):
    device.load_descriptors([[[("raw", 0)] * 2, [("speckv", 0)] * 2]] * 3)
    assert [(command["descriptor"], command["pages"], command["codec"]) for command in link.commands] == [
        (0, 2, Codec.RAW), (2, 2, Codec.SPECKV), (4, 2, Codec.RAW), (6, 2, Codec.SPECKV),
        (8, 2, Codec.RAW), (10, 6, Codec.SPECKV)]
    link.commands.clear()
    device.load_descriptors([[[("speckv", 0)] * 2]] * 16)
    assert [(command["descriptor"], command["pages"]) for command in link.commands] == [(16, 32)]


def test_descriptors_are_shared_and_given_back(device, link):
    with device.load_descriptors(choices_of(6, 2)) as descriptors:
        contexts = [device.create_context(6, 2, 128, 20, descriptors=descriptors) for _ in range(3)]
        assert len(link.ranges) == 3
        contexts[1].free()
        with pytest.raises(speckv.DescriptorsInUse, match="contexts 0, 2; free those first"):
            descriptors.free()
        for context in contexts[::2]:
            context.free()
    assert descriptors.freed and "freed" in repr(descriptors)
    again = device.load_descriptors(choices_of(6, 2))
    assert again.first == descriptors.first
    for use in (descriptors.free, lambda: device.create_context(6, 2, 128, 20, descriptors=descriptors)):
        with pytest.raises(speckv.DescriptorsFreed, match="were freed; load them again"):
            use()


def test_a_full_table_refuses_by_name(device, link):
    """The small device has 64 descriptors."""
    first, _ = (device.load_descriptors(choices_of(6, 2)) for _ in range(2))
    link.commands.clear()
    with pytest.raises(speckv.DescriptorsFull, match="2 stream descriptors do not fit.*0 \\(0 are free.*DescriptorSet"):
        device.load_descriptors(choices_of(1, 1))
    first.free()
    with pytest.raises(speckv.DescriptorsFull) as caught:
        device.load_descriptors(choices_of(6, 3))
    assert (caught.value.asked, caught.value.available, caught.value.free) == (64, 32, 32)
    assert not link.commands


def test_refused_descriptors_are_given_back(device, link):
    link.refuse[Opcode.LOAD_DESCRIPTOR] = Status.BAD_DESCRIPTOR
    with pytest.raises(speckv.CommandError, match="LOAD_DESCRIPTOR.*BAD_DESCRIPTOR"):
        device.load_descriptors(choices_of(16, 2))
    del link.refuse[Opcode.LOAD_DESCRIPTOR]
    assert device.load_descriptors(choices_of(16, 2)).first == 0


@pytest.mark.parametrize("choices, error, message", [
    ([("raw", 0)], speckv.ShapeError, r"must be \(layers, kv_heads, 2\) pairs.*not of shape"),
    ([[[("raw", 0)]]], speckv.ShapeError, "K before V"),
    ([[["raw", "raw"]]], speckv.ShapeError, "pairs"),
    ([], speckv.ShapeError, "pairs"),
    ([[[("raw", 0)] * 2], [[("raw", 0)] * 2] * 2], speckv.ShapeError, "pairs"),
    ([[[("raw", 0), ("zstd", 0)]]], speckv.UnknownCodec, "raw, speckv.*not 'zstd'"),
    ([[[("raw", 0), ("speckv", 3)]]], ValueError, "setting of codec 'speckv' must be 0, not 3"),
    ([[[("raw", 0), ("speckv", "0")]]], TypeError, "setting must be an int, not '0'"),
])
def test_bad_choices_are_refused(device, link, choices, error, message):
    with pytest.raises(error, match=message) as caught:
        device.load_descriptors(choices)
    if error is not speckv.ShapeError:
        assert caught.value.__notes__ == ["It is that of V of layer 0, head 0."]
    assert not link.commands and device.load_descriptors(choices_of(16, 2)).first == 0


def test_descriptors_of_something_else_are_refused(device, link):
    descriptors = device.load_descriptors(choices_of(6, 2))
    with pytest.raises(speckv.ShapeError, match=r"\(layers, kv_heads\), \(6, 4\), not \(6, 2\)"):
        device.create_context(6, 4, 128, 20, descriptors=descriptors)
    with pytest.raises(ValueError, match="codec must not be given together with descriptors, not 'speckv'"):
        device.create_context(6, 2, 128, 20, codec="speckv", descriptors=descriptors)
    with pytest.raises(speckv.DescriptorsFreed, match="not of this device"):
        Device(link).create_context(6, 2, 128, 20, descriptors=descriptors)
    assert not link.ranges


# The device
def test_another_device_than_expected_is_refused(link):
    other = dataclasses.replace(link.config, cache_pages=8)
    link.registers[REGISTERS.CAPABILITY_1.offset] = REGISTERS.CAPABILITY_1.reset_value(other)
    with pytest.raises(speckv.DeviceMismatch, match="cache_pages=8.*not as.*cache_pages=4"):
        Device(link)
    link.registers[REGISTERS.IDENTITY.offset] = 0
    with pytest.raises(speckv.DeviceMismatch, match="SPECKV"):
        Device(link)


def test_a_device_that_never_gets_ready_is_an_error(link):
    link.registers[REGISTERS.STATUS.offset] = 0
    with pytest.raises(speckv.LinkTimeout):
        Device(link, ready_clocks=10)


@pytest.mark.parametrize("url", ["", "sim", "pcie:", "emu:huge", "emu:small:1"])
def test_an_unknown_url_is_refused(url):
    with pytest.raises(ValueError, match=f"url must be .*not {url!r}"):
        speckv.open(url)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_keeps_what_its_codecs_keep(preset):
    k, v = values(70)
    with speckv.open(f"emu:{preset}") as device:
        assert device.config == speckv.DeviceConfig.preset(preset)
        for codec in device.config.codecs:
            context = device.create_context(1, 2, 128, 70, "float16", codec)
            context.append(0, k, v)
            context.seal()
            for got, wanted in zip(context.read(0, 0, 70), (k, v), strict=True):
                error = (got.astype(np.float64) - wanted).std()
                assert error == 0 if codec in ("raw", "lossless") else error < 0.15


def test_two_configurations_are_one_too_many():
    with pytest.raises(ValueError, match="config must not be given together"):
        speckv.open("emu:small", speckv.DeviceConfig.default())


def test_stats_count_between_two_snapshots(device, link):
    registers = link.registers
    before = device.stats()
    assert before.hit_rate is None and before.ratio is None and before.first_error is None
    for name, count in [
        ("CACHE_HITS", 30),
        ("CACHE_MISSES", 10),
        ("REQ_WRITES", 8),
        ("REQ_PARTIAL_WRITES", 2),
        ("SEAL_LINES_IN", 64),
        ("SEAL_LINES_OUT", 20),
    ]:
        registers[getattr(REGISTERS, name).offset] = count
    registers[REGISTERS.POOL_FREE_SECTORS.offset] -= 16
    registers[REGISTERS.ERROR_COUNT.offset] = 2
    registers[REGISTERS.ERROR_FIRST_ADDRESS.offset] = 0x1000
    error_record(link, kind=ErrorKind.NO_ROOM, detail=5)
    device.create_context(1, 1, 128, 16).append(0, *values(16, heads=1))
    grown = device.stats() - before
    assert grown.hit_rate == 0.75 and grown.lines_written == 10 and grown["REQ_READS"] == 0
    assert grown.sealed_bytes == (4096, 1280)
    assert grown.ratio == 2 * 4096 / (16 * 128)
    assert grown.error_count == 2 and grown.first_error == speckv.ErrorRecord(ErrorKind.NO_ROOM, 0x1000, 5)
    assert str(grown.first_error) == "NO_ROOM at 0x1000 (detail 0x5)"
    device.clear_errors()
    assert registers[REGISTERS.ERROR_CLEAR.offset] == 1
