"""What every format of K and V costs and what it does to the language model, on text that the model was not trained on.

    speckv bench codec --windows 64
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from ml_dtypes import bfloat16
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import speckv_model.codec
from speckv_model.config import DeviceConfig
from speckv_model.constants import ENTRY_BYTES, PAGE_BYTES, SECTOR_BYTES, Codec
from speckv_sim.build import BuildError, build_root

from .. import calibrate, capacity, formats, geometry, lm, workers
from ..calibrate import allocation, divergence
from ..calibrate import choices as choices_of
from ..calibrate.calibration import model_provenance
from ..capacity import capacity_ratio, sectors_of
from ..context import DTYPES, as_dtype
from ..demo import interval
from ..formats import CodecFormat
from ..lm import TINYLM, CodedStore, Damage, Llama, heldout_tokens, score, training_tokens
from . import codec_report
from . import formats as references

WINDOW = 1024
"""Tokens that go into the cache at once; each window is one longer, since every token in it predicts the next."""
CODEC_FORMATS = (("raw", 0), ("lossless", 0), ("speckv", 0), ("fixed", 8), ("fixed", 8, True), ("fixed", 9),
                 ("fixed", 10), ("fixed", 12), ("fixed", 16), ("variable", 120), ("variable", 128))
CALIBRATED = (("fixed", 4.0, False), ("fixed", 4.0, True), ("fixed", 3.6, False), ("fixed", 3.2, False),
              ("variable", 4.0, False), ("variable", 3.6, False), ("mixed", 4.0, False), ("mixed", 3.6, False))
"""(codec, wanted ratio, whether the pool's loss counts in it)."""
ALSO_FLOAT16 = {("raw", "0"), ("lossless", "0"), ("speckv", "0"), ("zstd", "level 19"), ("LZ4", "level 9"),
                ("fixed", "8"), ("fixed", "calibrated 4.0, pool")}
CALIBRATION_WINDOWS = 6
BASE = CodecFormat.of("raw")
"""What perplexities are compared with: the same dtype as it is."""


@dataclass(frozen=True)
class Row:
    """A format on values of one dtype."""

    form: formats.Format
    dtype: str

    @property
    def key(self):
        """Names the row in files: name, setting, dtype and digits that change with the format's code."""
        name = re.sub(r"[^a-z0-9.]+", "-", f"{self.form.name} {self.form.setting} {self.dtype}".lower())
        return f"{name}-{_digest(repr(self.form), *_sources(self.form))}"


def _digest(*parts):
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part if isinstance(part, bytes) else part.encode())
        whole.update(b"\0")
    return whole.hexdigest()[:12]


@functools.cache
def _model_sources():
    """The model's code and weights and the text: everything but the format that a measurement depends on."""
    code = sorted(Path(inspect.getfile(lm)).parent.glob("*.py"))
    data = [TINYLM / name for name in ("config.json", "model.safetensors", "heldout_tokens.npy")]
    return [path.read_bytes() for path in (*code, *data, Path(geometry.__file__))]


def _sources(form):
    if isinstance(form, CodecFormat):
        code = [*Path(speckv_model.codec.__file__).parent.glob("*.py"), Path(formats.__file__)]
    else:
        code = [Path(references.__file__)]
    return [*_model_sources(), *(path.read_bytes() for path in sorted(code))]


@functools.cache
def _model():
    return Llama.load()


class _Together:
    """Lossless formats, all of them tried on each page: the model's run is the same for all."""

    def __init__(self, forms):
        self._forms = forms
        self.stored = [[] for _ in forms]

    def code(self, layer, pages, dtype):
        for form, stored in zip(self._forms, self.stored):
            decoded, sizes = form.code(layer, pages, dtype)
            if (decoded != pages).any():
                raise RuntimeError(f"{form.name} {form.setting} is not lossless")
            stored.append(sizes)
        return pages, sizes


