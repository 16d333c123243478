"""Tasks: what a batch is, what its loss is, and what is counted. The trainer knows sums and weights only.

A task's `measure` maps (params, batch) to `Sums`: everything summed over examples by their weight, so that padding
has weight 0 and sums from several batches or devices add up. Batches are pytrees whose leaf `weight` says how much
each example counts.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wsn.models import Model, Params


class Sums(NamedTuple):
    """Sums over the examples of one or more batches."""

    loss: Float[Array, "..."]
    correct: Float[Array, "..."]
    weight: Float[Array, "..."]


class Batch(NamedTuple):
    """Examples for classification; `weight` is 1, or 0 for padding."""

    inputs: Float[Array, "batch ..."]
    labels: Int[Array, " batch"]
    weight: Float[Array, " batch"]


Measure = Callable[[Params, Any], Sums]


def classification(model: Model) -> Measure:
    """Softmax cross-entropy in nats, and the number of correct predictions."""

    def measure(params: Params, batch: Batch) -> Sums:
        logits = model.apply(params, batch.inputs)
        log_p = jax.nn.log_softmax(logits)
        # A one-hot product instead of a gather: XLA fuses it with the softmax, and its gradient is no scatter.
        chosen = batch.labels[:, None] == jnp.arange(logits.shape[-1])
        loss = -jnp.sum(jnp.where(chosen, log_p, 0.0), axis=-1)
        correct = (jnp.argmax(logits, axis=-1) == batch.labels).astype(jnp.float32)
        return Sums(jnp.sum(loss * batch.weight), jnp.sum(correct * batch.weight), jnp.sum(batch.weight))

    return measure
