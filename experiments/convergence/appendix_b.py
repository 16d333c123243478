"""The figure of Appendix B of the convergence paper: distances and steps of linear networks, with the paper's numbers.

In: the tables of `experiments.linear_network`. Out: the figure, and the settings that both modules use.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from experiments.convergence import path
from kernels import linear_network as theory

SOLUTION = 2.0  # C: a network solves the task if its weights sum to C
WIDTHS = tuple(2**i for i in range(9))  # of the network with one trained layer
CUBE_RADIUS, DRAWS = 1.0, 100_000
SAMPLES, RATE, TOLERANCE = 50, 0.002, 1e-3  # x is ±1; training stops at this fraction of the initial loss
EDGE = theory.largest_width(RATE, 1.0)
OUTPUTS, INPUTS, LAYER_SAMPLES = 5, 20, 200  # of the network with two trained layers, which stops at 1 %
LAYER_RATES = {"standard": 0.005, "ntk": 0.5}
ARMS = ("one rate", "rate / K", "output weights 1/√K (NTK)")


# Our measure → the paper's layers that it is compared with → exponent in width.
PAPER = {
    f"{label}, {layer}": {group: path.PAPER[quantity][group] for group in groups}
    for quantity, label in (("distance", "distance"), ("step", "mean step"))
    for layer, groups in (("first", ("embedding", "hidden")), ("last", ("softmax",)))
}
TITLES = (
    "(a) one trained layer: exact (lines), simulated (points)",
    "(b) one trained layer",
    "(c) two trained layers",
)
MARKS = {"embedding": "+", "hidden": "x", "softmax": "*"}
COLORS = {"standard": "#2f6397", "ntk": "#b5482f", "cube": "#b08a2e"}


def log_axes(axes: Axes, ylabel: str, subs: Sequence[float]) -> None:
    axes.set(xscale="log", yscale="log", xlabel="width K", ylabel=ylabel, xticks=WIDTHS[::2])
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set(major_formatter=ScalarFormatter(), minor_formatter=NullFormatter())


def draw_distances(axes: Axes, rows: Sequence[dict]) -> None:
    balls = sum(row["start"] == "ball" for row in rows)
    for i in range(0, len(rows), len(WIDTHS)):
        curve = rows[i : i + len(WIDTHS)]
        ntk, ball = curve[0]["parameterization"] == "ntk", curve[0]["start"] == "ball"
        color = COLORS["ntk"] if ntk else COLORS["standard"] if ball else COLORS["cube"]
        alpha = (i + len(WIDTHS)) / balls if ball else 1.0
        label = f"{curve[0]['start']}, R = {curve[0]['radius']:g}" + ", output weights 1/√K (NTK)" * ntk
        axes.plot(WIDTHS, [row["exact"] for row in curve], color=color, alpha=alpha, label=label)
        axes.plot(WIDTHS, [row["simulated"] for row in curve], "o", ms=4, color=color, alpha=alpha)
    axes.plot(WIDTHS, [row["printed"] for row in rows[: len(WIDTHS)]], "k--", lw=1.1, label="paper: C/√K")
    log_axes(axes, "mean distance from the start to the solutions", subs=(1, 2, 5))


def draw_steps(axes: Axes, rows: Sequence[dict]) -> None:
    for begin, end, shade, text in ((0.5, 1, "0.93", "oscillates"), (1, 2, "0.84", "diverges")):
        axes.axvspan(begin * EDGE, end * EDGE, color=shade, lw=0)
        axes.text((begin * end) ** 0.5 * EDGE, 60, text, rotation=90, fontsize=8, ha="center", va="center")
    dense = np.geomspace(1, 0.999 * EDGE, 2000)
    exact = theory.steps_to(TOLERANCE, theory.error_factor(dense, RATE, 1.0))
    axes.plot(dense, exact, color=COLORS["standard"], lw=1)
    for arm, mark, name in zip(ARMS, "osx", ("standard", "cube", "ntk"), strict=True):
        widths, steps = zip(*((r["width"], r["simulated"]) for r in rows if r["arm"] == arm), strict=True)
        axes.plot(widths, steps, mark, ms=5, color=COLORS[name], label=arm)
    log_axes(axes, f"steps to {TOLERANCE:g} of the initial loss, learning rate {RATE:g}", subs=(1,))
    axes.set_xlim(0.8, 2 * EDGE)


def draw_layers(axes: Axes, rows: Sequence[dict]) -> None:
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    for name, shift in zip(LAYER_RATES, (-0.14, 0.14), strict=True):
        of_name = [row for row in rows if row["parameterization"] == name]
        value, low, high, regime = zip(*(list(row.values())[4:8] for row in of_name), strict=True)
        height, color = np.arange(len(of_name)) + shift, COLORS[name]
        axes.hlines(height, low, high, color=color)
        axes.plot(value, height, "o", ms=4.5, color=color, label=name)
        axes.plot(regime, height, "|", ms=11, mew=1.5, color=color, label=f"{name}, kernel regime")
    for layer, mark in MARKS.items():
        points = {measures.index(measure): paper[layer] for measure, paper in PAPER.items() if layer in paper}
        axes.plot(list(points.values()), list(points), f"k{mark}", ms=7, label=f"paper, {layer}")
    axes.axvline(0, color="0.7", lw=0.8, zorder=0)
    axes.set(yticks=range(len(measures)), yticklabels=measures, xlabel="exponent in width")
    axes.invert_yaxis()


def draw(*tables: Sequence[dict]) -> Figure:
    figure = Figure(figsize=(14.5, 5.6), layout="constrained")
    panels = (draw_distances, draw_steps, draw_layers)
    for axes, draw_panel, title, rows in zip(figure.subplots(1, 3), panels, TITLES, tables, strict=True):
        draw_panel(axes, rows)
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    return figure