def measure(rows, start):
    """Runs one held-out window with its K and V in the format of `rows`: one row, or lossless ones of one dtype.

    Returns
    -------
    list of dict, for JSON
        For each row ``start``; ``nll``: mean negative log-likelihood of the window's tokens, nats; ``stored``: bytes of
        each page, in the order in which pages fill up; ``damage``: fields of a `Damage`.

    Raises
    ------
    RuntimeError
        A format that calls itself lossless is not.
    """
    model = _model()
    lossless = rows[0].form.lossless
    form = _Together([row.form for row in rows]) if lossless else rows[0].form
    store = CodedStore(model.layers, model.kv_heads, model.head_dim, WINDOW, as_dtype(rows[0].dtype), form)
    nll, _ = score(model, store, heldout_tokens()[start:start + WINDOW + 1])
    return [{"start": int(start), "nll": float(nll.mean()), "stored": np.concatenate(stored).T.ravel().tolist(),
             "damage": dataclasses.asdict(store.damage)} for stored in (form.stored if lossless else [store.stored])]


def window_starts(count):
    """Where `count` held-out windows begin, spread evenly; of twice as many, these are the first half.

    Raises `ValueError` where there are not so many.
    """
    most = (len(heldout_tokens()) - 1) // WINDOW
    if not 1 <= count <= most:
        raise ValueError(f"windows must be from 1 to {most}, not {count!r}")
    # Coarse steps first: what a run has done before it is broken off is all over the text as well.
    order = sorted(range(count), key=lambda n: (-(n & -n or count), n))
    return [n * most // count * WINDOW for n in order]


class Results:
    """Measurements that are kept in files, one for each row, so that a run that was broken off goes on from there."""

    def __init__(self, folder):
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)

    def of(self, row):
        """What is known of `row`: dictionary of window starts to what `measure` returned."""
        path = self._folder / f"{row.key}.jsonl"
        found = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                result = json.loads(line)
            except json.JSONDecodeError:
                # Empty, or a run was broken off while it wrote.
                continue
            found[result["start"]] = result
        return found

    def add(self, row, result):
        with open(self._folder / f"{row.key}.jsonl", "a") as file:
            # The line break comes first: what is before it may be the end of a run that was broken off.
            file.write("\n" + json.dumps(result))


def summary(row, results, base, config):
    """The report's row: `results` and `base`, lists of what `measure` returned for the same windows."""
    stored = np.array([result["stored"] for result in results])
    sectors = sectors_of(stored)
    damage = sum((Damage(**result["damage"]) for result in results), Damage())
    change = np.array([result["nll"] - other["nll"] for result, other in zip(results, base)])
    page_bytes = sectors.mean() * SECTOR_BYTES
    streams = _model().layers * _model().kv_heads * 2
    return {
        "codec": row.form.name,
        "setting": row.form.setting,
        "dtype": row.dtype,
        "bits_per_value": float(16 * (page_bytes + ENTRY_BYTES) / PAGE_BYTES),
        "payload_bits_per_value": float(16 * stored.mean() / PAGE_BYTES),
        "ratio": float(PAGE_BYTES / (page_bytes + ENTRY_BYTES)),
        "ratio_stored": float(PAGE_BYTES / page_bytes),
        "ratio_pool": capacity_ratio(config, sectors.ravel(), streams),
        "ppl_change_pct": float(np.expm1(change.mean()) * 100),
        "ppl_ci_pct": interval(change) * 100,
        "ppl": float(np.exp(np.mean([result["nll"] for result in results]))),
        "worst_error": damage.worst,
        "mean_error": damage.mean,
        "snr_db": damage.snr_db,
        "lossless": row.form.lossless,
        "windows": len(results),
        "tokens": len(results) * WINDOW,
    }


