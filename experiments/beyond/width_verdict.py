"""What decides how fast a network learns: its weights, its width, or its effective learning rate.

In: curves over width of every arm and family. Out: exponents in width, three hypotheses held against them, and the one
axis on which all networks should lie if the effective rate decides.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from experiments.beyond import width
from experiments.convergence.halting import Curve, common, minimum, steps
from experiments.convergence.path import FACTORS, exponent
from experiments.lab.families import Row
from experiments.lab.intervals import Estimate, equal, regression

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
TIMES = {"its own minimum": steps, "a loss common to all": common}

AXIS = "steps to a loss common to all over rate × trace"
VERDICTS = {"agrees": "agrees with", "contradicts": "contradicted by", "undecided": "undecided for"}
CLAIMS = ["arm", "family", "quantity", "exponent", "low", "high", "explained", *HYPOTHESES]


class Collapse(NamedTuple):
    """log(common time) over log(rate × trace): the exponent alone, and beside that of the width."""

    exponent: Estimate
    explained: float  # share of the variance of networks' means
    with_width: Estimate
    width: Estimate


def by_width(curve: Curve, of=steps) -> Estimate:
    """The exponent in width; of a time to a minimum over the certain seeds, else over all."""
    return curve.exponent("width", of) if of is steps else curve.exponent_of_all("width", of)


def agrees(found: Estimate, prediction: str) -> str:
    """Whether an exponent is as predicted: agrees, contradicts or undecided, by its whole interval."""
    flat = equal(found, FLAT)
    inside = flat == "holds"
    yes = {
        FALLS: found.high < 0 and not inside,
        RISES: found.low > 0 and not inside,
        FLATLY: inside,
        NOT_DOWN: found.low > -FLAT,
    }
    no = {
        FALLS: found.low > 0 or inside,
        RISES: found.high < 0 or inside,
        FLATLY: flat == "fails",
        NOT_DOWN: found.high < -FLAT,
    }
    return "agrees" if yes[prediction] else "contradicts" if no[prediction] else "undecided"


def claims(curves: Sequence[Curve]) -> Iterator[Row]:
    """Of every curve the exponents in width, with what hypotheses say of its times; then those of the one axis."""
    for curve in curves:
        row = curve.points[0].row
        own = {"arm": row["arm"], "family": width.name(curve)}
        for time, of in TIMES.items():
            found = by_width(curve, of)
            yield (
                own
                | exponent_of(f"steps to {time}", found)
                | {
                    hypothesis: agrees(found, predictions[row["kind"], row["arm"]])
                    for hypothesis, predictions in HYPOTHESES.items()
                    if (row["kind"], row["arm"]) in predictions and len(curve.points) > 1
                }
            )
        yield own | exponent_of("least validation loss", by_width(curve, minimum))
        for name in FACTORS:
            yield own | exponent_of(name, exponent(curve, "all", name, "width"))
    for arm in ("all", *dict.fromkeys(c.points[0].row["arm"] for c in curves)):
        axis = collapse([c for c in curves if arm in ("all", c.points[0].row["arm"])])
        own = {"arm": arm, "family": "all", "explained": axis.explained}
        yield own | exponent_of(AXIS, axis.exponent)
        if arm == "all":
            yield own | exponent_of(f"{AXIS}, width beside it", axis.with_width)
            yield own | exponent_of("width beside it", axis.width)


def exponent_of(quantity: str, found: Estimate) -> Row:
    return {"quantity": quantity} | dict(zip(("exponent", "low", "high"), found, strict=True))


def hypotheses(told: Sequence[Row]) -> Iterator[str]:
    """How many curves agree with each hypothesis, for both times, of `claims`."""
    for hypothesis in HYPOTHESES:
        for time in TIMES:
            verdicts = [
                row[hypothesis] for row in told if row["quantity"] == f"steps to {time}" and hypothesis in row
            ]
            counts = ", ".join(
                f"{words} {verdicts.count(word)}" for word, words in VERDICTS.items() if word in verdicts
            )
            yield f"{hypothesis} (steps to {time}): of {len(verdicts)} curves {counts}"


def exponents(told: Sequence[Row]) -> Iterator[str]:
    """A line a curve, of `claims`: both times, the least loss, and the exact split of its own time."""
    for arm, family in dict.fromkeys((row["arm"], row["family"]) for row in told if row["family"] != "all"):
        found = {
            row["quantity"]: Estimate(row["exponent"], row["low"], row["high"])
            for row in told
            if (row["arm"], row["family"]) == (arm, family)
        }
        own, shared = (show(found[f"steps to {time}"]) for time in TIMES)
        distance, bends, step = (show(found[name]) for name in FACTORS)
        yield (
            f"{width.ARMS[arm]}, {family}: T ~ width^{own} = distance {distance} + tortuosity {bends} − step {step};"
            f" common T {shared}; least loss {show(found['least validation loss'], 3)}"
        )


def show(found: Estimate, digits: int = 2) -> str:
    return found.show(form=f"+.{digits}f")


def collapse(curves: Sequence[Curve]) -> Collapse:
    """Every network once, whatever arms and families it is in, of which every seed came to the common loss."""
    points = {p.runs[0].result.spec: p for curve in curves for p in curve.points}
    times = {spec: np.log([common(run) for run in p.runs]) for spec, p in points.items()}
    usable = [spec for spec, own in times.items() if not np.isnan(own).any()]
    y = np.array([times[spec].mean() for spec in usable])
    effective, widths = (
        np.log([points[spec].row[name] for spec in usable]) for name in ("rate_trace", "width")
    )
    (alone,), explained = regression([effective], y)
    (beside, wide), _ = regression([effective, widths], y)
    return Collapse(alone, explained, beside, wide)


def together(told: Sequence[Row]) -> str:
    """The one axis in a line, of `claims`."""
    rows = {(row["arm"], row["quantity"]): row for row in told if row["family"] == "all"}
    shown = {key: show(Estimate(row["exponent"], row["low"], row["high"])) for key, row in rows.items()}
    apart = ", ".join(
        f"{width.ARMS[arm]} {shown[arm, AXIS]}" for arm, quantity in rows if arm != "all" and quantity == AXIS
    )
    return (
        f"common T ~ (rate × trace)^{shown['all', AXIS]}, all networks on one line (−1: the effective rate decides"
        f" alone), {100 * rows['all', AXIS]['explained']:.0f} % of the variance; arm by arm {apart}; with the width"
        f" beside it ^{shown['all', f'{AXIS}, width beside it']} and width^{shown['all', 'width beside it']}"
    )


def rest(curves: Sequence[Curve]) -> str:
    """How many runs have no certain minimum, and how many no common time."""
    runs = {(r.result.spec, r.result.seed): r for c in curves for p in c.points for r in p.runs}.values()
    uncertain = sum(not run.certain for run in runs)
    without = sum(np.isnan(common(run)) for run in runs)
    return (
        f"{uncertain} of {len(runs)} runs are censored: their own T is a lower bound; {without} did not come to the"
        " common loss between two evaluations, and their networks are left out where it counts"
    )
