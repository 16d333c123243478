"""Figure 5 from the rows of mlp_grid.csv: final accuracy by width and last-layer connectivity, and the best cell."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure, SubFigure

from experiments.lab.plots import Plot
from experiments.lab.presets import Family

# Appendix A, Figure 5: best final accuracy and where; the baselines are given as "approximately 90 %".
PAPER_BEST = {"relu": (0.963, "widths 80, 160"), "linear": (0.927, "width 40")}
PAPER_LOWEST_COLOR = 0.70
PLOT = Plot(
    "width",
    "final_test_accuracy_mean",
    "width",
    "test accuracy after the last epoch",
    curves=("activation", "last_connectivity"),
    percent=True,
)
PAPER_FRACTIONS = 10  # connectivities of the last layer


def best(rows: Sequence[Mapping]) -> Mapping | None:
    """The cell of the highest final accuracy, or None where every cell diverged."""
    trained = [row for row in rows if not math.isnan(row["final_test_accuracy_mean"])]
    return max(trained, key=lambda row: row["final_test_accuracy_mean"], default=None)


def baseline(rows: Sequence[Mapping]) -> float | None:
    """Final accuracy of the dense network of the base width, if it is in the grid."""
    return next((row["final_test_accuracy_mean"] for row in rows if row["connectivity"] == 1.0), None)


def draw(
    rows: Sequence[dict],
    preset: Family,
    activations: Sequence[str],
    fractions: Sequence[float],
    whole: Family,
) -> Figure:
    """Both panels of Figure 5; `whole` is the paper's grid, with all fractions."""
    figure = Figure(figsize=(1.2 + 5.4 * len(activations), 5.0), layout="constrained")
    panels = np.ravel(figure.subfigures(1, len(activations), squeeze=False))
    for panel, activation in zip(panels, activations, strict=True):
        _draw_panel(panel, [r for r in rows if r["activation"] == activation], preset, activation, fractions)
    cut, part = "", ""
    if preset.dataset == whole.dataset:
        cut = f" (the paper: {whole.epochs})" if preset.epochs != whole.epochs else ""
        part = (
            ", part of the paper's grid"
            if (preset.widths, len(fractions)) != (whole.widths, PAPER_FRACTIONS)
            else ""
        )
    seeds = f"{preset.seeds} seed{'s' * (preset.seeds > 1)}"
    figure.suptitle(
        f"{preset.dataset}, {rows[0]['weights']} weights, {preset.epochs} epochs{cut}, {seeds}{part}",
        fontsize=11,
    )
    return figure


def _draw_panel(
    panel: SubFigure, rows: Sequence[dict], preset: Family, activation: str, fractions: Sequence[float]
) -> None:
    accuracy = {(row["last_connectivity"], row["width"]): row["final_test_accuracy_mean"] for row in rows}
    image = np.array([[accuracy.get((f, w), np.nan) for w in preset.widths] for f in fractions])
    top, center = best(rows), baseline(rows)
    axes = panel.subplots()
    norm = None
    if top is not None and center is not None and center < top["final_test_accuracy_mean"]:
        # As in the paper: centered on the baseline, up to the best, everything below 0.70 in one color.
        low = min(PAPER_LOWEST_COLOR, center - 0.05)
        norm = TwoSlopeNorm(vmin=low, vcenter=center, vmax=top["final_test_accuracy_mean"])
    mesh = axes.imshow(image, cmap="RdBu_r", norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(image):
        if not np.isnan(value):
            dark = abs(np.asarray(mesh.norm(value), float) - 0.5) > 0.35  # at both ends of the color map
            axes.text(
                column,
                row,
                f"{100 * value:.1f}",
                ha="center",
                va="center",
                fontsize=7,
                color="white" if dark else "black",
            )
    if top is not None:
        place = preset.widths.index(top["width"]), fractions.index(top["last_connectivity"])
        # next to the number, so that both are legible
        axes.plot(place[0] - 0.36, place[1], marker="*", color="white", markersize=9, markeredgecolor="black")
    overall = {row["width"]: row["connectivity"] for row in rows}
    names = [f"{w}\n{overall[w]:.2g}" if w in overall else f"{w}" for w in preset.widths]
    axes.set_xticks(range(len(preset.widths)), names, fontsize=8)
    axes.set_yticks(range(len(fractions)), [f"{f:g}" for f in fractions], fontsize=8)
    axes.set(
        xlabel=f"{PLOT.xlabel}; connectivity of the whole network", ylabel="connectivity of the last layer"
    )
    title = activation if top is None else f"{activation}: best {100 * top['final_test_accuracy_mean']:.1f} %"
    if preset.dataset == "mnist":
        value, where = PAPER_BEST[activation]
        title += f"; the paper's best {100 * value:.1f} % ({where})"
    axes.set_title(title, fontsize=9)
    bar = panel.colorbar(mesh, ax=axes, extend="min", label="final test accuracy (white: baseline)")
    if (
        preset.dataset == "mnist"
        and top is not None
        and PAPER_BEST[activation][0] <= top["final_test_accuracy_mean"]
    ):
        bar.ax.axhline(PAPER_BEST[activation][0], color="black", linewidth=1)


def verdict(rows: Sequence[dict], activation: str) -> str:
    """Best cell against the baseline, in a line."""
    rows = [row for row in rows if row["activation"] == activation]
    top, dense = best(rows), baseline(rows)
    if top is None:
        return f"{activation}: every cell diverged" if rows else f"{activation}: no cell has been trained"
    line = (
        f"{activation}: best {100 * top['final_test_accuracy_mean']:.2f} % at width {top['width']}"
        f" (connectivity {top['connectivity']:.3f}, last layer {top['last_connectivity']:g})"
    )
    if dense is not None:
        line += f", baseline {100 * dense:.2f} %"
    means: dict[int, list[float]] = {}
    for row in rows:
        if row["last_connectivity"] >= 0.8 and not math.isnan(row["final_test_accuracy_mean"]):
            means.setdefault(row["width"], []).append(row["final_test_accuracy_mean"])
    if means:
        width = max(means, key=lambda w: np.mean(means[w]))
        peak = 100 * np.mean(means[width])
        line += f"; mean over last-layer connectivity ≥ 0.8 peaks at width {width}, {peak:.2f} %"
    return line
