"""Which width a theory calls best for a data set and a budget, before anything is trained.

    python -m experiments.best_width --dataset=digits --base_width=6   # seconds
    python -m experiments.best_width --dataset=mnist --weights=6352    # a minute on 2 cores

One hidden layer, the last layer dense, a fixed number of weights: the wider the network, the fewer inputs each unit
keeps. Prints the width and connectivity at which three exact distances to infinite width are least (GP kernel of
Theorem 1, whole NTK, first layer of the NTK), with 95 % bootstrap intervals over images, the widths within 5 % of the
least, and the width of the paper's rule p* = sqrt(np/4d). Writes WORKDIR/best_width.csv, a row per width, and
WORKDIR/best_width.png; with `--records=FOLDER/width_test.csv` (or another table with columns width and
test_accuracy_mean) the test error is drawn over the curves. How well such predictions hold is measured by
`experiments.width_test`. For arrays of your own: `kernels.best_width.best_width`.
"""

import csv
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.lab import launch, output
from experiments.lab.flags import Command
from experiments.lab.launch import Output
from experiments.lab.plots import Plot, plain_numbers, tidy
from experiments.theory.predictors import eq25_width
from kernels.best_width import KERNELS, BestWidth, best_width
from wsn import data, folders
from wsn.data import sources
from wsn.errors import UserError
from wsn.spec import WIDEST, check_bounds, setting

EXPERIMENT = "best_width"
COLUMNS = ["width", "connectivity", *KERNELS]
PLOT = Plot("width", "first", "width n", "D over its least value", logy=True)
COLORS = {"gp": "#2f6397", "ntk": "#3f8f5b", "first": "#b5482f"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The data and the budget. Raises UserError for numbers out of range."""

    dataset: str = setting(f"Image set: one of {', '.join(data.DATASETS)}.", "digits")
    data_dir: str | None = setting("Folder of prepared tensorflow-datasets (default: $TFDS_DATA_DIR).", None)
    normalization: str = setting("What shares a mean and deviation.", "scalar")
    weights: int | None = setting("The budget: weights of both layers.", None, least=1)
    base_width: int | None = setting(
        "Instead: the budget is that of the dense network of this width (default: 6).",
        None,
        least=1,
        most=WIDEST,
    )
    pairs: int = setting("Distances are means over this many pairs of test images.", 100, least=2, bytes=8)
    points: int = setting("How many widths, even in the logarithm.", 20, least=3, most=1000)
    bootstrap: int = setting("Bootstrap samples of the images.", 1000, least=2, bytes=8)
    records: str | None = setting("A CSV with columns width and test_accuracy_mean to draw as well.", None)
    seed: int = setting("Seed of the pairs.", 0, least=0)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.weights is not None and self.base_width is not None:
            raise UserError("`weights`, `base_width`: give either, not both")


def read_errors(path: Path) -> dict[float, float]:
    """Width → test error of a table. Raises UserError."""
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        return {float(row["width"]): 1 - float(row["test_accuracy_mean"]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"`records={path}`: no table of width and test_accuracy_mean ({error})") from None


def lines(best: Mapping[str, BestWidth], rule: float) -> list[str]:
    """What each kernel says, and equation (25)."""
    said = []
    for name, one in best.items():
        if math.isnan(one.width):
            width = one.curves.width[np.argmin(one.curves.distance.mean(axis=0))]
            said.append(f"{KERNELS[name]}: D is least at an end of the range, width {width:.0f}")
            continue
        interval = "" if math.isnan(one.low) else f" [{one.low:.0f}, {one.high:.0f}]"
        said.append(
            f"{KERNELS[name]}: D is least at width {one.width:.0f}{interval}, connectivity"
            f" {100 * one.connectivity:.2g} %; within 5 % of it from {one.flat_low:.0f} to {one.flat_high:.0f}"
        )
    return [*said, f"the paper's rule, p* = sqrt(np/4d): width {rule:.0f}"]


def draw(best: Mapping[str, BestWidth], errors: Mapping[float, float], title: str) -> Figure:
    """The three curves over their least values; the test error on the right axis."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    axes = figure.subplots()
    for name, one in best.items():
        mean = one.curves.distance.mean(axis=0)
        axes.plot(one.curves.width, mean / mean.min(), color=COLORS[name], label=f"D, {KERNELS[name]}")
        if not math.isnan(one.low):
            axes.axvspan(one.low, one.high, color=COLORS[name], alpha=0.15, linewidth=0)
    PLOT.label(axes)
    axes.set(title=title)
    tidy(axes, np.round(next(iter(best.values())).curves.width).astype(int).tolist())
    plain_numbers(axes.yaxis)
    if errors:
        beside = axes.twinx()
        beside.plot(list(errors), [100 * e for e in errors.values()], "s", color="0.3", markersize=4)
        beside.set_ylabel("test error (%), squares")
    axes.legend(frameon=False, fontsize=8)
    return figure


def main(settings: Settings, run: Output) -> None:
    errors = read_errors(folders.local("records", settings.records)) if settings.records else {}
    images = sources.dataset(settings.dataset, settings.data_dir)
    statistics = data.statistics(images.train_images, settings.normalization)
    flat = np.asarray(data.normalize(images.test_images, *statistics)).reshape(len(images.test_images), -1)
    features, outputs = flat.shape[1], images.classes
    budget = settings.weights or (settings.base_width or 6) * (features + outputs)
    best = best_width(
        flat,
        outputs,
        budget,
        pairs=settings.pairs,
        points=settings.points,
        samples=settings.bootstrap,
        seed=settings.seed,
    )
    curves = {name: one.curves.distance.mean(axis=0) for name, one in best.items()}
    first = next(iter(best.values())).curves
    rows: list[dict[str, Any]] = [
        {"width": float(width), "connectivity": float(first.connectivity[i])}
        | {name: float(curve[i]) for name, curve in curves.items()}
        for i, width in enumerate(first.width)
    ]
    output.print_table(rows, COLUMNS)
    table = output.write_table(run.folder, EXPERIMENT, rows, COLUMNS)
    title = f"{settings.dataset}, {budget:,} weights"
    picture = output.write_figure(run.folder, EXPERIMENT, draw(best, errors, title), PLOT)
    print(*lines(best, eq25_width(budget, outputs)), sep="\n")
    launch.wrote(run, table, picture)


COMMAND = Command(main, {"default": Settings()}, Output(f"results/{EXPERIMENT}"))

if __name__ == "__main__":
    launch.run(COMMAND)
