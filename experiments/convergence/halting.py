"""From records to halting times, and what they say of the number of weights: slopes and a fit with a floor.

In: records with validation curves (and sums of probes). Out: a `Run` per record; a row per network; exponents with
intervals. The time to a common loss stands beside each network's own, since that mixes speed with capacity.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

from experiments.lab import intervals
from experiments.lab.families import Row
from experiments.lab.intervals import Estimate
from wsn.records.record import Result
from wsn.training.halting import Halting, Steps, halting, steps_to_loss

COMMON = (1.05, 1.15)  # common losses, over the largest minimum of a curve
LOSS = "validation_loss"
TINY = 1e-9  # steps: a floor of none, whose logarithm is a number
Values = Float[np.ndarray, " _"]


class Halted(NamedTuple):
    """A record and when it came to its minimum."""

    result: Result
    halting: Halting
    common: tuple[
        float, ...
    ]  # steps to the common losses, NaN where one was not reached between two evaluations

    @property
    def counts(self) -> bool:
        """Whether its time is one, and no lower bound."""
        return not self.halting.censored


class Point(NamedTuple):
    """A network: what a row says about it before it is trained, and its runs."""

    row: Row
    runs: list[Halted]

    @property
    def certain(self) -> list[Halted]:
        """The runs whose time is one; all, where none is."""
        return [run for run in self.runs if run.counts] or self.runs


class Curve(NamedTuple):
    """Networks that differ in width alone."""

    points: list[Point]

    def told(self, name: str) -> list[float]:
        """A column of what is known before training, by network."""
        return [point.row[name] for point in self.points]

    def values(self, of: Callable[[Halted], float]) -> list[list[float]]:
        """Of every network, over the seeds whose time is certain."""
        return [[of(run) for run in point.runs if run.counts] for point in self.points]

    def by(self, name: str, of: Callable[[Halted], float]) -> Estimate:
        """The exponent of a value in a column, such as `weights`, over the seeds whose time is certain."""
        return slope(self.told(name), self.values(of))

    def of_all(self, name: str, of: Callable[[Halted], float]) -> Estimate:
        """The same over all seeds, of the networks of which every seed has that value."""
        networks = [[of(run) for run in point.runs] for point in self.points]
        return slope(self.told(name), [[] if np.isnan(values).any() else values for values in networks])


class Fit(NamedTuple):
    """T = a·M^-k + b, in which a is the height alone."""

    k: Estimate
    b: Estimate


def halted(results: Sequence[Result], ceiling: float) -> list[Halted]:
    """The times of records that are compared with each other, such as those of one curve.

    A common loss is COMMON times the largest minimum of those that came below `ceiling` and did not diverge. Who is
    there at the first evaluation has no time to it: nobody knows since when.
    """
    own = [halting(evaluations(r), r.curves[LOSS].astype(np.float64), ceiling) for r in results]
    largest = max((h.minimum for h in own if h.minimum < ceiling), default=np.nan)

    def time(result: Result, level: float) -> float:
        losses = result.curves[LOSS]
        return np.nan if losses[0] <= level else steps_to_loss(evaluations(result), losses, level)

    return [
        Halted(r, h, tuple(time(r, factor * largest) for factor in COMMON))
        for r, h in zip(results, own, strict=True)
    ]


def evaluations(result: Result) -> Steps:
    assert result.steps is not None, "only records of before 0.2 have none, and they never stopped by a rule"
    return result.steps


def summary(point: Point, steps_of_epoch: int) -> Row:
    """Means and deviations over the seeds of one network.

    The time is that of the seeds that are not censored; where all are, the mean of their lower bounds.
    """
    times, runs = [steps(run) for run in point.certain], point.runs
    return {
        "seeds": len(runs),
        "censored": sum(not run.counts for run in runs),
        "steps_mean": mean(times),
        "steps_std": deviation(times),
        "common_steps_mean": mean([common(run) for run in runs]),
        "epochs_mean": mean(times) / steps_of_epoch,
        "best_validation_loss_mean": mean([minimum(run) for run in runs]),
        "best_validation_loss_std": deviation([minimum(run) for run in runs]),
    }


def mean(values: Sequence[float]) -> float:
    """Of the values that there are."""
    found = [value for value in values if not np.isnan(value)]
    return float(np.mean(found)) if found else np.nan


def deviation(values: Sequence[float]) -> float:
    found = [value for value in values if not np.isnan(value)]
    return float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


def at(run: Halted, values: Float[np.ndarray, " evaluations"]) -> float:
    """A cumulative sum at the halting time, linear between evaluations; it was 0 at the start."""
    return float(np.interp(run.halting.step, np.append(0, evaluations(run.result)), np.append(0.0, values)))


def steps(run: Halted) -> float:
    return run.halting.step


def common(run: Halted) -> float:
    """Steps to the lower common loss."""
    return run.common[0]


def minimum(run: Halted) -> float:
    return run.halting.minimum


def slope(
    x: Sequence[float], networks: Sequence[Sequence[float]], blocks: Sequence[Hashable] | None = None
) -> Estimate:
    """The least-squares slope of the mean log value on log x, with a height of its own for every block.

    `networks` has the values over seeds of each network; those without any are left out. NaN where none differ in x.
    """
    points, coefficients = line(x, networks, blocks)
    if not coefficients.any():
        return Estimate(np.nan)
    return intervals.linear(coefficients, points)


def difference(one: Curve, other: Curve) -> Estimate:
    """Of the slopes of two curves' times in the number of weights."""
    lines = [line(curve.told("weights"), curve.values(steps)) for curve in (one, other)]
    if not all(coefficients.any() for _, coefficients in lines):
        return Estimate(np.nan)
    (points, plus), (more, minus) = lines
    return intervals.linear(np.append(plus, -minus), [*points, *more])


