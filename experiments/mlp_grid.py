"""Figure 5: where to remove weights in an MLP with one hidden layer, by width and connectivity of the last layer.

    python -m experiments.mlp_grid                                                # digits, a minute on 2 cores
    python -m experiments.mlp_grid --preset=paper --dataset=mnist --epochs=30     # MNIST, about 25 minutes on 2 cores
    python -m experiments.mlp_grid --preset=paper --dataset=mnist                 # the paper's 300 epochs

Every cell has the weight count of the dense network of base width (3970 in the paper); the last layer keeps the given
fraction of its weights, the first layer the rest of the budget. ReLU and linear, biases, PyTorch's initialisation,
plain SGD. Combinations that cannot hold the budget stay empty; the star marks the best cell. The cells of one width
train as one program. Writes WORKDIR/mlp_grid.csv, a row per cell, and WORKDIR/mlp_grid.png.
The paper's best cells: 96.3 % at widths 80 and 160 (ReLU), 92.7 % at width 40 (linear); baseline about 90 %.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure, SubFigure

from experiments.lab import cli
from wsn.errors import UserError
from wsn.records import record
from wsn.sparsity import budget, family
from wsn.sparsity.shapes import sizes
from wsn.spec import Spec

EXPERIMENT = "mlp_grid"
COLUMNS = [
    "activation",
    "width",
    "last_connectivity",
    "connectivity",
    "weights",
    "seeds",
    "diverged",
    "epochs",
    "final_test_accuracy_mean",
    "final_test_accuracy_std",
    "best_test_accuracy_mean",
    "train_accuracy_mean",
]
# Appendix A, Figure 5: best final accuracy and where; the baselines are given as "approximately 90 %".
PAPER_BEST = {"relu": (0.963, "widths 80, 160"), "linear": (0.927, "width 40")}
PAPER_LOWEST_COLOUR = 0.70
FRACTIONS = ("1.0", "0.9", "0.8", "0.7", "0.6", "0.5", "0.4", "0.3", "0.2", "0.1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(cli.Preset):
    """Settings of the grid."""

    learning_rate: float = 0.1


PRESETS = {
    "quick": Preset(
        dataset="digits",
        base_width=3,
        widths=(3, 6, 12, 24, 48),
        train_samples=None,
        batch_size=20,
        epochs=60,
        seeds=3,
    ),
    # Appendix A; the paper does not say over how many seeds it averages.
    "paper": Preset(
        dataset="mnist",
        base_width=5,
        widths=(5, 10, 20, 40, 80, 160, 320, 640),
        train_samples=None,
        batch_size=100,
        epochs=300,
        seeds=1,
    ),
}

Cells = dict[tuple[str, int, float], Spec]  # (activation, width, connectivity of the last layer) → network


def cells(preset: Preset, activations: Sequence[str], fractions: Sequence[float]) -> Cells:
    """Every combination that can hold the budget of the base width.

    Raises UserError for a width at which none can.
    """
    template = Spec(
        dataset=preset.dataset,
        train_samples=preset.train_samples,
        width=preset.base_width,
        bias=True,
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        learning_rate=preset.learning_rate,
        **cli.settings(),
    )
    shapes = cli.shapes_of(template)
    family.check_widths(preset.base_width, preset.widths)
    total = family.weights(shapes(preset.base_width))
    found: Cells = {}
    for width in preset.widths:
        refusals = []
        for fraction in fractions:
            try:
                kept = budget.last_layer_fraction(sizes(shapes(width)), total, fraction)
            except UserError as refusal:
                refusals.append(refusal)
                continue
            spec = family.with_kept(template, width, kept, shapes(width))
            for activation in activations:
                found[activation, width, fraction] = dataclasses.replace(spec, activation=activation)
        if len(refusals) == len(fractions):
            raise refusals[-1]
    return found


def table(preset: Preset, grid: Cells, results: Sequence[record.Result]) -> list[dict]:
    """A row per cell that has been trained."""
    by_spec: dict[Spec, list[record.Result]] = {}
    for result in results:
        by_spec.setdefault(result.spec, []).append(result)
    rows = []
    for (activation, width, fraction), spec in grid.items():
        if spec not in by_spec:
            continue
        shapes = cli.shapes_of(spec)(width)
        row = cli.summary(by_spec[spec])
        rows.append(
            {
                "activation": activation,
                "width": width,
                "last_connectivity": fraction,
                "connectivity": family.connectivity(spec, shapes),
                "weights": family.kept_weights(spec, shapes),
                "epochs": spec.epochs,
                "final_test_accuracy_mean": row["test_accuracy_mean"],
                "final_test_accuracy_std": row["test_accuracy_std"],
            }
            | row
        )
    return rows


def best(rows: Sequence[Mapping]) -> Mapping | None:
    """The cell of the highest final accuracy, or None where every cell diverged."""
    trained = [row for row in rows if not math.isnan(row["final_test_accuracy_mean"])]
    return max(trained, key=lambda row: row["final_test_accuracy_mean"], default=None)


def baseline(rows: Sequence[Mapping]) -> float | None:
    """Final accuracy of the dense network of the base width, if it is in the grid."""
    return next((row["final_test_accuracy_mean"] for row in rows if row["connectivity"] == 1.0), None)


def draw(
    rows: Sequence[dict], preset: Preset, activations: Sequence[str], fractions: Sequence[float]
) -> Figure:
    """Both panels of Figure 5."""
    figure = Figure(figsize=(1.2 + 5.4 * len(activations), 5.0), layout="constrained")
    panels = np.ravel(figure.subfigures(1, len(activations), squeeze=False))
    for panel, activation in zip(panels, activations, strict=True):
        _draw_panel(panel, [r for r in rows if r["activation"] == activation], preset, activation, fractions)
    whole, cut, part = PRESETS["paper"], "", ""
    if preset.dataset == whole.dataset:
        cut = f" (the paper: {whole.epochs})" if preset.epochs != whole.epochs else ""
        part = (
            ", part of the paper's grid"
            if (preset.widths, len(fractions)) != (whole.widths, len(FRACTIONS))
            else ""
        )
    seeds = f"{preset.seeds} seed{'s' * (preset.seeds > 1)}"
    figure.suptitle(
        f"{preset.dataset}, {rows[0]['weights']} weights, {preset.epochs} epochs{cut}, {seeds}{part}",
        fontsize=11,
    )
    return figure


def _draw_panel(
    panel: SubFigure, rows: Sequence[dict], preset: Preset, activation: str, fractions: Sequence[float]
) -> None:
    accuracy = {(row["last_connectivity"], row["width"]): row["final_test_accuracy_mean"] for row in rows}
    image = np.array([[accuracy.get((f, w), np.nan) for w in preset.widths] for f in fractions])
    top, centre = best(rows), baseline(rows)
    axes = panel.subplots()
    norm = None
    if top is not None and centre is not None and centre < top["final_test_accuracy_mean"]:
        # As in the paper: centred on the baseline, up to the best, everything below 0.70 in one colour.
        low = min(PAPER_LOWEST_COLOUR, centre - 0.05)
        norm = TwoSlopeNorm(vmin=low, vcenter=centre, vmax=top["final_test_accuracy_mean"])
    mesh = axes.imshow(image, cmap="RdBu_r", norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(image):
        if not np.isnan(value):
            dark = abs(np.asarray(mesh.norm(value), float) - 0.5) > 0.35  # both ends of the colour map are
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
        # Beside the number, so that both can be read.
        axes.plot(place[0] - 0.36, place[1], marker="*", color="white", markersize=9, markeredgecolor="black")
    overall = {row["width"]: row["connectivity"] for row in rows}
    names = [f"{w}\n{overall[w]:.2g}" if w in overall else f"{w}" for w in preset.widths]
    axes.set_xticks(range(len(preset.widths)), names, fontsize=8)
    axes.set_yticks(range(len(fractions)), [f"{f:g}" for f in fractions], fontsize=8)
    axes.set(xlabel="width; connectivity of the whole network", ylabel="connectivity of the last layer")
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


def main() -> None:
    preset = cli.choose(PRESETS)
    activations = cli.FLAGS.activations
    fractions = _fractions()
    grid = cells(preset, activations, fractions)
    families: dict[tuple[str, int], list[Spec]] = {}
    for (activation, width, _), spec in grid.items():
        families.setdefault((activation, width), []).append(spec)
    results = cli.train(families.values(), preset.seeds)
    if results is None:
        return
    rows = table(preset, grid, results)
    cli.print_table(rows, COLUMNS)
    figure = draw(rows, preset, activations, fractions)
    written = cli.write_table(EXPERIMENT, rows, COLUMNS), cli.write_figure(EXPERIMENT, figure)
    for activation in activations:
        print(verdict(rows, activation))
    print("wrote", *written)


def _fractions() -> list[float]:
    try:
        fractions = [float(item) for item in cli.FLAGS.last_connectivity]
    except ValueError:
        raise UserError(
            f"--last_connectivity={','.join(cli.FLAGS.last_connectivity)} is not a list of numbers in (0, 1]"
        ) from None
    if not fractions or len(set(fractions)) != len(fractions) or not all(0 < f <= 1 for f in fractions):
        raise UserError("--last_connectivity: give different numbers in (0, 1], such as 1.0,0.5,0.1")
    return fractions


if __name__ == "__main__":
    cli.define_output_flags(EXPERIMENT)
    cli.define_training_flags(PRESETS, "quick")
    flags.DEFINE_multi_enum("activations", ["relu", "linear"], ["relu", "linear"], "Panels to train.")
    flags.DEFINE_list(
        "last_connectivity",
        "1.0,0.9,0.8,0.7,0.6,0.5,0.4,0.3,0.2,0.1",
        "Rows of the grid, fractions in (0, 1].",
    )
    cli.run(main)
