"""What decides how fast a network learns: its weights, its width, or its effective learning rate.

In: curves over width of every arm and family. Out: exponents in width, three hypotheses held against them, and the one
axis on which all networks should lie if the effective rate decides.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from experiments.lab import intervals
from experiments.lab.convergence import width
from experiments.lab.convergence.halting import Curve, Halted, known, minimum, slope, steps
from experiments.lab.convergence.path import FACTORS, exponent
from experiments.lab.intervals import Estimate

FLAT = 0.1  # exponents of time in width below it are called none
FALLS, FLATLY, RISES, NOT_DOWN = "falls", "flat", "rises", "not down"
# What each hypothesis says of the time over width: (family, arm) → how.
HYPOTHESES = {
    "weights decide": {
        ("dense", "one"): FALLS,
        ("dense", "fan_in"): FALLS,
        ("sparse", "one"): FLATLY,
        ("sparse", "fan_in"): FLATLY,
    },
    "width decides": {
        ("dense", "one"): FALLS,
        ("dense", "fan_in"): FALLS,
        ("sparse", "one"): FALLS,
        ("sparse", "fan_in"): FALLS,
    },
    "the effective rate decides": {
        ("dense", "one"): FALLS,
        ("dense", "fan_in"): NOT_DOWN,
        ("sparse", "one"): RISES,
        ("sparse", "fan_in"): FLATLY,
    },
}
TIMES = {"its own minimum": steps, "a loss common to all": width.common}


class Collapse(NamedTuple):
    """log(common time) over log(rate × trace): the exponent alone, and beside that of the width."""

    exponent: Estimate
    explained: float  # share of the variance of networks' means
    with_width: Estimate
    width: Estimate


def by_width(curve: Curve, of=steps) -> Estimate:
    """The exponent in width; of a time to a minimum over the certain seeds, else over all."""
    if of is steps:
        return curve.by("width", of)
    return slope(curve.told("width"), [[of(run) for run in point.runs] for point in curve.points])


def agrees(found: Estimate, prediction: str) -> str:
    """Whether an exponent is as predicted: agrees, contradicts or undecided, by its whole interval."""
    inside = found.low > -FLAT and found.high < FLAT
    yes = {
        FALLS: found.high < 0 and not inside,
        RISES: found.low > 0 and not inside,
        FLATLY: inside,
        NOT_DOWN: found.low > -FLAT,
    }
    no = {
        FALLS: found.low > 0 or inside,
        RISES: found.high < 0 or inside,
        FLATLY: found.low > FLAT or found.high < -FLAT,
        NOT_DOWN: found.high < -FLAT,
    }
    return "agrees" if yes[prediction] else "contradicts" if no[prediction] else "undecided"


def hypotheses(curves: Sequence[Curve]) -> Iterator[str]:
    """Each hypothesis against every curve that it says something of, for both times."""
    for hypothesis, predictions in HYPOTHESES.items():
        for time, of in TIMES.items():
            verdicts = []
            for curve in curves:
                row = curve.points[0].row
                if (row["kind"], row["arm"]) in predictions and len(curve.points) > 1:
                    verdicts.append(agrees(by_width(curve, of), predictions[row["kind"], row["arm"]]))
            counts = ", ".join(f"{word} with {verdicts.count(word)}" for word in dict.fromkeys(verdicts))
            counts = counts.replace("contradicts with", "contradicted by").replace(
                "undecided with", "undecided for"
            )
            yield f"{hypothesis} (steps to {time}): of {len(verdicts)} curves {counts}"


def exponents(curves: Sequence[Curve]) -> Iterator[str]:
    """Of every curve: of both times and the least loss in width, and the exact split of its own time."""
    for curve in curves:
        row = curve.points[0].row
        own, shared, loss = (by_width(curve, of) for of in (steps, width.common, minimum))
        distance, bends, step = (exponent(curve, "all", name, "width") for name in FACTORS)
        yield (
            f"{width.ARMS[row['arm']]}, {width.name(curve)}: T ~ width^{show(own)} = distance {show(distance)}"
            f" + tortuosity {show(bends)} − step {show(step)}; common T {show(shared)}; least loss {show(loss, 3)}"
        )


def show(found: Estimate, digits: int = 2) -> str:
    return found.show(form=f"+.{digits}f")


def collapse(curves: Sequence[Curve]) -> Collapse:
    """Every network once, whatever arms and families it is in."""
    points = {p.runs[0].result.spec: p for curve in curves for p in curve.points}
    usable = [p for p in points.values() if len(known([width.common(run) for run in p.runs]))]
    times = [np.log(known([width.common(run) for run in p.runs])) for p in usable]
    effective = np.log([p.row["rate_trace"] for p in usable])
    widths = np.log([p.row["width"] for p in usable])
    alone, both = least_squares(effective), least_squares(effective, widths)
    means = np.array([x.mean() for x in times])
    rest = means - means.mean() - (alone[0] @ means) * (effective - effective.mean())
    return Collapse(
        intervals.bootstrap(lambda y: y @ alone[0], times),
        float(1 - rest.var() / means.var()) if means.var() else np.nan,
        intervals.bootstrap(lambda y: y @ both[0], times),
        intervals.bootstrap(lambda y: y @ both[1], times),
    )


def least_squares(*columns: Float[np.ndarray, " networks"]) -> Float[np.ndarray, "columns networks"]:
    """What every network counts in each coefficient of a fit by those columns and a height."""
    return np.linalg.pinv(np.column_stack([np.ones(len(columns[0])), *columns]))[1:]


def together(found: Collapse) -> str:
    return (
        f"common T ~ (rate × trace)^{show(found.exponent)}, all networks on one line (−1: the effective rate decides"
        f" alone), {100 * found.explained:.0f} % of the variance; with the width beside it ^{show(found.with_width)}"
        f" and width^{show(found.width)}"
    )


def rest(runs: Sequence[Halted]) -> str:
    """How many runs have no certain minimum."""
    return f"{sum(not run.counts for run in runs)} of {len(runs)} runs are censored: their own T is a lower bound"
