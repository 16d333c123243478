"""Figure 8: test accuracy over width at a fixed number of weights, MLPs with one hidden layer.

    python -m experiments.kernel_distance                                    # digits, a minute on 2 cores
    python -m experiments.kernel_distance --preset=paper --dataset=mnist     # the paper's Figure 8a, about 40 minutes

Sparse networks have the weight count of the dense network of base width, however wide they are (the last layer stays
dense); dense networks of the same widths beside them. No biases, ReLU, NTK parameterisation, SGD without momentum.
Writes WORKDIR/kernel_distance.csv, a row per network, and WORKDIR/kernel_distance.png.
Expect on MNIST (10 seeds): 0.863 at width 8, 0.893–0.899 at widths 32 to 328, 0.868 at 512; dense 0.932 at width 635.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import cli
from wsn import family, runs
from wsn.errors import UserError
from wsn.spec import Spec

EXPERIMENT = "kernel_distance"
COLUMNS = [
    "kind",
    "width",
    "connectivity",
    "weights",
    "seeds",
    "diverged",
    "epochs",
    "learning_rate",
    "test_accuracy_mean",
    "test_accuracy_std",
    "best_test_accuracy_mean",
    "train_accuracy_mean",
    "test_loss_mean",
]
# The range of the accuracy axis of Figure 8a; its points are not printed as numbers.
PAPER_AXIS = (0.86, 0.94)
COLOURS = {"sparse": "#b5482f", "dense": "#2f6397"}

Rates = Mapping[int, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(cli.Preset):
    """Settings of one figure; `rates` are the learning rates, kind → width → rate."""

    rates: Mapping[str, Rates]
    validation_samples: int  # for --tune_lr alone


PRESETS = {
    "quick": Preset(
        dataset="digits",
        base_width=3,
        widths=(3, 4, 6, 9, 12, 15, 18),
        train_samples=1000,
        batch_size=100,
        epochs=100,
        seeds=10,
        # By --tune_lr, smoothed over the widths.
        rates={
            "sparse": {3: 2.5, 4: 3.5, 6: 6, 9: 11, 12: 16, 15: 17, 18: 18},
            "dense": {3: 2.5, 4: 5, 6: 5, 9: 5, 12: 5, 15: 5, 18: 5},
        },
        validation_samples=297,
    ),
    # Appendix A; widths and learning rates from the authors' code.
    "paper": Preset(
        dataset="mnist",
        base_width=8,
        widths=(8, 32, 128, 216, 328, 512, 635),
        train_samples=2048,
        batch_size=256,
        epochs=300,
        seeds=10,
        rates={
            "sparse": {8: 5, 32: 136, 128: 260, 216: 361, 328: 491, 512: 736, 635: 875},
            "dense": {8: 5, 32: 80, 128: 173, 216: 228, 328: 306, 512: 445, 635: 460},
        },
        validation_samples=10000,
    ),
}
TUNING_SEEDS, TUNING_EPOCHS = 2, 50


def template(preset: Preset) -> Spec:
    """The network of Figure 8 on the data of a preset; width, masks and learning rate are filled in later."""
    return Spec(
        dataset=preset.dataset,
        train_samples=preset.train_samples,
        width=preset.base_width,
        parameterization="ntk",
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        learning_rate=1.0,
        **cli.settings(),
    )


def networks(preset: Preset) -> dict[str, list[Spec]]:
    """Kind → a spec per width, with learning rate 1; at the base width both kinds are the same network."""
    shapes = cli.shapes_of(template(preset))
    return {
        "sparse": family.sparse(template(preset), preset.base_width, preset.widths, shapes, "dense_last"),
        "dense": family.dense(template(preset), preset.widths),
    }


def rate_at(rates: Rates, width: int) -> float:
    """The learning rate of a width: given, or by log-log interpolation between its neighbours.

    Beyond the given widths the nearest two are extended; a single one serves every width.
    """
    known = sorted(rates)
    if width in rates or len(known) == 1:
        return float(rates.get(width, rates[known[0]]))
    right = min(max(int(np.searchsorted(known, width)), 1), len(known) - 1)
    low, high = known[right - 1], known[right]
    slope = math.log(rates[high] / rates[low]) / math.log(high / low)
    return float(f"{rates[low] * (width / low) ** slope:.4g}")


def with_rates(specs: Mapping[str, Sequence[Spec]], rates: Mapping[str, Rates]) -> dict[str, list[Spec]]:
    """Give every spec its learning rate: --learning_rate, else the preset's; what was interpolated is printed."""
    chosen: dict[str, list[Spec]] = {kind: [] for kind in specs}
    for kind, members in specs.items():
        for spec in members:
            rate = cli.FLAGS.learning_rate
            if rate is None:
                rate = rate_at(rates[kind], spec.width)
                if spec.width not in rates[kind]:
                    print(
                        f"learning rate {rate:g} for width {spec.width} ({kind}), interpolated from the preset's"
                    )
            chosen[kind].append(dataclasses.replace(spec, learning_rate=float(rate)))
    return chosen


