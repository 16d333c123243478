"""The figure of `width_or_weights`: times and losses over width by arm, factors of the times, times over rate × trace.

In: curves of every arm and family. Out: the figure. Families have colors, arms have columns; hollow: censored.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter, NullLocator

from experiments.beyond import width, width_verdict
from experiments.convergence.halting import Curve, Quantity, common, mean, minimum, steps, valid
from experiments.convergence.halting_figure import draw_points, log_times, plain_numbers, tidy
from experiments.convergence.path import split
from experiments.convergence.path_figure import PARTS, stacked
from experiments.lab.families import PALETTE
from experiments.lab.plots import Plot

ROWS = {
    "steps to within 1 % of the minimum": steps,
    "steps to a loss that all reach": common,
    "lowest validation loss (nats)": minimum,
}
PLOT = Plot("width", "steps_mean", "width", next(iter(ROWS)), curves=("arm", "kind", "base_width"), logy=True)
MARKERS = dict(zip(width.ARMS, "os^D", strict=True))


def draw(curves: Sequence[Curve], caption: str) -> Figure:
    arms = [arm for arm in width.ARMS if any(c.row["arm"] == arm for c in curves)]
    colors = {family: PALETTE[i % len(PALETTE)] for i, family in enumerate(width.families_shown(curves))}
    figure = Figure(figsize=(4.1 * len(arms) + 5.4, 11), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[4.1 * len(arms), 5.4])[0]
    grid = left.subplots(3, len(arms), sharex=True, sharey="row", squeeze=False)
    for j, arm in enumerate(arms):
        of_arm = [curve for curve in curves if curve.row["arm"] == arm]
        for axes, (label, quantity) in zip(grid[:, j], ROWS.items(), strict=True):
            over_width(axes, of_arm, quantity, colors)
            axes.set_ylabel(label if j == 0 else "")
        grid[0, j].set_title(width.ARMS[arm], fontsize=10)
        limit_losses(grid[-1, j], of_arm, limits_of_losses(curves))
        grid[-1, j].set_xlabel(PLOT.xlabel)
    above, below = right.subplots(2, 1)
    over_rate_trace(above, curves, colors)
    bars(below, curves)
    figure.suptitle(f"{caption}; brackets: exponent in width [95 %]", fontsize=10)
    return figure


def over_width(axes: Axes, curves: Sequence[Curve], quantity: Quantity, colors: dict) -> None:
    """One line per family, with its exponent in the legend."""
    for curve in curves:
        form = "+.3f" if quantity is minimum else "+.2f"
        label = f"{width.name(curve)}: {width_verdict.by_width(curve, quantity).show(form=form)}"
        color = colors[curve.row["kind"], curve.row["base_width"]]
        draw_points(axes, curve, quantity, color, label, all_seeds=quantity is not steps, x=PLOT.x)
    axes.set(xscale="log")
    if quantity is not minimum:
        log_times(axes)
    widths = sorted({point.row["width"] for curve in curves for point in curve.points})
    axes.set_xticks(widths, map(str, widths))
    axes.xaxis.set_minor_locator(NullLocator())
    tidy(axes)
    axes.legend(frameon=False, fontsize=7.5)


def limits_of_losses(curves: Sequence[Curve]) -> tuple[float, float]:
    """Limits of the axis that show half of the seeds of every network, so that a diverged run does not hide others."""
    losses = [[minimum(run) for run in point.runs] for curve in curves for point in curve.points]
    finite = [values for values in map(valid, losses) if values.size]
    low, high = min(map(np.min, finite)), max(map(np.median, finite))
    return low - 0.1 * (high - low), high + 0.4 * (high - low)


def limit_losses(axes: Axes, curves: Sequence[Curve], limits: tuple[float, float]) -> None:
    """Set the limits and write how many runs lie above them."""
    above = sum(
        bool(minimum(run) > limits[1]) for curve in curves for point in curve.points for run in point.runs
    )
    axes.set_ylim(*limits)
    if above:
        text = f"{above} run{'s' if above > 1 else ''} above"
        axes.annotate(text, (1, 0.8), xycoords="axes fraction", ha="right", fontsize=7.5)


def over_rate_trace(axes: Axes, curves: Sequence[Curve], colors: dict) -> None:
    """Steps to the common loss over learning rate × trace of the tangent kernel, all networks."""
    for curve in curves:
        row, x = curve.row, curve.column("rate_trace")
        y = [mean([common(run) for run in point.runs]) for point in curve.points]
        color = colors[row["kind"], row["base_width"]]
        label = f"{width.name(curve)}, {width.ARMS[row['arm']]}"
        axes.plot(x, y, MARKERS[row["arm"]], color=color, ms=5, label=label)
        for place, height, point in zip(x, y, curve.points, strict=True):
            axes.annotate(
                str(point.row["width"]), (place, height), (3, 3), textcoords="offset points", fontsize=6
            )
    collapse = width_verdict.collapse(curves)
    axes.set(xscale="log", xlabel="learning rate × trace of the initial tangent kernel")
    axes.set_ylabel(list(ROWS)[1])
    plain_numbers(axes.xaxis)
    log_times(axes)
    axes.set_title(
        f"all networks: exponent {collapse.exponent.show(form='+.2f')}\nexponent in width in a joint fit"
        f" {collapse.width.show(form='+.2f')}; labels: widths",
        fontsize=9,
        loc="left",
    )
    tidy(axes)
    axes.legend(frameon=False, fontsize=6.5)


def bars(axes: Axes, curves: Sequence[Curve]) -> None:
    """The exponents in width of distance, tortuosity and step (negated), which add up to that of T."""
    lines = [curve for curve in curves if len(curve.points) > 1]
    for y, curve in enumerate(lines):
        for color, start, length in stacked(split(curve, "all", "width")):
            axes.barh(y, length, left=start, height=0.6, color=color)
        value, low, high = width_verdict.by_width(curve)
        error, label = np.abs([[value - low], [high - value]]), "T" if y == 0 else None
        axes.errorbar(value, y, xerr=error, fmt="D", color="black", ms=4, lw=1, label=label)
    axes.axvline(0, color="black", lw=0.6)
    axes.set_yticks(
        range(len(lines)),
        [f"{width.name(c)},\n{width.ARMS[c.row['arm']]}" for c in lines],
        fontsize=7,
    )
    axes.invert_yaxis()
    axes.set_xlabel("exponent in width of T = distance × tortuosity ÷ step")
    axes.yaxis.set_minor_formatter(NullFormatter())
    tidy(axes)
    keys = [Patch(color=color, label=label) for label, color in PARTS.values()]
    axes.legend(handles=[*keys, *axes.get_legend_handles_labels()[0]], frameon=False, fontsize=7.5)
