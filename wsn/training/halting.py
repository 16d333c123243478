"""Halting time: the steps until the validation loss is within 1 % of its minimum, and when that is certain.

Source: "Empirically Characterizing Overparameterization Impact on Convergence", section 3.1. The loss is a mean
cross-entropy in nats: a share of it does not depend on the base of the logarithm, as a share of a perplexity would.
The paper does not say how often it evaluates nor when it stops; the rules below are ours. Curves must be of held-out
training data: a minimum chosen on test data would be a result about those.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

TOLERANCE = 0.01
# A minimum is certain once training went on for a quarter of the steps that it took, and for ten evaluations.
BEYOND, EVALUATIONS = 1.25, 10
# Training may stop once the loss has risen by so much above its minimum, for so many evaluations.
RISE, RISEN = 0.02, 3

Steps = Int[np.ndarray, " evaluations"]
Losses = Float[np.ndarray, " evaluations"]


class Halting(NamedTuple):
    """When one run came to its minimum."""

    step: float  # the halting time, interpolated between evaluations; NaN for a run that diverged
    minimum: float
    minimum_step: int
    # The minimum is not certain: the true one may lie beyond the end, and the time is a lower bound.
    censored: bool


def halting(steps: Steps, losses: Losses, ceiling: float = np.inf) -> Halting:
    """The halting time of a run.

    `ceiling` is a loss that a minimum must stay below to count, such as the unigram entropy of a text less 5 %: a
    network that waits on a plateau has a minimum too.
    """
    if np.isnan(losses).any():
        return Halting(np.nan, np.nan, 0, True)
    place = int(np.argmin(losses))
    censored = not certain(steps, place) or losses[place] >= ceiling
    at = reached(steps, losses, (1 + TOLERANCE) * losses[place])
    return Halting(at, float(losses[place]), int(steps[place]), bool(censored))


def reached(steps: Steps, losses: Losses, level: float) -> float:
    """The first step at which the loss is at most `level`, linear between evaluations; NaN if it never is.

    With one level for several networks this is the common time: it does not mix speed with capacity.
    """
    below = np.flatnonzero(losses <= level)
    if not below.size:
        return np.nan
    last = int(below[0])
    if last == 0:
        return float(steps[0])
    first, high, low = last - 1, losses[last - 1], losses[last]
    return float(steps[first] + (steps[last] - steps[first]) * (high - level) / (high - low))


def certain(steps: Steps, place: int) -> bool:
    """Whether training went on long enough after its minimum, at the evaluation `place`."""
    return bool(steps[-1] >= BEYOND * steps[place]) and len(steps) - 1 - place >= EVALUATIONS


def over(steps: Steps, losses: Losses) -> bool:
    """Whether training may stop: the minimum is certain and the loss has risen, or the run has diverged."""
    if np.isnan(losses).any():
        return True
    place = int(np.argmin(losses))
    risen = len(losses) > RISEN and bool((losses[-RISEN:] > (1 + RISE) * losses[place]).all())
    return risen and certain(steps, place)


# When one member may stop, of its steps and held-out losses so far; training ends with its last member.
STOPS: dict[str, Callable[[Steps, Losses], bool]] = {"epochs": lambda steps, losses: False, "minimum": over}
