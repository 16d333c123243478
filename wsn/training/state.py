"""The state of training: what a step changes, what it leaves, and how both begin."""

from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Shaped

from wsn.networks import models
from wsn.networks.layers import Model, Params, Stats
from wsn.sparsity import patterns
from wsn.sparsity.keep import keep_array
from wsn.spec import MASKS, STEPS, WEIGHTS, Group, Spec
from wsn.tasks import Carry
from wsn.training.strategy import goes_step_by_step


class State(NamedTuple):
    """What a step changes: nothing else needs to be saved to resume."""

    params: Params
    stats: Stats
    optimizer: optax.OptState
    step: Any  # steps taken
    carry: Carry  # of the task, with the lanes of a batch on the first axis; cut over devices with the batch


class Members(NamedTuple):
    """The networks of a group; every leaf has the leading axis of members."""

    state: State
    keep: dict[str, Shaped[Array, "..."]]  # parameter path → 1 = kept, 0 = removed
    rates: Params  # learning rate of each parameter, scalars
    key: Any  # raw key of the randomness of steps
    start: Params  # the parameters at step 0, where a probe asks for them


# Which parts are cut over devices with the batch, for `devices.compile_program`.
_WHOLE: Any = None
LANES: Any = Members(State(_WHOLE, _WHOLE, _WHOLE, _WHOLE, 0), _WHOLE, _WHOLE, _WHOLE, _WHOLE)


def initial_members(
    group: Group, model: Model, transformation: optax.GradientTransformation, carry: Carry = ()
) -> Members:
    """Draw masks and weights of every member; removed weights start at 0, and stay there.

    `carry` is that of one member, with all lanes of the batch.
    """
    keys = {seed: jax.random.key(seed) for seed in group.seeds}
    units = unit_weights(model, keys)
    keeps = drawn_masks(group, model, keys)
    params, stats, rates = [], [], []
    for (spec, seed), keep in zip(group.members, keeps, strict=True):
        unit_params, unit_stats = units[seed]
        scaled, own_rates = scaled_weights(spec, model, unit_params, keep)
        params.append(scaled)
        rates.append(own_rates)
        stats.append(unit_stats)
    stacked_params, count = stack(params), len(group.members)
    state = State(
        stacked_params,
        stack(stats),
        jax.jit(jax.vmap(transformation.init))(stacked_params),
        np.zeros(count, np.int32),
        jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], count, axis=0), carry),
    )
    steps = [np.asarray(jax.random.key_data(jax.random.fold_in(keys[s], STEPS))) for _, s in group.members]
    start = stacked_params if group.specs[0].probes else {}
    return Members(state, stack(keeps), stack(rates), np.stack(steps), start)


def unit_weights(model: Model, keys: dict[int, Any]) -> dict[int, tuple[Params, Stats]]:
    """Weights of unit scale by seed.

    A loop, since a mapped draw takes XLA five times as long to compile; and on a CPU the many draws of a ResNet
    without optimisation (2 s instead of 30), which keeps the bits of uniform draws, but not those of normal ones.
    """
    quickly = {"xla_backend_optimization_level": 0} if goes_step_by_step(model) else None
    init = jax.jit(model.init, compiler_options=quickly)
    return {
        seed: jax.tree.map(np.asarray, init(jax.random.fold_in(key, WEIGHTS))) for seed, key in keys.items()
    }


def drawn_masks(group: Group, model: Model, keys: dict[int, Any]) -> list[dict[str, np.ndarray]]:
    """The 0/1 arrays of every member, for the layers in which any member loses weights."""
    shapes = {models.kernel_path(layer): shape for layer, shape in model.shapes.items()}
    drawn = []
    for spec, seed in group.members:
        counts = {models.kernel_path(layer): kept for layer, kept in spec.kept}
        key = jax.random.fold_in(keys[seed], MASKS)
        drawn.append(patterns.draw(key, shapes, counts, spec.mask) if counts else {})
    everything = {
        path: np.arange(np.prod(shape))
        for path, shape in shapes.items()
        if any(path in positions for positions in drawn)
    }
    return [
        {path: keep_array((everything | positions)[path], shapes[path]) for path in everything}
        for positions in drawn
    ]


def scaled_weights(
    spec: Spec, model: Model, unit: Params, keep: dict[str, np.ndarray]
) -> tuple[Params, Params]:
    """(weights at their initial scale, 0 where removed; learning rates) of one member."""
    rule = models.scalings(spec, model, unit)
    leaves = flatten_dict(unit, sep="/")
    scaled = {p: np.float32(rule[p].initial) * x * keep.get(p, True) for p, x in leaves.items()}
    rates = {p: np.float32(spec.learning_rate * rule[p].learning_rate) for p in leaves}
    return unflatten_dict(scaled, sep="/"), unflatten_dict(rates, sep="/")


def stack(trees: list[Any]) -> Any:
    """Trees of equal structure → one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
