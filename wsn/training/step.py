"""One step and one evaluation of one member: all of training, on one screen."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from wsn import seeds
from wsn.networks.layers import Params
from wsn.sparsity.masks import apply_mask
from wsn.tasks import Carry, Context, Task, Totals
from wsn.training.probes import Numbers, Step
from wsn.training.state import Members, State


def make_step(
    task: Task,
    transformation: optax.GradientTransformation,
    axis: str | None = None,
    probe: Callable[[Step], Numbers] = lambda step: {},
) -> Callable[[Members, Any], tuple[Members, Totals]]:
    """One step of one member on one batch: gradient of the mean loss, mean across `axis`, update."""

    def step(member: Members, batch: Any) -> tuple[Members, Totals]:
        params, stats, opt_state, number, carry = member.state
        context = step_context(member, axis)

        def loss(params: Params) -> tuple[Array, tuple[Totals, Any, Carry]]:
            masked = apply_mask(params, member.mask)
            totals, updated, carried = task.training(masked, stats, carry, batch, context)
            return totals["loss"], (totals, updated, carried)

        gradient, (totals, stats, carry) = jax.grad(loss, has_aux=True)(params)
        if axis is not None:
            gradient, totals = jax.lax.psum((gradient, totals), axis)
        gradient = jax.tree.map(lambda g: g / totals["weight"], gradient)
        updates, opt_state = transformation.update(gradient, opt_state, params)
        updates = jax.tree.map(jnp.multiply, updates, member.rates)
        measured = probe(Step(params, updates, gradient, member.start))
        state = State(optax.apply_updates(params, updates), stats, opt_state, number + 1, carry)
        return member._replace(state=state), totals | measured

    return step


def make_evaluation(
    task: Task, axis: str | None = None
) -> Callable[[Members, Carry, Any], tuple[Carry, Totals]]:
    """One evaluation batch of one member; totals are summed across `axis`."""

    def evaluate(member: Members, carry: Carry, batch: Any) -> tuple[Carry, Totals]:
        masked = apply_mask(member.state.params, member.mask)
        totals, carry = task.evaluation(masked, member.state.stats, carry, batch, step_context(member, axis))
        return carry, totals if axis is None else jax.lax.psum(totals, axis)

    return evaluate


def step_context(member: Members, axis: str | None) -> Context:
    """The context of a member's next step. Its random key depends only on seed and step, so a resume repeats it."""
    key = jax.random.wrap_key_data(member.key, impl=seeds.CIPHER)
    return Context(jax.random.fold_in(key, member.state.step), axis)
