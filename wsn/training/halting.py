"""Halting time: the steps until the validation loss is within 1 % of its minimum; and when the minimum is certain.

Source: "Empirically Characterizing Overparameterization Impact on Convergence", section 3.1. The loss is a mean
cross-entropy in nats, since 1 % of it does not depend on the base of the logarithm, as 1 % of a perplexity would. The
paper says neither how often it evaluates nor when it stops: the rules here are ours. Curves must be of held-out
training data, because a minimum chosen on test data would be a result about the test data.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

TOLERANCE = 0.01
# A minimum is certain after training for 25 % more steps and at least ten more evaluations.
MORE_STEPS, MORE_EVALUATIONS = 1.25, 10
# Training may stop once the last three losses are 2 % above a certain minimum.
RISE, RISEN_EVALUATIONS = 0.02, 3

Steps = Int[np.ndarray, " evaluations"]
Losses = Float[np.ndarray, " evaluations"]


class Halting(NamedTuple):
    """When a run reached its minimum."""

    step: float  # the halting time, interpolated between evaluations; NaN for a run that diverged
    minimum: float
    minimum_step: int
    censored: bool  # the minimum is not certain: the true one may come later, so the time is a lower bound


def halting(steps: Steps, losses: Losses, ceiling: float = np.inf) -> Halting:
    """The halting time of a run.

    A minimum counts only below `ceiling`, such as the unigram entropy of a text less 5 %: a network that waits on a
    plateau has a minimum too.
    """
    if np.isnan(losses).any():
        return Halting(np.nan, np.nan, 0, True)
    lowest = int(np.argmin(losses))
    censored = not is_certain(steps, lowest) or losses[lowest] >= ceiling
    time = steps_to_loss(steps, losses, (1 + TOLERANCE) * losses[lowest])
    return Halting(time, float(losses[lowest]), int(steps[lowest]), bool(censored))


def steps_to_loss(steps: Steps, losses: Losses, level: float) -> float:
    """The first step at which the loss is at most `level`, linear between evaluations; NaN if it never is.

    With one level for several networks this is the common time, which does not mix speed with capacity.
    """
    below = np.flatnonzero(losses <= level)
    if not below.size:
        return np.nan
    last = int(below[0])
    if last == 0:
        return float(steps[0])
    first, high, low = last - 1, losses[last - 1], losses[last]
    return float(steps[first] + (steps[last] - steps[first]) * (high - level) / (high - low))


def is_certain(steps: Steps, lowest: int) -> bool:
    """Whether training went on long enough after the minimum, at evaluation `lowest`."""
    return bool(steps[-1] >= MORE_STEPS * steps[lowest]) and len(steps) - 1 - lowest >= MORE_EVALUATIONS


def past_minimum(steps: Steps, losses: Losses) -> bool:
    """Whether training may stop: the minimum is certain and the loss has risen, or the run has diverged."""
    if np.isnan(losses).any():
        return True
    lowest, last = int(np.argmin(losses)), losses[-RISEN_EVALUATIONS:]
    risen = len(losses) > RISEN_EVALUATIONS and bool((last > (1 + RISE) * losses[lowest]).all())
    return risen and is_certain(steps, lowest)


# Whether a member may stop, from its steps and held-out losses so far. Training ends when all members may: so a resumed
# run and every process agree without communication, and each network is judged by its whole curve.
STOPS: dict[str, Callable[[Steps, Losses], bool]] = {
    "epochs": lambda steps, losses: False,
    "minimum": past_minimum,
}
