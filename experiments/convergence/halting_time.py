"""Halting time over the number of weights: Figures 1 to 5 of the convergence paper.

    python -m experiments.halting_time  # Python's language reference, two minutes on 2 quiet cores
    python -m experiments.halting_time --preset=small  # tiny_shakespeare, an hour of one core
    python -m experiments.halting_time --preset=words --data_dir=FOLDER_OF_TEXT  # a folder of text, an hour
    python -m experiments.halting_time --preset=spoken_digits  # spoken_digit, an hour (estimated)
    python -m experiments.halting_time --preset=an4 --data_dir=FOLDER  # cepstra of AN4, hours (estimated)
    python -m experiments.halting_time --preset=paper --data_dir=FOLDER_OF_TEXT  # a folder of text, a GPU

"Empirically Characterizing Overparameterization Impact on Convergence" trains recurrent networks of growing width at
one learning rate, and counts the steps T until the validation loss is within 1 % of its minimum: T = a·M^-k + b in the
number of weights M (here: of all matrices, without biases). Each network has its own minimum, so T mixes speed with
capacity; the steps to a loss that all networks reach are reported as well. Training stops once the loss clearly rises.
A run that reaches --epochs first is censored: drawn hollow, and excluded from exponents.
`--fractions=0.25,1`, `--depths=1,2,4`, `--learning_rates=0.3,0.8` and `--adam_rate=0.003` add curves.
Writes WORKDIR/halting_time.csv, a row per network, halting_time_seeds.csv, a row per run, halting_time_claims.csv, the
paper's claims with our numbers, and WORKDIR/halting_time.png.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.convergence import halting, study
from experiments.convergence.halting import (
    COMMON,
    Curve,
    HaltedRun,
    Point,
    Quantity,
    common,
    mean,
    minimum,
    points,
    slope,
    steps,
)
from experiments.convergence.settings import PRESETS, Preset
from experiments.lab import families, launch, output
from experiments.lab.flags import Command
from experiments.lab.intervals import Estimate, equal, sign, simulated, verdict
from experiments.lab.launch import Run
from experiments.lab.plots import PALETTE, Plot, log_times, plain_numbers, tidy
from wsn.networks import models
from wsn.sparsity import family
from wsn.tasks import metrics

EXPERIMENT = "halting_time"
COLUMNS = [*study.KEYS, *halting.SUMMARY]
CLAIMS = ["claim", "curve", "value", "low", "high", "unit", "verdict"]
SEEDS = [
    *study.KEYS, "seed", "hidden_weights", "censored", "diverged", "steps", "minimum_step", "last_step",
    "evaluations_before", "common_steps", "common_steps_far", "best_validation_loss",
]  # fmt: skip
# What curves and their networks differ in.
FACTORS = ("width", "fraction", "depth", "optimizer", "learning_rate")
IN_WEIGHTS = "exponent"
NOT_HIDDEN = ("embedding", "softmax")
SAME = 0.1  # exponents that differ by less count as equal
FLOOR = 0.05  # of the shortest time: a smaller floor counts as none


def rows(curves: Sequence[Curve], run: Run) -> list[families.Row]:
    """A row per network: its description and its times."""
    return [
        point.row | halting.summary(point, study.steps_of_epoch(point.spec, run)) for point in points(curves)
    ]


def claims(curves: Sequence[Curve], names: Sequence[str]) -> Iterator[families.Row]:
    """The paper's claims about T in its order, those that these curves can test."""
    named = list(zip(curves, names, strict=True))
    for curve, name in named:
        exponent = curve.exponent("weights", steps)
        yield claim("C1 T falls as M grows", name, exponent, IN_WEIGHTS, sign(-exponent))
    for curve, name in named:
        exponent = curve.exponent_of_all("weights", common)
        yield claim("C1 T to a loss common to all falls", name, exponent, "common exponent", sign(-exponent))
    yield from across_curves("C2 T grows with the data", "fraction", curves, rising=True)
    yield from optimizers(curves, names)
    yield from across_curves("C5 T falls as depth grows", "depth", curves, rising=False)
    for curve, name in named:
        yield from floor(curve, name)
    for curve, name in named:
        yield from overfitting(curve, name)


