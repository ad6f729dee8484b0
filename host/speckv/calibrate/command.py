"""``speckv calibrate``."""

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from speckv_model.config import DeviceConfig

from ..context import as_dtype
from ..lm import TINYLM, training_tokens
from .allocation import choose
from .calibration import model_provenance, samples_provenance
from .choices import MIXED, SETTINGS, measure, training_windows, with_model


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
@click.option("--codec", type=click.Choice([*SETTINGS, MIXED]), default="fixed", show_default=True,
              help="mixed: each stream has the one that suits it.")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16"]), default="bfloat16", show_default=True)
@click.option("--pool", is_flag=True, help="Count what the pool of the default configuration loses (codec fixed).")
@click.option("--samples", type=click.Path(exists=True, dir_okay=False),
              help="NPZ file with k and v, floats (layers, tokens, kv_heads, head_dim), to use in place of the model.")
@click.option("--model", "folder", type=click.Path(exists=True, file_okay=False), default=TINYLM,
              help="Folder of the language model; the tiny one if not given.")
@click.option("--tokens", "path", type=click.Path(exists=True, dir_okay=False),
              help="NPY file of tokens for the model; the tiny model's training text if not given.")
@click.option("--windows", type=click.IntRange(1), default=6, show_default=True,
              help="Windows of these tokens; time grows with them.")
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
                bar = progress.add_task("measuring streams", total=None)
                choices = with_model(chosen, codec, dtype, folder, jobs,
                                     lambda done, total: progress.update(bar, completed=done, total=total))
        calibration = choose(choices, ratio, dtype, provenance, DeviceConfig.default() if pool else None)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    calibration.save(output)
    shown = Table(title=f"codec {codec}, {dtype}, ratio {calibration.ratio:.3f}")
    for name in ("layer", *(f"{kind}, head {head}" for head in range(choices.shape[1]) for kind in "KV")):
        shown.add_column(name, justify="right")
    for layer, heads in enumerate(calibration.streams):
        shown.add_row(str(layer), *(f"{name[0]} {setting}" if codec == MIXED else str(setting)
                                    for head in heads for name, setting in head))
    console.print(shown)
    console.print(f"written to {output}")
