"""Halting time over the number of weights: Figures 1 to 3 and 5 of the convergence paper.

    python -m experiments.halting_time                        # Python's own reference, two minutes on 2 quiet cores
    python -m experiments.halting_time --preset=small         # tiny_shakespeare, hours; --workers=2
    python -m experiments.halting_time --preset=words --data_dir=FOLDER_OF_TEXT      # an hour
    python -m experiments.halting_time --preset=paper --data_dir=FOLDER_OF_TEXT      # a GPU

"Empirically Characterizing Overparameterization Impact on Convergence" trains recurrent networks of growing width at
one learning rate, and counts the steps T until the validation loss is within 1 % of its minimum: T = a·M^-k + b in the
number of weights M (here: of all matrices, no biases). Each network has its own minimum, so T mixes speed with
capacity: beside it are the steps to a loss that all of them reach. Training ends when the loss has risen for certain;
where it did not before --epochs, the run is censored: drawn hollow, and left out of exponents.
`--fractions=0.25,1`, `--depths=1,2,4`, `--learning_rates=0.3,0.8` and `--adam_rate=0.003` draw several curves.
Writes WORKDIR/halting_time.csv, a row per network, and WORKDIR/halting_time.png.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from experiments.lab import families, launch, output
from experiments.lab.convergence import halting, halting_figure, study
from experiments.lab.convergence.halting import Curve, Halted, minimum, slope, steps
from experiments.lab.convergence.settings import PRESETS, Preset
from experiments.lab.flags import Command
from experiments.lab.intervals import Estimate, bootstrap, sign
from experiments.lab.launch import Run
from wsn.tasks import metrics

EXPERIMENT = "halting_time"
COLUMNS = [
    *study.KEYS,
    "seeds",
    "censored",
    "steps_mean",
    "steps_std",
    "common_steps_mean",
    "epochs_mean",
    "best_validation_loss_mean",
    "best_validation_loss_std",
]
BLOCKS = (
    "width",
    "fraction",
    "depth",
    "optimizer",
    "learning_rate",
)  # what curves and their points differ in
SAME = 0.1  # exponents that differ by less are called the same
FLOOR = 0.05  # of the shortest time: a floor below it is called none


def rows(curves: Sequence[Curve], run: Run, asked: Sequence[families.Network]) -> list[families.Row]:
    """A row per network: what it is, and its times."""
    epoch = {
        network.spec: study.steps_of_epoch(run.source_of(network.spec), network.spec) for network in asked
    }
    return [
        point.row | halting.summary(point.runs, epoch[point.runs[0].result.spec])
        for curve in curves
        for point in curve.points
    ]


def verdicts(curves: Sequence[Curve], names: Sequence[str]) -> Iterator[str]:
    """The paper's claims about T, in its order; those that these curves can say something about."""
    for curve, name in zip(curves, names, strict=True):
        found = curve.by("weights", steps)
        yield f"C1 T falls as M grows ({name}): {sign(opposite(found))}, exponent {found.show(form='+.2f')}"
    yield from over("C2 T grows with the data", "fraction", curves, rising=True)
    yield from rates(curves, names)
    yield from over("C5 T falls as depth grows", "depth", curves, rising=False)
    for curve, name in zip(curves, names, strict=True):
        yield from floor(curve, name)
    for curve, name in zip(curves, names, strict=True):
        yield from overfitting(curve, name)


def opposite(found: Estimate) -> Estimate:
    return Estimate(-found.value, -found.high, -found.low)


def over(claim: str, column: str, curves: Sequence[Curve], rising: bool) -> Iterator[str]:
    """The exponent of T over what the curves differ in, all else being equal: one slope, each network its height."""
    points = [point for curve in curves for point in curve.points]
    rest = [[point.row[name] for name in BLOCKS if name != column] for point in points]
    times = [[steps(run) for run in point.runs if run.counts] for point in points]
    x = "weights" if column == "depth" else column
    if len({point.row[column] for point in points}) > 1:
        found = slope([point.row[x] for point in points], times, [tuple(block) for block in rest])
        verdict = sign(found if rising else opposite(found))
        yield f"{claim}: {verdict}, exponent in {x} {found.show(form='+.2f')}"


