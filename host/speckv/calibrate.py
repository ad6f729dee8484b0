"""Which codec setting each stream of a model should have, for a wanted ratio.

A stream's loss is taken as proportional to the squared error of its values. The factor is measured with the language
model: how far its predictions move, by Kullback-Leibler divergence, when that stream alone is coded. Without a model it
is one.
"""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from speckv_model.codec import CODECS
from speckv_model.config import DeviceConfig
from speckv_model.constants import ENTRY_BYTES, PAGE_BYTES, SECTOR_BYTES, Codec

from . import workers
from .capacity import capacity_ratio, sectors_of
from .context import as_dtype
from .formats import CodecFormat
from .geometry import Geometry
from .lm import TINYLM, ArrayStore, CodedStore, Llama, training_tokens

SETTINGS = {"fixed": tuple(CODECS[Codec.FIXED].SETTINGS), "variable": tuple(range(116, 161, 2))}
"""Settings that are looked at."""
REFERENCE_SECTORS = 8
"""The factor of a stream is measured at its finest setting that takes no more sectors a page."""
QUARTERS = 4
"""Squared errors and rates are measured on a quarter of each of so many windows."""
ALTERNATIVES = 32
"""Choices near the best one of a size that are placed in the pool, when its loss counts."""


@dataclass(frozen=True)
class Calibration:
    """What each stream of a model is stored as.

    Parameters
    ----------
    streams : nested tuples of (codec name, setting)
        (layers, kv_heads, 2), K first; as `Device.load_descriptors` takes it.
    dtype : str
        ``float16`` or ``bfloat16``: of the values that it was made with.
    ratio : float
        Bytes of K and V to bytes of sectors and page table entries, on the values that it was made with.
    provenance : dict
        What it was made from: ``source``, ``tokens``, ``wanted_ratio``, and digests.
    """

    streams: tuple
    dtype: str
    ratio: float
    provenance: dict = field(default_factory=dict)

    def save(self, path):
        """Writes it as JSON."""
        shown = {"dtype": self.dtype, "ratio": self.ratio, "provenance": self.provenance, "streams": self.streams}
        Path(path).write_text(json.dumps(shown, indent=1) + "\n")

    @classmethod
    def load(cls, path):
        """Raises `ValueError` where the file at `path` does not hold a calibration."""
        try:
            found = json.loads(Path(path).read_text())
            streams = tuple(tuple(tuple((str(codec), int(setting)) for codec, setting in head) for head in layer)
                            for layer in found["streams"])
            calibration = cls(streams, found["dtype"], float(found["ratio"]), found["provenance"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} must hold a calibration as `speckv calibrate` writes it: {error!r}") from None
        for codec, setting in (stream for layer in streams for head in layer for stream in head):
            if codec not in {known.name.lower() for known in CODECS}:
                raise ValueError(f"{path} must name codecs that exist, not {codec!r}")
            if setting not in CODECS[Codec[codec.upper()]].SETTINGS:
                raise ValueError(f"{path} must have settings that {codec} takes, not {setting!r}")
        return calibration

    def format(self, setting=None):
        """It as a `CodecFormat`, under the name of its codec and `setting` (str)."""
        return CodecFormat(self.streams[0][0][0][0], setting or f"calibrated {self.provenance.get('wanted_ratio')}",
                           self.streams)


@dataclass(frozen=True)
class Choices:
    """What settings of one codec do to streams, in the order (layer, head, kind).

    Parameters
    ----------
    codec : str
    settings : tuple of int
    shape : tuple of int
        (layers, kv_heads, 2).
    sectors, square : float (streams, settings)
        Mean sectors of a page, mean squared error of a value.
    weights : float (streams)
        Loss for each unit of `square`; only their ratios matter.
    """

    codec: str
    settings: tuple
    shape: tuple
    sectors: np.ndarray
    square: np.ndarray
    weights: np.ndarray

    @property
    def loss(self):
        return self.weights[:, None] * self.square

    def streams(self, chosen):
        """Nested tuples as of `Calibration`, of indices of settings (streams)."""
        flat = np.array([self.settings[index] for index in chosen]).reshape(self.shape)
        return tuple(tuple(tuple((self.codec, int(setting)) for setting in head) for head in layer) for layer in flat)


def budget(ratio):
    """Mean sectors of a page at which sectors and entries come to `ratio`."""
    return (PAGE_BYTES / ratio - ENTRY_BYTES) / SECTOR_BYTES


def ratio_at(sectors):
    """The inverse of `budget`."""
    return PAGE_BYTES / (sectors * SECTOR_BYTES + ENTRY_BYTES)


def allocate(sectors, loss, mean):
    """Chooses one setting for each stream so that all of them lose little together.

    Begins with the setting of the fewest sectors and takes the step, of one stream to any of its other settings, that
    saves most loss for each sector more, as long as the streams' mean stays within `mean`.

    Parameters
    ----------
    sectors, loss : float (streams, settings)
    mean : float
        Sectors of a page.

    Returns
    -------
    int64 (streams), indices of settings

    Raises
    ------
    ValueError
        Even the fewest sectors are more than `mean`.
    """
    streams = np.arange(len(sectors))
    # Of the smallest settings, the one that loses least.
    chosen = np.lexsort((loss, sectors), axis=-1)[:, 0]
    left = mean * len(sectors) - sectors[streams, chosen].sum() + 1e-9
    if left < 0:
        raise ValueError(f"mean must be at least {sectors.min(axis=1).mean():.3f} sectors a page, not {mean!r}")
    while True:
        more = sectors - sectors[streams, chosen][:, None]
        saved = loss[streams, chosen][:, None] - loss
        useful = (saved > 0) & (more <= left)
        if not useful.any():
            return chosen
        slope = np.where(useful, saved / np.maximum(more, 1e-9), -1)
        stream, setting = np.unravel_index(slope.argmax(), slope.shape)
        left -= more[stream, setting]
        chosen[stream] = setting


def allocate_in_pool(choices, ratio, config):
    """As `allocate`, for a `ratio` that the pool's loss counts in; for codecs whose pages have one size a setting.

    Of the best choice of each total size, and of those nearest to it, the one of least loss that holds `ratio`.
    """
    sectors, loss = np.rint(choices.sectors).astype(int), choices.loss
    streams = np.arange(len(sectors))
    best, least = None, np.inf
    for total in range(int(budget(ratio) * len(sectors)), sectors.min(axis=1).sum() - 1, -1):
        first = allocate(sectors, loss, total / len(sectors))
        if loss[streams, first].sum() >= least:
            break
        for chosen in _near(first, sectors, loss, total):
            lost = loss[streams, chosen].sum()
            if lost >= least:
                break
            if capacity_ratio(config, np.tile(sectors[streams, chosen], 200), len(sectors)) >= ratio:
                best, least = chosen, lost
                break
    if best is None:
        raise ValueError(f"ratio must be one that the smallest setting reaches in the pool, not {ratio!r}")
    return best


def _near(first, sectors, loss, total):
    """`first` and the choices that differ from it in two streams and keep within `total`, those of least loss first."""
    streams = np.arange(len(sectors))
    found = [first]
    for up in streams[first + 1 < sectors.shape[1]]:
        for down in streams[first > 0]:
            other = first.copy()
            other[up] += 1
            other[down] -= 1
            if up != down and sectors[streams, other].sum() <= total:
                found.append(other)
    return sorted(found, key=lambda chosen: loss[streams, chosen].sum())[:ALTERNATIVES]


def measure(keys, values, codec, dtype, weights=None):
    """The `Choices` of `codec` on values.

    Parameters
    ----------
    keys, values : sequence of float arrays (tokens, kv_heads, head_dim)
        One for each layer; tokens that do not fill a page are left out.
    codec : str
        ``fixed`` or ``variable``.
    dtype : dtype
    weights : float (streams), optional
        One for every stream if not given.
    """
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
    return Choices(codec, SETTINGS[codec], (layers, kv_heads, 2), sectors.reshape(streams, -1),
                   square.reshape(streams, -1), weights)


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
    model = _model(folder)
    # They need less text than divergences.
    captured = [np.array_split(_capture(model, window, dtype), QUARTERS, axis=2)[n]
                for n, window in enumerate(windows[:QUARTERS])]
    keys, values = np.concatenate(captured, axis=2)
    choices = measure(keys, values, codec, dtype)
    small = np.where(choices.sectors <= REFERENCE_SECTORS, choices.square, np.inf)
    reference = np.where(np.isfinite(small).any(axis=1), small.argmin(axis=1), choices.sectors.argmin(axis=1))
    settings = [choices.settings[index] for index in reference]
    tasks = {n: (_divergences, (folder, np.array(window), codec, settings, np.dtype(dtype)))
             for n, window in enumerate(windows)}
    moved = []
    for _, found in workers.run(tasks, jobs):
        moved.append(found)
        on_step(len(moved), len(tasks))
    divergence, square = np.mean(moved, axis=0)
    return Choices(codec, choices.settings, choices.shape, choices.sectors, choices.square, divergence / square)


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


def choose(choices, ratio, dtype, provenance, config=None):
    """The `Calibration` of least loss within `choices` that reaches `ratio`.

    Parameters
    ----------
    choices : Choices
    ratio : float
        Bytes of K and V to bytes of sectors and page table entries.
    dtype : dtype
    provenance : dict
    config : DeviceConfig, optional
        Where given, the loss of its pool counts in `ratio` (codec ``fixed`` only).

    Raises
    ------
    ValueError
        No setting reaches `ratio`.
    """
    if config is None:
        chosen = allocate(choices.sectors, choices.loss, budget(ratio))
    else:
        chosen = allocate_in_pool(choices, ratio, config)
    found = ratio_at(choices.sectors[np.arange(len(chosen)), chosen].mean())
    return Calibration(choices.streams(chosen), str(as_dtype(dtype)), found,
                       provenance | {"wanted_ratio": ratio, "pool": config is not None})


def model_provenance(folder, windows):
    """What a calibration with the model in `folder` on `windows` was made from."""
    whole = hashlib.sha256()
    for window in windows:
        whole.update(np.ascontiguousarray(window, "<u4"))
    weights = hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest()[:16]
    return {"source": "language model", "model_digest": weights, "tokens": sum(map(len, windows)),
            "tokens_digest": whole.hexdigest()[:16]}


def samples_provenance(path, keys):
    """What a calibration on the values of the file at `path` was made from."""
    return {"source": "samples", "samples_digest": hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16],
            "tokens": int(np.shape(keys[0])[0])}


