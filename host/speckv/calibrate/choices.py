"""What settings do to streams: sectors, squared errors, and how much of an error each stream bears."""

import functools
import operator
from dataclasses import dataclass
from functools import cache

import numpy as np

from speckv_model.codec import CODECS
from speckv_model.constants import PAGE_BYTES, Codec

from .. import workers
from ..capacity import sectors_of
from ..formats import CodecFormat
from ..geometry import Geometry
from ..lm import TINYLM, ArrayStore, CodedStore, Llama

SETTINGS = {"fixed": tuple(CODECS[Codec.FIXED].SETTINGS), "variable": tuple(range(116, 161, 2))}
"""Settings that are looked at."""
MIXED = "mixed"
"""Each stream has the codec of `SETTINGS` that suits it."""
REFERENCE_SECTORS = 8
"""The factor of a stream is measured at its finest setting that takes no more sectors a page."""
QUARTERS = 4
"""Squared errors and rates are measured on a quarter of each of so many windows."""


@dataclass(frozen=True)
class Choices:
    """What settings do to streams, in the order (layer, head, kind).

    Parameters
    ----------
    settings : tuple of (str, int)
        Codecs and their settings.
    shape : tuple of int
        (layers, kv_heads, 2).
    sectors, square : float (streams, settings)
        Mean sectors of a page, mean squared error of a value.
    weights : float (streams) or (streams, settings)
        Loss for each unit of `square`; only their ratios matter.
    """

    settings: tuple
    shape: tuple
    sectors: np.ndarray
    square: np.ndarray
    weights: np.ndarray

    @property
    def loss(self):
        return np.reshape(self.weights, (len(self.square), -1)) * self.square

    def streams(self, chosen):
        """Nested tuples as of `Calibration`, of indices of settings (streams)."""
        indices = np.reshape(chosen, self.shape)
        return tuple(tuple(tuple(self.settings[index] for index in head) for head in layer) for layer in indices)

    def __add__(self, other):
        """The choice among the settings of both, of the same streams."""
        weights = [np.broadcast_to(np.reshape(each.weights, (len(each.square), -1)), each.square.shape)
                   for each in (self, other)]
        return Choices(self.settings + other.settings, self.shape,
                       *(np.concatenate(both, axis=1) for both in ((self.sectors, other.sectors),
                                                                   (self.square, other.square), weights)))


def measure(keys, values, codec, dtype, weights=None):
    """The `Choices` of `codec` on values.

    Parameters
    ----------
    keys, values : sequence of float arrays (tokens, kv_heads, head_dim)
        One for each layer; tokens that do not fill a page are left out.
    codec : str
        ``fixed``, ``variable`` or ``mixed``.
    dtype : dtype
    weights : float (streams), optional
        One for every stream if not given.
    """
    if codec == MIXED:
        return sum_of(measure(keys, values, each, dtype, weights) for each in SETTINGS)
    layers, (tokens, kv_heads, head_dim) = len(keys), np.shape(keys[0])
    geometry = Geometry(layers, kv_heads, head_dim, tokens)
    tokens -= tokens % geometry.page_tokens
    if not tokens:
        raise ValueError(f"tokens must fill a page of {geometry.page_tokens}, not {len(keys[0])!r}")
    sectors, square = np.empty((2, layers, kv_heads * 2, len(SETTINGS[codec])))
    for layer in range(layers):
        k, v = (np.asarray(each[layer][:tokens]).astype(dtype) for each in (keys, values))
        pages = geometry.to_lines(k, v).reshape(kv_heads * 2, -1, PAGE_BYTES)
        for index, setting in enumerate(SETTINGS[codec]):
            decoded, stored = CodecFormat.of(codec, setting).code(layer, pages, dtype)
            error = decoded.view(dtype).astype(np.float32) - pages.view(dtype).astype(np.float32)
            sectors[layer, :, index] = sectors_of(stored).mean(axis=1)
            square[layer, :, index] = np.square(error, dtype=np.float64).mean(axis=(1, 2))
    streams = layers * kv_heads * 2
    weights = np.ones(streams) if weights is None else np.asarray(weights, float)
    return Choices(tuple((codec, setting) for setting in SETTINGS[codec]), (layers, kv_heads, 2),
                   sectors.reshape(streams, -1), square.reshape(streams, -1), weights)


