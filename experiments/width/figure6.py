"""Figures 6, 7 and 11 to 14 from the rows of resnet_width.csv, and verdicts on the paper's claims."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import families
from experiments.lab.families import Row
from experiments.lab.intervals import METHOD, Estimate, difference, linear, sign, simulated, verdict
from experiments.lab.plots import Plot
from experiments.lab.presets import Family

PLOT = Plot(
    "width",
    "best_test_accuracy_mean",
    "width (channels of the first convolution)",
    "best test accuracy (%)",
    curves=("kind", "base_width"),
    percent=True,
)
BEST_CONNECTIVITY, BEST_WIDENING = (0.01, 0.1), (3.0, 10.0)  # paper, sections 1 and 2

# The figure.


def draw(rows: Sequence[Row], preset: Family, paper: Sequence[Row], paper_epochs: int) -> Figure:
    """Figures 6, 12 and 13 above, 14 (over width and connectivity) and 7 below, with the paper's numbers."""
    figure = Figure(figsize=(15, 8.4), layout="constrained")
    panels = figure.subplots(2, 3, sharex="col")
    sparse, sparse_paper = ([row for row in some if row["kind"] == "sparse"] for some in (rows, paper))
    shade: dict[str, Any] = {"color": "0.5", "alpha": 0.12, "zorder": 0, "label": "the paper's best, 1–10 %"}
    for (left, middle, _), split in zip(panels, ("test", "train"), strict=True):
        label = PLOT.ylabel.replace("test", "training") if split == "train" else PLOT.ylabel
        _draw_accuracy(left, rows, paper, split, PLOT.x)
        families.finish(left, rows, PLOT.x, PLOT.xlabel, label)
        _draw_accuracy(middle, sparse, sparse_paper, split, "connectivity")
        middle.axvspan(*BEST_CONNECTIVITY, **shade)
        families.finish(middle, sparse, "connectivity", "connectivity", label)
    _draw_improvement(panels[0, 2], rows, paper)
    if any(not math.isnan(row["improvement_fraction"]) for row in (*rows, *paper)):
        _draw_fraction(panels[1, 2], rows, paper)
    else:  # no wider dense network
        panels[1, 2].remove()
    for axes in panels.ravel():
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7.5, framealpha=0.8, edgecolor="none")
    figure.suptitle(families.caption(rows, preset, paper_epochs), fontsize=11)
    return figure


def _draw_accuracy(axes: Axes, rows: Sequence[Row], paper: Sequence[Row], split: str, x: str) -> None:
    mean = f"best_{split}_accuracy_mean"
    dense = {row["width"]: row for row in rows if row["kind"] == "dense"}
    if len(dense) > 1:
        families.curve(axes, dense.values(), x, mean, color="0.45", marker="o", linestyle="--", label="dense")
    for base, color in families.colors(rows).items():
        sparse = families.select(rows, "sparse", base)
        label = f"{sparse[0]['weights']:,} weights" if sparse else ""
        families.curve(axes, sparse, x, mean, color=color, marker="x", label=label)
        families.curve(axes, [r for r in sparse if r["width"] == base], x, mean, color=color, marker="o")
    if split == "test":
        _draw_paper(axes, paper, x, mean)


def _draw_paper(axes: Axes, paper: Sequence[Row], x: str, y: str) -> None:
    for kind, marker in (("dense", "o"), ("sparse", "x")):
        points = [row for row in paper if row["kind"] == kind and not math.isnan(row[y])]
        style = {
            "color": "black",
            "alpha": 0.5,
            "linestyle": ":",
            "marker": marker,
            "markerfacecolor": "none",
        }
        families.curve(axes, points, x, y, label=f"the paper, {kind}", **style)


