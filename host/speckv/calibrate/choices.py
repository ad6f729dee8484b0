"""What settings do to streams: sectors, squared errors, and how much of an error each stream bears."""

import dataclasses
import functools
import itertools
import operator
from dataclasses import dataclass

import numpy as np

from speckv_model.codec import CODECS
from speckv_model.constants import PAGE_BYTES, Codec

from ..capacity import sectors_of
from ..formats import CodecFormat
from ..geometry import Geometry
from ..lm import TINYLM, ArrayStore
from .divergence import divergences_of_all, model_of, shape_of

SETTINGS = {"fixed": tuple(CODECS[Codec.FIXED].SETTINGS), "variable": tuple(range(116, 161, 2))}
"""Settings that are looked at."""
MIXED = "mixed"
"""Each stream has the codec of `SETTINGS` that suits it."""
REFERENCE_SECTORS = (6, 7, 8, 11)
"""A stream's factor is measured at its finest setting that takes no more sectors a page, for each of these."""
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
        return self._nested([self.settings[index] for index in chosen])

    def alone(self, stream=None, index=None):
        """As `streams`, of setting `index` for `stream` and ``raw`` for all others."""
        every = [("raw", 0)] * len(self.square)
        if stream is not None:
            every[stream] = self.settings[index]
        return self._nested(every)

    def _nested(self, every):
        every = iter(every)
        layers, heads, kinds = self.shape
        return tuple(tuple(tuple(next(every) for _ in range(kinds)) for _ in range(heads)) for _ in range(layers))

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
    model = model_of(folder)
    # They need less text than divergences.
    captured = [np.array_split(_capture(model, window, dtype), QUARTERS, axis=2)[n]
                for n, window in enumerate(windows[:QUARTERS])]
    keys, values = np.concatenate(captured, axis=2)
    choices = measure(keys, values, codec, dtype)
    alone = [(stream, index) for stream, sectors in enumerate(choices.sectors) for index in _references(sectors)]
    codings, steps = [choices.alone(), *itertools.starmap(choices.alone, alone)], itertools.count(1)
    found = divergences_of_all(folder, windows, codings, dtype, jobs, lambda: on_step(next(steps), len(windows)))
    divergence, square = found.mean(axis=0)[:, 1:]
    return dataclasses.replace(choices, weights=_weights(choices, alone, divergence / square))


def _references(sectors):
    """Indices of the settings, of those that take `sectors`, at which a stream's factor is measured."""
    found = set()
    for most in REFERENCE_SECTORS:
        fitting = np.flatnonzero(sectors <= most)
        found.add(int(fitting[sectors[fitting].argmax()]) if len(fitting) else int(sectors.argmin()))
    return sorted(found)


def _weights(choices, alone, factors):
    """Weights of all settings of all streams from `factors`, those of `alone`: pairs (stream, setting).

    Between two settings a factor's logarithm is interpolated, beyond the last it stays.
    """
    weights = np.empty_like(choices.square)
    streams, indices = np.transpose(alone)
    for stream, found in enumerate(weights):
        known = streams == stream
        found[:] = np.exp(np.interp(np.arange(len(found)), indices[known], np.log(factors[known])))
    return weights


def _capture(model, window, dtype):
    """K and V of a run: (2, layers, tokens, kv_heads, head_dim)."""
    shape = shape_of(model, window)
    store = ArrayStore(*shape, dtype)
    model.forward(window[:shape[-1]], store)
    return np.array([store.read(layer, 0, shape[-1]) for layer in range(model.layers)]).swapaxes(0, 1)


def training_windows(tokens, count, length=1024):
    """`count` windows of `tokens` (a long array), spread evenly over it."""
    return [tokens[start:start + length] for start in np.linspace(0, len(tokens) - length, count, dtype=int)]
