"""How the measurements of formats are shown: a table, verdicts and a picture."""

import matplotlib
import numpy as np
from rich.table import Table

OURS = ("raw", "lossless", "fixed", "variable", "speckv")
COLUMNS = (
    ("format", "left", lambda row: f"{row['codec']} {row['setting']}".strip()),
    ("dtype", "left", lambda row: {"bfloat16": "BF16", "float16": "FP16"}[row["dtype"]]),
    ("bits", "right", lambda row: f"{row['bits_per_value']:.3f}"),
    ("ratio", "right", lambda row: f"{row['ratio']:.3f}"),
    ("stored", "right", lambda row: f"{row['ratio_stored']:.3f}"),
    ("in pool", "right", lambda row: f"{row['ratio_pool']:.3f}"),
    ("perplexity", "right", lambda row: "same" if row["lossless"]
     else f"{row['ppl_change_pct']:+.3f}% ± {row['ppl_ci_pct']:.3f}%"),
    ("worst", "right", lambda row: f"{row['worst_error']:.3g}"),
    ("mean error", "right", lambda row: f"{row['mean_error']:.2g}"),
    ("SNR", "right", lambda row: "" if row["snr_db"] is None else f"{row['snr_db']:.1f} dB"),
    ("clocks in", "right", lambda row: _clocks(row["enc_clocks_per_line"])),
    ("out", "right", lambda row: _clocks(row["dec_clocks_per_line"])),
)
WIDTH = 150
"""Columns that the table takes where it is not a terminal that has fewer."""
LOSSLESS_RATIO = 1.42
BARS = ((3.2, 0.2), (4.0, 0.7))
"""(least ratio, most change of perplexity in %)."""
AIMS = ((3.6, 0.2), (4.0, 0.3))
LINEAR = 0.1
"""The picture's axis of perplexity is linear up to this change in %, either way."""
TICKS = (-1, -0.5, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


def _clocks(value):
    return "" if value is None else f"{value:.3f}"


def table(report, console):
    """Shows `report`, the rows of ``codec.json``, on `console` (rich)."""
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    shown = Table(title=f"K and V in every format, {report[0]['tokens']:,} held-out tokens")
    for name, justify, _ in COLUMNS:
        shown.add_column(name, justify=justify, no_wrap=True)
    for dtype in dict.fromkeys(row["dtype"] for row in report):
        for ours in (True, False):
            for row in report:
                if row["dtype"] == dtype and (row["codec"] in OURS) == ours:
                    shown.add_row(*(show(row) for _, _, show in COLUMNS))
            shown.add_section()
    console.print(shown)
    console.print("bits and ratio: sectors and page table entries; stored: sectors; in pool: what a pool holds, with "
                  "its loss; perplexity: against the same dtype, ± the 95% interval over windows; clocks: of the RTL, "
                  "a line", style="dim")


def verdicts(report, console):
    """Says which of the targets the rows of `report` reach; returns {name: bool}."""
    found = {}

    def judge(name, rows, key):
        best = key(rows) if rows else None
        found[name] = best is not None
        shown = "none does" if best is None else (
            f"{best['codec']} {best['setting']}: ratio {best['ratio']:.3f}, in pool {best['ratio_pool']:.3f}, "
            f"{best['ppl_change_pct']:+.3f}% ± {best['ppl_ci_pct']:.3f}%")
        mark = "[red]not met[/]" if best is None else "[green]met[/]    "
        console.print(f"{mark} {name}: {shown}", highlight=False)

    ours = [row for row in report if row["codec"] in OURS and row["dtype"] == "bfloat16"]
    judge(f"lossless BF16 at ratio >= {LOSSLESS_RATIO}",
          [row for row in ours if row["codec"] == "lossless" and row["ratio"] >= LOSSLESS_RATIO], _largest)
    nvfp4 = [row["ppl_change_pct"] for row in report if row["codec"] == "NVFP4" and row["dtype"] == "bfloat16"]
    for counted, said in (("ratio", ""), ("ratio_pool", ", the pool's loss counted")):
        for (ratio, change), kind in [*((bar, "") for bar in BARS), *((aim, "aim: ") for aim in AIMS)]:
            good = [row for row in ours if not row["lossless"] and row[counted] >= ratio
                    and row["ppl_change_pct"] <= change]
            name = f"{kind}perplexity <= +{change}% at ratio >= {ratio}{said}"
            if ratio == 4.0 and not kind and nvfp4:
                good = [row for row in good if row["ppl_change_pct"] <= nvfp4[0] / 2]
                name += f", and at most half of NVFP4's {nvfp4[0]:+.3f}%"
            judge(name, good, _least_change)
    return found


def _largest(rows):
    return max(rows, key=lambda row: row["ratio"])


def _least_change(rows):
    return min(rows, key=lambda row: row["ppl_change_pct"])


STYLES = {
    "fixed": dict(color="#d95f02", marker="o", label="fixed, one rate"),
    "fixed calibrated": dict(color="#d95f02", marker="*", label="fixed, calibrated"),
    "variable": dict(color="#1b9e77", marker="o", label="variable, one step"),
    "variable calibrated": dict(color="#1b9e77", marker="*", label="variable, calibrated"),
    "speckv": dict(color="#7570b3", marker="o", label="speckv (the paper's)"),
    "others": dict(color="#666666", marker="s", label="formats of others"),
}


def _style(row):
    if row["codec"] not in OURS:
        return "others"
    return row["codec"] + (" calibrated" if row["setting"].startswith("calibrated") else "")


def picture(report, path):
    """Draws rate against perplexity of the lossy rows in BF16 (FP16 where there are none) into the PNG file `path`.

    Nothing where no row is lossy.
    """
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lossy = [row for row in report if not row["lossless"]]
    if not lossy:
        return
    dtype = "bfloat16" if any(row["dtype"] == "bfloat16" for row in lossy) else "float16"
    lossy = [row for row in lossy if row["dtype"] == dtype]
    with plt.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
                         "grid.alpha": 0.3, "axes.axisbelow": True, "figure.dpi": 130}):
        figure, axis = plt.subplots(figsize=(11, 6.5), layout="constrained")
        for name, style in STYLES.items():
            rows = sorted((row for row in lossy if _style(row) == name), key=lambda row: row["bits_per_value"])
            if rows:
                _draw(axis, rows, style)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_yscale("symlog", linthresh=LINEAR)
        axis.set_yticks(TICKS, [f"{tick:+g}" if tick else "0" for tick in TICKS], minor=False)
        axis.set_yticks([], minor=True)
        ends = [row["ppl_change_pct"] + sign * row["ppl_ci_pct"] for row in lossy for sign in (-1, 1)]
        rates = [row["bits_per_value"] for row in lossy]
        axis.set_xlim(min(rates) - 0.6, max(rates) + 0.5)
        axis.set_ylim(min([-0.05, *ends]) * 1.2, max([0.5, *ends]) * 1.4)
        lossless = [f"{row['codec']} {row['bits_per_value']:.2f}" for row in report
                    if row["lossless"] and row["dtype"] == dtype]
        axis.set(xlabel="bits a value, sectors and page table entries counted",
                 ylabel=f"change of perplexity, % (logarithmic beyond ±{LINEAR})",
                 title=f"Rate against perplexity, {report[0]['tokens']:,} held-out tokens, "
                       f"{'BF16' if dtype == 'bfloat16' else 'FP16'} K and V; bars: 95% interval")
        axis.text(0.99, 0.985, "lossless, bits a value: " + ", ".join(lossless), transform=axis.transAxes, ha="right",
                  va="top", fontsize=8.5)
        axis.legend(loc="upper right", bbox_to_anchor=(1, 0.95), fontsize=9)
        # Last: names are placed by pixels.
        _label(axis, lossy)
        figure.savefig(path)
        plt.close(figure)