def training_windows(tokens, count, length=1024):
    """`count` windows of `tokens` (a long array), spread evenly over it."""
    return [tokens[start:start + length] for start in np.linspace(0, len(tokens) - length, count, dtype=int)]


def load_samples(path):
    """Keys and values of the NPZ file at `path`: its ``k`` and ``v``, float (layers, tokens, kv_heads, head_dim)."""
    with np.load(path) as samples:
        try:
            keys, values = samples["k"], samples["v"]
        except KeyError:
            raise ValueError(f"{path} must hold arrays k and v, not {', '.join(samples.files) or 'nothing'}") from None
    if keys.ndim != 4 or keys.shape != values.shape or keys.dtype.kind != "f":
        raise ValueError(f"k and v must be floats of one shape (layers, tokens, kv_heads, head_dim), "
                         f"not {keys.dtype} {keys.shape} and {values.dtype} {values.shape}")
    return keys, values


@click.command("calibrate")
@click.option("--ratio", type=click.FloatRange(1, min_open=True), default=4.0, show_default=True,
              help="Bytes of K and V to bytes of sectors and page table entries.")
@click.option("--codec", type=click.Choice(list(SETTINGS)), default="fixed", show_default=True)
@click.option("--dtype", type=click.Choice(["bfloat16", "float16"]), default="bfloat16", show_default=True)
@click.option("--pool", is_flag=True, help="Count what the pool of the default configuration loses (codec fixed).")
@click.option("--samples", type=click.Path(exists=True, dir_okay=False),
              help="NPZ file with k and v, floats (layers, tokens, kv_heads, head_dim), to use in place of the model.")
