"""Language: which token follows. The hidden state is carried from window to window of a stream."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wsn.data.language.text import TextBatch
from wsn.networks.layers import Model, Params, Stats
from wsn.tasks.task import LOSS, Carry, Context, Metric, Task, Totals

LARGEST_LOSS = 80.0  # whose perplexity is a float32


def perplexity(totals: Mapping[str, Any]) -> Any:
    """exp(loss), up to a number that a record can hold."""
    return np.exp(np.minimum(LOSS.of(totals), LARGEST_LOSS))


BITS = Metric("bits_per_character", lambda totals: LOSS.of(totals) / np.log(2), "low", "bits", least=0.0)
PERPLEXITY = Metric("perplexity", perplexity, "low", "words", least=1.0)


def characters(model: Model) -> Task:
    """Cross-entropy in nats a character; bits per character beside it."""
    return language(model, BITS)


def words(model: Model) -> Task:
    """Cross-entropy in nats a word; perplexity beside it."""
    return language(model, PERPLEXITY)


def language(model: Model, shown: Metric) -> Task:
    """The mean over tokens of the cross-entropy, by its weight; `shown` is another metric of the same loss."""

    def carry(lanes: int) -> Carry:
        return tokens(model).carry(lanes)

    def totals(params: Params, carry: Carry, batch: TextBatch) -> tuple[Totals, Carry]:
        before = restarted(carry, tokens(model).carry, batch)
        logits, after = tokens(model).apply(params, before, batch.inputs)
        loss = cross_entropy(logits, batch.targets)
        return {"loss": jnp.sum(loss * batch.weight), "weight": jnp.sum(batch.weight)}, after

    def training(
        params: Params, stats: Stats, carry: Carry, batch: TextBatch, context: Context
    ) -> tuple[Totals, Stats, Carry]:
        sums, after = totals(params, carry, batch)
        return sums, stats, after

    def evaluation(
        params: Params, stats: Stats, carry: Carry, batch: TextBatch, context: Context
    ) -> tuple[Totals, Carry]:
        return totals(params, carry, batch)

    return Task((LOSS, shown), carry, training, evaluation)


def tokens(model: Model) -> Any:
    assert model.tokens, "registries.check lets only networks that read tokens come here"
    return model.tokens


def restarted(carry: Carry, fresh: Callable[[int], Carry], batch: TextBatch) -> Carry:
    """What is carried, without a gradient into the window before, and as at the start in lanes that are fresh."""
    lanes = batch.fresh.shape[0]

    def choose(carried: Float[Array, "lanes ..."], start: Float[Array, "lanes ..."]) -> Array:
        where = batch.fresh.reshape(lanes, *[1] * (carried.ndim - 1))
        return jnp.where(where, start, jax.lax.stop_gradient(carried))

    return jax.tree.map(choose, carry, fresh(lanes))


def cross_entropy(logits: Float[Array, "time lanes symbols"], targets: Array) -> Float[Array, "time lanes"]:
    """−log softmax at the target, in nats."""
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


LANGUAGE: dict[str, Callable[[Model], Task]] = {"characters": characters, "words": words}
