"""95 % intervals of quantities that are computed from the mean values of several networks over a few seeds.

Over seeds there is one assumption: each network has a normal distribution with its own standard deviation, since narrow
networks vary more from seed to seed than wide ones. A network with one seed gets the pooled variance of the others.
`linear` is Welch's t for weighted sums of means, `simulated` and `percentiles` draw the means for all else.
`regression` is about the scatter of networks around a line instead.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

DRAWS = 10_000
Values = Sequence[float] | Float[np.ndarray, " _"]  # of one network, by seed
METHOD = (
    "intervals: 95 % over seeds, Welch's t (each network has its own standard deviation); for the best of several"
    " networks Bonferroni-corrected for their number"
)


class Estimate(NamedTuple):
    """A value and its 95 % interval, NaN where no network has two seeds."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __neg__(self) -> "Estimate":
        return Estimate(-self.value, -self.high, -self.low)

    def show(self, scale: float = 1.0, form: str = "+.1f") -> str:
        if math.isnan(self.value):
            return "none"
        value, low, high = (f"{scale * x:{form}}" for x in self)
        return f"{value} (no interval)" if math.isnan(self.low) else f"{value} [{low}, {high}]"


class Seeds(NamedTuple):
    """Mean and variance of each network, degrees of freedom of the variance, and number of seeds."""

    mean: Float[np.ndarray, " networks"]
    variance: Float[np.ndarray, " networks"]
    freedom: Float[np.ndarray, " networks"]
    num_seeds: Float[np.ndarray, " networks"]


def over_seeds(networks: Sequence[Values]) -> Seeds | None:
    """The moments of each network; None if no network has two seeds.

    A network with one seed gets the pooled variance of the others and its degrees of freedom.
    """
    count = np.array([len(values) for values in networks], float)
    mean = np.array([np.mean(values) for values in networks])
    if count.max() < 2:
        return None
    variance = np.array([np.var(values, ddof=1) if len(values) > 1 else 0.0 for values in networks])
    freedom = (count - 1).sum()
    pooled = (variance * (count - 1)).sum() / freedom
    several = count > 1
    return Seeds(mean, np.where(several, variance, pooled), np.where(several, count - 1, freedom), count)


def linear(
    coefficients: Float[np.ndarray, " networks"],
    networks: Sequence[Values],
    comparisons: int = 1,
    pooled: bool = False,
) -> Estimate:
    """Σ coefficient · mean of each network, with Welch's interval (1947; degrees of freedom by Satterthwaite).

    `comparisons`: Bonferroni's correction, for the best of so many networks. `pooled`: one standard deviation for all
    networks, also those with a coefficient of 0, for families with two seeds a network.
    """
    value = float(coefficients @ [np.mean(values) for values in networks])
    seeds = over_seeds(networks)
    if seeds is None:
        return Estimate(value)
    squares, several = coefficients**2 / seeds.num_seeds, seeds.num_seeds > 1
    shared = ~several | pooled  # these have the pooled variance, a mean over the networks of several seeds
    weights = np.where(several, (seeds.num_seeds - 1) / (seeds.num_seeds - 1).sum(), 0.0)
    parts = (np.where(shared, 0.0, squares) + squares[shared].sum() * weights) * seeds.variance
    if not parts.any():
        return Estimate(value, value, value)
    freedom = (seeds.num_seeds - 1).sum() if pooled else parts.sum() ** 2 / (parts**2 / seeds.freedom).sum()
    half = float(stats.t.ppf(1 - 0.025 / comparisons, freedom) * np.sqrt(parts.sum()))
    return Estimate(value, value - half, value + half)


def difference(one: Values, other: Values, comparisons: int = 1) -> Estimate:
    """The mean of one network less that of another; see `linear`."""
    return linear(np.array([1.0, -1.0]), [one, other], comparisons)


def simulated(statistic: Callable[..., Float[np.ndarray, " draws"]], networks: Sequence[Values]) -> Estimate:
    """A statistic of means, (draws, networks) → (draws,), with percentiles over draws of the means.

    Each mean is drawn from its posterior under a flat prior, Student's t about the mean. The statistic must not choose
    a network by its mean unless that choice is its subject, such as the best width.
    """
    value = float(statistic(np.array([[np.mean(values) for values in networks]]))[0])
    seeds = over_seeds(networks)
    if seeds is None:
        return Estimate(value)
    random, columns = np.random.default_rng(0), []
    for mean, variance, freedom, count in zip(*seeds, strict=True):
        deviation = np.sqrt(variance * freedom / random.chisquare(freedom, DRAWS))
        columns.append(mean + deviation / np.sqrt(count) * random.standard_normal(DRAWS))
    low, high = np.percentile(statistic(np.stack(columns, 1)), [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def percentiles(
    statistic: Callable[[Float[np.ndarray, " networks"]], Float[np.ndarray, " values"]],
    networks: Sequence[Values],
    draws: int = 1000,
) -> list[Estimate]:
    """As `simulated` for several statistics that take one draw of the means at a time, such as those of a fit."""
    values = statistic(np.array([np.mean(of_network) for of_network in networks]))
    seeds = over_seeds(networks)
    if seeds is None:
        return [Estimate(float(value)) for value in values]
    t = np.random.default_rng(0).standard_t(seeds.freedom, (draws, len(seeds.mean)))
    means = seeds.mean + t * np.sqrt(seeds.variance / seeds.num_seeds)
    low, high = np.percentile([statistic(row) for row in means], [2.5, 97.5], axis=0)
    return [Estimate(*map(float, estimate)) for estimate in zip(values, low, high, strict=True)]


def regression(
    columns: Sequence[Float[np.ndarray, " networks"]], y: Float[np.ndarray, " networks"]
) -> tuple[list[Estimate], float]:
    """(coefficient of each column in a least-squares fit with an intercept, explained share of the variance).

    Intervals are Student's t of the residuals, which exceed the deviation over seeds where networks lie on no line. NaN
    for fewer networks than coefficients.
    """
    if len(y) <= len(columns):
        return [Estimate(math.nan)] * len(columns), math.nan
    x = np.column_stack([np.ones(len(y)), *columns])
    fit = np.linalg.lstsq(x, y, rcond=None)[0]
    squares, freedom = float(((y - x @ fit) ** 2).sum()), len(y) - x.shape[1]
    explained = 1 - squares / float(((y - y.mean()) ** 2).sum()) if np.ptp(y) else math.nan
    if freedom < 1:
        return [Estimate(float(value)) for value in fit[1:]], explained
    errors = np.sqrt(squares / freedom * np.diag(np.linalg.pinv(x.T @ x)))
    halves = stats.t.ppf(0.975, freedom) * errors
    return [
        Estimate(*map(float, (v, v - h, v + h))) for v, h in zip(fit[1:], halves[1:], strict=True)
    ], explained


INCONCLUSIVE = "inconclusive"


def verdict(holds: bool | np.bool_, fails: bool | np.bool_) -> str:
    return "holds" if holds else "fails" if fails else INCONCLUSIVE


def sign(estimate: Estimate) -> str:
    """The verdict on a claim that a quantity is positive, by its whole interval."""
    return verdict(estimate.low > 0, estimate.high < 0)


def equal(estimate: Estimate, margin: float) -> str:
    """The verdict on a claim that a quantity is zero to within `margin`, by its whole interval."""
    inside = estimate.low > -margin and estimate.high < margin
    return verdict(inside, estimate.low > margin or estimate.high < -margin)
