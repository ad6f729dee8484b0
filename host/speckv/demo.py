"""The demonstration: a language model whose every K and V goes through the device."""

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from speckv_model.config import DeviceConfig
from speckv_model.constants import LINE_BYTES, OPEN_SECTORS, PAGE_ROWS
from speckv_sim.build import build_root

from . import open as open_device
from .context import as_dtype
from .errors import UnknownCodec
from .lm import ArrayStore, DeviceStore, Llama, decode_text, encode_text, generate, heldout_tokens, score
from .report import picture, table

LINKS = {"simulated": "sim", "sim": "sim", "emulated": "emu", "emu": "emu"}
REPORTS = build_root() / "reports"
PROMPT_TOKENS = 64
RAW = "raw"
"""The codec with which tokens must be equal to those of the NumPy cache."""

ABOUT = {
    "tokens_equal": "generated tokens equal those of the same decoder with its cache in a NumPy array; "
    "at the top level: those of the raw run",
    "token_agreement": "share of the generated tokens that are equal, position by position",
    "prediction_agreement": "share of held-out positions at which the likeliest next token is the same",
    "ppl_base": "perplexity of the held-out windows with K and V in a NumPy array of the same dtype",
    "ppl_codec": "perplexity of the same windows with every K and V written to the device and read back",
    "ratio": "KV bytes held for each byte of the device's pool that they take, headers and rounding counted; "
    "mean over the windows",
    "cycles": "device clocks while the driver appends and reads; the emulated device has no clock: there, "
    "requests sent: lines and hints",
    "hit_rate": "share of line accesses that found their page in the page cache",
    "kv_mb_per_s": "KV bytes written and read for each second spent in the driver",
}


@dataclass(frozen=True)
class Task:
    """What a run does.

    Parameters
    ----------
    prompt : list of int
        Tokens to continue.
    count : int
        Tokens to generate.
    windows : list of int array
        Held-out tokens to predict, each window one longer than what it puts into the cache.
    """

    prompt: list
    count: int
    windows: list

    @property
    def context_tokens(self):
        """Tokens that the largest context holds."""
        return max([len(self.prompt) + self.count, *(len(window) - 1 for window in self.windows)])


class MeteredStore(DeviceStore):
    """A `DeviceStore` that adds the seconds and clocks that its device takes to `meter`."""

    def __init__(self, context, meter):
        super().__init__(context)
        self._meter = meter

    def append(self, layer, k, v):
        with self._meter.running():
            super().append(layer, k, v)

    def read(self, layer, start, stop):
        with self._meter.running():
            return super().read(layer, start, stop)


class Meter:
    """Seconds and clocks of the device behind `link` while the meter was running."""

    def __init__(self, link):
        self._link = link
        self.seconds = 0.0
        self.clocks = 0

    @contextmanager
    def running(self):
        seconds, clocks = time.perf_counter(), self._link.clocks
        yield
        self.seconds += time.perf_counter() - seconds
        self.clocks += self._link.clocks - clocks


@dataclass
class Baseline:
    """What the decoder does with its cache in a NumPy array: new tokens; for each window (nll, predicted)."""
    tokens: list
    scores: list


def baseline(model, task, dtype):
    """Does `task` without a device."""
    def store():
        return ArrayStore(model.layers, model.kv_heads, model.head_dim, task.context_tokens, dtype)

    return Baseline(generate(model, store(), task.prompt, task.count),
                    [score(model, store(), window) for window in task.windows])


def run(device, model, task, base, codec, dtype, on_step=lambda: None):
    """Does `task` with K and V in contexts of `device`; `on_step` is called after each token and each window.

    Returns the run's part of the report, a dictionary for JSON.
    """
    meter, per_token, scores, held_bytes, used_bytes = Meter(device.link), [], [], 0, 0

    def context():
        return device.create_context(
            model.layers, model.kv_heads, model.head_dim, task.context_tokens, dtype, codec
        )

    def step(_):
        per_token.append(meter.clocks - sum(per_token))
        on_step()

    begin, wall = device.stats(), time.perf_counter()
    with context() as held:
        tokens = generate(model, MeteredStore(held, meter), task.prompt, task.count, step)
    generate_s = time.perf_counter() - wall
    for window in task.windows:
        with context() as held:
            scores.append(score(model, MeteredStore(held, meter), window))
            full = device.stats()
            held_bytes, used_bytes = held_bytes + full.held_bytes, used_bytes + full.pool_used_bytes
        on_step()
    wall = time.perf_counter() - wall
    grown = device.stats() - begin

    lines = grown.lines_read + grown.lines_written
    equal = np.equal(tokens, base.tokens)
    nll, base_nll = (np.array([np.mean(nll) for nll, _ in each]) for each in (scores, base.scores))
    change = nll - base_nll
    return {
        "codec": codec,
        "dtype": str(dtype),
        "tokens": task.count,
        "generated": tokens,
        "text": decode_text(tokens),
        "tokens_equal": bool(equal.all()),
        "token_agreement": float(equal.mean()),
        "prediction_agreement": float(
            np.mean([np.mean(got[1] == want[1]) for got, want in zip(scores, base.scores)])
        ),
        "ppl_base": float(np.exp(base_nll.mean())),
        "ppl_codec": float(np.exp(nll.mean())),
        "ppl_change_percent": float(np.expm1(change.mean()) * 100),
        "ppl_change_interval_percent": interval(change) * 100,
        "window_ppl_base": np.exp(base_nll).tolist(),
        "window_ppl_codec": np.exp(nll).tolist(),
        "ratio": held_bytes / used_bytes,
        "cycles": meter.clocks,
        "cycles_are": "device clocks" if grown["CLOCKS"] else "requests sent",
        "lines_read": grown.lines_read,
        "lines_written": grown.lines_written,
        "cycles_per_line": meter.clocks / lines,
        "cycles_per_token": per_token,
        "hit_rate": grown.hit_rate,
        "wall_s": wall,
        "driver_s": meter.seconds,
        "tokens_per_s": task.count / generate_s,
        "kv_mb_per_s": lines * LINE_BYTES / meter.seconds / 1e6,
        "sealed_bytes": list(grown.sealed_bytes),
        "fetched_bytes": list(grown.fetched_bytes),
        "errors": grown.error_count,
        "counters": grown.counters,
    }


