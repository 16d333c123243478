"""The figure of path geometry: violins over seeds of distance, step, angle and length, and the split of the exponents.

In: curves, of which the first is drawn as violins, and their names. Out: the figure, a column a group.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.convergence import path
from experiments.convergence.halting import Curve, mean
from experiments.lab.families import PALETTE
from experiments.lab.intervals import Estimate

PANELS = {
    "distance": "direct distance",
    "step": "mean step",
    "angle_start": "mean angle to the start, π",
    "path_length": "length of the path",
}
PARTS = {
    "distance": ("distance", PALETTE[1]),
    "tortuosity": ("tortuosity", PALETTE[4]),
    "step": ("÷ step", PALETTE[2]),
}


def draw(curves: Sequence[Curve], names: Sequence[str], caption: str) -> Figure:
    own = path.groups(curves)
    figure = Figure(figsize=(3.4 * len(own), 13), layout="constrained")
    panels = figure.subplots(len(PANELS) + 1, len(own), squeeze=False)
    for column, group in enumerate(own):
        for line, (quantity, label) in enumerate(PANELS.items()):
            axes = panels[line, column]
            violins(axes, curves[0], group, quantity)
            if group in path.PAPER.get(quantity, {}):
                papers(axes, curves[0], group, quantity)
            axes.set(xlabel="width", ylabel=label if column == 0 else "")
        panels[0, column].set_title(group)
        bars(panels[-1, column], curves, names, group)
    panels[-1, 0].set_ylabel("exponent in weights")
    keys = [Patch(color=colour, label=label) for label, colour in PARTS.values()]
    panels[-1, -1].legend(handles=keys, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    for axes in panels.ravel():
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{caption}. Violins: {names[0]}; hollow: a minimum that is not certain.\n"
        "Bottom: exponent of T (dot, 95 %) = distance + tortuosity − step",
        fontsize=10,
    )
    return figure


def violins(axes: Axes, curve: Curve, group: str, quantity: str) -> None:
    """Over seeds by width, a dot each; a violin of three or more."""
    for place, point in enumerate(curve.points):
        values = [path.geometry(run, group)[quantity] for run in point.runs]
        values = [value / np.pi for value in values] if quantity == "angle_start" else values
        certain = np.array([run.counts for run in point.runs])
        known = [value for value in values if np.isfinite(value)]
        if len(set(known)) > 2:
            bodies: Any = axes.violinplot([known], [place], showextrema=False, widths=0.7)["bodies"]
            bodies[0].set(facecolor=PALETTE[1], alpha=0.25)
        for chosen, face in ((certain, PALETTE[1]), (~certain, "white")):
            axes.plot(
                np.full(chosen.sum(), place), np.array(values)[chosen], "o", ms=4, color=PALETTE[1], mfc=face
            )
    axes.set_xticks(range(len(curve.points)), [f"{width:g}" for width in curve.told("width")])
    axes.grid(alpha=0.25, axis="y")


def papers(axes: Axes, curve: Curve, group: str, quantity: str) -> None:
    """The paper's exponent, through the geometric middle of the means."""
    power = path.PAPER[quantity][group]
    points = [(x, mean(values)) for x, values in enumerate(curve.values(path.of(group, quantity))) if values]
    if len(points) < 2:
        return
    places, means = zip(*points, strict=True)
    widths = np.log(np.array(curve.told("width"))[list(places)])
    heights = np.exp(np.log(means).mean() + power * (widths - widths.mean()))
    axes.plot(places, heights, "--", color=PALETTE[0], lw=1.2, label=f"the paper: width^{power:+.2f}")
    axes.legend(frameon=False, fontsize=7)


def stacked(found: Mapping[str, Estimate]) -> Iterator[tuple[str, float, float]]:
    """(colour, where it begins, height) of each factor's exponent, those that rise above those that fall."""
    top = bottom = 0.0
    for name, (_, colour) in PARTS.items():
        height = path.FACTORS[name] * found[name].value
        if not np.isnan(height):
            yield colour, top if height > 0 else bottom, height
            top, bottom = (top + height, bottom) if height > 0 else (top, bottom + height)


def bars(axes: Axes, curves: Sequence[Curve], names: Sequence[str], group: str) -> None:
    """The factors' exponents stacked; their sum is the exponent of T."""
    for place, curve in enumerate(curves):
        found = path.split(curve, group)
        for colour, start, height in stacked(found):
            axes.bar(place, height, 0.6, start, color=colour)
        time = found["T"]
        if not np.isnan(time.value):
            axes.plot(place, time.value, "ko", ms=5)
            if not np.isnan(time.low):
                axes.vlines(place, time.low, time.high, color="k")
    axes.axhline(0, color="0.4", lw=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.margins(x=0.3)