def line(
    x: Sequence[float], networks: Sequence[Sequence[float]], blocks: Sequence[Hashable] | None = None
) -> tuple[list[Values], Values]:
    """(log values of each network that has any, what its mean counts in the slope)."""
    blocks = [0] * len(x) if blocks is None else blocks
    points = [
        (np.log(at), block, np.log(known(values)))
        for at, block, values in zip(x, blocks, networks, strict=True)
        if len(known(values))
    ]
    own = np.array([at for at, _, _ in points])
    for block in {block for _, block, _ in points}:
        inside = np.array([other == block for _, other, _ in points])
        own[inside] -= own[inside].mean()
    spread = (own**2).sum()
    return [values for _, _, values in points], own / spread if spread > 1e-12 else np.zeros(len(own))


def known(values: Sequence[float]) -> Values:
    return np.array([value for value in values if not np.isnan(value)])


def fitted(weights: Sequence[float], networks: Sequence[Sequence[float]]) -> Fit | None:
    """T = a·M^-k + b with 0 ≤ b < T, least squares of log T; percentile intervals. None for less than four networks.

    A few points hardly tell k and b apart, as the intervals say.
    """
    points = [(m, np.log(known(v))) for m, v in zip(weights, networks, strict=True) if len(known(v))]
    if len(points) < 4:
        return None
    x = np.log([m for m, _ in points])
    x = x - x.mean()

    def k_and_b(y: Values) -> Values:
        fall, height = np.polyfit(x, y, 1)
        most = max(float(np.exp(y.min())), 100 * TINY)
        start = (float(np.clip(height, -49, 49)), float(np.clip(-fall, -4, 4)), most / 10)
        bounds = ((-50.0, -5.0, TINY), (50.0, 5.0, most))

        def left(found: Values) -> Values:
            log_a, k, b = found
            return np.logaddexp(log_a - k * x, np.log(b)) - y

        return least_squares(left, start, bounds=bounds).x[1:]

    found = intervals.percentiles(k_and_b, [values for _, values in points])
    return Fit(*found)
