"""What a few seeds say about a quantity that is computed from the mean accuracies of several networks."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

DRAWS = 10_000
Values = Sequence[float] | Float[np.ndarray, " seeds"]  # of one network
METHOD = (
    "intervals: 95 %, Student's t, the deviation over seeds pooled over the networks of a family; none where no network"
    " has two seeds"
)


class Estimate(NamedTuple):
    """A value and its 95 % interval, NaN where no network has two seeds."""

    value: float
    low: float = math.nan
    high: float = math.nan

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


def bootstrap(
    statistic: Callable[[Float[np.ndarray, "draws networks"]], Float[np.ndarray, " draws"]],
    networks: Sequence[Values],
) -> Estimate:
    """A statistic of the mean values of networks, and its interval by the bootstrap over seeds.

    Deviations of seeds from the mean of their network are drawn with replacement from those of all networks, since two
    or three seeds of one are too few to draw from. The bootstrap of Student's t (Efron 1981): every draw is measured
    in its own pooled deviation, so that few seeds give wide intervals.
    """
    value = float(statistic(np.array([[np.mean(values) for values in networks]]))[0])
    if sum(len(values) - 1 for values in networks) < 2:
        return Estimate(value)
    means, deviations, pooled = resampled(networks, DRAWS)
    if pooled == 0:
        return Estimate(value, value, value)
    usable = deviations > 1e-6 * pooled  # not those in which the seeds of every network happen to be one
    moved = (statistic(means)[usable] - value) / deviations[usable]
    low, high = np.percentile(moved, [2.5, 97.5])
    return Estimate(value, value - high * pooled, value - low * pooled)


def percentiles(
    statistic: Callable[[Float[np.ndarray, " networks"]], Float[np.ndarray, " values"]],
    networks: Sequence[Values],
    draws: int = 300,
) -> list[Estimate]:
    """Several statistics of the mean values of networks, each with percentiles of its draws: for what is no mean."""
    found = statistic(np.array([np.mean(values) for values in networks]))
    if sum(len(values) - 1 for values in networks) < 2:
        return [Estimate(float(value)) for value in found]
    means, _, _ = resampled(networks, draws)
    low, high = np.percentile([statistic(row) for row in means], [2.5, 97.5], axis=0)
    return [Estimate(*map(float, one)) for one in zip(found, low, high, strict=True)]


def resampled(
    networks: Sequence[Values], draws: int
) -> tuple[Float[np.ndarray, "draws networks"], Float[np.ndarray, " draws"], float]:
    """(means of the networks in every draw, pooled deviation of every draw, that of the data)."""
    random = np.random.default_rng(0)
    seeds = np.array([len(values) for values in networks])
    freedom = seeds.sum() - len(seeds)
    centred = [np.asarray(values) - np.mean(values) for values in networks]
    # A deviation from a mean of n is too small by √(1 − 1/n), and says nothing for one.
    pool = np.concatenate([x / np.sqrt(1 - 1 / len(x)) for x in centred if len(x) > 1])
    pool = pool - pool.mean()
    owner = np.repeat(np.arange(len(seeds)), seeds)
    drawn = random.choice(pool, (draws, len(owner)))
    sums = np.stack([drawn[:, owner == i].sum(1) for i in range(len(seeds))], axis=1)
    moved = sums / seeds
    squares = ((drawn - moved[:, owner]) ** 2).sum(1)
    pooled = float(np.sqrt(sum((x**2).sum() for x in centred) / freedom))
    means = np.array([np.mean(values) for values in networks]) + moved
    return means, np.sqrt(squares / freedom), pooled


def sign(found: Estimate) -> str:
    """Whether a quantity that a claim says is positive is so: its whole interval."""
    return "holds" if found.low > 0 else "fails" if found.high < 0 else "undecided"
