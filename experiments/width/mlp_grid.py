"""Figure 5: where to remove weights in an MLP with one hidden layer, by width and connectivity of the last layer.

    python -m experiments.mlp_grid  # digits, a minute on 2 cores
    python -m experiments.mlp_grid --preset=paper --dataset=mnist --epochs=30  # MNIST, about 25 minutes on 2 cores
    python -m experiments.mlp_grid --preset=paper --dataset=mnist  # MNIST, the paper's 300 epochs, 4 hours (estimated)

Every cell has the weight count of the dense network of base width (3970 in the paper); the last layer keeps the given
fraction of its weights, the first layer the rest of the budget. ReLU and linear activations, biases, PyTorch's
initialization, plain SGD. Cells that cannot meet the budget stay empty; a star marks the best cell. The cells of one
width train as one program. Writes WORKDIR/mlp_grid.csv, a row per cell, and WORKDIR/mlp_grid.png.
The paper's best cells: 96.3 % at widths 80 and 160 (ReLU), 92.7 % at width 40 (linear); baseline about 90 %.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure, SubFigure

from experiments.lab import families, launch, output, presets
from experiments.lab.families import Network
from experiments.lab.flags import Command
from experiments.lab.launch import Run
from experiments.lab.plots import Plot
from wsn.errors import UserError
from wsn.sparsity import budget, family
from wsn.sparsity.shapes import sizes
from wsn.spec import Spec, setting

EXPERIMENT = "mlp_grid"
COLUMNS = [
    "activation", "width", "last_connectivity", "connectivity", "weights", "seeds", "diverged", "epochs",
    "final_test_accuracy_mean", "final_test_accuracy_std", "best_test_accuracy_mean", "train_accuracy_mean",
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(presets.Family):
    """Settings of the grid."""

    activations: tuple[str, ...] = setting("Panels to train.", ("relu", "linear"), choices=("relu", "linear"))
    last_connectivity: tuple[float, ...] = setting(
        "Rows of the grid, fractions in (0, 1].",
        (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1),
        above=0,
        most=1,
        some=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.last_connectivity)) < len(self.last_connectivity):
            raise UserError("`last_connectivity`: give different numbers in (0, 1], such as 1.0,0.5,0.1")


PRESETS = {
    "quick": Preset(
        dataset="digits",
        base_width=3,
        widths=(3, 6, 12, 24, 48),
        batch_size=20,
        epochs=60,
        seeds=3,
    ),
    # Appendix A; the paper does not say over how many seeds it averages.
    "paper": Preset(
        dataset="mnist",
        base_width=5,
        widths=(5, 10, 20, 40, 80, 160, 320, 640),
        batch_size=100,
        epochs=300,
        seeds=1,
    ),
}


def template(preset: Preset) -> Spec:
    """The network of base width; activation and kept counts are set later."""
    return presets.spec(preset, bias=True, learning_rate=0.1)


def networks(preset: Preset) -> list[Network]:
    """A network for every cell of the grid that can meet the budget. Raises UserError for a width where none can."""
    base = template(preset)
    shapes = families.shapes_of(base)
    family.check_widths(preset.base_width, preset.widths)
    total = family.weights(shapes(preset.base_width))
    planned = []
    for width in preset.widths:
        refusals = []
        for fraction in preset.last_connectivity:
            try:
                kept = budget.last_layer_fraction(sizes(shapes(width)), total, fraction)
            except UserError as refusal:
                refusals.append(refusal)
                continue
            spec = family.with_kept(base, width, kept, shapes(width))
            for activation in preset.activations:
                cell = {"activation": activation, "last_connectivity": fraction}
                of_cell = dataclasses.replace(spec, activation=activation)
                kind = "sparse" if spec.kept else "dense"
                planned.append(Network(preset.base_width, kind, of_cell, preset.seeds, cell))
        if len(refusals) == len(preset.last_connectivity):
            raise UserError(f"`widths={width}`: {refusals[-1]}")
    return planned


# The figure.


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


def best(rows: Sequence[Mapping]) -> Mapping | None:
    """The cell of the highest final accuracy, or None where every cell diverged."""
    trained = [row for row in rows if not math.isnan(row[PLOT.y])]
    return max(trained, key=lambda row: row[PLOT.y], default=None)


def baseline(rows: Sequence[Mapping]) -> float | None:
    """Final accuracy of the dense network of the base width, if it is in the grid."""
    return next((row[PLOT.y] for row in rows if row["connectivity"] == 1.0), None)


def draw(rows: Sequence[dict], preset: Any, whole: Any) -> Figure:
    """Both panels of Figure 5 by the settings of `mlp_grid`; `whole` are those of the paper's grid."""
    figure = Figure(figsize=(1.2 + 5.4 * len(preset.activations), 5.0), layout="constrained")
    panels = np.ravel(figure.subfigures(1, len(preset.activations), squeeze=False))
    for panel, activation in zip(panels, preset.activations, strict=True):
        _draw_panel(panel, [row for row in rows if row["activation"] == activation], preset, activation)
    cut, part = "", ""
    if preset.dataset == whole.dataset:
        cut = f" (the paper: {whole.epochs})" * (preset.epochs != whole.epochs)
        same = (preset.widths, preset.last_connectivity) == (whole.widths, whole.last_connectivity)
        part = "" if same else ", part of the paper's grid"
    seeds = f"{preset.seeds} seed{'s' * (preset.seeds > 1)}"
    title = f"{preset.dataset}, {rows[0]['weights']} weights, {preset.epochs} epochs{cut}, {seeds}{part}"
    figure.suptitle(title, fontsize=11)
    return figure


