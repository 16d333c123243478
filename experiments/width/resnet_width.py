"""ResNet-18: accuracy over width at a fixed number of weights, sparse networks and dense ones of the same widths.

    python -m experiments.resnet_width                                    # digits, two minutes on 2 cores
    python -m experiments.resnet_width --preset=short                     # all of CIFAR-100, a day on 2 cores
    python -m experiments.resnet_width --preset=paper --dataset=cifar100  # one family of Figure 6, a GPU
    python -m experiments.resnet_width --preset=paper --dataset=svhn_cropped --base_widths=8,12,18,40,64 \\
        --widths=8,12,18,27,40,60,64,91,128,181,256                       # SVHN, all families, several GPUs
    python -m experiments.resnet_width --preset=imagenet                  # ImageNet (Table 1), a pod

The sparse networks of a family have the weight count of the dense network of its base width. Writes
WORKDIR/resnet_width.csv, a row per network, and WORKDIR/resnet_width.png: best test accuracy over width (Figures 1, 6
and 11) and over connectivity (12), training accuracy over both (14), and over the widening factor the improvement (13)
and the fraction of the dense network's improvement that width alone gives (7, the line at the widening factor of the
highest training accuracy). Prints a verdict on each claim of the paper; --compare=cifar10 adds whether harder data
gain more, from records of this experiment on other data in the same folder. --draw_only draws what is finished. Best
accuracies are the highest over the epochs, as in the paper.
"""

import dataclasses
import math
from collections.abc import Sequence

from experiments.lab import families, launch, output, presets, recipe
from experiments.lab.families import Network, Row
from experiments.lab.flags import Command
from experiments.lab.launch import Run
from experiments.width import figure6
from wsn.data import DATASETS
from wsn.data.large_images import STREAMS
from wsn.errors import UserError, choose
from wsn.sparsity import family
from wsn.spec import setting

EXPERIMENT = "resnet_width"
COLUMNS = ["dataset", "base_width", "width", "kind", *families.COLUMNS, "improvement_fraction"]
# Table 1: top-1 accuracy on ImageNet, width → dense, sparse with the weights of width 64.
PAPER_TABLE = {
    64: (0.6803, 0.6803),
    90: (0.6911, 0.6956),
    128: (0.7022, 0.7002),
    181: (0.7091, 0.7066),
    256: (0.7189, 0.7053),
}
PAPER_BASE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset(presets.Family):
    """Settings of one figure."""

    base_widths: tuple[int, ...] = presets.base_widths()
    dense_seeds: int = presets.dense_seeds()
    compare: tuple[str, ...] = setting(
        "Other data sets with records in this folder, to compare gains with.", ()
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.compare:
            choose({**DATASETS, **STREAMS}, "compare", name)


PRESETS = {
    "quick": Preset(**recipe.QUICK, dense_seeds=1),
    "short": Preset(**recipe.SHORT, dense_seeds=1),
    "paper": Preset(**recipe.PAPER | {"base_widths": ()}, dense_seeds=3),
    # The paper does not say the batch size; it trained every network once.
    "imagenet": Preset(
        dataset=recipe.IMAGENET,
        base_width=PAPER_BASE,
        widths=tuple(PAPER_TABLE),
        batch_size=256,
        epochs=150,
        seeds=1,
        dense_seeds=1,
    ),
}
template = recipe.template


def networks(preset: Preset) -> list[Network]:
    """Sparse and dense networks of every family; at the base width both are the same network."""
    whole = template(preset)
    shapes = families.shapes_of(whole)
    planned = []
    for base, widths in families.members(preset).items():
        sparse = family.sparse(whole, base, widths, shapes, "largest_first")
        planned += [Network(base, "sparse", spec, preset.seeds) for spec in sparse]
        for spec in family.dense(whole, widths):
            seeds = preset.seeds if spec in sparse else preset.dense_seeds
            planned.append(Network(base, "dense", spec, seeds))
    return planned


def key_of(row: Row) -> tuple[int, str, int]:
    return row["base_width"], row["kind"], row["width"]


def with_improvement(rows: Sequence[Row]) -> list[Row]:
    """Add the improvement over the base network, and the fraction of the dense improvement that a sparse network has.

    (sparse(w) − base) / (dense(w) − base), of mean best test accuracies (paper, Figure 7); NaN for dense networks, at
    the base width, and where one of the three has no record.
    """
    accuracy = {key_of(row): row["best_test_accuracy_mean"] for row in rows}
    added = []
    for row in rows:
        base = accuracy.get((row["base_width"], "sparse", row["base_width"]), math.nan)
        gain = row["best_test_accuracy_mean"] - base
        dense = accuracy.get((row["base_width"], "dense", row["width"]), math.nan) - base
        fraction = gain / dense if row["kind"] == "sparse" and dense else math.nan
        added.append(row | {"improvement": gain, "improvement_fraction": fraction})
    return added


def paper_rows(preset: Preset) -> list[Row]:
    """Table 1 as rows; empty for other data."""
    if preset.dataset != recipe.IMAGENET:
        return []
    imagenet = [families.describe(network) for network in networks(PRESETS["imagenet"])]
    accuracies = (PAPER_TABLE[row["width"]][row["kind"] == "sparse"] for row in imagenet)
    printed = zip(imagenet, accuracies, strict=True)
    return with_improvement([row | {"best_test_accuracy_mean": accuracy} for row, accuracy in printed])


def compared(preset: Preset, rows: Sequence[Row], run: Run) -> dict[str, Sequence[Row]]:
    """Data set → the sparse networks of the smallest family, for the preset's data and those of `compare`."""
    base = min(families.members(preset))
    by_data: dict[str, Sequence[Row]] = {preset.dataset: families.select(rows, "sparse", base)}
    for name in preset.compare:
        planned = [n for n in networks(preset.replace(dataset=name)) if n.base_width == base]
        records = launch.recorded(run, [([n.spec], n.seeds) for n in planned])
        by_data[name] = families.select(families.table(planned, records), "sparse", base)
    for name, sparse in by_data.items():
        if not sparse or sparse[0]["width"] != base:
            raise UserError(
                f"`compare`: {run.folder} has no record of the base network, width {base}, on {name}"
            )
    return by_data


def main(preset: Preset, run: Run) -> None:
    trained = families.rows_of(networks(preset), run, EXPERIMENT)
    if trained is None:
        return
    paper = paper_rows(preset)
    paper_accuracy = {key_of(row): row["best_test_accuracy_mean"] for row in paper}
    rows = [row | {"paper": paper_accuracy.get(key_of(row), "")} for row in with_improvement(trained)]
    figure = figure6.draw(rows, preset, paper, PRESETS["imagenet" if paper else "paper"].epochs)
    lines = figure6.verdicts(rows)
    lines += [figure6.data_verdict(compared(preset, rows, run))] if preset.compare else []
    output.print_table(rows, [*COLUMNS, "diverged", *(["paper"] if paper else [])])
    launch.publish(run, EXPERIMENT, rows, COLUMNS, figure, figure6.PLOT, lines)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), template, recipe.RETIRED)

if __name__ == "__main__":
    launch.run(COMMAND)
