"""Figure 8 from the rows of kernel_distance.csv: accuracy, and distance with test error, over width."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab import cli

# The ranges of the axes of Figure 8; its points are not printed as numbers.
PAPER_AXIS = (0.86, 0.94)
PAPER_DISTANCES = (0, 0.03)
COLOURS = {"sparse": "#b5482f", "dense": "#2f6397", "theory": "0.35", "error": "#c2588f"}


def base_of(rows: Sequence[dict]) -> float:
    """The accuracy of the narrowest dense network, or of what there is while it is not trained."""
    return next((row for row in rows if row["kind"] == "dense"), rows[0])["test_accuracy_mean"]


def floor_of(rows: Sequence[dict]) -> float:
    """The accuracy below which a network is named at the edge of a panel, so that it does not flatten the others."""
    accuracies = [row["test_accuracy_mean"] for row in rows if not math.isnan(row["test_accuracy_mean"])]
    base = base_of(rows)
    return base - 0.35 * (max(accuracies, default=1.0) - base)


def draw(rows: Sequence[dict], preset: cli.Preset, pairs: int) -> Figure:
    """Figure 8: (a) test accuracy over width; (b) distances and test error of the sparse networks."""
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_accuracy(left, rows, preset)
    if sparse := [row for row in rows if row["kind"] == "sparse"]:
        draw_distances(right, sparse, floor_of(rows), preset.dataset, pairs)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


def draw_accuracy(axes: Axes, rows: Sequence[dict], preset: cli.Preset) -> None:
    """Figure 8a: test accuracy over width, dense (circles) and sparse (crosses), bars of one deviation over seeds."""
    base, floor = base_of(rows), floor_of(rows)
    for kind, marker in (("dense", "o"), ("sparse", "x")):
        points = [row for row in rows if row["kind"] == kind]
        if not points:
            continue
        seen = [row for row in points if not row["test_accuracy_mean"] < floor]
        axes.errorbar(
            [row["width"] for row in seen],
            [row["test_accuracy_mean"] for row in seen],
            yerr=[row["test_accuracy_std"] for row in seen],
            marker=marker,
            color=COLOURS[kind],
            capsize=2,
            linewidth=1.2,
            label=f"{kind}, {_span([row['weights'] for row in points])} weights",
        )
        for row in points if kind == "sparse" else []:
            percent = f"{100 * row['connectivity']:.{3 if row['connectivity'] > 0.1 else 2}g} %"
            if row in seen:
                place, text, offset = row["test_accuracy_mean"], percent, (4, -11)
            else:
                place, text, offset = floor, f"↓ {row['test_accuracy_mean']:.3f}\n{percent}", (-14, 4)
            _note(axes, text, (row["width"], place), offset, COLOURS[kind])
    if floor < base:
        axes.set_ylim(bottom=floor)
    if preset.dataset == "mnist":
        label = f"the accuracy axis of the paper's Figure 8a, {PAPER_AXIS[0]}–{PAPER_AXIS[1]}"
        axes.axhspan(*PAPER_AXIS, color="0.5", alpha=0.12, zorder=0, label=label)
    seeds = rows[0]["seeds"]
    samples = f"{preset.train_samples} samples" if preset.train_samples else "all samples"
    axes.set(
        xlabel="width (hidden units); percent: connectivity",
        ylabel="test accuracy after the last epoch",
        title=f"(a) {preset.dataset}, {samples}, {preset.epochs} epochs, {seeds} seed{'s' * (seeds > 1)}",
    )
    axes.legend(frameon=False, loc="lower right", fontsize=8, bbox_to_anchor=(0.97, 0.06))


def draw_distances(axes: Axes, rows: Sequence[dict], floor: float, dataset: str, pairs: int) -> None:
    """Figure 8b: D at initialisation, by Theorem 1, by (4) and measured (standard errors); the test error beside."""
    widths = [row["width"] for row in rows]
    exact, approximate, measured, stderr = (
        [row[f"distance_{name}"] for row in rows]
        for name in ("exact", "eq4", "empirical", "empirical_stderr")
    )
    handles = [
        *axes.plot(widths, exact, color=COLOURS["theory"], label="D, exact (Theorem 1)"),
        *axes.plot(widths, approximate, "--", color=COLOURS["theory"], label="D by the paper's equation (4)"),
        axes.errorbar(
            widths, measured, stderr, fmt="o", capsize=3, color=COLOURS["dense"], label="D of the networks"
        ),
    ]
    if dataset == "mnist":
        label = f"the axis of D in the paper's Figure 8b, {PAPER_DISTANCES[0]}–{PAPER_DISTANCES[1]}"
        handles.append(axes.axhspan(*PAPER_DISTANCES, color="0.5", alpha=0.12, zorder=0, label=label))
    axes.set_yscale("log")
    lowest = min(*exact, *approximate, *measured)
    axes.set(
        xlabel="width (hidden units)",
        ylabel="mean squared distance D from the infinite width's kernel",
        title=f"(b) at initialisation, {pairs:,} pairs of test images",
        ylim=(lowest / 2, None),
    )
    beside = axes.twinx()
    seen = [row for row in rows if not row["test_accuracy_mean"] < floor]
    handles.append(
        beside.errorbar(
            [row["width"] for row in seen],
            [1 - row["test_accuracy_mean"] for row in seen],
            [row["test_accuracy_std"] for row in seen],
            marker="s",
            capsize=2,
            linewidth=1.2,
            color=COLOURS["error"],
            label="test error (right axis)",
        )
    )
    for row in rows:
        if row not in seen:
            text = f"↑ {1 - row['test_accuracy_mean']:.3f}"
            _note(beside, text, (row["width"], 1 - floor), (-14, -9), COLOURS["error"])
    if len(seen) < len(rows):
        beside.set_ylim(top=1 - floor)
    beside.set_ylabel("test error after training", color=COLOURS["error"])
    beside.tick_params(axis="y", colors=COLOURS["error"])
    beside.spines[["top", "left"]].set_visible(False)
    axes.legend(handles=handles, frameon=False, loc="upper center", fontsize=8)


def _note(axes: Axes, text: str, place: tuple[float, float], offset: tuple[int, int], colour: str) -> None:
    axes.annotate(text, place, xytext=offset, textcoords="offset points", fontsize=7.5, color=colour)


def _span(values: Sequence[int]) -> str:
    """A value, or a range of values."""
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,}–{max(values):,}"
