"""Halting time over the number of weights: Figures 1 to 5 of the convergence paper.

    python -m experiments.halting_time  # Python's own reference, two minutes on 2 quiet cores
    python -m experiments.halting_time --preset=small  # tiny_shakespeare, an hour of one core
    python -m experiments.halting_time --preset=words --data_dir=FOLDER_OF_TEXT  # a folder of text, an hour
    python -m experiments.halting_time --preset=paper --data_dir=FOLDER_OF_TEXT  # a folder of text, a GPU

"Empirically Characterizing Overparameterization Impact on Convergence" trains recurrent networks of growing width at
one learning rate, and counts the steps T until the validation loss is within 1 % of its minimum: T = a·M^-k + b in the
number of weights M (here: of all matrices, no biases). Each network has its own minimum, so T mixes speed with
capacity: beside it are the steps to a loss that all of them reach. Training ends when the loss has risen for certain;
where it did not before --epochs, the run is censored: drawn hollow, and left out of exponents.
`--fractions=0.25,1`, `--depths=1,2,4`, `--learning_rates=0.3,0.8` and `--adam_rate=0.003` draw several curves.
Writes WORKDIR/halting_time.csv, a row per network, halting_time_seeds.csv, a row per run, halting_time_claims.csv, what
the paper says with our numbers, and WORKDIR/halting_time.png.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np

from experiments.convergence import halting, halting_figure, study
from experiments.convergence.halting import Curve, Halted, common, minimum, slope, steps
from experiments.convergence.settings import PRESETS, Preset
from experiments.lab import families, launch, output
from experiments.lab.flags import Command
from experiments.lab.intervals import Estimate, equal, sign, simulated
from experiments.lab.launch import Run
from wsn.networks import models
from wsn.sparsity import family
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
CLAIMS = ["claim", "curve", "value", "low", "high", "unit", "verdict"]
SEEDS = [
    *study.KEYS,
    "seed",
    "hidden_weights",
    "censored",
    "diverged",
    "steps",
    "minimum_step",
    "last_step",
    "evaluations_before",
    "common_steps",
    "common_steps_far",
    "best_validation_loss",
]
BLOCKS = (
    "width",
    "fraction",
    "depth",
    "optimizer",
    "learning_rate",
)  # what curves and their points differ in
IN_WEIGHTS = "exponent"
OUTSIDE = ("embedding", "softmax")
SAME = 0.1  # exponents that differ by less are called the same
FLOOR = 0.05  # of the shortest time: a floor below it is called none


def rows(curves: Sequence[Curve], run: Run) -> list[families.Row]:
    """A row per network: what it is, and its times."""
    return [
        point.row | halting.summary(point, study.steps_of_epoch(run.source_of(spec), spec))
        for curve in curves
        for point in curve.points
        for spec in [point.runs[0].result.spec]
    ]


def claims(curves: Sequence[Curve], names: Sequence[str]) -> Iterator[families.Row]:
    """The paper's claims about T, in its order; those that these curves can say something about."""
    for curve, name in zip(curves, names, strict=True):
        found = curve.by("weights", steps)
        yield claim("C1 T falls as M grows", name, found, IN_WEIGHTS, sign(-found))
    for curve, name in zip(curves, names, strict=True):
        found = curve.of_all("weights", common)
        yield claim("C1 T to a loss common to all falls", name, found, "common exponent", sign(-found))
    yield from over("C2 T grows with the data", "fraction", curves, rising=True)
    yield from rates(curves, names)
    yield from over("C5 T falls as depth grows", "depth", curves, rising=False)
    for curve, name in zip(curves, names, strict=True):
        yield from floor(curve, name)
    for curve, name in zip(curves, names, strict=True):
        yield from overfitting(curve, name)


def claim(says: str, curve: str, found: Estimate, unit: str, verdict: str) -> families.Row:
    return {"claim": says, "curve": curve, "unit": unit, "verdict": verdict} | dict(
        zip(("value", "low", "high"), found, strict=True)
    )


def over(says: str, column: str, curves: Sequence[Curve], rising: bool) -> Iterator[families.Row]:
    """The exponent of T over what the curves differ in, all else being equal: one slope, each network its height."""
    points = [point for curve in curves for point in curve.points]
    rest = [[point.row[name] for name in BLOCKS if name != column] for point in points]
    times = [[steps(run) for run in point.runs if run.counts] for point in points]
    x = "weights" if column == "depth" else column
    if len({point.row[column] for point in points}) > 1:
        found = slope([point.row[x] for point in points], times, [tuple(block) for block in rest])
        yield claim(says, "all", found, f"exponent in {x}", sign(found if rising else -found))


def rates(curves: Sequence[Curve], names: Sequence[str]) -> Iterator[families.Row]:
    """C3 and C4: whether curves that differ in nothing but rate, or in optimiser, have one exponent.

    What the paper says of their heights is not tested: at one weight count T follows the rate anyway.
    """
    for (one, name), (other, second) in combinations(zip(curves, names, strict=True), 2):
        first, last = one.points[0].row, other.points[0].row
        if any(first[key] != last[key] for key in ("fraction", "depth")):
            continue
        found = halting.difference(one, other)
        same, told = equal(found, SAME), f"{name} less {second}"
        if first["optimizer"] == last["optimizer"] == "sgd":
            yield claim("C3 the rate leaves the exponent as it is", told, found, IN_WEIGHTS, same)
        elif first["optimizer"] != last["optimizer"]:
            changes = (
                "fails" if same == "holds" else "holds" if found.low > 0 or found.high < 0 else "undecided"
            )
            yield claim("C4 Adam changes the exponent", told, found, IN_WEIGHTS, changes)


