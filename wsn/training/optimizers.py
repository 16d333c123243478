"""Optimizers and schedules, by name. An optimizer computes updates for learning rate 1.

The step multiplies the updates by a tree of learning rates, one scalar for each parameter of each member. So the
networks of a group may differ in learning rate, and a parameterization may scale the rate of each layer.

Clipping comes first: g ← g · min(1, clip / ‖g‖), with the global norm of the mean, masked gradient of the whole batch
over all devices. Probes see the gradient before it is clipped, and the update.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from wsn.errors import UserError, choose
from wsn.networks.layers import Params
from wsn.spec import Training


class Horizon(NamedTuple):
    """The length of training, in steps."""

    epoch: int
    total: int
    warmup: int = 0  # steps before the schedule


# A factor of the learning rate for every step, from 1 after the warm-up on. Steps count from the start of training.
SCHEDULES: dict[str, Callable[[Training, Horizon], optax.Schedule]] = {
    "constant": lambda training, horizon: optax.constant_schedule(1.0),
    "steps": lambda training, horizon: optax.piecewise_constant_schedule(
        1.0, {epoch * horizon.epoch: training.decay_factor for epoch in training.decay_epochs}
    ),
    "cosine": lambda training, horizon: cosine(horizon),
}
# Fields that a schedule reads. A schedule that is not listed may read all.
SCHEDULE_FIELDS: dict[str, tuple[str, ...]] = {
    "constant": (),
    "steps": ("decay_epochs", "decay_factor"),
    "cosine": (),
}


def cosine(horizon: Horizon) -> optax.Schedule:
    """Half a period, from 1 after the warm-up to 0 at the end of training."""
    schedule = optax.cosine_decay_schedule(1.0, max(1, horizon.total - horizon.warmup))
    return (lambda step: schedule(step - horizon.warmup)) if horizon.warmup else schedule


def learning_rate_schedule(training: Training, horizon: Horizon) -> optax.Schedule:
    """The schedule of a spec. Step t < w of a warm-up of w steps, counted from 0, has the factor (t + 1) / w."""
    warmup = min(round(training.warmup_epochs * horizon.epoch), horizon.total)
    schedule = choose(SCHEDULES, "schedule", training.schedule)(training, horizon._replace(warmup=warmup))
    if not warmup:
        return schedule
    return lambda step: jnp.where(step < warmup, (step + 1) / warmup, schedule(step))


def sgd(training: Training) -> list[optax.GradientTransformation]:
    """Stochastic gradient descent; weight decay is added to the gradient, before momentum, as in PyTorch."""
    parts = []
    if training.weight_decay:
        parts.append(optax.add_decayed_weights(training.weight_decay))
    if training.momentum:
        parts.append(optax.trace(training.momentum))
    return parts


def adam(training: Training) -> list[optax.GradientTransformation]:
    """Kingma & Ba 2015. A removed weight has gradient 0, so both of its moving averages stay 0."""
    return [optax.scale_by_adam(training.beta1, training.beta2, training.epsilon)]


def adamw(training: Training) -> list[optax.GradientTransformation]:
    """Loshchilov & Hutter 2019: decoupled weight decay, scaled by the learning rate."""
    return [*adam(training), optax.add_decayed_weights(training.weight_decay)]


class Optimizer(NamedTuple):
    """Transformations before the learning rate, and the fields of `Training` that they read."""

    parts: Callable[[Training], list[optax.GradientTransformation]]
    fields: tuple[str, ...]


OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": Optimizer(sgd, ("momentum", "weight_decay")),
    "adam": Optimizer(adam, ("beta1", "beta2", "epsilon")),
    "adamw": Optimizer(adamw, ("beta1", "beta2", "epsilon", "weight_decay")),
}


def check(training: Training) -> None:
    """Raises UserError for an unknown optimizer or schedule, and for a field that is set but that it does not read.

    And for numbers that do nothing in so many epochs, or nothing in float32.
    """
    fields = choose(OPTIMIZERS, "optimizer", training.optimizer).fields
    choose(SCHEDULES, "schedule", training.schedule)
    others = {field for optimizer in OPTIMIZERS.values() for field in optimizer.fields} - {*fields}
    _refuse(training, others, "optimizer", fields)
    if (read := SCHEDULE_FIELDS.get(training.schedule)) is not None:
        _refuse(training, {*itertools.chain(*SCHEDULE_FIELDS.values())} - {*read}, "schedule", read)
    check_float32(training)
    if "epsilon" in fields and not training.epsilon:
        raise UserError(
            f"`epsilon={training.epsilon}`: {training.optimizer} would divide 0 by 0 for a weight without gradient,"
            " as those of inactive units are: give a small number such as 1e-8"
        )
    if training.warmup_epochs and training.warmup_epochs >= training.epochs:
        raise UserError(
            f"`warmup_epochs={training.warmup_epochs}` is too large: give less than `epochs={training.epochs}`"
        )
    # One at the end is what rounding may leave of a recipe for very few epochs.
    if late := [epoch for epoch in training.decay_epochs if epoch > training.epochs]:
        raise UserError(
            f"`decay_epochs`: {', '.join(map(str, late))} would never come: give less than `epochs={training.epochs}`"
        )


def check_float32(training: Training) -> None:
    """Raises UserError for numbers that float32 rounds to 0 or infinity, and for decays that it rounds to 1."""
    tiny, largest = (float(limit) for limit in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
    for field in dataclasses.fields(Training):
        value = getattr(training, field.name)
        if isinstance(value, float) and value and not tiny <= abs(value) <= largest:
            raise UserError(
                f"`{field.name}={value}` is out of the range of float32: 0, or {tiny:.2g} to {largest:.2g}"
            )
        if field.name in ("beta1", "beta2") and np.float32(value) == 1:
            raise UserError(f"`{field.name}={value}` is 1 in float32, so Adam would divide by 0: give less")


def _refuse(training: Training, others: set[str], kind: str, fields: tuple[str, ...]) -> None:
    for field in dataclasses.fields(Training):
        if field.name in others and (value := getattr(training, field.name)) != field.default:
            reads = f"it reads {', '.join(fields)}" if fields else "it reads no setting"
            raise UserError(
                f"`{field.name}={value}`: `{kind}={getattr(training, kind)}` does not read it; {reads}: leave it out or"
                f" choose another `{kind}`"
            )


def build(training: Training, horizon: Horizon) -> optax.GradientTransformation:
    """The optimizer of a spec, for learning rate 1. Raises UserError as `check` does."""
    check(training)
    clipping = [optax.clip_by_global_norm(training.clip)] if training.clip else []
    parts = [*clipping, *OPTIMIZERS[training.optimizer].parts(training)]
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate_schedule(training, horizon)))


def clipped(training: Training, gradient: Params) -> dict[str, Float[Array, ""]]:
    """1 if the gradient is clipped, else 0: summed, the column of clipped steps; {} without clipping."""
    if not training.clip:
        return {}
    return {"all/clipped": (optax.tree.norm(gradient) > training.clip).astype(jnp.float32)}