def _draw_panel(panel: SubFigure, rows: Sequence[dict], preset: Any, activation: str) -> None:
    widths, fractions = preset.widths, preset.last_connectivity
    accuracy = {(row["last_connectivity"], row["width"]): row[PLOT.y] for row in rows}
    image = np.array([[accuracy.get((f, w), np.nan) for w in widths] for f in fractions])
    top, center = best(rows), baseline(rows)
    highest = top[PLOT.y] if top else math.nan
    norm = None
    if center is not None and center < highest:
        # As in the paper: centered on the baseline, up to the best, everything below 0.70 in one color.
        norm = TwoSlopeNorm(vmin=min(PAPER_LOWEST_COLOR, center - 0.05), vcenter=center, vmax=highest)
    axes = panel.subplots()
    mesh = axes.imshow(image, cmap="RdBu_r", norm=norm, aspect="auto")
    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7}
    for (row, column), value in np.ndenumerate(image):
        if not np.isnan(value):
            dark = abs(np.asarray(mesh.norm(value), float) - 0.5) > 0.35  # at both ends of the color map
            axes.text(column, row, f"{100 * value:.1f}", color="white" if dark else "black", **style)
    if top is not None:
        x, y = (
            widths.index(top["width"]) - 0.36,
            fractions.index(top["last_connectivity"]),
        )  # beside the number
        axes.plot(x, y, marker="*", color="white", markersize=9, markeredgecolor="black")
    overall = {row["width"]: row["connectivity"] for row in rows}
    names = [f"{w}\n{overall[w]:.2g}" if w in overall else f"{w}" for w in widths]
    axes.set_xticks(range(len(widths)), names, fontsize=8)
    axes.set_yticks(range(len(fractions)), [f"{f:g}" for f in fractions], fontsize=8)
    axes.set(xlabel=f"{PLOT.xlabel}; connectivity of the whole network")
    axes.set(ylabel="connectivity of the last layer")
    bar = panel.colorbar(mesh, ax=axes, extend="min", label="final test accuracy (white: baseline)")
    title = activation if top is None else f"{activation}: best {100 * highest:.1f} %"
    if preset.dataset == "mnist":
        value, where = PAPER_BEST[activation]
        title += f"; the paper's best {100 * value:.1f} % ({where})"
        if value <= highest:
            bar.ax.axhline(value, color="black", linewidth=1)
    axes.set_title(title, fontsize=9)


def verdict(rows: Sequence[dict], activation: str) -> str:
    """Best cell against the baseline, in a line."""
    rows = [row for row in rows if row["activation"] == activation]
    top, dense = best(rows), baseline(rows)
    if top is None:
        return f"{activation}: every cell diverged" if rows else f"{activation}: no cell has been trained"
    line = (
        f"{activation}: best {100 * top[PLOT.y]:.2f} % at width {top['width']}"
        f" (connectivity {top['connectivity']:.3f}, last layer {top['last_connectivity']:g})"
    )
    if dense is not None:
        line += f", baseline {100 * dense:.2f} %"
    means: dict[int, list[float]] = {}
    for row in rows:
        if row["last_connectivity"] >= 0.8 and not math.isnan(row[PLOT.y]):
            means.setdefault(row["width"], []).append(row[PLOT.y])
    if means:
        width = max(means, key=lambda w: np.mean(means[w]))
        peak = 100 * np.mean(means[width])
        line += f"; mean over last-layer connectivity ≥ 0.8 peaks at width {width}, {peak:.2f} %"
    return line


def program(network: Network) -> tuple[str, int]:
    """What the networks of one program share."""
    return network.spec.activation, network.spec.width


def main(preset: Preset, run: Run) -> None:
    if rows := families.rows_of(networks(preset), run, EXPERIMENT, program):
        lines = [verdict(rows, activation) for activation in preset.activations]
        figure = draw(rows, preset, PRESETS["paper"])
        output.print_table(rows, COLUMNS)
        launch.publish(run, EXPERIMENT, rows, COLUMNS, figure, PLOT, lines)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), template)

if __name__ == "__main__":
    launch.run(COMMAND)
