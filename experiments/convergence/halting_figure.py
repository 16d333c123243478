"""The figure of halting times: times to each network's minimum and to a common loss, and minima, over weights.

In: curves and their names. Out: the figure, one line per curve; a network with a censored run is hollow.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.convergence.halting import COMMON, Curve, HaltedRun, Point, Quantity, mean, minimum, steps
from experiments.lab.families import PALETTE
from experiments.lab.plots import Plot

LABELS = (
    "steps to within 1 % of the minimum",
    "steps to a loss that all widths reach",
    "lowest validation loss (nats)",
)
PLOT = Plot(
    "weights",
    "steps_mean",
    "weights",
    LABELS[0],
    curves=("fraction", "depth", "optimizer", "learning_rate"),
    logy=True,
)


def draw(curves: Sequence[Curve], names: Sequence[str], caption: str) -> Figure:
    by_width = over_data(curves)
    panels, thresholds = 3 + (len(by_width) > 0), COMMON if len(curves) < 4 else COMMON[:1]
    lines = max(len(curves) * len(thresholds), len(by_width))
    figure = Figure(figsize=(4.7 * panels, 4.3 + 0.18 * lines), layout="constrained")
    times, common, loss, *rest = figure.subplots(1, panels)
    for i, (curve, name) in enumerate(zip(curves, names, strict=True)):
        color, style = PALETTE[i % len(PALETTE)], "-" if i < len(PALETTE) else ":"
        label = f"{name}: {curve.exponent('weights', steps).show(form='+.2f')}"
        draw_points(times, curve, steps, color, label, style)
        for j, (factor, line) in enumerate(zip(thresholds, (style, "--"), strict=False)):

            def time(run: HaltedRun, j: int = j) -> float:
                return run.common[j]

            label = f"{name}, {factor:g} ×: {curve.exponent_of_all('weights', time).show(form='+.2f')}"
            draw_points(common, curve, time, color, label, line, all_seeds=True)
        draw_points(loss, curve, minimum, color, name, style, all_seeds=True)
    for axes, label in zip((times, common, loss), LABELS, strict=True):
        axes.set(xscale="log", xlabel=PLOT.xlabel, ylabel=label)
        plain_numbers(axes.xaxis)
        if axes is not loss:
            log_times(axes)
        finish(axes)
    for axes in rest:
        draw_data(axes, by_width)
    multiples = " and ".join(f"{x:g}" for x in thresholds)
    titles = {
        times: f"{caption}\nhollow: censored (minimum not certain)",
        common: f"{multiples} × the largest minimum of a curve;\nlegends: exponent in weights [95 %]",
    }
    for axes, title in titles.items():
        axes.set_title(title, fontsize=9, loc="left")
    return figure


def over_data(curves: Sequence[Curve]) -> dict[int, list[Point]]:
    """Width → its networks at several fractions of the data, all else equal; empty if there is one fraction."""
    same = ("depth", "optimizer", "learning_rate")
    comparable = [c for c in curves if all(c.row[name] == curves[0].row[name] for name in same)]
    by_width: dict[int, list[Point]] = {}
    for point in (point for curve in comparable for point in curve.points):
        by_width.setdefault(point.row["width"], []).append(point)
    return {width: points for width, points in by_width.items() if len(points) > 1}


def draw_data(axes: Axes, by_width: dict[int, list[Point]]) -> None:
    """T over the fraction of the data, one line per width: Figure 3b of the convergence paper."""
    for i, (width, points) in enumerate(by_width.items()):
        curve = Curve(sorted(points, key=lambda point: point.row["fraction"]))
        label = f"width {width}: {curve.exponent('fraction', steps).show(form='+.2f')}"
        draw_points(axes, curve, steps, PALETTE[i % len(PALETTE)], label, x="fraction")
    axes.set(xscale="log", yscale="log", xlabel="fraction of the training data", ylabel=LABELS[0])
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    axes.set_title("legend: exponent in the fraction", fontsize=9, loc="left")
    finish(axes)


def finish(axes: Axes) -> None:
    tidy(axes)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def log_times(axes: Axes) -> None:
    """A logarithmic axis of times, if any network has a time."""
    if 0 < axes.dataLim.y0 < np.inf:
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)


def plain_numbers(axis: Axis) -> None:
    """Numbers without powers of ten on a logarithmic axis; fewer on a long axis, so that they do not overlap."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 40 * low else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def draw_points(
    axes: Axes,
    curve: Curve,
    quantity: Quantity,
    color: str,
    label: str,
    line: str = "-",
    all_seeds: bool = False,
    x: str = "weights",
) -> None:
    """Seeds as dots; means of the seeds that are not censored (of all with `all_seeds`) as a line."""
    places, means = np.array(curve.column(x)), []
    for place, point in zip(places, curve.points, strict=True):
        means.append(mean([quantity(run) for run in (point.runs if all_seeds else point.certain)]))
        values = [quantity(run) for run in point.runs]
        axes.plot([place] * len(values), values, ".", ms=3, color=color, alpha=0.6)
    axes.plot(places, means, line, color=color, lw=1.3, label=label)
    hollow = np.array([not all_seeds and not all(run.certain for run in p.runs) for p in curve.points])
    for chosen, face in ((hollow, "white"), (~hollow, color)):
        axes.plot(places[chosen], np.array(means)[chosen], "o", ms=5.5, color=color, mfc=face)