def rtl_clocks(config, form, dtype):
    """Clocks for each line of a page that the RTL takes to encode and to decode real K and V, page after page.

    Parameters
    ----------
    config : DeviceConfig
    form : CodecFormat
    dtype : str

    Returns
    -------
    tuple of float, or (None, None) where the device of `config` lacks the codec, and for rows read alone
    """
    from speckv_sim.codec import codec_clocks

    from ..traffic import kv_lines

    if not isinstance(form, CodecFormat) or form.by_row:
        return None, None
    if not all(config.has_codec(Codec[name.upper()]) for name in form.codecs):
        return None, None
    dtype = DTYPES[as_dtype(dtype)]
    pages = kv_lines(dtype).reshape(-1, PAGE_BYTES)
    # All K, then all V, each (layers, kv_heads, pages).
    model = _model()
    kind, layer, head, _ = np.unravel_index(np.arange(len(pages)), (2, model.layers, model.kv_heads, len(pages) // (
        2 * model.layers * model.kv_heads)))
    jobs = [(Codec[name.upper()], setting) for name, setting in (
        form.of_stream(each[0], each[1] * 2 + each[2]) for each in zip(layer, head, kind))]
    return codec_clocks(config, dtype, pages, jobs)


def all_rows(calibrations, dtypes=("bfloat16", "float16"), wanted=()):
    """Rows to measure: the device's codecs, `calibrations` and the formats of others; FP16 for some of them.

    Parameters
    ----------
    calibrations : sequence of CodecFormat
    dtypes : sequence of str
    wanted : sequence of str
        Names, or names and settings as in ``fixed 8``, of the formats to take; all of them where it is empty.
    """
    forms = (*(CodecFormat.of(*each) for each in CODEC_FORMATS), *calibrations, *references.REFERENCES)
    forms = [form for form in forms
             if not wanted or form.name in wanted or f"{form.name} {form.setting}".strip() in wanted or form == BASE]
    return [Row(form, dtype) for dtype in dtypes for form in forms
            if dtype == "bfloat16" or (form.name, form.setting) in ALSO_FLOAT16]


def measure_all(rows, starts, results, jobs, advance=lambda: None):
    """Measures what `results` does not have of `rows` on the windows at `starts`; `advance` is told of each of them."""
    tasks, known = {}, {row: results.of(row) for row in rows}
    for start in starts:
        missing = [row for row in rows if start not in known[row]]
        for dtype in dict.fromkeys(row.dtype for row in missing):
            group = tuple(row for row in missing if row.dtype == dtype and row.form.lossless)
            tasks |= {(each, start): (measure, (each, start)) for each in [group] if each}
        tasks |= {((row,), start): (measure, ((row,), start)) for row in missing if not row.form.lossless}
    for (group, _), found in workers.run(tasks, jobs):
        for row, result in zip(group, found):
            results.add(row, result)
            advance()


def calibrations(config, jobs, advance=lambda: None, folder=None, wanted=CALIBRATED, count=CALIBRATION_WINDOWS):
    """The `CodecFormat` of each of `wanted`, calibrated on `count` windows of training text for BF16.

    What was measured for them is kept in `folder`, the report's build folder if not given.
    """
    folder = Path(folder or build_root() / "bench" / "calibration")
    folder.mkdir(parents=True, exist_ok=True)
    windows = calibrate.training_windows(training_tokens(), count)
    provenance = model_provenance(TINYLM, windows)
    code = [*_sources(BASE),
            *(Path(module.__file__).read_bytes() for module in (allocation, capacity, choices_of, divergence))]
    made, choices = [], {}
    for codec, ratio, pool in wanted:
        digest = _digest(repr(pool and config.pool_sectors), json.dumps(provenance), *code)
        path = folder / f"{codec}-{ratio}-{digest}.json"
        if not path.exists():
            for each in choices_of.SETTINGS if codec == choices_of.MIXED else (codec,):
                if each not in choices:
                    choices[each] = calibrate.with_model(windows, each, bfloat16, jobs=jobs)
            if codec not in choices:
                choices[codec] = choices_of.sum_of(choices[each] for each in choices_of.SETTINGS)
            calibrate.choose(choices[codec], ratio, bfloat16, provenance, config if pool else None).save(path)
        made.append(calibrate.Calibration.load(path).format(f"calibrated {ratio}{', pool' if pool else ''}"))
        advance()
    return made


