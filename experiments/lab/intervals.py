"""What a few seeds say about a quantity that is computed from the mean values of several networks."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

DRAWS = 10_000
Values = Sequence[float] | Float[np.ndarray, " _"]  # of one network
METHOD = (
    "intervals: 95 %, Student's t, the deviation over seeds pooled over the networks of a family; none where no network"
    " has two seeds"
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


def estimate(
    statistic: Callable[..., Float[np.ndarray, " draws"]], *measurements: Sequence[Values]
) -> Estimate:
    """A statistic of mean accuracies, and its interval.

    `measurements` have the values over seeds of each network, `statistic` takes the means of each of them, (draws,
    networks). The interval is that of the statistic under draws of the means from their posterior (Student's t with
    a flat prior, a normal distribution of the seeds, and one deviation for all networks of a measurement; so a
    network with one seed has an interval as well). The statistic must not choose a network by its mean unless that
    choice is its subject.
    """
    means = [np.array([[np.mean(values) for values in networks]]) for networks in measurements]
    value = float(statistic(*means)[0])
    freedom = [sum(len(values) - 1 for values in networks) for networks in measurements]
    if min(freedom) < 1:
        return Estimate(value)
    random = np.random.default_rng(0)
    draws = []
    for networks, mean, degrees in zip(measurements, means, freedom, strict=True):
        squares = sum(float(np.var(values)) * len(values) for values in networks)
        deviation = np.sqrt(squares / random.chisquare(degrees, (DRAWS, 1)))
        seeds = np.array([len(values) for values in networks])
        draws.append(mean + deviation / np.sqrt(seeds) * random.standard_normal((DRAWS, len(networks))))
    low, high = np.percentile(statistic(*draws), [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def linear(
    coefficients: Float[np.ndarray, " networks"], networks: Sequence[Values], comparisons: int = 1
) -> Estimate:
    """Σ coefficient · mean over seeds of each network, and its interval.

    Student's t with a deviation for every network (Welch 1947, degrees of freedom by Satterthwaite), since narrow
    networks differ more from seed to seed than wide ones. A network with one seed has the pooled deviation of the rest.
    If the statistic was picked out of several `comparisons`, such as the best of six widths against the narrowest, the
    interval is as wide as all of them need to hold at once (Bonferroni), so picking the best does not bias it.
    """
    value = float(coefficients @ [np.mean(values) for values in networks])
    seeds, variances = np.array([len(values) for values in networks]), known_variances(networks)
    if variances is None:
        return Estimate(value)
    parts = coefficients**2 * variances / seeds
    if not parts.any():
        return Estimate(value, value, value)
    freedom = parts.sum() ** 2 / (parts**2 / np.maximum(seeds - 1, 1)).sum()
    half = float(stats.t.ppf(1 - 0.025 / comparisons, freedom) * np.sqrt(parts.sum()))
    return Estimate(value, value - half, value + half)


def percentiles(
    statistic: Callable[[Float[np.ndarray, " networks"]], Float[np.ndarray, " values"]],
    networks: Sequence[Values],
    draws: int = 1000,
) -> list[Estimate]:
    """Several statistics of the mean values of networks, each with percentiles over draws of those: for what bends.

    A mean is drawn from Student's t about its value, with the deviation of its own network.
    """
    means = np.array([np.mean(values) for values in networks])
    found, variances = statistic(means), known_variances(networks)
    if variances is None:
        return [Estimate(float(value)) for value in found]
    seeds = np.array([len(values) for values in networks])
    drawn = np.random.default_rng(0).standard_t(np.maximum(seeds - 1, 1), (draws, len(seeds)))
    low, high = np.percentile(
        [statistic(row) for row in means + drawn * np.sqrt(variances / seeds)], [2.5, 97.5], axis=0
    )
    return [Estimate(*map(float, one)) for one in zip(found, low, high, strict=True)]


def known_variances(networks: Sequence[Values]) -> Float[np.ndarray, " networks"] | None:
    """Over the seeds of each network; pooled where there is one seed, None where no network has two."""
    freedom = np.array([len(values) - 1 for values in networks])
    if not freedom.any():
        return None
    own = np.array([np.var(values, ddof=1) if len(values) > 1 else 0.0 for values in networks])
    return np.where(freedom > 0, own, (own * freedom).sum() / freedom.sum())


def regression(
    columns: Sequence[Float[np.ndarray, " networks"]], y: Float[np.ndarray, " networks"]
) -> tuple[list[Estimate], float]:
    """(coefficient of each column in a least-squares fit with a height, share of the variance that it explains).

    Intervals are Student's t of the distances from the fit, which are more than the deviation over seeds where networks
    lie on no line. NaN for fewer networks than coefficients.
    """
    if len(y) <= len(columns):
        return [Estimate(math.nan)] * len(columns), math.nan
    x = np.column_stack([np.ones(len(y)), *columns])
    found = np.linalg.lstsq(x, y, rcond=None)[0]
    squares, freedom = float(((y - x @ found) ** 2).sum()), len(y) - x.shape[1]
    explained = 1 - squares / float(((y - y.mean()) ** 2).sum()) if np.ptp(y) else math.nan
    if freedom < 1:
        return [Estimate(float(value)) for value in found[1:]], explained
    errors = np.sqrt(squares / freedom * np.diag(np.linalg.pinv(x.T @ x)))
    halves = stats.t.ppf(0.975, freedom) * errors
    return [
        Estimate(*map(float, (v, v - h, v + h))) for v, h in zip(found[1:], halves[1:], strict=True)
    ], explained


def sign(found: Estimate) -> str:
    """Whether a quantity that a claim says is positive is so: its whole interval."""
    return "holds" if found.low > 0 else "fails" if found.high < 0 else "undecided"


def equal(found: Estimate, margin: float) -> str:
    """Whether a quantity that a claim says is none is smaller than `margin`: its whole interval."""
    if found.low > -margin and found.high < margin:
        return "holds"
    return "fails" if found.low > margin or found.high < -margin else "undecided"