def _draw(axis, rows, style):
    x = np.array([row["bits_per_value"] for row in rows])
    change, interval = (np.array([row[key] for row in rows]) for key in ("ppl_change_pct", "ppl_ci_pct"))
    axis.errorbar(x, change, yerr=interval,
                  linestyle="-" if style["marker"] == "o" and len(rows) > 1 else "none", linewidth=0.8,
                  elinewidth=0.8, capsize=2, markersize=12 if style["marker"] == "*" else 6, **style)


def _label(axis, rows):
    """Names each point where its name covers no other name and no point."""
    axis.figure.canvas.draw()
    to_pixels, size = axis.transData.transform, np.array([6.8, 11]) * axis.figure.dpi / 100
    points = np.array([to_pixels((row["bits_per_value"], row["ppl_change_pct"])) for row in rows])
    taken = [(point - 7, point + 7) for point in points]
    for row, point in sorted(zip(rows, points), key=lambda each: each[1][1]):
        text = row["setting"].replace("calibrated ", "cal. ") if row["codec"] in ("fixed", "variable") else row["codec"]
        extent = np.array([len(text), 1.25]) * size
        for offset in _offsets(extent):
            box = point + offset, point + offset + extent
            if not any((box[0] < other[1]).all() and (other[0] < box[1]).all() for other in taken):
                break
        taken.append(box)
        colour = STYLES[_style(row)]["color"]
        place = axis.transData.inverted().transform(point + offset + extent / 2)
        far = np.abs(offset + extent / 2).max() > extent.max()
        axis.annotate(text, (row["bits_per_value"], row["ppl_change_pct"]), place, fontsize=8.5, color=colour,
                      ha="center", va="center",
                      arrowprops=dict(arrowstyle="-", color=colour, linewidth=0.5, alpha=0.6) if far else None)


def _offsets(extent):
    """Lower left corners of a text of `extent` pixels around a point, near ones first."""
    for distance in np.arange(12, 120, 8):
        for angle in np.radians([0, 90, 180, 270, 35, 145, 215, 325, 60, 120, 240, 300]):
            direction = np.array([np.cos(angle), np.sin(angle)])
            yield direction * (distance + extent / 2) - extent / 2
