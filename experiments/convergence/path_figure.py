"""The figure of path geometry: violins over seeds of distance, step, angle and length, and exponents of the factors.

In: curves, of which the first is drawn as violins, and their names. Out: the figure, one column per group of layers.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.convergence import path
from experiments.convergence.halting import Curve, mean, valid
from experiments.lab.families import PALETTE
from experiments.lab.intervals import Estimate
from experiments.lab.plots import Plot

PANELS = {
    "distance": "distance from the start",
    "step": "mean step",
    "angle_start": "mean angle to the start (π)",
    "path_length": "path length",
}
PLOT = Plot(
    "width",
    "distance_mean",
    "width",
    PANELS["distance"],
    curves=("group", "fraction", "depth", "optimizer", "learning_rate"),
)
PARTS = {
    "distance": ("distance", PALETTE[1]),
    "tortuosity": ("tortuosity", PALETTE[4]),
    "step": ("÷ step", PALETTE[2]),
}


def draw(curves: Sequence[Curve], names: Sequence[str], caption: str) -> Figure:
    groups = path.groups(curves)
    figure = Figure(figsize=(3.4 * len(groups), 13), layout="constrained")
    panels = figure.subplots(len(PANELS) + 1, len(groups), squeeze=False)
    for column, group in enumerate(groups):
        for line, (quantity, label) in enumerate(PANELS.items()):
            axes = panels[line, column]
            violins(axes, curves[0], group, quantity)
            if group in path.PAPER.get(quantity, {}):
                paper_line(axes, curves[0], group, quantity)
            axes.set(xlabel=PLOT.xlabel, ylabel=label if column == 0 else "")
        panels[0, column].set_title(group)
        bars(panels[-1, column], curves, names, group)
    panels[-1, 0].set_ylabel("exponent in weights")
    keys = [Patch(color=color, label=label) for label, color in PARTS.values()]
    panels[-1, -1].legend(handles=keys, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in panels.ravel():
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{caption}. Violins: {names[0]}; hollow: censored (minimum not certain).\n"
        "Bottom: exponent of T (dot, 95 %) = distance + tortuosity − step",
        fontsize=10,
    )
    return figure


def violins(axes: Axes, curve: Curve, group: str, quantity: str) -> None:
    """Seeds by width as dots, with a violin from three different values on."""
    unit = np.pi if quantity == "angle_start" else 1.0
    for place, point in enumerate(curve.points):
        values = np.array([path.geometry(run, group)[quantity] for run in point.runs]) / unit
        certain = np.array([run.certain for run in point.runs])
        finite = values[np.isfinite(values)]
        if len(set(finite)) > 2:
            bodies: Any = axes.violinplot([finite], [place], showextrema=False, widths=0.7)["bodies"]
            bodies[0].set(facecolor=PALETTE[1], alpha=0.25)
        for chosen, face in ((certain, PALETTE[1]), (~certain, "white")):
            axes.plot(np.full(chosen.sum(), place), values[chosen], "o", ms=4, color=PALETTE[1], mfc=face)
    axes.set_xticks(range(len(curve.points)), [f"{width:g}" for width in curve.column("width")])
    axes.grid(alpha=0.25, axis="y")


def paper_line(axes: Axes, curve: Curve, group: str, quantity: str) -> None:
    """The paper's exponent, through the geometric center of our means."""
    power = path.PAPER[quantity][group]
    by_width = curve.values(path.quantity(group, quantity))
    points = [(x, mean(values)) for x, values in enumerate(by_width) if len(valid(values))]
    if len(points) < 2:
        return
    places, means = zip(*points, strict=True)
    widths = np.log(np.array(curve.column("width"))[list(places)])
    heights = np.exp(np.log(means).mean() + power * (widths - widths.mean()))
    axes.plot(places, heights, "--", color=PALETTE[0], lw=1.2, label=f"paper: width^{power:+.2f}")
    axes.legend(frameon=False, fontsize=7)


def stacked(exponents: Mapping[str, Estimate]) -> Iterator[tuple[str, float, float]]:
    """(color, start, height) of the bar of each factor; positive ones stacked upward, negative ones downward."""
    top = bottom = 0.0
    for name, (_, color) in PARTS.items():
        height = path.FACTORS[name] * exponents[name].value
        if not np.isnan(height):
            yield color, top if height > 0 else bottom, height
            top, bottom = (top + height, bottom) if height > 0 else (top, bottom + height)


def bars(axes: Axes, curves: Sequence[Curve], names: Sequence[str], group: str) -> None:
    """The factors' exponents stacked; their sum is the exponent of T."""
    for place, curve in enumerate(curves):
        exponents = path.split(curve, group)
        for color, start, height in stacked(exponents):
            axes.bar(place, height, 0.6, start, color=color)
        time = exponents["T"]
        if not np.isnan(time.value):
            axes.plot(place, time.value, "ko", ms=5)
            if not np.isnan(time.low):
                axes.vlines(place, time.low, time.high, color="k")
    axes.axhline(0, color="0.4", lw=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.margins(x=0.3)