def floor(curve: Curve, name: str) -> Iterator[families.Row]:
    """C6 by the fit with three parameters, of which the exponent above the floor must be one that falls."""
    times = curve.values(steps)
    fit = halting.fitted(curve.told("weights"), times)
    if fit is not None:
        least = FLOOR * min(halting.mean(values) for values in times if values)
        holds = fit.b.low > least and fit.k.low > 0
        verdict = "holds" if holds else "fails" if fit.b.high < least else "undecided"
        yield claim("C6 T has a floor", name, fit.b, "steps", verdict)
        yield claim("C6 T falls above its floor", name, -fit.k, "exponent there", sign(fit.k))


def overfitting(curve: Curve, name: str) -> Iterator[families.Row]:
    """C11: the least loss of the largest network over that of the best of the others, while T falls."""
    *others, largest = curve.values(minimum)
    others = [values for values in others if values]
    if others and largest:
        found = simulated(lambda means: means[:, 0] - means[:, 1:].min(1), [largest, *others])
        both = sign(found), sign(-curve.by("weights", steps))
        verdict = next((word for word in ("fails", "undecided") if word in both), "holds")
        yield claim("C11 the best loss rises again while T falls", name, found, "nats", verdict)


def seeds(curves: Sequence[Curve], run: Run) -> Iterator[families.Row]:
    """A row per run: its times, what they rest on, and what the task measures where the loss is least."""
    for point in (point for curve in curves for point in curve.points):
        spec = point.runs[0].result.spec
        shapes = study.shapes_of(run.source_of(spec), spec)
        inside = [layer for layer, group in models.groups_of(spec, shapes).items() if group not in OUTSIDE]
        for one in point.runs:
            found, at = one.halting, halting.evaluations(one.result)
            yield (
                point.row
                | {
                    "seed": one.result.seed,
                    "hidden_weights": family.kept_weights(spec, {k: shapes[k] for k in inside}),
                }
                | {"censored": int(not one.counts), "diverged": int(np.isnan(found.minimum))}
                | {"steps": found.step, "minimum_step": found.minimum_step, "last_step": int(at[-1])}
                | {"evaluations_before": int(np.searchsorted(at, found.step)) if one.counts else ""}
                | {"common_steps": one.common[0], "common_steps_far": one.common[1]}
                | {"best_validation_loss": found.minimum}
                | dict(at_minimum(one))
            )


def at_minimum(run: Halted) -> Iterator[tuple[str, float]]:
    """What else the task measures on held-out data, where the loss is least; nothing of a run that diverged."""
    for metric in metrics(run.result.spec.task):
        if metric.name != "loss" and not np.isnan(minimum(run)):
            losses = run.result.curves[halting.LOSS]
            yield metric.name, float(run.result.curves[f"validation_{metric.name}"][np.argmin(losses)])


def lines(told: Sequence[families.Row]) -> Iterator[str]:
    """The claims, a line each."""
    for row in told:
        value = Estimate(row["value"], row["low"], row["high"])
        form = {"steps": ".0f", "nats": "+.3f"}.get(row["unit"], "+.2f")
        curve = "" if row["curve"] == "all" else f" ({row['curve']})"
        yield f"{row['claim']}{curve}: {row['verdict']}, {row['unit']} {value.show(form=form)}"


def measured(curve: Curve, name: str) -> Iterator[str]:
    """What else the task measures, where the loss is least: a mean over the seeds of each width."""
    found = {point.row["width"]: [dict(at_minimum(run)) for run in point.runs] for point in curve.points}
    for metric in dict.fromkeys(key for runs in found.values() for run in runs for key in run):
        means = {w: halting.mean([run[metric] for run in runs if run]) for w, runs in found.items()}
        told = ", ".join(f"{x:.3g} (width {w})" for w, x in means.items())
        yield f"{metric.replace('_', ' ')} at the least loss ({name}): {told}"


def main(preset: Preset, run: Run) -> None:
    asked = study.networks(preset, run)
    results = families.collect(asked, run, EXPERIMENT)
    if results is None:
        return
    curves = study.curves(asked, results, run)
    names = study.names(curves)
    table, told, runs = rows(curves, run), list(claims(curves, names)), list(seeds(curves, run))
    output.print_table(table, COLUMNS)
    figure = halting_figure.draw(curves, names, study.caption(preset, run))
    others = [metric.name for metric in metrics(runs[0]["task"]) if metric.name != "loss"]
    written = (
        output.write_table(run.folder, EXPERIMENT, table, COLUMNS),
        output.write_table(run.folder, f"{EXPERIMENT}_claims", told, CLAIMS),
        output.write_table(run.folder, f"{EXPERIMENT}_seeds", runs, [*SEEDS, *others]),
        output.write_figure(run.folder, EXPERIMENT, figure),
    )
    print(*lines(told), sep="\n")
    for curve, name in zip(curves, names, strict=True):
        for line in measured(curve, name):
            print(line)
    launch.wrote(run, *written)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), study.template)

if __name__ == "__main__":
    launch.run(COMMAND)
