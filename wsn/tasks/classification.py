"""Tasks: what a batch is, what its loss is, and what is counted. The trainer knows sums and weights only.

A task's functions map (params, stats, batch) to `Sums`: everything summed over examples by their weight, so that
padding has weight 0 and sums from several batches or devices add up. Batches are pytrees whose leaf `weight` says how
much each example counts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.data.batches import Batch
from wsn.networks.layers import Model, Params, Stats, Weighing


class Sums(NamedTuple):
    """Sums over the examples of one or more batches."""

    loss: Float[Array, "..."]
    correct: Float[Array, "..."]
    weight: Float[Array, "..."]


class Task(NamedTuple):
    """What is minimised in training (returns the updated running statistics too), and what is evaluated."""

    training: Callable[[Params, Stats, Any, str | None], tuple[Sums, Stats]]  # …, batch, axis of devices
    evaluation: Callable[[Params, Stats, Any], Sums]


def classification(model: Model) -> Task:
    """Softmax cross-entropy in nats, and the number of correct predictions."""

    def training(params: Params, stats: Stats, batch: Batch, axis: str | None) -> tuple[Sums, Stats]:
        logits, stats = model.apply_training(params, stats, batch.inputs, Weighing(batch.weight, axis))
        return cross_entropy(logits, batch), stats

    def evaluation(params: Params, stats: Stats, batch: Batch) -> Sums:
        return cross_entropy(model.apply(params, stats, batch.inputs), batch)

    return Task(training, evaluation)


def cross_entropy(logits: Float[Array, "batch classes"], batch: Batch) -> Sums:
    """Sums over the batch of the loss of its labels and of the correct predictions."""
    log_p = jax.nn.log_softmax(logits)
    # A one-hot product instead of a gather: XLA fuses it with the softmax, and its gradient is no scatter.
    chosen = batch.labels[:, None] == jnp.arange(logits.shape[-1])
    loss = -jnp.sum(jnp.where(chosen, log_p, 0.0), axis=-1)
    correct = (jnp.argmax(logits, axis=-1) == batch.labels).astype(jnp.float32)
    return Sums(jnp.sum(loss * batch.weight), jnp.sum(correct * batch.weight), jnp.sum(batch.weight))