def claim(text: str, curve: str, estimate: Estimate, unit: str, verdict: str) -> families.Row:
    return {"claim": text, "curve": curve, "unit": unit, "verdict": verdict, **estimate._asdict()}


def across_curves(text: str, column: str, curves: Sequence[Curve], rising: bool) -> Iterator[families.Row]:
    """The exponent of T in a column in which curves differ, all else equal: one slope, an intercept per network."""
    networks = list(points(curves))
    blocks = [tuple(point.row[name] for name in FACTORS if name != column) for point in networks]
    times = [[steps(run) for run in point.runs if run.certain] for point in networks]
    x = "weights" if column == "depth" else column
    if len({point.row[column] for point in networks}) > 1:
        exponent = slope([point.row[x] for point in networks], times, blocks)
        yield claim(text, "all", exponent, f"exponent in {x}", sign(exponent if rising else -exponent))


def optimizers(curves: Sequence[Curve], names: Sequence[str]) -> Iterator[families.Row]:
    """C3 and C4: whether curves that differ in learning rate or optimizer alone have the same exponent.

    Not tested: what the paper says of the heights of these curves. At equal weights T depends on the rate anyway.
    """
    for (curve, name), (other, other_name) in combinations(zip(curves, names, strict=True), 2):
        if any(curve.row[key] != other.row[key] for key in ("fraction", "depth")):
            continue
        difference = halting.difference(curve, other)
        same, pair = equal(difference, SAME), f"{name} less {other_name}"
        if curve.row["optimizer"] == other.row["optimizer"] == "sgd":
            yield claim("C3 the rate leaves the exponent as it is", pair, difference, IN_WEIGHTS, same)
        elif curve.row["optimizer"] != other.row["optimizer"]:
            differs = same != "holds" and (difference.low > 0 or difference.high < 0)
            changes = verdict(differs, same == "holds")
            yield claim("C4 Adam changes the exponent", pair, difference, IN_WEIGHTS, changes)


def floor(curve: Curve, name: str) -> Iterator[families.Row]:
    """C6: the floor b of the fit with three parameters is above zero, and T falls toward it (k > 0)."""
    times = curve.values(steps)
    fit = halting.fit_floor(curve.column("weights"), times)
    if fit is not None:
        negligible = FLOOR * min(halting.mean(values) for values in times if values)
        has_floor = verdict(fit.b.low > negligible and fit.k.low > 0, fit.b.high < negligible)
        yield claim("C6 T has a floor", name, fit.b, "steps", has_floor)
        yield claim("C6 T falls above its floor", name, -fit.k, "exponent there", sign(fit.k))


def overfitting(curve: Curve, name: str) -> Iterator[families.Row]:
    """C11: the lowest loss of the largest network minus that of the best other network is positive, while T falls."""
    *others, largest = curve.values(minimum)
    others = [values for values in others if values]
    if others and largest:
        excess = simulated(lambda means: means[:, 0] - means[:, 1:].min(1), [largest, *others])
        both = sign(excess), sign(-curve.exponent("weights", steps))
        rises = verdict(both == ("holds", "holds"), "fails" in both)
        yield claim("C11 the best loss rises again while T falls", name, excess, "nats", rises)


