"""How fast K and V pass through the simulated device: seconds of the host and clocks of the device.

    python -m speckv.bench.link --codec speckv --megabytes 2
"""

import contextlib
import json
import os
import statistics
import time
from pathlib import Path

import click
import numpy as np

from speckv_model.config import PRESETS, DeviceConfig
from speckv_model.constants import LINE_BYTES, Dtype
from speckv_sim.build import build, build_root

from ..device import Device
from ..link.simulated import SimulatedLink
from ..traffic import kv_lines

LAYERS, KV_HEADS, HEAD_DIM = 6, 2, 128
"""Shape of the cache that is written: that of the tiny language model, whose K and V these are."""
PAGE_TOKENS = 16
TOKEN_BYTES = LAYERS * KV_HEADS * 2 * HEAD_DIM * 2


def run(config=None, codec="speckv", megabytes=2.0, repeats=3, latency=100, bytes_per_clock=64):
    """Writes captured K and V into a context and reads them back, host and simulation on one core.

    Parameters
    ----------
    config : DeviceConfig, optional
        The device; the default configuration if not given.
    codec : str
        Codec of the context.
    megabytes : float
        10^6 bytes of K and V, at least; whole pages are taken.
    repeats : int
        How often all is written and read, each time in a new context; medians count.
    latency, bytes_per_clock : int
        DRAM, see `SimulatedLink`.

    Returns
    -------
    dict
        ``write_mb_s``, ``read_mb_s``: 10^6 bytes of K and V a second, the driver's work counted in.
        ``write_clocks_per_line``, ``read_clocks_per_line``: device clocks. ``kclocks_per_s``: 10^3 clocks
        that the simulation runs in a second, over both. Beside them the parameters.

    Raises
    ------
    SpeckvError
        The device fails.
    RuntimeError
        ``raw`` content does not come back as it was written.
    """
    config = config or DeviceConfig.default()
    tokens = -(-int(megabytes * 1e6) // (TOKEN_BYTES * PAGE_TOKENS)) * PAGE_TOKENS
    values = captured(tokens)
    build(config)
    write, read = _Stopwatch(), _Stopwatch()
    with _one_core(), SimulatedLink(config, latency=latency, bytes_per_clock=bytes_per_clock) as link:
        device = Device(link)
        for _ in range(repeats):
            with device.create_context(LAYERS, KV_HEADS, HEAD_DIM, tokens, codec=codec) as context:
                with write.measure(link):
                    for layer in range(LAYERS):
                        context.append(layer, *values[layer])
                with read.measure(link):
                    found = [context.read(layer, 0, tokens) for layer in range(LAYERS)]
            if codec == "raw" and np.stack(found).tobytes() != values.tobytes():
                raise RuntimeError("raw content did not come back as it was written")
    size = tokens * TOKEN_BYTES
    return {
        "config": config.to_dict(), "codec": codec, "bytes": size, "repeats": repeats,
        "dram_latency": latency, "dram_bytes_per_clock": bytes_per_clock,
        "write_mb_s": _median(size / 1e6 / seconds for seconds in write.seconds),
        "read_mb_s": _median(size / 1e6 / seconds for seconds in read.seconds),
        "write_clocks_per_line": _median(clocks * LINE_BYTES / size for clocks in write.clocks),
        "read_clocks_per_line": _median(clocks * LINE_BYTES / size for clocks in read.clocks),
        "kclocks_per_s": _median(clocks / 1e3 / seconds for watch in (write, read)
                                 for clocks, seconds in zip(watch.clocks, watch.seconds)),
    }


def write_report(results, path=None):
    """Writes `results`, a list of what `run` returned, as JSON; returns the path.

    The top level is the first result; ``runs`` has all of them. `path` is ``reports/link.json`` of the build folder if
    not given.
    """
    path = Path(path) if path else build_root() / "reports" / "link.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results[0] | {"runs": results}, indent=2) + "\n")
    return path


class _Stopwatch:
    def __init__(self):
        self.seconds, self.clocks = [], []

    @contextlib.contextmanager
    def measure(self, link):
        clocks, begin = link.clocks, time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - begin)
        self.clocks.append(link.clocks - clocks)


def captured(tokens):
    """K and V of the tiny language model, repeated: float16, (layers, 2, tokens, kv_heads, head_dim)."""
    values = kv_lines(Dtype.FP16).view(np.float16).reshape(2, LAYERS, KV_HEADS, -1, HEAD_DIM)
    values = values[:, :, :, np.arange(tokens) % values.shape[3]]
    return np.ascontiguousarray(values.transpose(1, 0, 3, 2, 4))


def _median(values):
    return round(statistics.median(values), 3)


@contextlib.contextmanager
def _one_core():
    """This process and those that it starts inside run on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


@click.command()
@click.option("--config", "preset", type=click.Choice(PRESETS), default="default",
              show_default=True)
@click.option("--codec", "codecs", multiple=True, help="May be repeated; all of the device if not given.")
@click.option("--megabytes", default=2.0, show_default=True, help="K and V to write and read, 10^6 bytes.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--output", type=click.Path(dir_okay=False),
              help="Report; build/reports/link.json if not given.")
def main(preset, codecs, megabytes, repeats, output):
    """Measure the simulated device from the host's side."""
    config = DeviceConfig.preset(preset)
    results = []
    for codec in codecs or config.codecs:
        result = run(config, codec, megabytes, repeats)
        results.append(result)
        click.echo(f"{codec}: {result['kclocks_per_s']} kclocks/s")
        for way in ("write", "read"):
            speed, clocks = result[f"{way}_mb_s"], result[f"{way}_clocks_per_line"]
            click.echo(f"  {way} {speed} MB/s, {clocks} clocks a line")
    click.echo(write_report(results, output))


if __name__ == "__main__":
    main()