def sum_of(choices):
    """All of `choices`, of one model, together."""
    return functools.reduce(operator.add, choices)


def with_model(windows, codec, dtype, folder=TINYLM, jobs=None, on_step=lambda done, total: None):
    """The `Choices` of `codec` for the language model in `folder`, their weights measured.

    Parameters
    ----------
    windows : sequence of int arrays
        Tokens, each one run of the model; whole pages are used.
    codec, dtype
        As of `measure`.
    jobs : int, optional
        Processes.
    on_step : callable
        Called with the windows done and those to do.
    """
    if codec == MIXED:
        # The steps of all codecs in one row.
        return sum_of(with_model(windows, each, dtype, folder, jobs,
                                 lambda done, total, n=n: on_step(n * total + done, len(SETTINGS) * total))
                      for n, each in enumerate(SETTINGS))
    model = _model(folder)
    # They need less text than divergences.
    captured = [np.array_split(_capture(model, window, dtype), QUARTERS, axis=2)[n]
                for n, window in enumerate(windows[:QUARTERS])]
    keys, values = np.concatenate(captured, axis=2)
    choices = measure(keys, values, codec, dtype)
    small = np.where(choices.sectors <= REFERENCE_SECTORS, choices.square, np.inf)
    reference = np.where(np.isfinite(small).any(axis=1), small.argmin(axis=1), choices.sectors.argmin(axis=1))
    settings = [SETTINGS[codec][index] for index in reference]
    tasks = {n: (_divergences, (folder, np.array(window), codec, settings, np.dtype(dtype)))
             for n, window in enumerate(windows)}
    moved = []
    for _, found in workers.run(tasks, jobs):
        moved.append(found)
        on_step(len(moved), len(tasks))
    divergence, square = np.mean(moved, axis=0)
    return Choices(choices.settings, choices.shape, choices.sectors, choices.square, divergence / square)


@cache
def _model(folder):
    return Llama.load(folder)


def _shape(model, window):
    tokens = min(len(window), model.max_tokens)
    page_tokens = Geometry(model.layers, model.kv_heads, model.head_dim, tokens).page_tokens
    return model.layers, model.kv_heads, model.head_dim, tokens // page_tokens * page_tokens


def _capture(model, window, dtype):
    """K and V of a run: (2, layers, tokens, kv_heads, head_dim)."""
    shape = _shape(model, window)
    store = ArrayStore(*shape, dtype)
    model.forward(window[:shape[-1]], store)
    return np.array([store.read(layer, 0, shape[-1]) for layer in range(model.layers)]).swapaxes(0, 1)


def _divergences(folder, window, codec, settings, dtype):
    """What coding each stream alone does: float (2, streams), Kullback-Leibler divergence of the predictions in nats a
    token, and mean squared error."""
    model = _model(folder)
    shape = _shape(model, window)
    tokens = window[:shape[-1]]
    base = _log_softmax(model.forward(tokens, ArrayStore(*shape, dtype)))
    chance = np.exp(base)
    moved = np.empty((2, len(settings)))
    for stream, setting in enumerate(settings):
        only = [("raw", 0)] * len(settings)
        only[stream] = codec, setting
        nested = np.array(only, object).reshape(model.layers, model.kv_heads, 2, 2).tolist()
        nested = tuple(tuple(tuple(map(tuple, head)) for head in layer) for layer in nested)
        store = CodedStore(*shape, dtype, CodecFormat(codec, "one stream", nested))
        logits = _log_softmax(model.forward(tokens, store))
        moved[0, stream] = np.einsum("ij,ij->", chance, base - logits, dtype=np.float64) / len(tokens)
        moved[1, stream] = store.damage.square / (len(tokens) * model.head_dim)
    return moved


def _log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def training_windows(tokens, count, length=1024):
    """`count` windows of `tokens` (a long array), spread evenly over it."""
    return [tokens[start:start + length] for start in np.linspace(0, len(tokens) - length, count, dtype=int)]
