"""What a figure shows, declared once for the PNG and the results page; and the style that all figures share."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

Style = dict[str, Any]  # of a line, as matplotlib takes it
PALETTE = ("#b5482f", "#2f6397", "#3f8f5b", "#8a5ea8", "#c08a1e")


class Plot(NamedTuple):
    """A figure over the columns of its table, or over `widening`, which is width / base_width."""

    x: str
    y: str
    xlabel: str
    ylabel: str
    curves: tuple[str, ...] = ()  # columns that tell curves apart
    deviation: str = ""  # column of the error bars
    logx: bool = True
    logy: bool = False
    percent: bool = False  # y is a fraction
    lines: tuple[tuple[str, float], ...] = ()  # horizontal reference lines: label, y

    def label(self, axes: Axes) -> None:
        """Scales and labels of the axes of the PNG."""
        axes.set(xlabel=self.xlabel, ylabel=self.ylabel)
        axes.set(
            xscale="log" if self.logx else axes.get_xscale(), yscale="log" if self.logy else axes.get_yscale()
        )


def of_fields(fields: dict) -> Plot:
    """A plot from JSON. Raises TypeError or KeyError for something else."""
    lines = tuple((str(label), float(y)) for label, y in fields["lines"])
    return Plot(**fields | {"curves": tuple(fields["curves"]), "lines": lines})


def tidy(axes: Axes, widths: Iterable[int] = ()) -> None:
    """No frame, a light grid; with `widths` a logarithmic x axis with a tick at each."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if ticks := sorted(set(widths)):
        axes.set_xscale("log")
        axes.set_xticks(ticks, map(str, ticks))
        axes.xaxis.set_minor_locator(NullLocator())


def plain_numbers(axis: Axis) -> None:
    """Numbers without powers of ten on a logarithmic axis; fewer on a long axis, so that they do not overlap."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 40 * low else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def log_times(axes: Axes) -> None:
    """A logarithmic axis of times, if any network has a time."""
    if 0 < axes.dataLim.y0 < np.inf:
        axes.set_yscale("log")
        plain_numbers(axes.yaxis)
