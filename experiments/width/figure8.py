"""Figure 8 from the rows of kernel_distance.csv: accuracy, and distance with test error, over width; what they say."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.lab.presets import Preset
from experiments.width import distances
from experiments.width.distances import Distance
from wsn.records.record import Result
from wsn.spec import Spec

# The ranges of the axes of Figure 8; its points are not printed as numbers.
PAPER_AXIS = (0.86, 0.94)
PAPER_DISTANCES = (0, 0.03)
COLOURS = {"sparse": "#b5482f", "dense": "#2f6397", "tuned": "#c08a1e", "theory": "0.35", "error": "#c2588f"}


def base_of(rows: Sequence[dict]) -> float:
    """The accuracy of the narrowest dense network, or of what there is while it is not trained."""
    return next((row for row in rows if row["kind"] == "dense"), rows[0])["test_accuracy_mean"]


def floor_of(rows: Sequence[dict]) -> float:
    """The accuracy below which a network is named at the edge of a panel, so that it does not flatten the others."""
    accuracies = [row["test_accuracy_mean"] for row in rows if not math.isnan(row["test_accuracy_mean"])]
    base = base_of(rows)
    return base - 0.35 * (max(accuracies, default=1.0) - base)


def draw(rows: Sequence[dict], preset: Preset, pairs: int) -> Figure:
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


def draw_accuracy(axes: Axes, rows: Sequence[dict], preset: Preset) -> None:
    """Figure 8a: test accuracy over width, dense (circles) and sparse (crosses), bars of one deviation over seeds."""
    base, floor = base_of(rows), floor_of(rows)
    for kind, marker in (("dense", "o"), ("sparse", "x"), ("tuned", "+")):
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


def verdict(rows: Sequence[dict]) -> str:
    """The answer in a line: the best sparse network against the dense one of the same weight count."""
    sparse = [row for row in rows if row["kind"] == "sparse"]
    if not sparse:
        return "No sparse network has been trained yet."
    base = min(sparse, key=lambda row: row["width"])
    best = max(
        sparse, key=lambda row: -1.0 if math.isnan(row["test_accuracy_mean"]) else row["test_accuracy_mean"]
    )
    gain = best["test_accuracy_mean"] - base["test_accuracy_mean"]
    error = math.hypot(*(row["test_accuracy_std"] / math.sqrt(row["seeds"]) for row in (best, base)))
    if best is base:
        return f"With {base['weights']} weights the narrowest network, width {base['width']}, is the best."
    return (
        f"With {base['weights']} weights, width {best['width']} reaches {best['test_accuracy_mean']:.3f} and width"
        f" {base['width']} {base['test_accuracy_mean']:.3f}: {100 * gain:+.1f} ± {100 * error:.1f} percentage points."
    )


def agreement(rows: Sequence[dict]) -> str:
    """Where the measured D lies farthest from the exact one, in standard errors over networks."""
    scores = [
        ((row["distance_empirical"] - row["distance_exact"]) / row["distance_empirical_stderr"], row)
        for row in rows
        if row["distance_empirical_stderr"] > 0  # with very few pairs and weights all networks may give 0
    ]
    if not scores:
        return "Measured and exact D: no error bar to compare by."
    worst, row = max(scores, key=lambda score: abs(score[0]))
    place = f"{row['kind']}, width {row['width']}"
    return f"Measured and exact D: at most {worst:+.1f} standard errors apart ({place})."


def association(
    specs: Sequence[Spec],
    results: Sequence[Result],
    measured: Mapping[Spec, Distance],
    classes: int,
    reference: str,
) -> str:
    """The paper's claim, that test error goes with D, over the sparse networks.

    Networks that cannot learn count by their rank alone; one that diverged has the mean of its other seeds.
    """
    if not specs:
        return "No sparse network has been trained yet: no correlation of D and test error."
    found = sorted(results, key=lambda result: result.seed)
    curves = [[r.curves["test_accuracy"][-1] for r in found if r.spec == spec] for spec in specs]
    accuracy = np.array(curves, np.float64)
    ended = np.asarray(~np.isnan(accuracy).all(axis=1))
    mean = np.full((len(specs), 1), np.nan)
    mean[ended] = np.nanmean(accuracy[ended], axis=1, keepdims=True)
    error = 1 - np.where(np.isnan(accuracy), mean, accuracy)
    learns = np.asarray(mean[:, 0] >= 2 / classes)
    distance = np.array([measured[spec].empirical[reference] for spec in specs])

    def line(name: str, chosen: np.ndarray, ranked: bool) -> str:
        absent = ", ".join(str(spec.width) for spec, is_in in zip(specs, chosen, strict=True) if not is_in)
        name = f"  {name}{f' (without width {absent})' if absent else ''}: "
        if chosen.sum() < 4:
            return f"{name}fewer than 4 networks, too few"
        r, low, high = distances.correlation(distance[chosen], error[chosen], ranked)
        z_low, z_high = distances.fisher_interval(r, int(chosen.sum()))
        over_networks = "" if ranked else f"; over networks, by Fisher's z: {z_low:.2f} to {z_high:.2f}"
        return f"{name}{r:.2f} ({low:.2f} to {high:.2f}{over_networks})"

    return "\n".join(
        [
            "Correlation of D and test error over the sparse networks (95 % interval by bootstrap over seeds):",
            line("Spearman's, of all", ended, True),
            line("Pearson's, of those that reach twice the accuracy of chance", learns, False),
        ]
    )
