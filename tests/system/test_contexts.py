"""K and V through contexts, compared with what NumPy and the codec say they must be."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

import speckv
from speckv.geometry import HEAD_DIMS
from speckv.lm import ArrayStore, DeviceStore, Llama, generate, heldout_tokens
from speckv.traffic import kv_lines
from speckv_model.codec import decode_pages, encode_pages
from speckv_model.constants import LINE_BYTES, PAGE_BYTES, PAGE_LINES, Codec, Dtype


def dtype_of(context):
    return Dtype.BF16 if context.dtype == bfloat16 else Dtype.FP16


def captured(context, tokens, seed=0):
    """K and V of `tokens` tokens for `context`, from the tiny model."""
    shape = context.geometry
    lines = kv_lines(dtype_of(context))
    count = 2 * tokens * shape.kv_heads * shape.token_lines
    taken = lines[(seed * 997 * 4 + np.arange(count)) % len(lines)]
    return tuple(taken.view(context.dtype).reshape(2, tokens, shape.kv_heads, shape.head_dim))


def through_codec(context, k, v, sealed_pages=None):
    """What `k` and `v` (tokens from 0 on) are read back as, `sealed_pages` pages of each stream (the full
    ones) being
    sealed: (k, v)."""
    shape = context.geometry
    tokens, full = len(k), len(k) // shape.page_tokens
    pages = -(-tokens // shape.page_tokens)
    content = np.zeros((shape.kv_heads * 2, pages * PAGE_BYTES), np.uint8)
    content[:, :tokens * shape.token_bytes] = shape.to_lines(k, v).reshape(shape.kv_heads * 2, -1)
    content = content.reshape(shape.kv_heads * 2, pages, PAGE_BYTES)
    codec, dtype = Codec[context.codec.upper()], dtype_of(context)
    for i in range(full if sealed_pages is None else sealed_pages):
        stored, lines, fits = encode_pages(codec, dtype, content[:, i])
        decoded = decode_pages(codec, dtype, stored, lines)
        content[:, i] = np.where(fits[:, None], decoded, content[:, i])
    content = content.reshape(shape.kv_heads * 2, pages * PAGE_BYTES)[:, :tokens * shape.token_bytes]
    return shape.from_lines(content.reshape(-1, LINE_BYTES), context.dtype)


def assert_holds(context, layer, expected):
    got = context.read(layer, 0, context.length(layer))
    for found, wanted in zip(got, expected):
        np.testing.assert_array_equal(found.view(np.uint16), np.ascontiguousarray(wanted).view(np.uint16))


def test_several_contexts_at_once(device, seed):
    rng = np.random.default_rng(seed)
    contexts, held = [], {}
    for i, head_dim in enumerate(HEAD_DIMS):
        for codec in ("raw", "speckv"):
            context = device.create_context(
                2, 1 + i, head_dim, 70, ("float16", bfloat16)[(i + len(codec)) % 2], codec, ld_id=i
            )
            contexts.append(context)
            for layer in range(2):
                held[context, layer] = captured(context, int(rng.integers(30, 71)), seed=10 * i + layer)
    left = list(held)
    while left:
        context, layer = left[rng.integers(len(left))]
        k, v = held[context, layer]
        start = context.length(layer)
        stop = min(len(k), start + int(rng.integers(1, 20)))
        context.append(layer, k[start:stop], v[start:stop])
        if stop == len(k):
            left.remove((context, layer))
        if rng.random() < 0.3:
            part = context.read(layer, start, stop)
            expected = through_codec(context, k[:stop], v[:stop])
            for found, wanted in zip(part, expected):
                np.testing.assert_array_equal(found, wanted[start:stop])
    for (context, layer), (k, v) in held.items():
        assert_holds(context, layer, through_codec(context, k, v))
    assert device.stats().error_count == 0


def test_a_page_that_is_not_full_is_kept_as_it_is(device):
    context = device.create_context(1, 2, 128, 64, codec="speckv")
    k, v = captured(context, 21)
    context.append(0, k, v)
    context.flush()
    assert_holds(context, 0, through_codec(context, k, v, sealed_pages=1))
    np.testing.assert_array_equal(context.read(0, 16, 21)[0], k[16:])
    rest = context.address + PAGE_BYTES + 5 * 256 + LINE_BYTES * np.arange(PAGE_LINES - 5 * 4)
    assert not device.load(rest).any()


def test_sealing_a_page_that_is_not_full(device):
    context = device.create_context(1, 2, 128, 64, codec="speckv")
    k, v = captured(context, 40)
    context.append(0, k[:5], v[:5])
    context.seal()
    sealed = through_codec(context, k[:5], v[:5], sealed_pages=1)
    assert not np.array_equal(sealed[0], k[:5]), "the codec loses nothing here, so this test shows nothing"
    assert_holds(context, 0, sealed)
    # The page opens again: what it held stays as it was decoded, and new tokens are exact until the page is
    # full.
    context.append(0, k[5:9], v[5:9])
    reopened = [np.concatenate([old, new[5:9]]) for old, new in zip(sealed, (k, v))]
    assert_holds(context, 0, reopened)
    context.seal()
    assert_holds(context, 0, through_codec(context, *reopened, sealed_pages=1))
    assert device.stats()["PAGES_SEALED"] == 2 * 4


def test_overwriting_a_token_leaves_the_others(device):
    context = device.create_context(1, 2, 128, 64, codec="speckv")
    k, v = captured(context, 32)
    context.append(0, k, v)
    before = context.read(0, 0, 32)
    newer = captured(context, 1, seed=5)
    context.write(0, 7, *newer)
    expected = [x.copy() for x in before]
    for values, new in zip(expected, newer):
        values[7] = new[0]
    assert_holds(context, 0, expected)
    context.seal()
    after = context.read(0, 0, 32)
    for found, wanted in zip(after, before):
        np.testing.assert_array_equal(np.delete(found, 7, 0), np.delete(wanted, 7, 0))
    for found, wanted in zip(after, through_codec(context, *expected, sealed_pages=1)):
        np.testing.assert_array_equal(found[7], wanted[7])


def test_a_freed_range_holds_zeros_for_its_next_owner(device):
    first = device.create_context(2, 2, 128, 32, codec="speckv")
    other = device.create_context(1, 1, 128, 32)
    for layer in range(2):
        first.append(layer, *captured(first, 24))
    k, v = captured(other, 24)
    other.append(0, k, v)
    addresses = first.address + LINE_BYTES * np.arange(first.geometry.pages * PAGE_LINES)
    assert device.load(addresses).any()
    first.free()
    with pytest.raises(speckv.AddressError):
        device.load(addresses[:1])
    with pytest.raises(speckv.ContextFreed):
        first.read(0, 0, 1)
    second = device.create_context(2, 2, 128, 32, bfloat16, "raw")
    assert (second.number, second.first_page) == (first.number, first.first_page)
    assert not device.load(addresses).any()
    assert_holds(other, 0, (k, v))
    for context in (other, second):
        context.free()
    stats = device.stats()
    assert stats.pool_free_sectors == stats.pool_sectors


def test_prefetch_changes_nothing_that_is_read(device):
    context = device.create_context(2, 2, 128, 64, codec="speckv")
    k, v = captured(context, 64)
    for layer in range(2):
        context.append(layer, k, v)
    for layer in range(2):
        context.prefetch(layer)
        assert_holds(context, layer, through_codec(context, k, v))


def test_a_full_window_refuses_by_name_and_touches_nothing(device):
    context = device.create_context(1, 1, 128, 32)
    k, v = captured(context, 32)
    context.append(0, k, v)
    with pytest.raises(speckv.WindowFull):
        device.create_context(64, 16, 128, 1024)
    device.create_context(1, 1, 128, 16 * 16384)
    with pytest.raises(speckv.WindowFull) as caught:
        device.create_context(1, 1, 128, 16 * 16384)
    assert caught.value.asked == 32768 and caught.value.available < 32768
    assert_holds(context, 0, (k, v))


@pytest.mark.parametrize("codec", ["raw", "speckv"])
def test_the_language_model_keeps_its_cache_in_the_device(device, codec):
    model = Llama.load()
    shape = model.layers, model.kv_heads, model.head_dim
    prompt, count = heldout_tokens()[:20].tolist(), 6
    context = device.create_context(*shape, 32, codec=codec)
    tokens = generate(model, DeviceStore(context), prompt, count)
    assert len(tokens) == count
    if codec == "raw":
        assert tokens == generate(model, ArrayStore(*shape, 32), prompt, count)
    assert device.stats().error_count == 0
