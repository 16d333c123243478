"""Halting times of recorded runs, and their exponents in the number of weights.

In: records with validation curves (and sums of the probe `path`). Out: a `HaltedRun` per record, curves over width, a
row per network, exponents with intervals. The time to a common loss is included, since the time to a network's minimum
mixes speed with capacity.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import least_squares

from experiments.lab import intervals
from experiments.lab.families import Row
from experiments.lab.intervals import Estimate
from wsn.records.record import Result
from wsn.spec import Spec
from wsn.training.halting import Halting, Steps, halting, steps_to_loss

COMMON = (1.05, 1.15)  # the common losses, as multiples of the largest minimum of a curve
LOSS = "validation_loss"
SUMMARY = (
    "seeds", "censored", "steps_mean", "steps_std", "common_steps_mean", "epochs_mean",
    "best_validation_loss_mean", "best_validation_loss_std",
)  # fmt: skip
TINY = 1e-9  # steps: the smallest floor of the fit, so that it has a logarithm
Values = Float[np.ndarray, " _"]


class HaltedRun(NamedTuple):
    """A record and its halting times."""

    result: Result
    halting: Halting
    common: tuple[float, ...]  # steps to the common losses, NaN where not reached between two evaluations

    @property
    def certain(self) -> bool:
        """Whether the halting time is known, not only bounded from below (censored)."""
        return not self.halting.censored


Quantity = Callable[[HaltedRun], float]


class Point(NamedTuple):
    """A network: its columns that are known before training, and its runs."""

    row: Row
    runs: list[HaltedRun]

    @property
    def spec(self) -> Spec:
        return self.runs[0].result.spec

    @property
    def certain(self) -> list[HaltedRun]:
        """The runs that are not censored; all if all are censored."""
        return [run for run in self.runs if run.certain] or self.runs


class Curve(NamedTuple):
    """Networks that differ in width alone."""

    points: list[Point]

    @property
    def row(self) -> Row:
        """The columns of the first network."""
        return self.points[0].row

    def column(self, name: str) -> list[float]:
        """A column that is known before training, by network."""
        return [point.row[name] for point in self.points]

    def values(self, quantity: Quantity) -> list[list[float]]:
        """By network, the values of the seeds that are not censored."""
        return [[quantity(run) for run in point.runs if run.certain] for point in self.points]

    def exponent(self, column: str, quantity: Quantity) -> Estimate:
        """The exponent of a quantity in a column, such as `weights`, over the seeds that are not censored."""
        return slope(self.column(column), self.values(quantity))

    def exponent_of_all(self, column: str, quantity: Quantity) -> Estimate:
        """The same over all seeds, for the networks of which every seed has a value."""
        networks = [[quantity(run) for run in point.runs] for point in self.points]
        return slope(self.column(column), [[] if np.isnan(values).any() else values for values in networks])


def points(curves: Sequence[Curve]) -> Iterator[Point]:
    """The networks of all curves."""
    for curve in curves:
        yield from curve.points


class Fit(NamedTuple):
    """k and b of T = a·M^-k + b."""

    k: Estimate
    b: Estimate


def halted(results: Sequence[Result], ceiling: float) -> list[HaltedRun]:
    """The times of records that are compared with each other, such as those of one curve.

    The common losses are COMMON times the largest minimum below `ceiling`, diverged runs left out. A run that is below
    a common loss at its first evaluation has no time to it, since nobody knows when it got there.
    """
    halts = [halting(evaluations(r), r.curves[LOSS].astype(np.float64), ceiling) for r in results]
    largest = max((h.minimum for h in halts if h.minimum < ceiling), default=np.nan)

    def time(result: Result, level: float) -> float:
        losses = result.curves[LOSS]
        return np.nan if losses[0] <= level else steps_to_loss(evaluations(result), losses, level)

    return [
        HaltedRun(result, halt, tuple(time(result, factor * largest) for factor in COMMON))
        for result, halt in zip(results, halts, strict=True)
    ]


def evaluations(result: Result) -> Steps:
    assert result.steps is not None, "a record without the steps of its evaluations never stopped by a rule"
    return result.steps


def summary(point: Point, steps_of_epoch: int) -> Row:
    """Means and standard deviations over the seeds of one network.

    The time is that of the seeds that are not censored; if all are, the mean of their lower bounds.
    """
    times, minima = [steps(run) for run in point.certain], [minimum(run) for run in point.runs]
    censored = sum(not run.certain for run in point.runs)
    common_steps = mean([common(run) for run in point.runs])
    moments = mean(times), deviation(times), common_steps, mean(times) / steps_of_epoch
    values = (len(point.runs), censored, *moments, mean(minima), deviation(minima))
    return dict(zip(SUMMARY, values, strict=True))


def mean(values: Sequence[float]) -> float:
    """Of the values that are not NaN."""
    return float(np.mean(valid(values))) if len(valid(values)) else np.nan


def deviation(values: Sequence[float]) -> float:
    return float(np.std(valid(values), ddof=1)) if len(valid(values)) > 1 else 0.0


def valid(values: Sequence[float]) -> Values:
    """Without NaN."""
    return np.array([value for value in values if not np.isnan(value)])


def at_halting(run: HaltedRun, sums: Float[np.ndarray, " evaluations"]) -> float:
    """A cumulative sum, 0 at the start, at the halting time; linear between evaluations."""
    return float(np.interp(run.halting.step, np.append(0, evaluations(run.result)), np.append(0.0, sums)))


def steps(run: HaltedRun) -> float:
    return run.halting.step


def common(run: HaltedRun) -> float:
    """Steps to the lower common loss."""
    return run.common[0]


def minimum(run: HaltedRun) -> float:
    return run.halting.minimum


def slope(
    x: Sequence[float], networks: Sequence[Sequence[float]], blocks: Sequence[Hashable] | None = None
) -> Estimate:
    """The least-squares slope of the mean log value over log x, with one intercept per block.

    `networks` has the values over seeds of each network; networks without values are left out. NaN if no two networks
    of a block differ in x.
    """
    logs, coefficients = slope_coefficients(x, networks, blocks)
    return intervals.linear(coefficients, logs) if coefficients.any() else Estimate(np.nan)


def difference(first: Curve, second: Curve) -> Estimate:
    """The exponent of the halting time in weights of one curve minus that of another."""
    (logs, plus), (more, minus) = (
        slope_coefficients(curve.column("weights"), curve.values(steps)) for curve in (first, second)
    )
    if not (plus.any() and minus.any()):
        return Estimate(np.nan)
    return intervals.linear(np.append(plus, -minus), [*logs, *more])


def slope_coefficients(
    x: Sequence[float], networks: Sequence[Sequence[float]], blocks: Sequence[Hashable] | None = None
) -> tuple[list[Values], Values]:
    """(log values of each network that has any, coefficient of its mean in the slope); all 0 if x does not vary."""
    points = [
        (np.log(place), block, np.log(valid(values)))
        for place, block, values in zip(x, blocks or [0] * len(x), networks, strict=True)
        if len(valid(values))
    ]
    centered = np.array([place for place, _, _ in points])
    for block in {block for _, block, _ in points}:
        inside = np.array([other == block for _, other, _ in points])
        centered[inside] -= centered[inside].mean()
    spread = (centered**2).sum()
    coefficients = centered / spread if spread > 1e-12 else np.zeros(len(centered))
    return [values for _, _, values in points], coefficients


def fit_floor(weights: Sequence[float], networks: Sequence[Sequence[float]]) -> Fit | None:
    """T = a·M^-k + b with 0 ≤ b < T, by least squares of log T, with percentile intervals; None below four networks.

    The intervals are wide, because a few points hardly separate k from b.
    """
    points = [(m, np.log(valid(v))) for m, v in zip(weights, networks, strict=True) if len(valid(v))]
    if len(points) < 4:
        return None
    x = np.log([m for m, _ in points])
    x = x - x.mean()

    def k_and_b(y: Values) -> Values:
        exponent, height = np.polyfit(x, y, 1)
        largest_floor = max(float(np.exp(y.min())), 100 * TINY)
        start = (float(np.clip(height, -49, 49)), float(np.clip(-exponent, -4, 4)), largest_floor / 10)
        bounds = ((-50.0, -5.0, TINY), (50.0, 5.0, largest_floor))

        def residuals(parameters: Values) -> Values:
            log_a, k, b = parameters
            return np.logaddexp(log_a - k * x, np.log(b)) - y

        return least_squares(residuals, start, bounds=bounds).x[1:]

    return Fit(*intervals.percentiles(k_and_b, [values for _, values in points]))
