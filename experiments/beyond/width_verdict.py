"""What sets the training speed of a network: its number of weights, its width, or its effective learning rate.

In: curves over width of every arm and family. Out: exponents in width, three hypotheses tested against them, and a fit
of all times over rate × trace, which should explain them if the effective rate decides.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from experiments.beyond import width
from experiments.convergence import halting
from experiments.convergence.halting import Curve, Quantity, common, minimum, steps
from experiments.convergence.path import FACTORS
from experiments.convergence.path import exponent as path_exponent
from experiments.lab.families import Row
from experiments.lab.intervals import INCONCLUSIVE, Estimate, equal, regression

FLAT = 0.1  # smaller exponents of time in width count as none
FALLS, FLATLY, RISES, NOT_DOWN = "falls", "flat", "rises", "not down"
PLACES = (("dense", "one"), ("dense", "fan_in"), ("sparse", "one"), ("sparse", "fan_in"))  # family, arm
# The time over width that each hypothesis predicts, by place.
PREDICTIONS = {
    "weights decide": (FALLS, FALLS, FLATLY, FLATLY),
    "width decides": (FALLS, FALLS, FALLS, FALLS),
    "the effective rate decides": (FALLS, NOT_DOWN, RISES, FLATLY),
}
HYPOTHESES = {name: dict(zip(PLACES, times, strict=True)) for name, times in PREDICTIONS.items()}
TIMES = {"its own minimum": steps, "a loss common to all": common}

RATE_TRACE = "steps to a loss common to all over rate × trace"
VERDICTS = {"agrees": "agrees with", "contradicts": "contradicted by", INCONCLUSIVE: "inconclusive for"}
CLAIMS = ["arm", "family", "quantity", "exponent", "low", "high", "explained", *HYPOTHESES]


class Collapse(NamedTuple):
    """log(common time) over log(rate × trace), alone and jointly with log(width)."""

    exponent: Estimate
    explained: float  # fraction of the variance of networks' means
    with_width: Estimate
    width: Estimate


def by_width(curve: Curve, quantity: Quantity = steps) -> Estimate:
    """The exponent in width, over all seeds, but of halting times over those that are not censored."""
    return (curve.exponent if quantity is steps else curve.exponent_of_all)("width", quantity)


def agrees(estimate: Estimate, prediction: str) -> str:
    """Whether the whole interval of an exponent agrees with or contradicts a prediction; else inconclusive."""
    _, low, high = estimate
    flat = equal(estimate, FLAT)
    inside = flat == "holds"
    agrees, contradicts = {
        FALLS: (high < 0 and not inside, low > 0 or inside),
        RISES: (low > 0 and not inside, high < 0 or inside),
        FLATLY: (inside, flat == "fails"),
        NOT_DOWN: (low > -FLAT, high < -FLAT),
    }[prediction]
    return "agrees" if agrees else "contradicts" if contradicts else INCONCLUSIVE


def claims(curves: Sequence[Curve]) -> Iterator[Row]:
    """The exponents in width of every curve, with the verdicts of the hypotheses; then those in rate × trace."""
    for curve in curves:
        row = {"arm": curve.row["arm"], "family": width.name(curve)}
        place = curve.row["kind"], curve.row["arm"]
        for time, quantity in TIMES.items():
            exponent = by_width(curve, quantity)
            verdicts = {
                hypothesis: agrees(exponent, predictions[place])
                for hypothesis, predictions in HYPOTHESES.items()
                if place in predictions and len(curve.points) > 1
            }
            yield row | exponent_columns(f"steps to {time}", exponent) | verdicts
        yield row | exponent_columns("least validation loss", by_width(curve, minimum))
        for name in FACTORS:
            yield row | exponent_columns(name, path_exponent(curve, "all", name, "width"))
    for arm in ("all", *dict.fromkeys(c.row["arm"] for c in curves)):
        fit = collapse([c for c in curves if arm in ("all", c.row["arm"])])
        row = {"arm": arm, "family": "all", "explained": fit.explained}
        yield row | exponent_columns(RATE_TRACE, fit.exponent)
        if arm == "all":
            yield row | exponent_columns(f"{RATE_TRACE}, width beside it", fit.with_width)
            yield row | exponent_columns("width beside it", fit.width)


def lines(claims: Sequence[Row], curves: Sequence[Curve]) -> list[str]:
    """All verdicts, as text."""
    return [*exponents(claims), *hypotheses(claims), rate_trace_fit(claims), exclusions(curves)]


def exponent_columns(quantity: str, estimate: Estimate) -> Row:
    return {"quantity": quantity} | dict(zip(("exponent", "low", "high"), estimate, strict=True))


def hypotheses(claims: Sequence[Row]) -> Iterator[str]:
    """From the rows of `claims`: how many curves agree with each hypothesis, for both times."""
    for hypothesis in HYPOTHESES:
        for time in TIMES:
            of_time = [row for row in claims if row["quantity"] == f"steps to {time}" and hypothesis in row]
            if not of_time:
                continue
            counts = Counter(row[hypothesis] for row in of_time)
            text = ", ".join(f"{words} {counts[word]}" for word, words in VERDICTS.items() if counts[word])
            yield f"{hypothesis} (steps to {time}): of {len(of_time)} curves {text}"


def exponents(claims: Sequence[Row]) -> Iterator[str]:
    """From the rows of `claims`, a line per curve: both times, the lowest loss, and the factors of the halting time."""
    for arm, family in dict.fromkeys((row["arm"], row["family"]) for row in claims if row["family"] != "all"):
        by_quantity = {
            row["quantity"]: Estimate(row["exponent"], row["low"], row["high"])
            for row in claims
            if (row["arm"], row["family"]) == (arm, family)
        }
        time, common_time = (show(by_quantity[f"steps to {time}"]) for time in TIMES)
        distance, tortuosity, step = (show(by_quantity[name]) for name in FACTORS)
        yield (
            f"{width.ARMS[arm]}, {family}: T ~ width^{time} = distance {distance} + tortuosity {tortuosity}"
            f" − step {step}; common T {common_time}; lowest loss {show(by_quantity['least validation loss'], 3)}"
        )


def show(estimate: Estimate, digits: int = 2) -> str:
    return estimate.show(form=f"+.{digits}f")


def collapse(curves: Sequence[Curve]) -> Collapse:
    """The fit over the networks of which every seed reached the common loss, each counted once."""
    points = {point.spec: point for point in halting.points(curves)}
    times = {spec: np.log([common(run) for run in p.runs]) for spec, p in points.items()}
    usable = [spec for spec, values in times.items() if not np.isnan(values).any()]
    y = np.array([times[spec].mean() for spec in usable])
    effective, widths = (
        np.log([points[spec].row[name] for spec in usable]) for name in ("rate_trace", "width")
    )
    (alone,), explained = regression([effective], y)
    (joint, wide), _ = regression([effective, widths], y)
    return Collapse(alone, explained, joint, wide)


def rate_trace_fit(claims: Sequence[Row]) -> str:
    """From the rows of `claims`, a line: the exponents in rate × trace."""
    rows = {(row["arm"], row["quantity"]): row for row in claims if row["family"] == "all"}
    shown = {key: show(Estimate(row["exponent"], row["low"], row["high"])) for key, row in rows.items()}
    arms = [arm for arm, quantity in rows if arm != "all" and quantity == RATE_TRACE]
    by_arm = ", ".join(f"{width.ARMS[arm]} {shown[arm, RATE_TRACE]}" for arm in arms)
    explained = 100 * rows["all", RATE_TRACE]["explained"]
    joint, of_width = (shown["all", name] for name in (f"{RATE_TRACE}, width beside it", "width beside it"))
    return (
        f"common T ~ (rate × trace)^{shown['all', RATE_TRACE]}, all networks (−1: only the effective rate matters),"
        f" {explained:.0f} % of the variance; by arm {by_arm}; jointly with the width ^{joint} and width^{of_width}"
    )


def exclusions(curves: Sequence[Curve]) -> str:
    """How many runs are censored, and how many have no common time."""
    runs = {(r.result.spec, r.result.seed): r for p in halting.points(curves) for r in p.runs}.values()
    uncertain = sum(not run.certain for run in runs)
    without = sum(np.isnan(common(run)) for run in runs)
    return (
        f"{uncertain} of {len(runs)} runs are censored: their T is a lower bound; {without} did not reach the common"
        " loss between two evaluations, and their networks are excluded from its exponents"
    )
