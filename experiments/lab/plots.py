"""What a figure shows, declared once by its experiment: the PNG and the results page take their axes from it."""

from typing import NamedTuple

from matplotlib.axes import Axes


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
    lists = {name: tuple(fields[name]) for name in ("curves",)}
    lines = tuple((str(label), float(y)) for label, y in fields["lines"])
    return Plot(**fields | lists | {"lines": lines})