@click.option("--model", "folder", type=click.Path(exists=True, file_okay=False), default=TINYLM,
              help="Folder of the language model; the tiny one if not given.")
@click.option("--tokens", "path", type=click.Path(exists=True, dir_okay=False),
              help="NPY file of tokens for the model; the tiny model's training text if not given.")
@click.option("--windows", type=click.IntRange(1), default=6, show_default=True, help="Windows of these tokens.")
@click.option("--jobs", type=click.IntRange(1), help="Processes; one for each core if not given.")
@click.option("--output", type=click.Path(dir_okay=False), default="calibration.json", show_default=True)
def command(ratio, codec, dtype, pool, samples, folder, path, windows, jobs, output):
    """Choose the codec setting of every stream of a model."""
    console, dtype = Console(), as_dtype(dtype)
    try:
        if pool and codec != "fixed":
            raise ValueError(f"codec must be fixed where the pool's loss counts, not {codec!r}")
        if samples:
            keys, values = load_samples(samples)
            choices, provenance = measure(keys, values, codec, dtype), samples_provenance(samples, keys)
        else:
            chosen = training_windows(np.load(path, mmap_mode="r") if path else training_tokens(), windows)
            provenance = model_provenance(folder, chosen)
            with Progress(console=console) as progress:
                bar = progress.add_task("measuring streams", total=len(chosen))
                choices = with_model(chosen, codec, dtype, folder, jobs,
                                     lambda done, _: progress.update(bar, completed=done))
        calibration = choose(choices, ratio, dtype, provenance, DeviceConfig.default() if pool else None)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    calibration.save(output)
    shown = Table(title=f"codec {codec}, {dtype}, ratio {calibration.ratio:.3f}")
    for name in ("layer", *(f"{kind}, head {head}" for head in range(choices.shape[1]) for kind in "KV")):
        shown.add_column(name, justify="right")
    for layer, heads in enumerate(calibration.streams):
        shown.add_row(str(layer), *(str(setting) for head in heads for _, setting in head))
    console.print(shown)
    console.print(f"written to {output}")
