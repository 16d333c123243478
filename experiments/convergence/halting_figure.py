"""The figure of halting times: own and common times, and best losses, over the number of weights.

In: curves and their names. Out: the figure, a line a curve; a network with a censored run is hollow.
"""

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.convergence.halting import COMMON, Curve, Halted, Point, mean, minimum, steps
from experiments.lab.families import PALETTE

LABELS = (
    "steps to 1 % above the own minimum",
    "steps to a loss common to all widths",
    "least validation loss, nats",
)


def draw(curves: Sequence[Curve], names: Sequence[str], caption: str) -> Figure:
    data = over_data(curves)
    panels, thresholds = 3 + (len(data) > 0), COMMON if len(curves) < 4 else COMMON[:1]
    lines = max(len(curves) * len(thresholds), len(data))
    figure = Figure(figsize=(4.7 * panels, 4.3 + 0.18 * lines), layout="constrained")
    own, common, loss, *rest = figure.subplots(1, panels)
    for i, (curve, name) in enumerate(zip(curves, names, strict=True)):
        colour, usual = PALETTE[i % len(PALETTE)], "-" if i < len(PALETTE) else ":"
        points(own, curve, steps, colour, f"{name}: {exponent(curve, steps)}", usual)
        for j, (factor, line) in enumerate(zip(thresholds, (usual, "--"), strict=False)):

            def reached(run: Halted, j: int = j) -> float:
                return run.common[j]

            label = f"{name}, {factor:g} ×: {curve.of_all('weights', reached).show(form='+.2f')}"
            points(common, curve, reached, colour, label, line, everyone=True)
        points(loss, curve, minimum, colour, name, usual, everyone=True)
    for axes, label in zip((own, common, loss), LABELS, strict=True):
        axes.set(xscale="log", xlabel="weights", ylabel=label)
        plain(axes.xaxis)
        if axes is not loss:
            logarithmic(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    for axes in rest:
        draw_data(axes, data)
    own.set_title(f"{caption}\nhollow: a minimum that is not certain", fontsize=9, loc="left")
    common.set_title(
        f"{' and '.join(f'{x:g}' for x in thresholds)} × the largest minimum of a curve;\n"
        "legends: exponent in weights [95 %]",
        fontsize=9,
        loc="left",
    )
    return figure


def over_data(curves: Sequence[Curve]) -> dict[int, list[Point]]:
    """Width → its networks on several shares of the data, all else being equal; empty where there is one share."""
    first = curves[0].points[0].row
    same = ("depth", "optimizer", "learning_rate")
    own = [c for c in curves if all(c.points[0].row[name] == first[name] for name in same)]
    widths = dict.fromkeys(point.row["width"] for curve in own for point in curve.points)
    found = {wide: [p for curve in own for p in curve.points if p.row["width"] == wide] for wide in widths}
    return {wide: some for wide, some in found.items() if len(some) > 1}


def draw_data(axes: Axes, data: dict[int, list[Point]]) -> None:
    """T over the share of the data, a line a width: Figure 3b of the convergence paper."""
    for i, (wide, some) in enumerate(data.items()):
        curve = Curve(sorted(some, key=lambda point: point.row["fraction"]))
        label = f"width {wide}: {curve.by('fraction', steps).show(form='+.2f')}"
        points(axes, curve, steps, PALETTE[i % len(PALETTE)], label, x="fraction")
    axes.set(xscale="log", yscale="log", xlabel="share of the training data", ylabel=LABELS[0])
    plain(axes.xaxis)
    plain(axes.yaxis)
    axes.set_title("legend: exponent in the share", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def logarithmic(axes: Axes) -> None:
    """Times on a logarithmic axis, where any network has one."""
    if 0 < axes.dataLim.y0 < np.inf:
        axes.set_yscale("log")
        plain(axes.yaxis)


def plain(axis: Axis) -> None:
    """Numbers without powers of ten, on a logarithmic axis; few where it is long, so that they do not meet."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 40 * low else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def exponent(curve: Curve, of: Callable[[Halted], float]) -> str:
    return curve.by("weights", of).show(form="+.2f")


def points(
    axes: Axes,
    curve: Curve,
    of: Callable[[Halted], float],
    colour: str,
    label: str,
    line: str = "-",
    everyone: bool = False,
    x: str = "weights",
) -> None:
    """Seeds as dots, means of those that count (of all, with `everyone`) as a line."""
    places = np.array(curve.told(x))
    means = []
    for place, point in zip(places, curve.points, strict=True):
        means.append(mean([of(run) for run in (point.runs if everyone else point.certain)]))
        axes.plot(
            [place] * len(point.runs), [of(run) for run in point.runs], ".", ms=3, color=colour, alpha=0.6
        )
    axes.plot(places, means, line, color=colour, lw=1.3, label=label)
    hollow = np.array([not everyone and not all(run.counts for run in p.runs) for p in curve.points])
    for chosen, face in ((hollow, "white"), (~hollow, colour)):
        axes.plot(places[chosen], np.array(means)[chosen], "o", ms=5.5, color=colour, mfc=face)
