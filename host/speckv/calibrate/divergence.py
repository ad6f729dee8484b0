"""How far the language model's predictions move when its K and V are coded."""

from functools import cache

import numpy as np

from .. import workers
from ..formats import CodecFormat
from ..geometry import Geometry
from ..lm import ArrayStore, CodedStore, Llama


@cache
def model_of(folder):
    return Llama.load(folder)


def shape_of(model, window):
    """(layers, kv_heads, head_dim, tokens), the tokens being as many whole pages as there are."""
    tokens = min(len(window), model.max_tokens)
    page_tokens = Geometry(model.layers, model.kv_heads, model.head_dim, tokens).page_tokens
    return model.layers, model.kv_heads, model.head_dim, tokens // page_tokens * page_tokens


def divergences(folder, window, streams, dtype):
    """What codings of the streams do to the predictions of a window.

    Parameters
    ----------
    folder : path-like
        Of the model.
    window : int array
    streams : sequence of nested tuples
        Each as of `Calibration`. Layers in which one is as the first of them are not run again.
    dtype : dtype

    Returns
    -------
    float64 (2, number of codings): Kullback-Leibler divergence in nats a token; squared error, its sum over what the
    layers that were run store, divided by the values of one stream.
    """
    model = model_of(folder)
    shape = shape_of(model, window)
    tokens = window[:shape[-1]]
    base = _log_softmax(model.forward(tokens, ArrayStore(*shape, dtype)))
    chance = np.exp(base)
    found, before = np.empty((2, len(streams))), [model.embed(tokens)]
    for index, each in enumerate(streams):
        store = CodedStore(*shape, dtype, CodecFormat("", "", each))
        first = 0
        while index and first + 1 < model.layers and each[first] == streams[0][first]:
            first += 1
        x = before[first]
        for layer in range(first, model.layers):
            x = model.layer(layer, x, store)
            if index == 0:
                before.append(x)
        moved = base - _log_softmax(model.logits(x))
        found[:, index] = np.einsum("ij,ij->", chance, moved, dtype=np.float64) / len(tokens), store.damage.square
        found[1, index] /= len(tokens) * model.head_dim
    return found


def divergences_of_all(folder, windows, streams, dtype, jobs=None, on_step=lambda: None):
    """As `divergences`, of each of `windows` in a process of its own: float64 (windows, 2, number of codings)."""
    tasks = {n: (divergences, (folder, np.array(window), streams, np.dtype(dtype)))
             for n, window in enumerate(windows)}
    found = {}
    for n, result in workers.run(tasks, jobs):
        found[n] = result
        on_step()
    return np.array([found[n] for n in range(len(windows))])


def _log_softmax(logits):
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