def _draw_improvement(axes: Axes, rows: Sequence[Row], paper: Sequence[Row]) -> None:
    colors = families.colors(rows)
    for base, color in colors.items():
        dense = "dense" if base == min(colors) else None
        for kind, marker, line in (("dense", "o", "--"), ("sparse", "x", "-")):
            label = f"sparse, base width {base}" if kind == "sparse" else dense
            style = {"color": color, "marker": marker, "linestyle": line, "label": label}
            points = families.select(rows, kind, base)
            if len(points) > 1:
                families.curve(axes, points, "widening", "improvement", **style)
    _draw_paper(axes, paper, "widening", "improvement")
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.axvspan(*BEST_WIDENING, color="0.5", alpha=0.12, zorder=0, label="the paper's best, 3–10")
    families.finish(axes, rows, "widening", "widening factor", "improvement of the test accuracy (points)")


def _draw_fraction(axes: Axes, rows: Sequence[Row], paper: Sequence[Row]) -> None:
    wider = [row for row in rows if not math.isnan(row["improvement_fraction"])]
    colors = families.colors(rows)
    for base, color in colors.items():
        points = [row for row in wider if row["base_width"] == base]
        style = {"color": color, "marker": "^", "label": f"base width {base}"}
        families.curve(axes, points, "widening", "improvement_fraction", **style)
        if sparse := families.select(rows, "sparse", base):
            peak = max(sparse, key=lambda row: row["best_train_accuracy_mean"])["widening"]
            label = "highest training accuracy" if base == min(colors) else None
            axes.axvline(peak, color=color, linestyle="--", linewidth=1, label=label)
    _draw_paper(axes, [p for p in paper if p["kind"] == "sparse"], "widening", "improvement_fraction")
    for level in (0, 100):
        axes.axhline(level, color="0.6", linewidth=0.8)
    label = "fraction of the dense network's improvement (%)"
    families.finish(axes, rows, "widening", "widening factor", label)


# The claims.


def _best(sparse: Sequence[Row]) -> int:
    """Index of the wider network with the highest test accuracy; the base network has index 0."""
    return 1 + int(np.argmax([row["best_test_accuracy_mean"] for row in sparse[1:]]))


def _tests(rows: Sequence[Row]) -> list[list[float]]:
    return [row["test"] for row in rows]


def gain(sparse: Sequence[Row]) -> Estimate:
    """Best test accuracy of the best wider network of a family less that of the dense one of its weight count."""
    return difference(sparse[_best(sparse)]["test"], sparse[0]["test"], comparisons=len(sparse) - 1)


def gain_difference(small: Sequence[Row], large: Sequence[Row]) -> Estimate:
    """The gain of one family minus that of another."""
    networks = _tests([small[_best(small)], small[0], large[_best(large)], large[0]])
    return linear(np.array([1.0, -1.0, -1.0, 1.0]), networks, (len(small) - 1) * (len(large) - 1))


def peak_distance(sparse: Sequence[Row]) -> Estimate:
    """Widening factor of the highest test accuracy minus that of the highest training accuracy."""
    factors, count = np.array([row["widening"] for row in sparse]), len(sparse)
    return simulated(
        lambda means: factors[means[:, :count].argmax(1)] - factors[means[:, count:].argmax(1)],
        [*_tests(sparse), *(row["train"] for row in sparse)],
    )


def best_value(sparse: Sequence[Row], key: str) -> Estimate:
    """Connectivity or widening factor of the highest test accuracy."""
    values = np.array([row[key] for row in sparse])
    return simulated(lambda test: values[test.argmax(1)], _tests(sparse))


def width_alone(sparse: Sequence[Row], dense: Row) -> Estimate:
    """The gain of a sparse network as a fraction of the gain of the dense one of the same width.

    There is no interval if that of the dense gain contains 0.
    """
    wide = next(row for row in sparse if row["width"] == dense["width"])
    whole = difference(dense["test"], sparse[0]["test"])
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction = simulated(
            lambda means: (means[:, 1] - means[:, 0]) / (means[:, 2] - means[:, 0]),
            _tests([sparse[0], wide, dense]),
        )
    return Estimate(fraction.value) if whole.low <= 0 <= whole.high else fraction


