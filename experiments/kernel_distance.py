"""Figure 8: test accuracy, and distance from the infinite width, over width at a fixed number of weights.

    python -m experiments.kernel_distance                                    # digits, a minute on 2 cores
    python -m experiments.kernel_distance --preset=paper --dataset=mnist     # the paper's Figure 8, about 40 minutes

MLPs with one hidden layer. Sparse networks have the weight count of the dense network of base width, however wide they
are (the last layer stays dense); dense networks of the same widths beside them. No biases, ReLU, NTK parameterisation,
SGD without momentum. What D is, and how it is found, is in `experiments.distances`.
Writes WORKDIR/kernel_distance.csv, a row per network, and WORKDIR/kernel_distance.png.
Expect on MNIST (10 seeds): 0.863 at width 8, 0.893–0.899 at widths 32 to 328, 0.868 at 512; dense 0.932 at width 635.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from absl import flags

from experiments.lab import cli, distances, figure8, inputs
from experiments.lab.distances import Distance
from wsn.errors import UserError
from wsn.records import record
from wsn.sparsity import family
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
    *distances.COLUMNS,
]
Rates = Mapping[int, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(cli.Preset):
    """Settings of one figure; `rates` are the learning rates, kind → width → rate."""

    rates: Mapping[str, Rates]
    validation_samples: int  # for --tune_lr alone
    # For the distance: pairs of test images, and seeds 0, 1, … of every network, the first of which are trained.
    pairs: int
    initialisations: int


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
        pairs=1000,
        initialisations=100,
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
        pairs=10000,
        initialisations=100,
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


def kind_of(spec: Spec) -> str:
    """Whose learning rate it has: the base network is the dense one, in the sparse family too."""
    return "sparse" if spec.kept else "dense"


def with_rates(specs: Mapping[str, Sequence[Spec]], rates: Mapping[str, Rates]) -> dict[str, list[Spec]]:
    """Give every spec its learning rate: --learning_rate, else the preset's; what was interpolated is printed."""
    chosen: dict[Spec, Spec] = {}
    for spec in itertools.chain(*specs.values()):
        if spec in chosen:  # the base network
            continue
        kind, rate = kind_of(spec), cli.FLAGS.learning_rate
        if rate is None:
            rate = rate_at(rates[kind], spec.width)
            if spec.width not in rates[kind]:
                print(
                    f"learning rate {rate:g} for width {spec.width} ({kind}), interpolated from the preset's"
                )
        chosen[spec] = dataclasses.replace(spec, learning_rate=float(rate))
    return {kind: [chosen[spec] for spec in members] for kind, members in specs.items()}


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
            centre = rate_at(preset.rates[kind_of(spec)], spec.width)
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


def table(
    preset: Preset,
    specs: Mapping[str, Sequence[Spec]],
    results: Sequence[record.Result],
    measured: Mapping[Spec, Distance],
) -> list[dict]:
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
        | distances.columns(measured[spec], cli.FLAGS.reference)
        for kind, members in specs.items()
        for spec in members
        if spec in trained
    ]


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
    specs: Sequence[Spec], results: Sequence[record.Result], measured: Mapping[Spec, Distance], classes: int
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
    distance = np.array([measured[spec].empirical[cli.FLAGS.reference] for spec in specs])

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


def main() -> None:
    preset = cli.choose(PRESETS)
    if preset.initialisations < 2:
        raise UserError(f"--initialisations={preset.initialisations} has no error bar: give at least 2")
    specs = networks(preset)
    cli.source_of(specs["dense"][0])  # bad settings of the data show first
    images = cli.dataset(preset.dataset)
    pairs = inputs.of_images(images, cli.FLAGS.normalization, preset.pairs, cli.FLAGS.data_seed)
    rates = tune(preset, specs) if cli.FLAGS.tune_lr else preset.rates
    if rates is None:  # the dry run of --tune_lr ends with its own plan
        return
    specs = with_rates(specs, rates)
    distinct = dict.fromkeys(itertools.chain(*specs.values()))
    results = cli.train([[spec] for spec in distinct], preset.seeds)
    if results is None:
        return
    trained = {result.spec for result in results}
    theta = distances.references(pairs)
    measured = distances.measure(
        [spec for spec in distinct if spec in trained], pairs, images.classes, preset.initialisations, theta
    )
    rows = table(preset, specs, results, measured)
    cli.print_table(rows, COLUMNS)
    written = (
        cli.write_table(EXPERIMENT, rows, COLUMNS),
        cli.write_figure(EXPERIMENT, figure8.draw(rows, preset, preset.pairs)),
    )
    print(verdict(rows))
    print(agreement(rows))
    print(distances.compared(measured, pairs, theta))
    print(distances.least(pairs, preset.base_width, images.classes))
    print(association([s for s in specs["sparse"] if s in trained], results, measured, images.classes))
    print("wrote", *written)


def define_distance_flags() -> None:
    """--pairs, --initialisations, --reference."""
    flags.DEFINE_integer("pairs", None, "Pairs of test images, drawn by --data_seed, that D is a mean over.")
    flags.DEFINE_integer(
        "initialisations", None, "Seeds 0, 1, … of every network that D is a mean over; --seeds are trained."
    )
    flags.DEFINE_enum(
        "reference",
        "exact",
        ["exact", "finite"],
        "The kernel that D of the networks is a distance to: of infinite width, or as in the paper of a"
        f" dense network of width {distances.REFERENCE_WIDTH}.",
    )


if __name__ == "__main__":
    cli.define_output_flags(EXPERIMENT)
    cli.define_training_flags(PRESETS, "quick")
    define_distance_flags()
    flags.DEFINE_boolean("tune_lr", False, "Find the learning rates first, on held-out training samples.")
    cli.run(main)
