"""The figure of Appendix B of the convergence paper: linear networks' distances and steps, the paper's numbers beside.

In: the tables of `experiments.linear_network`. Out: the figure; and the settings that both need.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

from kernels import linear_network as theory

SOLUTION = 2.0  # C, the unit of distance
WIDTHS = tuple(2**i for i in range(9))  # of the network with fixed output weights
CUBE_RADIUS, DRAWS = 1.0, 100_000
SAMPLES, RATE, TOLERANCE = 50, 0.002, 1e-3  # x is ±1; it stops at this share of the loss
EDGE = theory.largest_width(RATE, 1.0)
OUTPUTS, INPUTS, LAYER_SAMPLES = 5, 20, 200  # of two layers, which stop at 1 %
LAYER_RATES = {"standard": 0.005, "ntk": 0.5}
ARMS = ("one rate", "rate / K", "output weights 1/√K (NTK)")


def exponent(percent: float) -> float:
    """In width, of a change from 0.79 to 13 million weights, 22 H^2 + 2 V H with V = 98: widths of 185 and 764."""
    return float(np.log1p(percent / 100) / np.log(764 / 185))


# Section 4.3, the recurrent network: what we measure → the paper's layer → exponent.
PAPER: dict[str, dict[str, float]] = {
    "distance, first": {"embedding": exponent(-13), "hidden": exponent(-15)},
    "distance, last": {"softmax": exponent(-25)},
    "mean step, first": {"embedding": exponent(10), "hidden": 0.21},
    "mean step, last": {"softmax": 0.5},
}
TITLES = ("(a) one layer: exact (lines), simulated (points)", "(b) one layer", "(c) two trained layers")
MARKS = {"embedding": "+", "hidden": "x", "softmax": "*"}
COLOURS = {"standard": "#2f6397", "ntk": "#b5482f", "cube": "#b08a2e"}


def logarithmic(axes: Axes, ylabel: str, subs: Sequence[float]) -> None:
    axes.set(xscale="log", yscale="log", xlabel="width K", ylabel=ylabel, xticks=WIDTHS[::2])
    axes.yaxis.set_major_locator(LogLocator(subs=subs))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set(major_formatter=ScalarFormatter(), minor_formatter=NullFormatter())


def draw_distances(axes: Axes, rows: Sequence[dict]) -> None:
    balls = sum(row["start"] == "ball" for row in rows)
    for i in range(0, len(rows), len(WIDTHS)):
        curve = rows[i : i + len(WIDTHS)]
        ntk, ball = curve[0]["parameterization"] == "ntk", curve[0]["start"] == "ball"
        colour = COLOURS["ntk"] if ntk else COLOURS["standard"] if ball else COLOURS["cube"]
        alpha = (i + len(WIDTHS)) / balls if ball else 1.0
        label = f"{curve[0]['start']}, R = {curve[0]['radius']:g}" + ", output weights 1/√K (NTK)" * ntk
        axes.plot(WIDTHS, [row["exact"] for row in curve], color=colour, alpha=alpha, label=label)
        axes.plot(WIDTHS, [row["simulated"] for row in curve], "o", ms=4, color=colour, alpha=alpha)
    axes.plot(WIDTHS, [row["printed"] for row in rows[: len(WIDTHS)]], "k--", lw=1.1, label="printed: C/√K")
    logarithmic(axes, "mean distance from start to solutions", subs=(1, 2, 5))


def draw_steps(axes: Axes, rows: Sequence[dict]) -> None:
    for begin, end, shade, word in ((0.5, 1, "0.93", "oscillates"), (1, 2, "0.84", "diverges")):
        axes.axvspan(begin * EDGE, end * EDGE, color=shade, lw=0)
        axes.text((begin * end) ** 0.5 * EDGE, 60, word, rotation=90, fontsize=8, ha="center", va="center")
    dense = np.geomspace(1, 0.999 * EDGE, 2000)
    exact = theory.steps_to(TOLERANCE, theory.error_factor(dense, RATE, 1.0))
    axes.plot(dense, exact, color=COLOURS["standard"], lw=1)
    for arm, mark, name in zip(ARMS, "osx", ("standard", "cube", "ntk"), strict=True):
        widths, steps = zip(*((r["width"], r["simulated"]) for r in rows if r["arm"] == arm), strict=True)
        axes.plot(widths, steps, mark, ms=5, color=COLOURS[name], label=arm)
    logarithmic(axes, f"steps to {TOLERANCE:g} of the loss, learning rate {RATE:g}", subs=(1,))
    axes.set_xlim(0.8, 2 * EDGE)


def draw_layers(axes: Axes, rows: Sequence[dict]) -> None:
    measures = list(dict.fromkeys(row["measure"] for row in rows))
    for name, shift in zip(LAYER_RATES, (-0.14, 0.14), strict=True):
        own = [row for row in rows if row["parameterization"] == name]
        value, low, high, regime = zip(*(list(row.values())[4:8] for row in own), strict=True)
        height, colour = np.arange(len(own)) + shift, COLOURS[name]
        axes.hlines(height, low, high, color=colour)
        axes.plot(value, height, "o", ms=4.5, color=colour, label=name)
        axes.plot(regime, height, "|", ms=11, mew=1.5, color=colour, label=f"{name}, kernel regime")
    for layer, mark in MARKS.items():
        points = {measures.index(measure): paper[layer] for measure, paper in PAPER.items() if layer in paper}
        axes.plot(list(points.values()), list(points), f"k{mark}", ms=7, label=f"paper, {layer}")
    axes.axvline(0, color="0.7", lw=0.8, zorder=0)
    axes.set(yticks=range(len(measures)), yticklabels=measures, xlabel="exponent in width")
    axes.invert_yaxis()


def draw(*tables: Sequence[dict]) -> Figure:
    figure = Figure(figsize=(14.5, 5.6), layout="constrained")
    parts = (draw_distances, draw_steps, draw_layers)
    for axes, part, title, rows in zip(figure.subplots(1, 3), parts, TITLES, tables, strict=True):
        part(axes, rows)
        axes.set_title(title, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    return figure