def tune(preset: Preset, specs: Mapping[str, Sequence[Spec]]) -> Mapping[str, Rates] | None:
    """Learning rate of every network by validation accuracy: a grid around the preset's, 2 seeds, 50 epochs.

    Validation examples are held out of the training split and lie outside the training subset. Writes
    learning_rates.csv. None after a --dry_run.
    """
    if cli.FLAGS.shard:
        raise UserError(
            "--shard: --tune_lr compares all networks; tune without --shard, or give --learning_rate"
        )
    grid = 2.0 ** np.arange(-3.0, 3.5, 0.5)
    candidates = {}
    for kind, members in specs.items():
        for spec in members:
            centre = rate_at(preset.rates[kind], spec.width)
            candidates[kind, spec.width] = tuple(
                dataclasses.replace(
                    spec,
                    learning_rate=float(f"{centre * factor:.4g}"),
                    epochs=min(TUNING_EPOCHS, spec.epochs),
                    validation_samples=preset.validation_samples,
                )
                for factor in grid
            )
    found = cli.train(dict.fromkeys(candidates.values()), TUNING_SEEDS)
    if found is None:
        return None
    rows: list[dict] = []
    best: dict[str, dict[int, float]] = {kind: {} for kind in specs}
    for (kind, width), options in candidates.items():
        scores = {}
        for option in options:
            values = [r.curves["validation_accuracy"][-1] for r in found if r.spec == option]
            scores[option.learning_rate] = float(np.mean(values))  # NaN where one diverged
            rows.append(
                {"kind": kind, "width": width, "learning_rate": option.learning_rate}
                | {"validation_accuracy_mean": scores[option.learning_rate]}
            )
        usable = {rate: score for rate, score in scores.items() if not math.isnan(score)}
        if not usable:
            raise UserError(f"--tune_lr: every learning rate diverged at width {width} ({kind})")
        best[kind][width] = max(usable, key=usable.__getitem__)
    path = cli.write_table(
        "learning_rates", rows, ["kind", "width", "learning_rate", "validation_accuracy_mean"]
    )
    print(f"tuned learning rates (wrote {path}): {best}")
    return best


def table(preset: Preset, specs: Mapping[str, Sequence[Spec]], results: Sequence[runs.Result]) -> list[dict]:
    """A row per network that has been trained; the base network stands under both kinds."""
    shapes = cli.shapes_of(template(preset))
    trained = {result.spec for result in results}
    return [
        {
            "kind": kind,
            "width": spec.width,
            "connectivity": family.connectivity(spec, shapes(spec.width)),
            "weights": family.kept_weights(spec, shapes(spec.width)),
            "epochs": spec.epochs,
            "learning_rate": spec.learning_rate,
        }
        | cli.summary([r for r in results if r.spec == spec])
        for kind, members in specs.items()
        for spec in members
        if spec in trained
    ]


def draw(rows: Sequence[dict], preset: Preset) -> Figure:
    """Figure 8a: test accuracy over width, dense (circles) and sparse (crosses), bars of one deviation over seeds.

    A network far below the base network is named at the lower edge, so that it does not flatten the others.
    """
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes: Axes = figure.subplots()
    accuracies = [row["test_accuracy_mean"] for row in rows if not math.isnan(row["test_accuracy_mean"])]
    base = next((row for row in rows if row["kind"] == "dense"), rows[0])["test_accuracy_mean"]
    floor = base - 0.35 * (max(accuracies, default=1.0) - base)
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
            axes.annotate(
                text,
                (row["width"], place),
                xytext=offset,
                textcoords="offset points",
                fontsize=7.5,
                color=COLOURS[kind],
            )
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
        title=f"{preset.dataset}, {samples}, {preset.epochs} epochs, {seeds} seed{'s' * (seeds > 1)}",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="lower right", fontsize=8, bbox_to_anchor=(0.97, 0.06))
    return figure


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


def main() -> None:
    preset = cli.choose(PRESETS)
    specs = networks(preset)
    rates = tune(preset, specs) if cli.FLAGS.tune_lr else preset.rates
    if rates is None:  # the dry run of --tune_lr ends with its own plan
        return
    specs = with_rates(specs, rates)
    results = cli.train([[spec] for spec in dict.fromkeys(sum(specs.values(), []))], preset.seeds)
    if results is None:
        return
    rows = table(preset, specs, results)
    cli.print_table(rows, COLUMNS)
    written = cli.write_table(EXPERIMENT, rows, COLUMNS), cli.write_figure(EXPERIMENT, draw(rows, preset))
    print(verdict(rows))
    print("wrote", *written)


if __name__ == "__main__":
    cli.define_output_flags(EXPERIMENT)
    cli.define_training_flags(PRESETS, "quick")
    flags.DEFINE_boolean("tune_lr", False, "Find the learning rates first, on held-out training samples.")
    cli.run(main)