def rates(curves: Sequence[Curve], names: Sequence[str]) -> Iterator[str]:
    """C3 and C4: whether curves that differ in nothing but rate, or in optimiser, have one exponent."""
    for (one, name), (other, second) in combinations(zip(curves, names, strict=True), 2):
        first, last = one.points[0].row, other.points[0].row
        if any(first[key] != last[key] for key in ("fraction", "depth")):
            continue
        found = halting.difference(one, other)
        same = "fails" if found.low > 0 or found.high < 0 else "undecided"
        same = "holds" if found.low > -SAME and found.high < SAME else same
        shown = f"{name} less {second}: {found.show(form='+.2f')}"
        if first["optimizer"] == last["optimizer"]:
            yield f"C3 the rate leaves the exponent as it is: {same}; {shown}"
        else:
            turned = {"holds": "fails", "fails": "holds", "undecided": "undecided"}[same]
            yield f"C4 Adam changes the exponent: {turned}; {shown}"


def floor(curve: Curve, name: str) -> Iterator[str]:
    """C6 by the fit with three parameters."""
    times = curve.values(steps)
    fit = halting.fitted(curve.told("weights"), times)
    if fit is not None:
        least = FLOOR * min(halting.mean(values) for values in times if values)
        verdict = "holds" if fit.b.low > least else "fails" if fit.b.high < least else "undecided"
        k, b = fit.k.show(form=".2f"), fit.b.show(form=".0f")
        yield f"C6 T has a floor ({name}): {verdict}; T = a·M^-k + b with k = {k}, b = {b} steps"


def overfitting(curve: Curve, name: str) -> Iterator[str]:
    """C11: the best loss of the largest network over that of the best of the others."""
    *others, largest = [
        [minimum(run) for run in p.runs if not math.isnan(minimum(run))] for p in curve.points
    ]
    others = [values for values in others if values]
    if others and largest:
        best = min(others, key=halting.mean)
        found = bootstrap(lambda means: means[:, 0] - means[:, 1], [largest, best])
        falls = sign(opposite(curve.by("weights", steps)))
        rises = sign(found)
        verdict = rises if rises == "fails" else falls if rises == "holds" else "undecided"
        yield (
            f"C11 the best loss rises again while T falls ({name}): {verdict}; the largest network has"
            f" {found.show(form='+.3f')} nats on the best of the smaller ones"
        )


def at_minimum(curve: Curve, name: str) -> Iterator[str]:
    """What else the task measures on held-out data, where the loss is least: a mean over the seeds of each width."""
    for metric in metrics(curve.points[0].row["task"]):
        if metric.name != "loss":
            column = f"validation_{metric.name}"
            means = [
                halting.mean([float(run.result.curves[column][best(run)]) for run in point.runs])
                for point in curve.points
            ]
            told = ", ".join(f"{x:.3g} (width {w})" for w, x in zip(curve.told("width"), means, strict=True))
            yield f"{metric.name.replace('_', ' ')} at the least loss ({name}): {told}"


def best(run: Halted) -> int:
    """The place of the least loss; any of a run that diverged, which has none."""
    losses = run.result.curves[halting.LOSS]
    return 0 if np.isnan(losses).any() else int(np.argmin(losses))


def main(preset: Preset, run: Run) -> None:
    asked = study.networks(preset, run)
    results = families.collect(asked, run, EXPERIMENT)
    if results is None:
        return
    curves = study.curves(asked, results, run)
    names = study.names(curves)
    table = rows(curves, run, asked)
    output.print_table(table, COLUMNS)
    figure = halting_figure.draw(curves, names, study.caption(preset, run))
    written = (
        output.write_table(run.folder, EXPERIMENT, table, COLUMNS),
        output.write_figure(run.folder, EXPERIMENT, figure),
    )
    for line in verdicts(curves, names):
        print(line)
    for curve, name in zip(curves, names, strict=True):
        for line in at_minimum(curve, name):
            print(line)
    launch.wrote(run, *written)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), study.template)

if __name__ == "__main__":
    launch.run(COMMAND)
