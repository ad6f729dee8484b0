"""How the demonstration's result is shown: a table on the console and a picture."""

import matplotlib
import numpy as np
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

COLOURS = {"array": "#7f7f7f", "raw": "#1f77b4"}
CODEC_COLOUR = "#d95f02"


def _bytes(count):
    return f"{count / 1e6:,.2f} MB"


def _sides(sides):
    page, stored = sides
    return f"{_bytes(page)} : {_bytes(stored)}" if page else "none"


ROWS = (
    ("tokens generated", lambda run: f"{run['tokens']}"),
    (
        "equal to the NumPy cache's",
        lambda run: "all" if run["tokens_equal"] else f"{run['token_agreement']:.1%}",
    ),
    ("held-out predictions equal", lambda run: f"{run['prediction_agreement']:.2%}"),
    ("perplexity, NumPy cache", lambda run: f"{run['ppl_base']:.4f}"),
    ("perplexity, this device", lambda run: f"{run['ppl_codec']:.4f}"),
    ("change", lambda run: f"{run['ppl_change_percent']:+.3f}% ± {run['ppl_change_interval_percent']:.3f}%"),
    None,
    ("ratio, allocator's loss counted", lambda run: f"{run['ratio']:.3f}"),
    ("sealing, in : stored", lambda run: _sides(run["sealed_bytes"])),
    ("fetching, delivered : stored", lambda run: _sides(run["fetched_bytes"])),
    None,
    ("lines read", lambda run: f"{run['lines_read']:,}"),
    ("lines written", lambda run: f"{run['lines_written']:,}"),
    ("cycles", lambda run: f"{run['cycles']:,}"),
    ("cycles per line", lambda run: f"{run['cycles_per_line']:.2f}"),
    ("hit rate", lambda run: f"{run['hit_rate']:.2%}"),
    ("tokens/s", lambda run: f"{run['tokens_per_s']:.2f}"),
    ("KV through the driver", lambda run: f"{run['kv_mb_per_s']:.2f} MB/s"),
    ("time", lambda run: f"{run['wall_s']:.1f} s"),
)
"""Lines of the table: name and how to show it; None draws a rule."""


def table(report, console):
    """Shows the text and the figures of `report` (what `speckv.demo.main` returns) on `console` (rich)."""
    for run in report["runs"]:
        console.print(Panel(f"[dim]{escape(report['prompt'])}[/dim][bold green]{escape(run['text'])}[/]",
                            title=f"codec {run['codec']}, {report['link']} device", title_align="left"))
    shown = Table(
        title=f"{report['link']} device, configuration of {report['config']['cache_pages']} cached pages, "
        f"{report['runs'][0]['dtype']}"
    )
    shown.add_column("")
    for run in report["runs"]:
        shown.add_column(f"codec {run['codec']}", justify="right")
    for row in ROWS:
        if row is None:
            shown.add_section()
        else:
            shown.add_row(row[0], *(row[1](run) for run in report["runs"]))
    console.print(shown)
    console.print(
        f"cycles are {report['cycles_are']}; ± is the 95% interval over {len(report['window_ppl_base'])} "
        f"windows of {report['window_tokens']} held-out tokens",
        style="dim",
    )


def picture(report, path):
    """Draws the runs of `report` into the PNG file `path`."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context(
        {
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.3,
            "axes.axisbelow": True,
            "figure.dpi": 120,
        }
    ):
        figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
        _draw_cycles(axes[0], report)
        _draw_bytes(axes[1], report)
        _draw_perplexity(axes[2], report)
        figure.suptitle(f"A language model with its KV cache in the {report['link']} device: ratio "
                        f"{report['ratio']:.2f} with codec {report['codec']}, perplexity "
                        f"{report['ppl_change_percent']:+.3f}%")
        figure.savefig(path)
        plt.close(figure)


def _colour(run):
    return COLOURS.get(run["codec"], CODEC_COLOUR)


def _draw_cycles(axis, report):
    # The first token's figure is that of the whole prompt.
    for run in report["runs"]:
        cycles = run["cycles_per_token"][1:]
        axis.plot(
            report["prompt_tokens"] + 1 + np.arange(len(cycles)),
            cycles,
            label=run["codec"],
            color=_colour(run),
            linewidth=5 if run["codec"] == "raw" else 1.8,
            alpha=0.4 if run["codec"] == "raw" else 1,
        )
    axis.set(
        title="Cost of a generated token",
        xlabel="tokens in the cache",
        ylabel=f"{report['cycles_are']} a token",
    )
    axis.set_ylim(bottom=0)
    axis.legend()


def _draw_bytes(axis, report):
    sides = [("sealed_bytes", 0, "into\nencoder"), ("sealed_bytes", 1, "stored"),
             ("fetched_bytes", 1, "fetched"), ("fetched_bytes", 0, "out of\ndecoder")]
    runs, width = report["runs"], 0.8 / len(report["runs"])
    for i, run in enumerate(runs):
        heights = [run[key][side] / 1e6 for key, side, _ in sides]
        bars = axis.bar(
            np.arange(len(sides)) + (i - (len(runs) - 1) / 2) * width,
            heights,
            width,
            label=run["codec"],
            color=_colour(run),
        )
        axis.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axis.set_xticks(range(len(sides)), [name for _, _, name in sides])
    axis.set(title="Bytes on each side of the codec", ylabel="MB")
    axis.grid(axis="x", visible=False)
    axis.legend()


def _draw_perplexity(axis, report):
    base = np.array(report["window_ppl_base"])
    for run in report["runs"]:
        change = (np.array(run["window_ppl_codec"]) / base - 1) * 100
        windows = np.arange(1, base.size + 1)
        axis.plot(windows, change, "o", markersize=9, label=run["codec"], color=_colour(run))
    axis.axhline(0, color=COLOURS["array"], linewidth=1)
    axis.set_xticks(range(1, base.size + 1), [f"{n}\n({ppl:.2f})" for n, ppl in enumerate(base, 1)])
    axis.set(
        title="Perplexity against the NumPy cache",
        xlabel="held-out window (its perplexity)",
        ylabel="change, %",
    )
    axis.legend()