def interval(change):
    """Half of the 95% interval of the mean of `change` (float, (windows,)); 0 for a single window."""
    return float(1.96 * change.std(ddof=1) / np.sqrt(change.size)) if change.size > 1 else 0.0


def window_tokens(config, model, wanted):
    """Tokens of a held-out window: `wanted`, or what the model and the pool of the device have room for."""
    streams = model.layers * model.kv_heads * 2
    # One page of each stream may be OPEN beside those that are sealed.
    fits = (config.pool_sectors // (streams * OPEN_SECTORS) - 1) * PAGE_ROWS
    return max(PAGE_ROWS, min(wanted, model.max_tokens, fits) // PAGE_ROWS * PAGE_ROWS)


def main(
    link="simulated",
    preset="default",
    tokens=48,
    codec="speckv",
    dtype="float16",
    windows=6,
    window=256,
    prompt=None,
    reports=REPORTS,
    console=None,
    **options,
):
    """Runs the demonstration; writes ``demo.json`` and ``demo.png`` to the folder `reports`.

    Parameters
    ----------
    link : str
        ``simulated`` or ``emulated``.
    preset : str
        Configuration of the device, ``default`` or ``small``.
    tokens : int
        Tokens to generate.
    codec : str
        The codec to compare with `raw`.
    dtype : str
        ``float16`` or ``bfloat16``.
    windows, window : int
        Number of held-out windows, spread evenly over the held-out text, and the most tokens in each.
    prompt : str, optional
        Text to continue; the begin of the held-out text if not given.
    reports : path-like
        Where the report goes.
    **options
        For `speckv.open`.

    Returns
    -------
    dict
        What ``demo.json`` holds. Its ``runs`` has one dictionary a codec; the top level is that of `codec`,
        except that `tokens_equal` is that of `raw`.
    """
    console = console or Console()
    config = DeviceConfig.preset(preset)
    model = Llama.load()
    length = window_tokens(config, model, window)
    heldout = heldout_tokens()
    prompt = encode_text(prompt) if prompt else heldout[:PROMPT_TOKENS].tolist()
    if len(prompt) + tokens > model.max_tokens:
        raise ValueError(
            f"tokens must be at most {model.max_tokens - len(prompt)} after this prompt, not {tokens!r}"
        )
    dtype = as_dtype(dtype)
    if codec not in config.codecs:
        raise UnknownCodec(codec, config.codecs)
    starts = np.linspace(0, len(heldout) - length - 1, windows, dtype=int)
    task = Task(prompt, tokens, [heldout[start:start + length + 1] for start in starts])
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        starting = progress.add_task(f"opening the {link} device", total=1)
        with open_device(f"{LINKS[link]}:", config, **options) as device:
            progress.advance(starting)
            bar = progress.add_task("cache in a NumPy array", total=1)
            base = baseline(model, task, dtype)
            progress.advance(bar)
            runs = []
            for each in dict.fromkeys([RAW, codec]):
                bar = progress.add_task(f"codec {each}", total=tokens + windows)
                runs.append(
                    run(device, model, task, base, each, dtype, lambda bar=bar: progress.advance(bar))
                )
    report = {"link": link, **runs[-1], "tokens_equal": runs[0]["tokens_equal"], "window_tokens": length,
              "prompt": decode_text(prompt), "prompt_tokens": len(prompt), "config": config.to_dict(),
              "runs": [{"link": link, **each} for each in runs], "about": ABOUT}
    reports = Path(reports)
    reports.mkdir(parents=True, exist_ok=True)
    (reports / "demo.json").write_text(json.dumps(report, indent=1))
    picture(report, reports / "demo.png")
    table(report, console)
    console.print(f"\nreport: {reports / 'demo.json'}, picture: {reports / 'demo.png'}")
    return report