def place(value: Estimate, bounds: tuple[float, float], widest: bool) -> str:
    """Whether an optimum lies within bounds; inconclusive if the widest network is the best."""
    low, high = bounds
    if widest:
        return "inconclusive (the widest trained is the best)"
    inside = low <= value.low and value.high <= high
    return verdict(inside, value.high < low or value.low > high)


def family_verdicts(rows: Sequence[Row], base: int) -> list[str]:
    """Verdicts on the paper's claims for the family of a base width."""
    sparse = families.select(rows, "sparse", base)
    if [row["width"] for row in sparse[:1]] != [base] or len(sparse) == 1:
        return [f"base width {base}: no verdict without the base network and a wider one"]
    best, top = sparse[_best(sparse)], int(np.argmax([row["best_test_accuracy_mean"] for row in sparse]))
    improvement, peaks, widest = gain(sparse), peak_distance(sparse), top == len(sparse) - 1
    step = max(np.diff([row["widening"] for row in sparse])[max(top - 1, 0) : top + 1])
    lines = [
        f"{best['weights']:,} weights: sparse and wide beats dense and narrow: {sign(improvement)}:"
        f" width {best['width']} ({best['connectivity']:.1%}) against {base}: {improvement.show(100)} points",
        f"  test accuracy peaks where training accuracy does, within one step of the widths:"
        f" {place(peaks, (-step, step), widest)}: widening factors differ by {peaks.show(1, '+.3g')}",
    ]
    for key, bounds, name, form in (
        ("connectivity", BEST_CONNECTIVITY, "the best connectivity lies at 1–10 %", ".2%"),
        ("widening", BEST_WIDENING, "the best widening factor lies at 3–10", ".3g"),
    ):
        value = best_value(sparse, key)
        lines.append(f"  {name}: {place(value, bounds, widest)}: {value.show(1, form)}")
    for dense in families.select(rows, "dense", base):
        if dense["width"] == best["width"]:
            share = width_alone(sparse, dense).show(100, ".0f")
            lines.append(f"  width alone gives {share} % of the dense gain at width {best['width']}")
    return lines


def verdicts(rows: Sequence[Row]) -> list[str]:
    """Verdicts for every family, and the comparison of the smallest with the largest networks."""
    bases = sorted({row["base_width"] for row in rows})
    lines = [line for base in bases for line in family_verdicts(rows, base)]
    by_base = {b: s for b in bases if len(s := families.select(rows, "sparse", b)) > 1 and s[0]["width"] == b}
    if len(by_base) < 2:
        return [*lines, METHOD]
    difference = gain_difference(by_base[min(by_base)], by_base[max(by_base)])
    gains = ", ".join(f"{100 * gain(s).value:+.1f} at {s[0]['weights']:,} weights" for s in by_base.values())
    lines.append(
        f"the gain is larger for smaller networks: {sign(difference)}: {gains};"
        f" smallest minus largest {difference.show(100)} points"
    )
    return [*lines, METHOD]


def data_verdict(families_of: Mapping[str, Sequence[Row]]) -> str:
    """Whether harder data (lower accuracy of the base network) gain more; data set → rows of one family."""
    by_data = {name: sparse for name, sparse in families_of.items() if len(sparse) > 1}
    if len(by_data) < 2:
        return "the gain is larger for harder data: no verdict without wider networks on two data sets"
    ordered = sorted(by_data, key=lambda name: by_data[name][0]["best_test_accuracy_mean"])
    difference = gain_difference(by_data[ordered[0]], by_data[ordered[-1]])
    gains = ", ".join(
        f"{100 * gain(by_data[name]).value:+.1f} on {name} (base network"
        f" {by_data[name][0]['best_test_accuracy_mean']:.0%})"
        for name in ordered
    )
    return (
        f"the gain is larger for harder data: {sign(difference)}: {gains};"
        f" hardest minus easiest {difference.show(100)} points"
    )
