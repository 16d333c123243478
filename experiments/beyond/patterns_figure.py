"""The figures of `patterns`: accuracy over distributions at one width, or over several widths; step times."""

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.convergence.halting_figure import tidy
from experiments.lab import families
from experiments.lab.families import Row
from experiments.lab.plots import Plot
from experiments.lab.presets import Family

ACCURACY = "best_test_accuracy_mean"


def plot(rows: Sequence[Row]) -> Plot:
    """Accuracy over distributions at one width, over several widths."""
    widths = sorted({row["width"] for row in rows if row["pattern"] != "dense"})
    dense = tuple((_dense_label(row), row[ACCURACY]) for row in rows if row["pattern"] == "dense")
    over = ("width", "width") if len(widths) > 1 else ("distribution", f"width {', '.join(map(str, widths))}")
    curves = ("pattern", "distribution")
    label = "best test accuracy (%)"
    return Plot(over[0], ACCURACY, over[1], label, curves, logx=len(widths) > 1, percent=True, lines=dense)


def _dense_label(row: Row) -> str:
    return f"dense, width {row['width']}"


def draw(rows: Sequence[Row], preset: Family, network: str) -> Figure:
    """Accuracy on the left, with a line at the dense network of the base width; step times on the right."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    masked = [row for row in rows if row["pattern"] != "dense"]
    several = len({row["width"] for row in masked}) > 1
    left, right = figure.subplots(1, 2, width_ratios=(3, 2 if several else 1))
    for row in rows:
        if row["pattern"] == "dense":
            left.axhline(100 * row[ACCURACY], color="0.5", linestyle="--", label=_dense_label(row))
    (over_widths if several else over_distributions)(left, right, rows, masked)
    weights = max((row["weights"] for row in rows), default=0)
    left.set_title(f"{weights:,} weights (bars: s.d. over seeds)")
    axes = plot(rows)
    left.set(xlabel=axes.xlabel, ylabel=axes.ylabel)
    left.legend(fontsize=8)
    right.set_title(f"batch {preset.batch_size}")
    figure.suptitle(families.caption(rows, preset, preset.epochs, network), fontsize=9)
    tidy(left)
    tidy(right)
    return figure


def over_distributions(left: Axes, right: Axes, rows: Sequence[Row], masked: Sequence[Row]) -> None:
    """A point per pattern and distribution; a bar per pattern."""
    color = _colors(row["pattern"] for row in masked)
    distributions = list(dict.fromkeys(row["distribution"] for row in masked))
    for i, pattern in enumerate(color):
        points = [row for row in masked if row["pattern"] == pattern]
        x = [distributions.index(row["distribution"]) + 0.12 * (i - 1.5) for row in points]
        y = [100 * row[ACCURACY] for row in points]
        bars = [100 * row["best_test_accuracy_std"] for row in points]
        left.errorbar(x, y, bars, fmt="o", capsize=2, markersize=5, color=color[pattern], label=pattern)
    names = [name.replace("_", "\n", 1) for name in distributions]
    left.set_xticks(range(len(names)), names, fontsize=8)
    times = {row["pattern"]: row["step_milliseconds"] for row in masked}
    right.barh(list(times), list(times.values()), color=[color[name] for name in times])
    right.set_xlabel("step time per network (ms)")


def over_widths(left: Axes, right: Axes, rows: Sequence[Row], masked: Sequence[Row]) -> None:
    """A curve per pattern and distribution that starts at the dense network."""
    dense = [row for row in rows if row["pattern"] == "dense"]
    kinds = list(dict.fromkeys((row["pattern"], row["distribution"]) for row in masked))
    color = _colors(kinds)
    for kind in kinds:
        points = [*dense, *(row for row in masked if (row["pattern"], row["distribution"]) == kind)]
        style = {"fmt": "o-", "color": color[kind], "label": ", ".join(kind)}
        families.curve(left, points, "width", ACCURACY, **style)
        widths = [row["width"] for row in points]
        times = [row["step_milliseconds"] for row in points]
        right.plot(widths, times, "o-", color=color[kind], markersize=5, linewidth=1.2)
    for axes in (left, right):
        axes.set(xscale="log", xlabel="width")
    right.set(yscale="log", ylabel="step time per network (ms)")


def _colors(names: Iterable[Any]) -> dict[Any, str]:
    """A color for each name, in their order."""
    return dict(zip(dict.fromkeys(names), families.PALETTE, strict=False))