def seeds(curves: Sequence[Curve], run: Run) -> Iterator[families.Row]:
    """A row per run: its times, and what the task measures at the lowest loss."""
    for point in points(curves):
        shapes = study.shapes_of(run.source_of(point.spec), point.spec)
        groups = models.groups_of(point.spec, shapes)
        hidden = {layer: shapes[layer] for layer, group in groups.items() if group not in NOT_HIDDEN}
        for halted in point.runs:
            halt, evaluations = halted.halting, halting.evaluations(halted.result)
            yield point.row | {
                "seed": halted.result.seed,
                "hidden_weights": family.kept_weights(point.spec, hidden),
                "censored": int(halt.censored),
                "diverged": int(np.isnan(halt.minimum)),
                "steps": halt.step,
                "minimum_step": halt.minimum_step,
                "last_step": int(evaluations[-1]),
                "evaluations_before": int(np.searchsorted(evaluations, halt.step)) if halted.certain else "",
                "common_steps": halted.common[0],
                "common_steps_far": halted.common[1],
                "best_validation_loss": halt.minimum,
                **at_minimum(halted),
            }


def at_minimum(run: HaltedRun) -> dict[str, float]:
    """What else the task measures on held-out data, at the lowest loss; nothing of a run that diverged."""
    if np.isnan(minimum(run)):
        return {}
    curves = run.result.curves
    lowest = np.argmin(curves[halting.LOSS])
    names = [metric.name for metric in metrics(run.result.spec.task) if metric.name != "loss"]
    return {name: float(curves[f"validation_{name}"][lowest]) for name in names}


def lines(rows: Sequence[families.Row]) -> Iterator[str]:
    """The claims, one line each."""
    for row in rows:
        value = Estimate(row["value"], row["low"], row["high"])
        form = {"steps": ".0f", "nats": "+.3f"}.get(row["unit"], "+.2f")
        curve = "" if row["curve"] == "all" else f" ({row['curve']})"
        yield f"{row['claim']}{curve}: {row['verdict']}, {row['unit']} {value.show(form=form)}"


def measured(curve: Curve, name: str) -> Iterator[str]:
    """What else the task measures at the lowest loss: a mean over the seeds of each width."""
    by_width = {point.row["width"]: [at_minimum(run) for run in point.runs] for point in curve.points}
    for metric in dict.fromkeys(key for runs in by_width.values() for run in runs for key in run):
        means = {w: halting.mean([run[metric] for run in runs if run]) for w, runs in by_width.items()}
        values = ", ".join(f"{x:.3g} (width {w})" for w, x in means.items())
        yield f"{metric.replace('_', ' ')} at the lowest loss ({name}): {values}"


# The figure.


LABELS = (
    "steps to within 1 % of the minimum",
    "steps to a loss that all widths reach",
    "lowest validation loss (nats)",
)
TITLE = 62  # characters in a line above a panel
PLOT = Plot(
    "weights",
    "steps_mean",
    "weights",
    LABELS[0],
    curves=("fraction", "depth", "optimizer", "learning_rate"),
    logy=True,
)


def draw(curves: Sequence[Curve], names: Sequence[str], caption: str) -> Figure:
    by_width = over_data(curves)
    panels, thresholds = 3 + (len(by_width) > 0), COMMON if len(curves) < 4 else COMMON[:1]
    lines = max(len(curves) * len(thresholds), len(by_width))
    figure = Figure(figsize=(4.7 * panels, 4.3 + 0.18 * lines), layout="constrained")
    times, common, loss, *rest = figure.subplots(1, panels)
    for i, (curve, name) in enumerate(zip(curves, names, strict=True)):
        color, style = PALETTE[i % len(PALETTE)], "-" if i < len(PALETTE) else ":"
        label = f"{name}: {curve.exponent('weights', steps).show(form='+.2f')}"
        draw_points(times, curve, steps, color, label, style)
        for j, (factor, line) in enumerate(zip(thresholds, (style, "--"), strict=False)):

            def time(run: HaltedRun, j: int = j) -> float:
                return run.common[j]

            label = f"{name}, {factor:g} ×: {curve.exponent_of_all('weights', time).show(form='+.2f')}"
            draw_points(common, curve, time, color, label, line, all_seeds=True)
        draw_points(loss, curve, minimum, color, name, style, all_seeds=True)
    for axes, label in zip((times, common, loss), LABELS, strict=True):
        axes.set(xscale="log", xlabel=PLOT.xlabel, ylabel=label)
        plain_numbers(axes.xaxis)
        if axes is not loss:
            log_times(axes)
        finish(axes)
    for axes in rest:
        draw_data(axes, by_width)
    multiples = " and ".join(f"{x:g}" for x in thresholds)
    titles = {
        times: f"{fill(caption, TITLE)}\nhollow: censored (minimum not certain)",
        common: f"{multiples} × the largest minimum of a curve;\nlegends: exponent in weights [95 %]",
    }
    for axes, title in titles.items():
        axes.set_title(title, fontsize=9, loc="left")
    return figure


