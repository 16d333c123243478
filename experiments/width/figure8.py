"""Figure 8 from the rows of kernel_distance.csv: accuracy, distance and test error over width, and the verdicts."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from scipy import stats

from experiments.lab import families
from experiments.lab.families import Row
from experiments.lab.intervals import difference
from experiments.lab.plots import Plot
from experiments.lab.presets import Family

SPARSE, ERROR, THEORY = "#b5482f", "#c2588f", "0.35"
ACCURACY, BY_SEED = "test_accuracy_mean", "final_test_accuracy"
PLOT = Plot("width", ACCURACY, "width (hidden units)", "test accuracy (%)", curves=("kind",), percent=True)
STYLES = {
    "dense": {"color": "0.6", "marker": "o"},
    "tuned": {"color": "#c08a1e", "marker": "+"},
    "sparse": {"color": SPARSE, "marker": "o"},
}


def base_of(rows: Sequence[Row]) -> Row:
    """The narrowest dense network; the first row while that is not trained."""
    return next((row for row in rows if row["kind"] == "dense"), rows[0])


def plot(rows: Sequence[Row]) -> Plot:
    """Figure 8a, with the dense network of base width as a line."""
    base = base_of(rows)
    return PLOT._replace(lines=((_base_label(base), base[ACCURACY]),))


def _base_label(base: Row) -> str:
    return f"dense, width {base['width']}, {base['weights']:,} weights"


def floor_of(rows: Sequence[Row]) -> float:
    """The lowest accuracy in range: one far below the base would flatten the others and is written at the edge."""
    accuracies = [row[ACCURACY] for row in rows if not math.isnan(row[ACCURACY])]
    base = base_of(rows)[ACCURACY]
    return base - 0.35 * (max(accuracies, default=1.0) - base)


def draw(rows: Sequence[Row], preset: Family) -> Figure:
    """Figure 8: (a) test accuracy over width; (b) distances and test error of the sparse networks."""
    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_accuracy(left, rows)
    families.finish(left, rows, PLOT.x, PLOT.xlabel, PLOT.ylabel)
    left.set_title("(a) after training", fontsize=11)
    if sparse := [row for row in rows if row["kind"] == "sparse"]:
        draw_distances(right, sparse, floor_of(rows))
        families.finish(right, rows, PLOT.x, PLOT.xlabel, "D, mean squared distance of GP kernels")
        right.set_title("(b) before training: D to the infinite-width kernel", fontsize=11)
    for axes in (left, right):
        axes.tick_params(labelsize=10)
        axes.margins(x=0.09)
    caption = families.caption(rows, preset, preset.epochs, "one hidden layer")
    figure.suptitle(f"{caption}; bars: s.d.", fontsize=11)
    return figure


def draw_accuracy(axes: Axes, rows: Sequence[Row]) -> None:
    """Figure 8a: sparse networks with one weight count, dense ones of the same widths, the dense one of base width."""
    base, floor = base_of(rows), floor_of(rows)
    labels = {
        "dense": "dense, {} weights",
        "tuned": "sparse, {} weights, learning rate tuned for every width",
        "sparse": "sparse, {} weights (percent: connectivity)",
    }
    for kind, style in STYLES.items():
        points = [row for row in rows if row["kind"] == kind]
        in_range = [row for row in points if not row[ACCURACY] < floor]
        if in_range:
            least, most = (end(row["weights"] for row in points) for end in (min, max))
            label = labels[kind].format(f"{least:,}" if least == most else f"{least:,}–{most:,}")
            families.curve(axes, in_range, "width", ACCURACY, label=label, **style)
        for row in points if kind == "sparse" else []:
            percent = f"{100 * row['connectivity']:.{3 if row['connectivity'] == 1 else 2}g}%"
            if row[ACCURACY] < floor:
                below = f"↓ {100 * row[ACCURACY]:.1f}\n{percent}"
                _note(axes, below, row["width"], 100 * floor, 4, SPARSE)
            else:
                top = 100 * (row[ACCURACY] + row["test_accuracy_std"])
                _note(axes, percent, row["width"], top, 3, SPARSE)
    axes.axhline(100 * base[ACCURACY], color="black", linestyle="--", linewidth=1, label=_base_label(base))
    if floor < base[ACCURACY]:
        axes.set_ylim(bottom=100 * floor)
    axes.legend(frameon=False, loc="upper center", fontsize=9.5, bbox_to_anchor=(0.5, -0.14))


def draw_distances(axes: Axes, rows: Sequence[Row], floor: float) -> None:
    """Figure 8b: D by Theorem 1, by equation (4) and measured (bars: standard error); the test error beside it."""
    widths = [row["width"] for row in rows]
    exact, approximate, measured, stderr = (
        [row[f"distance_{name}"] for row in rows]
        for name in ("exact", "eq4", "empirical", "empirical_stderr")
    )
    handles = [
        *axes.plot(widths, exact, color=THEORY, label="D by Theorem 1 (exact)"),
        *axes.plot(widths, approximate, "--", color=THEORY, label="D by equation (4) (approximate)"),
        axes.errorbar(
            widths, measured, stderr, fmt="o", capsize=3, color="#2f6397", label="D of the networks"
        ),
    ]
    axes.set(yscale="log", ylim=(min(*exact, *approximate, *measured) / 2, None))
    beside = axes.twinx()
    in_range = [row for row in rows if not row[ACCURACY] < floor]
    errors = [
        row | {"error_mean": 1 - row[ACCURACY], "error_std": row["test_accuracy_std"]} for row in in_range
    ]
    style = {"marker": "s", "color": ERROR, "label": "test error of (a), right axis"}
    families.curve(beside, errors, "width", "error_mean", **style)
    handles += beside.get_legend_handles_labels()[0]
    if len(in_range) < len(rows):
        beside.set_ylim(top=100 * (1 - floor))
    for row in rows:
        if row[ACCURACY] < floor:
            _note(beside, f"↑ {100 * (1 - row[ACCURACY]):.1f}", row["width"], 100 * (1 - floor), -12, ERROR)
    beside.set_ylabel("test error (%)", color=ERROR)
    beside.tick_params(axis="y", colors=ERROR, labelsize=10)
    beside.spines[["top", "left"]].set_visible(False)
    axes.legend(
        handles=handles, frameon=False, loc="upper center", fontsize=9.5, bbox_to_anchor=(0.5, -0.14), ncols=2
    )


def _note(axes: Axes, text: str, x: float, y: float, points_above: float, color: str) -> None:
    offset: dict[str, Any] = {"xytext": (0, points_above), "textcoords": "offset points", "ha": "center"}
    halo = [withStroke(linewidth=2.5, foreground="white")]  # over lines
    axes.annotate(text, (x, y), fontsize=9.5, color=color, path_effects=halo, zorder=5, **offset)


def verdict(rows: Sequence[dict]) -> str:
    """The best sparse network against the narrowest one, in a line: the gain, with an interval over seeds."""
    sparse = [row for row in rows if row["kind"] == "sparse" and row[BY_SEED]]
    if not sparse:
        return "No sparse network has finished training yet."
    base = min(sparse, key=lambda row: row["width"])
    best = max(sparse, key=lambda row: row[ACCURACY])
    if best is base:
        return f"With {base['weights']} weights the narrowest network, width {base['width']}, is the best."
    gain = difference(best[BY_SEED], base[BY_SEED], comparisons=len(sparse) - 1)
    return (
        f"With {base['weights']} weights, width {best['width']} reaches {best[ACCURACY]:.3f} and width"
        f" {base['width']} {base[ACCURACY]:.3f}: {gain.show(100)} percentage points."
    )


def agreement(rows: Sequence[dict]) -> str:
    """The largest deviation of measured from exact D, in standard errors over networks."""
    scores = [
        ((row["distance_empirical"] - row["distance_exact"]) / row["distance_empirical_stderr"], row)
        for row in rows
        if row["distance_empirical_stderr"] > 0  # with very few pairs and weights all networks may have D = 0
    ]
    if not scores:
        return "Measured and exact D: no error bar to compare by."
    worst, row = max(scores, key=lambda score: abs(score[0]))
    place = f"{row['kind']}, width {row['width']}"
    return f"Measured and exact D: at most {worst:+.1f} standard errors apart ({place})."


def association(rows: Sequence[Row], classes: int) -> list[str]:
    """Correlation of D and test error over the sparse networks, as the paper claims.

    Networks at chance level count by rank alone.
    """
    trained = [row for row in rows if row["kind"] == "sparse" and not math.isnan(row[ACCURACY])]
    absent = ", ".join(str(row["width"]) for row in trained if row[ACCURACY] < 2 / classes)
    distance = np.array([row["distance_empirical"] for row in trained])
    error = np.array([1 - row[ACCURACY] for row in trained])
    learns = error <= 1 - 2 / classes
    ranks, pearson = "too few networks", "too few networks"
    if len(set(distance)) > 3 and len(set(error)) > 3:
        ranks = f"{stats.spearmanr(distance, error).statistic:.2f}"
    if len(set(error[learns])) > 3:
        fit = stats.pearsonr(distance[learns], error[learns])
        low, high = fit.confidence_interval()
        pearson = f"{fit.statistic:.2f} (over networks, by Fisher's z: {low:.2f} to {high:.2f})"
    without = f" (without width {absent})" if absent else ""
    return [
        "Correlation of D and test error over the sparse networks:",
        f"  Spearman's, of all: {ranks}",
        f"  Pearson's, of those that reach twice the accuracy of chance{without}: {pearson}",
    ]
