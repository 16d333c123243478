"""Figure 8: test accuracy and distance to the infinite-width kernel, over width at a fixed number of weights.

    python -m experiments.kernel_distance  # digits, a minute on 2 cores
    python -m experiments.kernel_distance --preset=paper --dataset=mnist  # MNIST, Figure 8 in full, about 40 minutes
    python -m experiments.kernel_distance --parameterization=smup  # digits at one learning rate, 3 minutes (estimated)

MLPs with one hidden layer. Sparse networks of every width have the weight count of the dense network of base width (the
last layer stays dense); dense networks of the same widths are trained for comparison. No biases, ReLU, NTK
parameterization, SGD without momentum, a learning rate for every width. Other parameterizations use one learning rate
for all networks, and the networks of Figure 8 are trained as well (kind `tuned`), to measure what one rate costs.
The distance D is defined in `experiments/width/distances.py`.
Writes WORKDIR/kernel_distance.csv, a row per network, and WORKDIR/kernel_distance.png.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from experiments.lab import families, launch, output, presets
from experiments.lab.families import Network
from experiments.lab.flags import Command
from experiments.lab.intervals import METHOD, difference
from experiments.lab.launch import Run
from experiments.theory import inputs
from experiments.width import distances, figure8
from experiments.width import rates as learning_rates
from wsn.data import sources
from wsn.errors import UserError
from wsn.sparsity import family
from wsn.spec import Spec, setting

EXPERIMENT = "kernel_distance"
FIGURE_8 = "ntk"  # its parameterization
COLUMNS = [
    "kind", "width", "connectivity", "weights", "seeds", "diverged", "epochs", "learning_rate",
    "test_accuracy_mean", "test_accuracy_std", "best_test_accuracy_mean", "train_accuracy_mean",
    "test_loss_mean", *distances.COLUMNS,
]  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(presets.Family):
    """Settings of one figure; `rates` are the learning rates, kind → width → rate."""

    learning_rate: float | None = presets.of_spec(
        "learning_rate", None, help="One learning rate for every network.", otherwise="the preset's, by width"
    )
    rates: Mapping[str, learning_rates.Rates]
    parameterization: str = presets.of_spec("parameterization", FIGURE_8)
    one_rate: float = 0.25  # of all networks in other parameterizations, tuned at the base width
    tune_lr: bool = setting("Tune the learning rates first, on held-out training samples.", False)
    tuning_samples: int  # held out for tuning
    pairs: int = setting(
        "D is a mean over this many pairs of test images.", 10_000, least=1, bytes=inputs.PAIR_BYTES
    )
    initialisations: int = setting(
        "D is a mean over this many seeds of every network; `seeds` are trained.", 100, least=2, bytes=8
    )
    reference: str = setting(
        "D is the distance to the kernel of infinite width (exact), or as in the paper to that of a dense network of"
        f" width {distances.REFERENCE_WIDTH} (finite).",
        "exact",
        choices=("exact", "finite"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tune_lr and self.learning_rate is not None:
            raise UserError("`tune_lr` and `learning_rate` exclude each other: leave out one of them")


PRESETS = {
    "quick": Preset(
        dataset="digits",
        base_width=3,
        widths=(3, 4, 6, 9, 12, 15, 18),
        train_samples=1000,
        batch_size=100,
        epochs=100,
        seeds=10,
        # From --tune_lr, smoothed over widths.
        rates={
            "sparse": {3: 2.5, 4: 3.5, 6: 6, 9: 11, 12: 16, 15: 17, 18: 18},
            "dense": {3: 2.5, 4: 5, 6: 5, 9: 5, 12: 5, 15: 5, 18: 5},
        },
        tuning_samples=297,
        pairs=1000,
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
        tuning_samples=10000,
    ),
}


def template(preset: Preset) -> Spec:
    """The network of a preset; width, masks and learning rate are set later."""
    reference = preset.base_width if preset.parameterization in ("mup", "smup") else 0
    return presets.spec(preset, learning_rate=1.0, rate_width=reference)


def networks(preset: Preset) -> list[Network]:
    """A network for each kind and width; at the base width both kinds are the same. Learning rates are set later."""
    base = template(preset)
    shapes = families.shapes_of(base)
    specs = {
        "sparse": family.sparse(base, preset.base_width, preset.widths, shapes, "dense_last"),
        "dense": family.dense(base, preset.widths),
    }
    return [Network(preset.base_width, kind, spec, preset.seeds) for kind in specs for spec in specs[kind]]


def rates_of(preset: Preset) -> learning_rates.RatesOfKind:
    """Learning rates by width for Figure 8; one for all in other parameterizations."""
    if preset.parameterization == FIGURE_8:
        return preset.rates
    return {kind: dict.fromkeys(preset.widths, preset.one_rate) for kind in preset.rates}


def compared_to_tuned(rows: Sequence[Mapping]) -> list[str]:
    """Gain in test accuracy of one learning rate over tuned ones, by width, for sparse networks."""
    tuned = {row["width"]: row["test"] for row in rows if row["kind"] == "tuned" and row["test"]}
    both = [row for row in rows if row["kind"] == "sparse" and row["test"] and row["width"] in tuned]
    gains = {row["width"]: difference(row["test"], tuned[row["width"]]).show(100) for row in both}
    text = "one learning rate against the tuned one"
    return [f"width {width}: {text}: {gain} points" for width, gain in gains.items()]


def with_rates(preset: Preset, run: Run) -> list[Network] | None:
    """The networks of a preset, each with its learning rate; None after a dry run of tuning."""
    planned = networks(preset)
    rates: learning_rates.RatesOfKind | None = rates_of(preset)
    if rates and preset.tune_lr:
        rates = learning_rates.tune(planned, rates, preset.tuning_samples, run, EXPERIMENT)
    if rates is None:
        return None
    planned = learning_rates.with_rates(planned, rates, preset.learning_rate)
    if preset.parameterization != FIGURE_8:
        tuned = [n for n in networks(preset.replace(parameterization=FIGURE_8)) if n.kind == "sparse"]
        planned += [n._replace(kind="tuned") for n in learning_rates.with_rates(tuned, preset.rates)]
    return planned


def main(preset: Preset, run: Run) -> None:
    base = template(preset)
    networks(preset)  # errors in widths and data come before any work
    run.source_of(base)
    images = sources.dataset(preset.dataset, run.data_folder)
    pairs = inputs.of_images(images, base.normalization, preset.pairs, base.data_seed)
    planned = with_rates(preset, run)
    trained = planned and families.rows_of(planned, run, EXPERIMENT)
    if not trained:
        return
    theta = distances.references(pairs)
    # D is defined in the NTK parameterization, whichever was trained.
    plain = {"parameterization": FIGURE_8, "rate_width": 0, "learning_rate": 1.0}
    initial = [dataclasses.replace(row["spec"], **plain) for row in trained]
    by_spec = distances.measure(initial, pairs, images.classes, preset.initialisations, theta)
    measured = [by_spec[spec] for spec in initial]
    rows = [
        row | distances.columns(distance, preset.reference)
        for row, distance in zip(trained, measured, strict=True)
    ]
    lines = [
        figure8.verdict(rows),
        *compared_to_tuned(rows),
        METHOD,
        figure8.agreement(rows),
        distances.compared(measured, pairs, theta),
        distances.least(pairs, preset.base_width, images.classes),
        *figure8.association(rows, images.classes),
    ]
    output.print_table(rows, COLUMNS)
    launch.publish(run, EXPERIMENT, rows, COLUMNS, figure8.draw(rows, preset), figure8.plot(rows), lines)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), template)

if __name__ == "__main__":
    launch.run(COMMAND)
