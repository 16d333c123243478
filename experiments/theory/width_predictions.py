"""The best width of families of sparse MLPs, predicted before they are trained: what `width_test` tests.

    python -m experiments.width_predictions                    # every family, half an hour on a core
    python -m experiments.width_predictions --families=digits-4  # one family, a minute
    python -m experiments.width_predictions --one_rate --families=mnist-6,mnist-12  # for one learning rate

Ten families that were not used to find the predictors: one hidden layer, the last layer dense, the weight count of the
dense network of base width, twelve widths over the whole range. For each predictor of experiments/theory/predictors.py:
the width at which it is least; for those that average over pairs of test images the bootstrap interval over images; and
its value at each width, for rank correlations. Tuned learning rates grow as 1 / connectivity, so tangent kernels have
that rate in the first layer, and with `one_rate` the same in all layers. Trains nothing. Writes
WORKDIR/width_predictions.csv, a row per family and predictor, and WORKDIR/width_predictions_curves.csv, a row per
family and width (with `one_rate` width_predictions_one_rate.csv and …_one_rate_curves.csv).
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.lab import families as lab
from experiments.lab import launch, output
from experiments.lab.families import Network
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from experiments.theory import inputs, predictors
from experiments.theory.predictors import PREDICTORS, Labeled
from kernels.best_width import least
from kernels.optimum import DistanceCurves, budget_connectivity, minimum
from kernels.sparse_ntk import sparse_tangents
from wsn import data
from wsn.data import sources
from wsn.errors import check_known, choose
from wsn.sparsity import family as sparse_family
from wsn.spec import Spec, check_bounds, setting

EXPERIMENT = "width_predictions"
COLUMNS = [
    "family",
    "dataset",
    "samples",
    "normalization",
    "base_width",
    "weights",
    "predictor",
    "width",
    "low",
    "high",
]
CURVES = ["family", "width", "connectivity", "weights", *PREDICTORS]
WIDTHS = 12
WIDEST = 0.97  # of the width at which the first layer has no weight left
BETWEEN = 2  # points of a curve for each width that is trained
TOLERANCE = 1e-4
LABELED = 1000  # training examples for rivals that use labels, at most; half as many held out


class TestFamily(NamedTuple):
    """A data set, a budget and a number of training examples; trained as Figure 8 of its data set."""

    dataset: str
    base_width: int
    samples: int
    normalization: str = "scalar"

    @property
    def spec(self) -> Spec:
        batch, epochs = (100, 100) if self.dataset == "digits" else (256, 300)
        return Spec(
            dataset=self.dataset,
            width=self.base_width,
            train_samples=self.samples,
            normalization=self.normalization,
            batch_size=min(batch, self.samples),
            epochs=epochs,
            eval_every=200,
            learning_rate=1.0,
            parameterization="ntk",
        )

    @property
    def widths(self) -> list[int]:
        """WIDTHS widths, even in the logarithm, from the base width to nearly the widest."""
        features, outputs, budget = self.sizes
        widest = WIDEST * budget / outputs
        return sorted({round(width) for width in np.geomspace(self.base_width, widest, WIDTHS)})

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Features, outputs and budget."""
        shape, classes = sources.image_shape_and_classes(self.dataset)
        features = math.prod(shape)
        return features, classes, self.base_width * (features + classes)

    def networks(self, seeds: int) -> list[Network]:
        specs = sparse_family.sparse(
            self.spec, self.base_width, self.widths, lab.shapes_of(self.spec), "dense_last"
        )
        return [Network(self.base_width, "sparse", spec, seeds) for spec in specs]


