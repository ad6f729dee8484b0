"""How the measurements of the memory system are shown: a table with the bars, and pictures."""

from itertools import groupby

import matplotlib
from rich.table import Table

BARS = (
    ("hit_lines_per_clock", "lines per clock, reads that all hit", ">=", 0.99),
    ("hit_latency_clocks", "latency of a hit, clocks", "<=", 12),
    ("miss_first_line_clocks_plus_latency", "first line of a miss, clocks beyond DRAM's latency", "<=", 48),
    ("amplified_lines_per_clock", "lines per clock from a quarter of the bandwidth, fixed 8", ">=", 0.95),
    ("write_lines_per_clock", "lines written per clock, fixed 8, sealed", ">=", 0.95),
    ("dram_write_bytes_per_kv_byte", "bytes to DRAM per byte written, fixed 8", "<=", 0.35),
    ("pool_loss_pct", "pool lost to fragmentation at the worst, %", "<=", 8),
    ("pool_loss_mean_pct", "on average, %", "<=", 8),
)
"""(key, meaning, relation, bar)."""
OTHERS = (
    ("lines_in_flight", "most reads accepted and not answered"),
    ("fetches_in_flight", "most read bursts for pages in flight at DRAM"),
    ("write_lines_per_clock_by_token", "lines written per clock, token by token in all streams"),
    ("write_lines_per_clock_by_token_mixed", "the same, settings of neighbouring streams differ"),
)
"""Figures without a bar."""
WIDTH = 110
"""Columns that the tables take where they do not go to a terminal that has fewer."""
COLOURS = {"raw": "#1f77b4", "lossless": "#e7298a", "fixed": "#d95f02", "variable": "#1b9e77", "speckv": "#7570b3"}
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
         "axes.axisbelow": True, "figure.dpi": 130}


def judge(report):
    """Which bars `report` meets: {key: {"value", "bar", "met"}}."""
    return {key: {"value": report[key], "bar": f"{relation} {bar}",
                  "met": report[key] >= bar if relation == ">=" else report[key] <= bar}
            for key, _, relation, bar in BARS}


def table(report, console):
    """Shows the figures of ``memory.json`` on `console` (rich)."""
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    shown = Table(title="Memory system, device clocks")
    for name, justify in (("", "left"), ("value", "right"), ("bar", "right"), ("", "left")):
        shown.add_column(name, justify=justify, no_wrap=True)
    for key, meaning, _, _ in BARS:
        bar = report["bars"][key]
        shown.add_row(meaning, _number(bar["value"]), bar["bar"], "[green]met[/]" if bar["met"] else "[red]missed[/]")
    shown.add_section()
    for key, meaning in OTHERS:
        shown.add_row(meaning, _number(report[key]))
    console.print(shown)

    points = report["curves"]["reads"]
    shown = Table(title="Sequential reads, lines per clock (most that DRAM's bandwidth allows)")
    shown.add_column("bytes a clock", justify="right")
    shown.add_column("latency", justify="right")
    formats = list(dict.fromkeys(point["format"] for point in points))
    for name in formats:
        shown.add_column(name, justify="right", no_wrap=True)
    for (width, latency), each in groupby(points, lambda point: (point["bytes_per_clock"], point["latency"])):
        shown.add_row(str(width), str(latency),
                      *(f"{point['lines_per_clock']:.3f} ({point['limit']:.2f})" for point in each))
    console.print(shown)


def _number(value):
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def pictures(report, folder):
    """Draws the curves of ``memory.json`` into PNG files in `folder` (Path); returns their paths."""
    matplotlib.use("Agg")
    paths = [folder / "memory_reads.png", folder / "memory_hit_ratio.png"]
    for draw, path in zip((_draw_reads, _draw_ratios), paths):
        draw(report["curves"], path)
    return paths


def _draw_reads(curves, path):
    from matplotlib import pyplot as plt

    points = curves["reads"]
    latencies = sorted({point["latency"] for point in points})
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(latencies), figsize=(4 * len(latencies) + 1, 4.2), sharey=True,
                                    layout="constrained", squeeze=False)
        for axis, latency in zip(axes[0], latencies):
            for name in dict.fromkeys(point["format"] for point in points):
                chosen = [point for point in points if point["format"] == name and point["latency"] == latency]
                widths = [point["bytes_per_clock"] for point in chosen]
                colour = COLOURS[name.split()[0]]
                axis.plot(widths, [point["lines_per_clock"] for point in chosen], "o-", color=colour, label=name)
                axis.plot(widths, [point["limit"] for point in chosen], ":", color=colour, linewidth=1)
            axis.set_xscale("log", base=2)
            axis.set_xticks(widths, [str(width) for width in widths])
            axis.set(title=f"DRAM {latency} clocks away", xlabel="DRAM, bytes a clock")
        axes[0][0].set(ylabel="lines per clock", ylim=(0, 1.05))
        axes[0][0].legend(fontsize=9)
        figure.suptitle("Sequential reads of sealed pages (dotted: the most that DRAM's bandwidth allows)")
        figure.savefig(path)
        plt.close(figure)


def _draw_ratios(curves, path):
    from matplotlib import pyplot as plt

    points = curves["hit_ratio"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
        for axis, unit, title in zip(axes, ("page", "line"), ("Whole pages in random order", "Single random lines")):
            for latency in dict.fromkeys(point["latency"] for point in points):
                chosen = [point for point in points if point["unit"] == unit and point["latency"] == latency]
                axis.plot([point["hit_ratio"] for point in chosen], [point["lines_per_clock"] for point in chosen],
                          "o-", label=f"DRAM {latency} clocks away")
            axis.set(title=title, xlabel="share of reads whose page is cached", ylim=(0, 1.05))
            axis.legend(fontsize=9)
        axes[0].set(ylabel="lines per clock")
        figure.suptitle("Reads of cached pages mixed with reads of others, fixed 8")
        figure.savefig(path)
        plt.close(figure)