def over_data(curves: Sequence[Curve]) -> dict[int, list[Point]]:
    """Width → its networks at several fractions of the data, all else equal; empty if there is one fraction."""
    same = ("depth", "optimizer", "learning_rate")
    comparable = [c for c in curves if all(c.row[name] == curves[0].row[name] for name in same)]
    by_width: dict[int, list[Point]] = {}
    for point in (point for curve in comparable for point in curve.points):
        by_width.setdefault(point.row["width"], []).append(point)
    return {width: points for width, points in by_width.items() if len(points) > 1}


def draw_data(axes: Axes, by_width: dict[int, list[Point]]) -> None:
    """T over the fraction of the data, one line per width: Figure 3b of the convergence paper."""
    for i, (width, networks) in enumerate(by_width.items()):
        curve = Curve(sorted(networks, key=lambda point: point.row["fraction"]))
        label = f"width {width}: {curve.exponent('fraction', steps).show(form='+.2f')}"
        draw_points(axes, curve, steps, PALETTE[i % len(PALETTE)], label, x="fraction")
    axes.set(xscale="log", yscale="log", xlabel="fraction of the training data", ylabel=LABELS[0])
    plain_numbers(axes.xaxis)
    plain_numbers(axes.yaxis)
    axes.set_title("legend: exponent in the fraction", fontsize=9, loc="left")
    finish(axes)


def finish(axes: Axes) -> None:
    tidy(axes)
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def draw_points(
    axes: Axes,
    curve: Curve,
    quantity: Quantity,
    color: str,
    label: str,
    line: str = "-",
    all_seeds: bool = False,
    x: str = "weights",
) -> None:
    """Seeds as dots; means of the seeds that are not censored (of all with `all_seeds`) as a line."""
    places, means = np.array(curve.column(x)), []
    for place, point in zip(places, curve.points, strict=True):
        means.append(mean([quantity(run) for run in (point.runs if all_seeds else point.certain)]))
        values = [quantity(run) for run in point.runs]
        axes.plot([place] * len(values), values, ".", ms=3, color=color, alpha=0.6)
    axes.plot(places, means, line, color=color, lw=1.3, label=label)
    hollow = np.array([not all_seeds and not all(run.certain for run in p.runs) for p in curve.points])
    for chosen, face in ((hollow, "white"), (~hollow, color)):
        axes.plot(places[chosen], np.array(means)[chosen], "o", ms=5.5, color=color, mfc=face)


def main(preset: Preset, run: Run) -> None:
    trained = study.train(preset, run, EXPERIMENT)
    if trained is None:
        return
    curves, names = trained
    table, claim_rows, runs = rows(curves, run), list(claims(curves, names)), list(seeds(curves, run))
    output.print_table(table, COLUMNS)
    figure = draw(curves, names, study.caption(preset, run))
    others = [metric.name for metric in metrics(runs[0]["task"]) if metric.name != "loss"]
    text = [
        *lines(claim_rows),
        *(line for pair in zip(curves, names, strict=True) for line in measured(*pair)),
    ]
    tables = {"claims": (claim_rows, CLAIMS), "seeds": (runs, [*SEEDS, *others])}
    launch.publish(run, EXPERIMENT, table, COLUMNS, figure, PLOT, text, tables)


COMMAND = Command(main, PRESETS, Run(f"results/{EXPERIMENT}"), study.template)

if __name__ == "__main__":
    launch.run(COMMAND)