FAMILIES = {
    "digits-4": TestFamily("digits", 4, 1000),
    "digits-8": TestFamily("digits", 8, 1000),
    "mnist-8-512": TestFamily("mnist", 8, 512),
    "mnist-2": TestFamily("mnist", 2, 2048),
    "mnist-6": TestFamily("mnist", 6, 2048),
    "mnist-12": TestFamily("mnist", 12, 2048),
    "mnist-24": TestFamily("mnist", 24, 2048),
    "mnist-8-pixel": TestFamily("mnist", 8, 2048, "pixel"),
    "mnist-8-8192": TestFamily("mnist", 8, 8192),
    "cifar10-8": TestFamily("cifar10", 8, 2048),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Which families, and how exactly."""

    families: tuple[str, ...] = setting(
        f"Families, of {', '.join(FAMILIES)}, comma-separated.", tuple(FAMILIES), some=True
    )
    pairs: int = setting("Distances are means over this many pairs of test images.", 100, least=2)
    bootstrap: int = setting("Bootstrap samples of the images.", 1000, least=2)
    seed: int = setting("Seed of all random draws.", 0, least=0)
    one_rate: bool = setting("Predict for one learning rate for all layers and widths (gamma = 1).", False)
    data_dir: str | None = setting("Folder of prepared tensorflow-datasets (default: $TFDS_DATA_DIR).", None)

    def __post_init__(self) -> None:
        check(self)


def check(settings: Any) -> None:
    """Raises UserError for numbers out of range and for unknown families, before hours of training."""
    check_bounds(settings)
    for name in settings.families:
        check_known(FAMILIES, "families", name)


def labeled(family: TestFamily, source: data.Splits) -> Labeled:
    """The first training examples, and examples of the training split that are not trained on."""

    def flat(images: np.ndarray) -> np.ndarray:
        return np.asarray(data.normalize(images, source.mean, source.std)).reshape(len(images), -1)

    count = min(LABELED, family.samples)
    held_out = source.validation_images[: LABELED // 2]
    return Labeled(
        flat(source.train_images[:count]),
        source.train_labels[:count],
        flat(held_out),
        source.validation_labels[: LABELED // 2],
    )


def between(widths: Sequence[int]) -> np.ndarray:
    """The widths and BETWEEN - 1 points between each two, even in the logarithm."""
    positions = np.arange(0, len(widths) - 1 + 0.5 / BETWEEN, 1 / BETWEEN)
    return np.exp(np.interp(positions, np.arange(len(widths)), np.log(widths)))


def predict(name: str, settings: Settings) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of both tables for one family."""
    family = choose(FAMILIES, "families", name)
    features, outputs, budget = family.sizes
    width = between(family.widths)
    p = budget_connectivity(width, features, outputs, budget)
    images = sources.dataset(family.dataset, settings.data_dir)
    pairs = inputs.of_images(images, family.normalization, settings.pairs, settings.seed)
    tangents = sparse_tangents(pairs.x, pairs.y, p, tolerance=TOLERANCE)
    by_pair = predictors.from_inputs(tangents, width, outputs, 1.0 if settings.one_rate else None)
    values = predictors.from_counts(width, features, outputs, budget)
    values |= {key: distance.mean(axis=0) for key, distance in by_pair.items()}
    trained = {key: curve[::BETWEEN] for key, curve in values.items()}

    held_out = len(images.train_labels) - family.samples
    source = data.split(
        images,
        train_samples=family.samples,
        validation_samples=min(held_out, LABELED // 2),
        data_seed=0,
        normalization=family.normalization,
    )
    examples = labeled(family, source)
    kept = [dict(n.spec.kept).get("hidden_0", n.spec.width * features) for n in family.networks(1)]
    of_labels = [
        predictors.from_labels(examples, w, k, outputs, settings.seed)
        for w, k in zip(family.widths, kept, strict=True)
    ]
    trained |= {key: np.array([row[key] for row in of_labels]) for key in of_labels[0]}

    same: dict[str, Any] = {
        "family": name,
        "dataset": family.dataset,
        "samples": family.samples,
        "normalization": family.normalization,
        "base_width": family.base_width,
        "weights": budget,
    }
    rows = []
    for key in PREDICTORS:
        row = same | {"predictor": key, "low": "", "high": ""}
        if key in by_pair:
            best = least(
                DistanceCurves(p, width, by_pair[key]), pairs.images, settings.bootstrap, settings.seed
            )
            row |= {"width": best.width, "low": best.low, "high": best.high}
        elif key in ("eq25", "kept_inputs"):
            row["width"] = getattr(predictors, f"{key}_width")(budget, outputs)
        else:
            at = width if key in values else np.asarray(family.widths, float)
            row["width"] = minimum(at, values.get(key, trained[key])).at
        if math.isnan(row["width"]):  # least at an end
            at = width if key in values else np.asarray(family.widths, float)
            row["width"] = float(at[np.argmin(values.get(key, trained[key]))])
        rows.append(row)
    curves = [
        {"family": name, "width": w, "connectivity": k / features / w, "weights": budget}
        | {key: float(curve[i]) for key, curve in trained.items()}
        for i, (w, k) in enumerate(zip(family.widths, kept, strict=True))
    ]
    return rows, curves


def name_of(settings: Any) -> str:
    """The name of the table of predictions."""
    return f"{EXPERIMENT}_one_rate" if settings.one_rate else EXPERIMENT


def main(settings: Settings, run: Output) -> None:
    rows: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    with output.progress(len(settings.families), "families") as bar:
        for name in settings.families:
            for whole, part in zip((rows, curves), predict(name, settings), strict=True):
                whole += part
            output.write_table(run.folder, f"{name_of(settings)}_curves", curves, CURVES)
            table = output.write_table(run.folder, name_of(settings), rows, COLUMNS)
            bar.update(1)
    output.print_table(rows, COLUMNS)
    launch.wrote(run, table)


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
