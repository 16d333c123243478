"""What a task is: sums over a batch, metrics of sums, and a carry from batch to batch.

Totals are sums over examples by their weight, so padding has weight 0, and totals of several batches or devices add
up. The trainer knows `loss` and `weight` of the totals and nothing else of a task.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from jaxtyping import Array, Float, PRNGKeyArray

from wsn.networks.layers import BatchWeights, Model, Params, Stats

# Sums over the examples of one or more batches, by name; `loss` (what is minimized) and `weight` are among them.
Totals = dict[str, Float[Array, "..."]]
# Arrays with the lanes of a batch on their first axis, such as the hidden state of every text stream; () if none.
Carry = Any


class Metric(NamedTuple):
    """A number computed from totals, such as an accuracy."""

    name: str
    of: Callable[[Mapping[str, Any]], Any]  # totals, of JAX or NumPy → values
    better: Literal["low", "high"]
    unit: str
    in_training: bool = True  # False: of held-out examples only, since it is expensive


class Context(NamedTuple):
    """What a step gets besides its batch: its random key, and the axis of the devices that share the batch."""

    key: PRNGKeyArray
    axis: str | None


class Task(NamedTuple):
    """Pure functions of one network. The first metric is the loss, by which training stops and rates are tuned."""

    metrics: tuple[Metric, ...]
    carry: Callable[[int], Carry]  # number of lanes → the carry into the first batch
    training: Callable[[Params, Stats, Carry, Any, Context], tuple[Totals, Stats, Carry]]  # …, batch, context
    evaluation: Callable[[Params, Stats, Carry, Any, Context], tuple[Totals, Carry]]


LOSS = Metric("loss", lambda totals: totals["loss"] / totals["weight"], "low", "nats")


def no_carry(lanes: int) -> Carry:
    """For tasks whose batches are independent."""
    return ()


def independent_batches(
    model: Model,
    metrics: tuple[Metric, ...],
    totals: Callable[[Any, Any], Totals],
    held_out_totals: Callable[[Any, Any], Totals] | None = None,
) -> Task:
    """The task with these totals of (logits, batch), in evaluation `held_out_totals` if given."""

    def training(
        params: Params, stats: Stats, carry: Carry, batch: Any, context: Context
    ) -> tuple[Totals, Stats, Carry]:
        batch_weights = BatchWeights(batch.weight, context.axis)
        logits, stats = model.apply_training(params, stats, batch.inputs, batch_weights)
        return totals(logits, batch), stats, carry

    def evaluation(
        params: Params, stats: Stats, carry: Carry, batch: Any, context: Context
    ) -> tuple[Totals, Carry]:
        return (held_out_totals or totals)(model.apply(params, stats, batch.inputs), batch), carry

    return Task(metrics, no_carry, training, evaluation)
