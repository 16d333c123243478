"""The figure of width apart from weights: times and losses over width by arm, what times are made of, and one axis.

In: curves of every arm and family. Out: the figure. Families have colours, arms columns; hollow: not certain.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter, NullLocator

from experiments.beyond import width, width_verdict
from experiments.convergence.halting import Curve, common, mean, minimum, steps, valid
from experiments.convergence.halting_figure import draw_points, log_times, plain_numbers, tidy
from experiments.convergence.path import split
from experiments.convergence.path_figure import PARTS, stacked
from experiments.lab.families import PALETTE

ROWS = {
    "steps to 1 % above the own minimum": steps,
    "steps to a loss common to all": common,
    "least validation loss, nats": minimum,
}
MARKERS = dict(zip(width.ARMS, "os^", strict=True))


def draw(curves: Sequence[Curve], caption: str) -> Figure:
    arms = [arm for arm in width.ARMS if any(c.points[0].row["arm"] == arm for c in curves)]
    colours = {place: PALETTE[i % len(PALETTE)] for i, place in enumerate(width.families_shown(curves))}
    figure = Figure(figsize=(4.1 * len(arms) + 5.4, 11), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[4.1 * len(arms), 5.4])[0]
    grid = left.subplots(3, len(arms), sharex=True, sharey="row", squeeze=False)
    for j, arm in enumerate(arms):
        own = [curve for curve in curves if curve.points[0].row["arm"] == arm]
        for axes, (label, of) in zip(grid[:, j], ROWS.items(), strict=True):
            over_width(axes, own, of, colours)
            axes.set_ylabel(label if j == 0 else "")
        grid[0, j].set_title(width.ARMS[arm], fontsize=10)
        said_above(grid[-1, j], own, least_in_view(curves))
        grid[-1, j].set_xlabel("width")
    collapsed, split = right.subplots(2, 1)
    one_axis(collapsed, curves, colours)
    bars(split, curves)
    figure.suptitle(f"{caption}; brackets: exponent in width [95 %]", fontsize=10)
    return figure


def over_width(axes: Axes, curves: Sequence[Curve], of, colours: dict) -> None:
    """A line a family, its exponent in the legend."""
    for curve in curves:
        row = curve.points[0].row
        found = width_verdict.by_width(curve, of)
        form = "+.3f" if of is minimum else "+.2f"
        label = f"{width.name(curve)}: {found.show(form=form)}"
        colour = colours[row["kind"], row["base_width"]]
        draw_points(axes, curve, of, colour, label, all_seeds=of is not steps, x="width")
    axes.set(xscale="log")
    if of is not minimum:
        log_times(axes)
    told = sorted({point.row["width"] for curve in curves for point in curve.points})
    axes.set_xticks(told, [str(one) for one in told])
    axes.xaxis.set_minor_locator(NullLocator())
    tidy(axes)
    axes.legend(frameon=False, fontsize=7.5)


def least_in_view(curves: Sequence[Curve]) -> tuple[float, float]:
    """Limits of the losses: what half of the seeds of every network reach, so that one that diverged hides no other."""
    losses = [[minimum(run) for run in point.runs] for curve in curves for point in curve.points]
    finite = [some for some in (valid(values) for values in losses) if some.size]
    low, high = min(map(np.min, finite)), max(map(np.median, finite))
    return low - 0.1 * (high - low), high + 0.4 * (high - low)


def said_above(axes: Axes, curves: Sequence[Curve], view: tuple[float, float]) -> None:
    """How many runs lie above the limits."""
    above = sum(
        bool(minimum(run) > view[1]) for curve in curves for point in curve.points for run in point.runs
    )
    axes.set_ylim(*view)
    if above:
        told = f"{above} run{'s' if above > 1 else ''} above"
        axes.annotate(told, (1, 0.8), xycoords="axes fraction", ha="right", fontsize=7.5)


def one_axis(axes: Axes, curves: Sequence[Curve], colours: dict) -> None:
    """Common times over learning rate × trace of the tangent kernel, all networks."""
    for curve in curves:
        row = curve.points[0].row
        x = [point.row["rate_trace"] for point in curve.points]
        y = [mean([common(run) for run in point.runs]) for point in curve.points]
        colour = colours[row["kind"], row["base_width"]]
        label = f"{width.name(curve)}, {width.ARMS[row['arm']]}"
        axes.plot(x, y, MARKERS[row["arm"]], color=colour, ms=5, label=label)
        for at, high, point in zip(x, y, curve.points, strict=True):
            axes.annotate(str(point.row["width"]), (at, high), (3, 3), textcoords="offset points", fontsize=6)
    found = width_verdict.collapse(curves)
    axes.set(xscale="log", xlabel="learning rate × trace of the tangent kernel, at the start")
    axes.set_ylabel(list(ROWS)[1])
    plain_numbers(axes.xaxis)
    log_times(axes)
    axes.set_title(
        f"one axis for all: exponent {found.exponent.show(form='+.2f')}\nof the width beside it"
        f" {found.width.show(form='+.2f')}; numbers are widths",
        fontsize=9,
        loc="left",
    )
    tidy(axes)
    axes.legend(frameon=False, fontsize=6.5)


def bars(axes: Axes, curves: Sequence[Curve]) -> None:
    """The exponents in width of distance, tortuosity and (with the other sign) step: they add up to that of T."""
    lines = [curve for curve in curves if len(curve.points) > 1]
    for y, curve in enumerate(lines):
        for colour, start, length in stacked(split(curve, "all", "width")):
            axes.barh(y, length, left=start, height=0.6, color=colour)
        found = width_verdict.by_width(curve)
        error = np.abs(np.array([[found.value - found.low], [found.high - found.value]]))
        axes.errorbar(
            found.value, y, xerr=error, fmt="D", color="black", ms=4, lw=1, label="T" if y == 0 else None
        )
    axes.axvline(0, color="black", lw=0.6)
    axes.set_yticks(
        range(len(lines)),
        [f"{width.name(c)},\n{width.ARMS[c.points[0].row['arm']]}" for c in lines],
        fontsize=7,
    )
    axes.invert_yaxis()
    axes.set_xlabel("exponent in width of T = distance × tortuosity ÷ step")
    axes.yaxis.set_minor_formatter(NullFormatter())
    tidy(axes)
    keys = [Patch(color=colour, label=label) for label, colour in PARTS.values()]
    axes.legend(handles=[*keys, *axes.get_legend_handles_labels()[0]], frameon=False, fontsize=7.5)