def run(windows=64, wanted=(), dtypes=("bfloat16", "float16"), jobs=None, rtl=True, reports=None, config=None,
        console=None, folder=None):
    """Measures, writes ``codec.json`` and ``codec.png`` to `reports`, shows a table.

    Parameters
    ----------
    windows : int
        Held-out windows of 1024 tokens.
    wanted : sequence of str
        See `all_rows`.
    dtypes : sequence of str
    jobs : int, optional
        Processes, as many as cores if not given.
    rtl : bool
        Whether to measure the RTL's clocks, for which its simulation is built.
    reports, folder : path-like, optional
        Where reports and what makes a run resumable go; ``reports`` and ``bench`` of the build folder if not given.
    config : DeviceConfig, optional
        Its pool holds the pages, its codecs are timed; the default configuration if not given.

    Returns
    -------
    list of dict, what ``codec.json`` holds
    """
    console, config = console or Console(), config or DeviceConfig.default()
    reports, folder = Path(reports or build_root() / "reports"), Path(folder or build_root() / "bench")
    starts = window_starts(windows)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        chosen = [each for each in CALIBRATED if not wanted or each[0] in wanted
                  or f"{each[0]} calibrated {each[1]}{', pool' if each[2] else ''}" in wanted]
        bar = progress.add_task("calibrating", total=len(chosen))
        calibrated = calibrations(config, jobs, lambda: progress.advance(bar), folder / "calibration", chosen)
        rows, results = all_rows(calibrated, dtypes, wanted), Results(folder / "codec")
        known = sum(start in found for row in rows for found in [results.of(row)] for start in starts)
        bar = progress.add_task("windows", total=len(rows) * len(starts), completed=known)
        measure_all(rows, starts, results, jobs, lambda: progress.advance(bar))
        report, base = [], {dtype: _results(results, Row(BASE, dtype), starts) for dtype in dtypes}
        bar = progress.add_task("pool and RTL", total=len(rows))
        for row in rows:
            shown = summary(row, _results(results, row, starts), base[row.dtype], config)
            try:
                clocks = rtl_clocks(config, row.form, row.dtype) if rtl else (None, None)
            except BuildError as error:
                console.print(f"no clocks of the RTL: {error}", style="red")
                rtl, clocks = False, (None, None)
            report.append(shown | dict(zip(("enc_clocks_per_line", "dec_clocks_per_line"), clocks)))
            progress.advance(bar)
    reports.mkdir(parents=True, exist_ok=True)
    (reports / "codec.json").write_text(json.dumps(report, indent=1) + "\n")
    codec_report.picture(report, reports / "codec.png")
    codec_report.table(report, console)
    codec_report.verdicts(report, console)
    console.print(f"\nreport: {reports / 'codec.json'}, picture: {reports / 'codec.png'}")
    return report


def _results(results, row, starts):
    found = results.of(row)
    return [found[start] for start in starts]


@click.command()
@click.option("--windows", default=64, show_default=True, help="Held-out windows of 1024 tokens.")
@click.option("--formats", "wanted", multiple=True,
              help="A format to measure, as `fixed` or `fixed 8`; may be repeated; all if not given.")
@click.option("--dtype", "dtypes", multiple=True, type=click.Choice(["bfloat16", "float16"]),
              help="May be repeated; both if not given.")
@click.option("--jobs", type=click.IntRange(1), help="Processes; one for each core if not given.")
@click.option("--rtl/--no-rtl", default=True, show_default=True, help="Measure the clocks of the RTL too.")
@click.option("--reports", type=click.Path(file_okay=False), help="Where the reports go; build/reports if not given.")
def main(windows, wanted, dtypes, jobs, rtl, reports):
    """Measure rate, error and perplexity of every format of K and V."""
    try:
        run(windows, wanted, dtypes or ("bfloat16", "float16"), jobs, rtl, reports)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
