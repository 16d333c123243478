"""What a few seeds say about a quantity that is computed from the mean accuracies of several networks."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

DRAWS = 10_000
Values = Sequence[float]  # of one network, a value per seed
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


def sign(found: Estimate) -> str:
    """Whether a quantity that a claim says is positive is so: its whole interval."""
    return "holds" if found.low > 0 else "fails" if found.high < 0 else "undecided"
