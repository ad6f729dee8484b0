"""Where tokens lie in the window, for every head dimension."""

import numpy as np
import pytest

from speckv.geometry import Geometry
from speckv_model.constants import LINE_BYTES, PAGE_BYTES

HEAD_DIMS = {64: 32, 128: 16, 256: 8}


@pytest.mark.parametrize("head_dim, page_tokens", HEAD_DIMS.items())
def test_a_page_holds_its_tokens(head_dim, page_tokens):
    geometry = Geometry(3, 5, head_dim, 1000)
    assert geometry.page_tokens == page_tokens
    assert geometry.token_lines * page_tokens == 64
    assert geometry.stream_pages == -(-1000 // page_tokens)
    assert geometry.head_bits == 3 and geometry.layer_bits == 2
    assert 1 << geometry.index_bits >= geometry.stream_pages > 1 << geometry.index_bits - 1


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("layers, kv_heads, max_tokens", [(1, 1, 1), (3, 5, 100), (6, 2, 1024), (2, 1, 33)])
def test_every_line_of_a_context_is_its_own(head_dim, layers, kv_heads, max_tokens):
    geometry = Geometry(layers, kv_heads, head_dim, max_tokens)
    offsets = np.concatenate([geometry.line_offsets(layer, 0, max_tokens).ravel() for layer in range(layers)])
    assert (
        np.unique(offsets).size == offsets.size == layers * kv_heads * 2 * max_tokens * geometry.token_lines
    )
    assert not np.any(offsets % LINE_BYTES)
    assert offsets.max() < geometry.pages * PAGE_BYTES


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_the_page_number_is_layer_head_kind_index(head_dim):
    geometry = Geometry(3, 3, head_dim, 200)
    for layer, head, kind, token in [(0, 0, 0, 0), (2, 1, 1, 199), (1, 2, 0, 77)]:
        offset = int(geometry.line_offsets(layer, token, token + 1)[head * 2 + kind, 0])
        page, byte = divmod(offset, PAGE_BYTES)
        fields = ((layer << geometry.head_bits | head) << 1 | kind) << geometry.index_bits
        assert page == fields | token // geometry.page_tokens
        assert byte == token % geometry.page_tokens * geometry.token_bytes
        first = token // geometry.page_tokens * geometry.page_tokens
        assert geometry.locate(page) == (layer, head, "kv"[kind], first, first + geometry.page_tokens)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_values_become_lines_and_back(head_dim):
    rng = np.random.default_rng(1)
    geometry = Geometry(1, 3, head_dim, 10)
    k, v = rng.standard_normal((2, 7, 3, head_dim)).astype(np.float16)
    lines = geometry.to_lines(k, v)
    assert lines.shape == (geometry.line_offsets(0, 0, 7).size, LINE_BYTES)
    # Head 1, V, token 2 begins where its stream's third token does.
    at = (1 * 2 + 1) * 7 * geometry.token_lines + 2 * geometry.token_lines
    assert lines[at].tobytes() == v[2, 1, :32].tobytes()
    back = geometry.from_lines(lines, np.float16)
    np.testing.assert_array_equal(back[0], k)
    np.testing.assert_array_equal(back[1], v)


@pytest.mark.parametrize(
    "start, stop, expected",
    [(0, 0, (0, 0)), (0, 1, (0, 1)), (15, 17, (0, 2)), (16, 32, (1, 1)), (40, 40, (2, 0))],
)
def test_pages_that_hold_a_token_range(start, stop, expected):
    assert Geometry(1, 1, 128, 100).page_range(start, stop) == expected


@pytest.mark.parametrize(
    "name, value, error",
    [
        ("layers", 0, ValueError),
        ("kv_heads", -1, ValueError),
        ("head_dim", 80, ValueError),
        ("max_tokens", 0, ValueError),
        ("layers", 1.5, TypeError),
        ("head_dim", "128", TypeError),
        ("max_tokens", True, TypeError),
    ],
)
def test_a_bad_shape_is_refused_by_name(name, value, error):
    with pytest.raises(error, match=f"^{name} must be .*not {value!r}$"):
        Geometry(**dict(layers=1, kv_heads=1, head_dim=128, max_tokens=1) | {name: value})
