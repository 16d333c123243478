"""Language modeling: which token comes next. The network's carry goes from each window of a text stream to the next."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wsn import devices
from wsn.data.language.text import TextBatch
from wsn.networks.layers import Model, Params, Stats, TokenFunctions
from wsn.tasks.classification import one_hot
from wsn.tasks.task import LOSS, Carry, Context, Metric, Task, Totals

MAX_LOSS = 80.0  # perplexities of larger losses overflow float32


def perplexity(totals: Mapping[str, Any]) -> Any:
    """exp(loss), limited to what float32 can hold."""
    return np.exp(np.minimum(LOSS.of(totals), MAX_LOSS))


BITS = Metric("bits_per_character", lambda totals: LOSS.of(totals) / np.log(2), "low", "bits")
PERPLEXITY = Metric("perplexity", perplexity, "low", "words")


def characters(model: Model) -> Task:
    """Cross-entropy in nats per character, and bits per character."""
    return language(model, BITS)


def words(model: Model) -> Task:
    """Cross-entropy in nats per word, and perplexity."""
    return language(model, PERPLEXITY)


def language(model: Model, second: Metric) -> Task:
    """The mean cross-entropy over tokens by their weight, and a second metric computed from it."""

    def carry(lanes: int) -> Carry:
        return token_functions(model).carry(lanes)

    def totals(params: Params, carry: Carry, batch: TextBatch) -> tuple[Totals, Carry]:
        functions = token_functions(model)
        before = restart(carry, functions.carry, batch)
        logits, after = functions.apply(params, before, batch.inputs)
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

    return Task((LOSS, second), carry, training, evaluation)


def token_functions(model: Model) -> TokenFunctions:
    assert model.tokens, "registries.check admits only networks that read tokens"
    return model.tokens


def restart(carry: Carry, initial: Callable[[int], Carry], batch: TextBatch) -> Carry:
    """The carry as a constant to the gradient, and initial in lanes where a stream starts."""
    lanes = batch.fresh.shape[0]

    def choose(carried: Float[Array, "lanes ..."], start: Float[Array, "lanes ..."]) -> Array:
        where = batch.fresh.reshape(lanes, *[1] * (carried.ndim - 1))
        return jnp.where(where, start, jax.lax.stop_gradient(carried))

    return jax.tree.map(choose, carry, initial(lanes))


def cross_entropy(logits: Float[Array, "time lanes symbols"], targets: Array) -> Float[Array, "time lanes"]:
    """−log softmax at the target, in nats.

    On an accelerator a one-hot select is faster than a gather (an LSTM of width 200 with 10,000 symbols, by the
    compiler's estimate for a TPU v5e: a step of 0.74 instead of 1.57 ms), on a CPU slower with few symbols.
    """
    if devices.platform() == "cpu":
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    else:
        chosen = jnp.sum(jnp.where(one_hot(targets, logits.shape[-1]), logits, 0.0), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - chosen


LANGUAGE: dict[str, Callable[[Model], Task]] = {"characters": characters, "words": words}
