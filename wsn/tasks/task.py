"""What a task is: sums over a batch, metrics of sums, and a state that is carried from batch to batch.

Everything is summed over examples by their weight, so that padding has weight 0 and totals of several batches or
devices add up. The trainer knows `loss` and `weight` of the totals, and nothing else of a task.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from jaxtyping import Array, Float, PRNGKeyArray

from wsn.networks.layers import Params, Stats

# Sums over the examples of one or more batches, by name; `loss` (what is minimised) and `weight` are among them.
Totals = dict[str, Float[Array, "..."]]
# Arrays with the lanes of a batch on their first axis, such as the hidden state of every stream; () where none is.
Carry = Any


class Metric(NamedTuple):
    """A number that totals give, such as an accuracy."""

    name: str
    of: Callable[[Mapping[str, Any]], Any]  # totals, of JAX or NumPy → values
    better: Literal["low", "high"]
    unit: str
    least: float = -math.inf  # the range of its values: a record with another is damaged
    most: float = math.inf
    in_training: bool = True  # or of held-out examples alone, where training need not pay for it


class Context(NamedTuple):
    """What a step knows besides its batch: randomness of its own, and the axis of the devices that share the batch."""

    key: PRNGKeyArray
    axis: str | None


class Task(NamedTuple):
    """Pure functions of one network; the first metric is the loss that halting and tuning may look at."""

    metrics: tuple[Metric, ...]
    carry: Callable[[int], Carry]  # lanes of a batch → what is carried into the first one
    training: Callable[[Params, Stats, Carry, Any, Context], tuple[Totals, Stats, Carry]]  # …, batch, context
    evaluation: Callable[[Params, Stats, Carry, Any, Context], tuple[Totals, Carry]]


LOSS = Metric("loss", lambda totals: totals["loss"] / totals["weight"], "low", "nats", least=0.0)


def nothing_carried(lanes: int) -> Carry:
    """For tasks whose batches have nothing to do with each other."""
    return ()
