"""A Llama-layout decoder in float32 NumPy.

Source: the layer layout of `LlamaForCausalLM`: RMSNorm, grouped-query attention with rotate-half RoPE,
SwiGLU.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from .text import TINYLM


@dataclass(frozen=True)
class Layer:
    """Weights of one decoder layer, float32, stored as (inputs, outputs)."""
    attention_norm: np.ndarray
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    output: np.ndarray
    mlp_norm: np.ndarray
    gate: np.ndarray
    up: np.ndarray
    down: np.ndarray


def _softmax(x):
    """Softmax over the last axis, in place."""
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


class Llama:
    """The decoder. It keeps no K or V: every layer appends to a `KVStore` and attends to what that returns.

    Parameters
    ----------
    config : dict
        As in the model's ``config.json``.
    weights : dict of str to array
        As in the model's safetensors file; any float dtype.
    """

    def __init__(self, config, weights):
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.head_dim = config["head_dim"]
        self.max_tokens = config["max_position_embeddings"]
        self._eps = np.float32(config["rms_norm_eps"])
        weights = {name: np.asarray(value, np.float32) for name, value in weights.items()}
        self._embedding = weights["model.embed_tokens.weight"]
        self._norm = weights["model.norm.weight"]
        self._layers = [self._layer(weights, f"model.layers.{i}.") for i in range(self.layers)]
        rate = config["rope_theta"] ** -(np.arange(0, self.head_dim, 2) / self.head_dim)
        angle = np.arange(self.max_tokens)[:, None] * np.concatenate([rate, rate])
        self._cos, self._sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    @classmethod
    def load(cls, folder=TINYLM):
        """The model in `folder` (``config.json``, ``model.safetensors``)."""
        folder = Path(folder)
        return cls(json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors"))

    @staticmethod
    def _layer(weights, prefix):
        def matrix(name):
            return np.ascontiguousarray(weights[f"{prefix}{name}.weight"].T)

        return Layer(weights[f"{prefix}input_layernorm.weight"], matrix("self_attn.q_proj"),
                     matrix("self_attn.k_proj"), matrix("self_attn.v_proj"), matrix("self_attn.o_proj"),
                     weights[f"{prefix}post_attention_layernorm.weight"], matrix("mlp.gate_proj"),
                     matrix("mlp.up_proj"), matrix("mlp.down_proj"))

    def forward(self, tokens, store, start=0):
        """Runs `tokens` (n ints) at positions `start` on, with the K and V of earlier positions in `store`.

        Returns the logits of every token, float32, (n, vocabulary).
        """
        tokens = np.asarray(tokens, np.int64)
        stop = start + tokens.size
        if not 0 < stop <= self.max_tokens:
            raise ValueError(
                f"tokens must end within the model's {self.max_tokens} positions, not at {stop!r}"
            )
        x = self.embed(tokens)
        for index in range(self.layers):
            x = self.layer(index, x, store, start)
        return self.logits(x)

    def embed(self, tokens):
        """What the first layer takes for `tokens` (n ints): float32 (n, width)."""
        return self._embedding[np.asarray(tokens, np.int64)]

    def layer(self, index, x, store, start=0):
        """What layer `index` makes of `x` (float32 (n, width)), the tokens at positions `start` on."""
        layer, stop = self._layers[index], start + len(x)
        cos, sin = self._cos[start:stop, None], self._sin[start:stop, None]
        h = self._rms_norm(x, layer.attention_norm)
        query = self._rotate((h @ layer.query).reshape(-1, self.heads, self.head_dim), cos, sin)
        key = self._rotate((h @ layer.key).reshape(-1, self.kv_heads, self.head_dim), cos, sin)
        value = (h @ layer.value).reshape(-1, self.kv_heads, self.head_dim)
        store.append(index, key, value)
        x = x + self._attend(query, *store.read(index, 0, stop), start) @ layer.output
        h = self._rms_norm(x, layer.mlp_norm)
        gate = h @ layer.gate
        return x + (gate / (1 + np.exp(-gate)) * (h @ layer.up)) @ layer.down

    def logits(self, x):
        """Of what the last layer made: float32 (n, vocabulary)."""
        return self._rms_norm(x, self._norm) @ self._embedding.T

    def _rms_norm(self, x, weight):
        return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + self._eps) * weight

    @staticmethod
    def _rotate(x, cos, sin):
        low, high = np.split(x, 2, axis=-1)
        return x * cos + np.concatenate([-high, low], axis=-1) * sin

    def _attend(self, query, key, value, start):
        """Causal attention of queries (n, heads, d) at `start` on over (m, kv_heads, d): (n, heads * d)."""
        n, m = len(query), len(key)
        group = self.heads // self.kv_heads
        # Grouped by KV head, so that a matrix product serves every query head that shares it.
        query = query.reshape(n, self.kv_heads, group, self.head_dim).transpose(1, 2, 0, 3)
        scores = query.reshape(self.kv_heads, group * n, self.head_dim) @ key.transpose(1, 2, 0)
        scores = scores.reshape(self.kv_heads, group, n, m) / np.float32(np.sqrt(self.head_dim))
        scores[:, :, np.arange(m) > np.arange(start, start + n)[:, None]] = -np.inf
        mixed = _softmax(scores).reshape(self.kv_heads, group * n, m) @ value.transpose(1, 0, 2)
        mixed = mixed.reshape(self.kv_heads, group, n, self.head_dim).transpose(2, 0, 1, 3)
        return mixed.reshape(n, self.heads * self.head_dim)


def generate(model, store, prompt, count, on_token=None):
    """Greedy continuation of `prompt` (ints) by `count` tokens, the cache in the empty `store`.

    The prompt is run at once, then one token at a time; `on_token(token)` is called for each. Returns a list
    of ints.
    """
    tokens, position, new = list(prompt), 0, []
    for _ in range(count):
        logits = model.forward(tokens, store, position)
        position += len(tokens)
        tokens = [int(logits[-1].argmax())]
        new += tokens
        if on_token is not None:
            on_token(tokens[0])
    return new


def score(model, store, tokens):
    """How well the model predicts each of `tokens` (n ints) from those before it, the first being only given.

    All but the last are run at once, with all K and V going through the empty `store`.

    Returns
    -------
    nll : float64, (n - 1)
        Negative log-likelihood of each token, nats.
    predicted : int64, (n - 1)
        The token that the model finds likeliest in its place.
    """
    logits = model.forward(tokens[:-1], store)
    logits -= logits.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(logits, np.asarray(tokens, np.int64)[1:, None], axis=-1)[:, 0]
    return np.log(np.exp(logits).sum(axis=-1, dtype=np.float64)) - chosen, logits.argmax(axis=-1)
