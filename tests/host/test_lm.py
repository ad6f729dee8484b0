"""The NumPy decoder against the figures that came with the model."""

import numpy as np
import pytest
from ml_dtypes import bfloat16

from speckv.lm import (
    ArrayStore,
    DeviceStore,
    Llama,
    decode_text,
    encode_text,
    generate,
    heldout_tokens,
    score,
)


@pytest.fixture(scope="module")
def model():
    return Llama.load()


def array_store(model, dtype=np.float16):
    return ArrayStore(model.layers, model.kv_heads, model.head_dim, model.max_tokens, dtype)


def test_logits(model):
    logits = model.forward(heldout_tokens()[:64], array_store(model, np.float32))
    assert logits.shape == (64, 4096) and logits.dtype == np.float32
    np.testing.assert_allclose(logits[-1, :5], [-1.12658, -0.49773, 0.04881, 1.24577, -2.42184], atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, bfloat16])
def test_greedy_continuation(model, dtype):
    seen = []
    tokens = generate(model, array_store(model, dtype), heldout_tokens()[:64], 25, seen.append)
    assert (
        tokens
        == seen
        == [
            674,
            14,
            524,
            14,
            984,
            8,
            65,
            3031,
            3342,
            14,
            33,
            3031,
            1519,
            8,
            65,
            3031,
            3342,
            14,
            33,
            3031,
            1519,
            535,
            273,
            342,
            541,
        ]
    )


def test_negative_log_likelihood(model):
    tokens = heldout_tokens()
    windows = [tokens[i * 1024:(i + 1) * 1024 + 1] for i in range(32)]
    nll = [score(model, array_store(model), window)[0] for window in windows]
    assert np.mean(nll) == pytest.approx(2.58517, abs=1e-5)


def test_step_by_step_equals_at_once(model):
    tokens = heldout_tokens()[:40]
    at_once = model.forward(tokens, array_store(model))
    store = array_store(model)
    steps = [model.forward(tokens[:17], store)]
    steps += [model.forward(tokens[i:i + 1], store, i) for i in range(17, 40)]
    np.testing.assert_allclose(np.concatenate(steps), at_once, atol=2e-3)


def test_a_context_that_is_full_is_refused(model):
    with pytest.raises(ValueError, match="1024 positions, not at 1025"):
        model.forward([1, 2], array_store(model), 1023)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_driver_changes_nothing(model, device, dtype):
    """Logits, and not only tokens, are bit-equal when K and V go through a device that keeps lines as they
    are.
    """
    context = device.create_context(model.layers, model.kv_heads, model.head_dim, 64, dtype)
    stores = array_store(model, context.dtype), DeviceStore(context)
    tokens = heldout_tokens()[:21]
    first, second = ([model.forward(tokens[:18], store)] + [model.forward(tokens[i:i + 1], store, i)
                                                            for i in range(18, 21)] for store in stores)
    for a, b in zip(first, second):
        assert a.tobytes() == b.tobytes()


def test_text_survives_the_tokenizer():
    text = "def store(self, key):\n    return self.pages[key]\n"
    assert decode_text(encode_text(text)) == text
