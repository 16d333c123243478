"""Optimisers: a spec's training → updates at learning rate 1; the step applies the rates, which members may not share.

Before an optimiser sees a gradient, that may be clipped: g ← g · min(1, clip / ‖g‖), over all parameters at once. A new
one is a function of (training, schedule) and a line in `OPTIMIZERS`, with the fields of the spec that it reads.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from wsn.errors import UserError, choose
from wsn.networks.layers import Params
from wsn.spec import Training


class Horizon(NamedTuple):
    """How long training is, in steps."""

    epoch: int
    total: int


# The factor of the learning rate at every step, from 1.
SCHEDULES: dict[str, Callable[[Training, Horizon], optax.Schedule]] = {
    "constant": lambda training, horizon: optax.constant_schedule(1.0),
    "steps": lambda training, horizon: optax.piecewise_constant_schedule(
        1.0, {epoch * horizon.epoch: training.decay_factor for epoch in training.decay_epochs}
    ),
    "cosine": lambda training, horizon: optax.cosine_decay_schedule(1.0, horizon.total),
}


def sgd(training: Training) -> list[optax.GradientTransformation]:
    """Stochastic gradient descent with momentum and weight decay as PyTorch's: decay enters the momentum."""
    parts = []
    if training.weight_decay:
        parts.append(optax.add_decayed_weights(training.weight_decay))
    if training.momentum:
        parts.append(optax.trace(training.momentum))
    return parts


def adam(training: Training) -> list[optax.GradientTransformation]:
    """Kingma & Ba 2015. A removed weight has no gradient, so both of its means stay 0."""
    return [optax.scale_by_adam(training.beta1, training.beta2, training.epsilon)]


def adamw(training: Training) -> list[optax.GradientTransformation]:
    """Loshchilov & Hutter 2019: weight decay apart from the means, scaled by the learning rate."""
    return [*adam(training), optax.add_decayed_weights(training.weight_decay)]


class Optimizer(NamedTuple):
    """The transformations before the learning rate, and the fields of `Training` that they read."""

    parts: Callable[[Training], list[optax.GradientTransformation]]
    fields: tuple[str, ...]


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(sgd, ("momentum", "weight_decay")),
    "adam": Optimizer(adam, ("beta1", "beta2", "epsilon")),
    "adamw": Optimizer(adamw, ("beta1", "beta2", "epsilon", "weight_decay")),
}


def check(training: Training) -> None:
    """Raises UserError for an unknown optimiser, and for a field that it does not read and that is set."""
    own = choose(OPTIMIZERS, "optimizer", training.optimizer).fields
    others = {field for optimizer in OPTIMIZERS.values() for field in optimizer.fields} - set(own)
    for field in dataclasses.fields(Training):
        if field.name in others and getattr(training, field.name) != field.default:
            value = getattr(training, field.name)
            raise UserError(
                f"`{field.name}={value}`: {training.optimizer} has none; it has {', '.join(own)}: leave it out or"
                " choose another `optimizer`"
            )


def build(training: Training, horizon: Horizon) -> optax.GradientTransformation:
    """The optimiser of a spec, for learning rate 1. Raises UserError as `check` does."""
    check(training)
    schedule = choose(SCHEDULES, "schedule", training.schedule)(training, horizon)
    clipping = [optax.clip_by_global_norm(training.clip)] if training.clip else []
    parts = [*clipping, *OPTIMIZERS[training.optimizer].parts(training)]
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule))


def clipped(training: Training, gradient: Params) -> dict[str, Float[Array, ""]]:
    """1 where the gradient is clipped, else 0, for a column of the steps at which it was; {} without clipping."""
    if not training.clip:
        return {}
    return {"all/clipped": (optax.tree.norm(gradient) > training.clip).astype(jnp.float32)}
