"""Classification: which of several classes an example belongs to."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wsn.data.batches import Batch
from wsn.networks.layers import Model
from wsn.tasks.task import LOSS, Metric, Task, Totals, independent_batches

one_hot = partial(jax.nn.one_hot, dtype=bool)
ACCURACY = Metric("accuracy", lambda totals: totals["correct"] / totals["weight"], "high", "fraction")


def classification(model: Model) -> Task:
    """Softmax cross-entropy in nats, and the fraction of correct predictions."""
    return on_logits(model, cross_entropy, LOSS)


def regression(model: Model) -> Task:
    """Half the squared distance to the one-hot label, summed over classes, and the fraction of correct predictions.

    With this loss, training a wide network is regression with its tangent kernel (Jacot et al. 2018).
    """
    return on_logits(model, squared_error, LOSS._replace(unit="squared units"))


def on_logits(model: Model, loss_of: Callable[[Array, Any], Array], loss: Metric) -> Task:
    """The task with a loss of (logits, labels) per example."""

    def totals(logits: Float[Array, "batch classes"], batch: Batch) -> Totals:
        correct = (jnp.argmax(logits, axis=-1) == batch.labels).astype(jnp.float32)
        sums = {
            "loss": loss_of(logits, jnp.asarray(batch.labels)),
            "correct": correct,
            "weight": jnp.ones_like(correct),
        }
        return {name: jnp.sum(values * batch.weight) for name, values in sums.items()}

    return independent_batches(model, (loss, ACCURACY), totals)


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """−log softmax at the label, in nats."""
    log_p = jax.nn.log_softmax(logits)
    # A one-hot product instead of a gather: XLA fuses it with the softmax, and its gradient is no scatter.
    return -jnp.sum(jnp.where(one_hot(labels, logits.shape[-1]), log_p, 0.0), axis=-1)


def squared_error(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """½ Σ (logit − one-hot)²."""
    return jnp.sum(jnp.square(logits - one_hot(labels, logits.shape[-1])), axis=-1) / 2
