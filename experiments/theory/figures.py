"""Figures of the theory experiments: D over width against simulation, D over connectivity and its optimum."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.lab.plots import Plot, tidy
from experiments.theory import inputs
from kernels.approximations import eq4
from kernels.optimum import DistanceCurves

DRAWN = 8.0  # np of the curves over connectivity: that of Figure 8
PLOT = Plot(
    "n", "simulated", "width n", "D", curves=("inputs", "normalization", "p"), deviation="stderr", logy=True
)
Curves = tuple[dict[str, Any], DistanceCurves]


def draw_simulation(rows: Sequence[dict[str, Any]], limit: float) -> Figure:
    """D over width for each input, a color per connectivity; z of every point below."""
    labels = list(dict.fromkeys(inputs.label(row) for row in rows))
    figure = Figure(figsize=(1.2 + 3.6 * len(labels), 5.8), layout="constrained")
    upper, lower = figure.subplots(
        2, len(labels), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1]
    )
    connectivities = sorted({row["p"] for row in rows}, reverse=True)
    colors = colormaps["viridis"](np.linspace(0, 0.9, len(connectivities)))
    for above, below, label in zip(upper, lower, labels, strict=True):
        mine = [row for row in rows if inputs.label(row) == label]
        for p, color in zip(connectivities, colors, strict=True):
            _draw_connectivity(above, below, [row for row in mine if row["p"] == p], color, f"p = {p:g}")
        PLOT.label(above)
        above.set(title=f"{label} (d = {mine[0]['d']})", xlabel="", ylabel="")
        below.set(xlabel=PLOT.xlabel)
        below.axhspan(-limit, limit, color="0.5", alpha=0.12)
        tidy(above)
        tidy(below)
    upper[0].set_ylabel(f"{PLOT.ylabel}, mean over {rows[0]['pairs']} pairs")
    lower[0].set_ylabel("z")
    styles = [Line2D([], [], color="0.3", linestyle=style) for style in ("-", ":")]
    points = Line2D([], [], color="0.3", marker="o", linestyle="", markersize=4)
    keys, names = upper[0].get_legend_handles_labels()
    figure.legend(
        [*styles, points, *keys],
        ["Theorem 1", "equation (4)", "simulated", *names],
        loc="outside right center",
        frameon=False,
        fontsize=8,
    )
    return figure


def _draw_connectivity(above: Axes, below: Axes, rows: Sequence[dict], color: Any, label: str) -> None:
    rows = sorted(rows, key=lambda row: row["n"])
    n, exact, approximate, simulated, stderr, z = (
        [row[name] for row in rows] for name in ("n", "exact", "eq4", "simulated", "stderr", "z")
    )
    above.plot(n, exact, color=color, linewidth=1.2, label=label)
    above.plot(n, approximate, color=color, linewidth=0.9, linestyle=":")
    above.errorbar(n, simulated, yerr=2 * np.array(stderr), color=color, fmt="o", markersize=3.5, capsize=2)
    below.plot(n, z, "o", color=color, markersize=3.5)


def draw_optimum(families: Sequence[Sequence[Curves]]) -> Figure:
    """D over p for each input at one np; in the last panel the optimum over np/4d, where equation (25) is one line."""
    shown = [family for family in families if family[0][0]["d"] == families[-1][0][0]["d"]]
    columns = math.ceil((len(shown) + 1) / 2)
    figure = Figure(figsize=(1 + 4 * columns, 7.6), layout="constrained")
    panels = figure.subplots(2, columns, squeeze=False).ravel()
    for axes, family in zip(panels, shown, strict=False):
        row = shown_row([row for row, _ in family])
        draw_curves(axes, row, next(curves for one, curves in family if one is row))
    draw_optima(panels[len(shown)], [[row for row, _ in family] for family in families])
    for axes in panels:
        tidy(axes)
    for axes in panels[len(shown) + 1 :]:
        axes.remove()
    keys = {
        name: key
        for axes in panels[: len(shown)]
        for key, name in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def draw_curves(axes: Axes, row: dict[str, Any], curves: DistanceCurves) -> None:
    """Mean and median of exact D, and equation (4), at one np, with the minimum and that of (25)."""
    p, mean, median = curves.connectivity, curves.distance.mean(axis=0), np.median(curves.distance, axis=0)
    axes.plot(p, mean, color="#b5482f", label="Theorem 1, mean over pairs")
    axes.plot(p, median, color="#b5482f", linestyle="--", label="Theorem 1, median")
    axes.plot(p, eq4(p, curves.width, row["d"]), color="#2f6397", linestyle=":", label="equation (4)")
    if p[0] <= row["p_eq25"] <= p[-1]:
        axes.axvline(row["p_eq25"], color="#2f6397", linewidth=0.8, label="equation (25)")
    note = ""
    if row["p_exact"] != "":
        share = 100 * row["bootstrap_with_minimum"]
        note = f"\nminimum at p = {row['p_exact']:.3g}, in {share:.0f} % of the bootstrap samples"
        axes.plot(
            row["p_exact"], row["distance_at_p_exact"], "o", color="#b5482f", label="minimum of the mean"
        )
    if row["p_exact"] != "" and row["p_exact_low"] != "":
        interval = row["p_exact_low"], row["p_exact_high"]
        axes.axvspan(*interval, color="#b5482f", alpha=0.12, label="95 % bootstrap interval")
    axes.set(xscale="log", yscale="log", xlabel="connectivity p", ylabel="D")
    axes.set_title(f"{inputs.label(row)} (d = {row['d']}), np = {row['np']:g}{note}", fontsize=9)


def draw_optima(axes: Axes, families: Sequence[Sequence[dict[str, Any]]]) -> None:
    """p* over np/4d; where there is none, an open triangle at the end of the range with the least D.

    Points of different inputs are shifted slightly, so that none hides another.
    """
    for index, rows in enumerate(families):
        style: dict[str, Any] = {"color": f"C{index}", "markersize": 4}
        axes.plot([], [], "o", label=f"{inputs.label(rows[0])}, d = {rows[0]['d']}", **style)
        for row in rows:
            ratio = row["np"] / 4 / row["d"] * 1.08**index
            if row["p_exact"] == "":
                axes.plot(
                    ratio, row["p_least"], "v" if row["p_least"] < 1 else "^", fillstyle="none", **style
                )
                continue
            axes.plot(ratio, row["p_exact"], "o", **style)
            if row["p_exact_low"] != "":
                axes.plot([ratio, ratio], [row["p_exact_low"], row["p_exact_high"]], "-", color=f"C{index}")
    ratios = np.array([row["np"] / 4 / row["d"] for rows in families for row in rows])
    line = np.geomspace(ratios.min(), ratios.max(), 50)
    axes.plot(line, np.sqrt(line), color="#2f6397", linewidth=0.8)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="np/4d",
        ylabel="p*",
        title="optimum p*, 95 % interval (triangles: none inside)",
    )
    axes.legend(frameon=False, fontsize=8)


def shown_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The row with the np nearest to that of the figure's curves."""
    return min(rows, key=lambda row: abs(math.log(row["np"] / DRAWN)))
