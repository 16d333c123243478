"""The state of training: what a step changes, what it leaves, and how both begin."""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Shaped

from wsn.networks import models
from wsn.networks.draws import uint32_pairs
from wsn.networks.layers import Model, Params, Stats
from wsn.sparsity import patterns, storage
from wsn.sparsity.masks import mask_array
from wsn.sparsity.storage import Positions, SparseIndex
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
    mask: dict[
        str, Shaped[Array, "..."] | SparseIndex
    ]  # parameter path → 1 = kept, 0 = removed; or the lists of a sparse kernel, whose parameter is its values
    rates: Params  # learning rate of each parameter, scalars
    key: Any  # raw key of the randomness of steps
    start: Params  # the parameters that probes compare with, where there are any: usually those at step 0


# Which parts are cut over devices with the batch, for `devices.compile_program`.
_WHOLE: Any = None
LANES: Any = Members(State(_WHOLE, _WHOLE, _WHOLE, _WHOLE, 0), _WHOLE, _WHOLE, _WHOLE, _WHOLE)


def initial_members(
    group: Group,
    model: Model,
    transformation: optax.GradientTransformation,
    carry: Carry = (),
    sparse: Collection[str] = (),
) -> Members:
    """Draw masks and weights of every member; removed weights start at 0, and stay there.

    `carry` is that of one member, with all lanes of the batch. Layers of `sparse` are stored as the values at their
    kept positions: the same numbers.
    """
    keys = {seed: jax.random.key(seed) for seed in group.seeds}
    positions = drawn_positions(group, model, keys, sparse)
    mask = stored_masks(positions, model, sparse)
    units = unit_weights(model, [keys[seed] for _, seed in group.members], positions, mask)
    params, stats, rates = [], [], []
    for member, (unit_params, unit_stats) in enumerate(units):
        own = stored_weights(unit_params, positions[member], mask, member)
        scaled, own_rates = scaled_weights(group.members[member][0], model, own)
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
    return Members(state, mask, stack(rates), np.stack(steps), start)


def unit_weights(
    model: Model, keys: Sequence[Any], positions: Sequence[dict[str, Positions]], mask: dict[str, Any]
) -> Iterator[tuple[Params, Stats]]:
    """Of every member weights of unit scale; of a sparse kernel those at its positions alone, filled up by others.

    A loop, since a mapped draw takes XLA five times as long to compile; and on a CPU the many draws of a ResNet
    without optimisation (2 s instead of 30), which keeps the bits of uniform draws, but not those of normal ones.
    """
    quickly = {"xla_backend_optimization_level": 0} if goes_step_by_step(model) else None
    init = jax.jit(model.init, compiler_options=quickly)
    sizes = {path: kept.values for path, kept in mask.items() if isinstance(kept, SparseIndex)}
    dense: dict[Any, tuple[Params, Stats]] = {}  # members of one seed share them
    for key, own in zip(keys, positions, strict=True):
        seed = jax.random.key_data(key).tobytes()
        if sizes or seed not in dense:
            places = {path: uint32_pairs(np.resize(own[path], size)) for path, size in sizes.items()}
            dense[seed] = jax.tree.map(np.asarray, init(jax.random.fold_in(key, WEIGHTS), places))
        yield dense[seed]


def drawn_positions(
    group: Group, model: Model, keys: dict[int, Any], sparse: Collection[str] = ()
) -> list[dict[str, Positions]]:
    """What every member keeps, for the layers in which any of them loses weights and for those of `sparse`."""
    shapes = {models.kernel_path(layer): shape for layer, shape in model.shapes.items()}
    drawn = []
    for spec, seed in group.members:
        counts = {models.kernel_path(layer): kept for layer, kept in spec.kept}
        key = jax.random.fold_in(keys[seed], MASKS)
        drawn.append(patterns.draw(key, shapes, counts, spec.mask) if counts else {})
    listed = {*map(models.kernel_path, sparse)}.union(*drawn)
    return [
        {
            path: own[path] if path in own else np.arange(math.prod(shape))
            for path, shape in shapes.items()
            if path in listed
        }
        for own in drawn
    ]


def stored_masks(
    positions: Sequence[dict[str, Positions]], model: Model, sparse: Collection[str]
) -> dict[str, Any]:
    """The masks of all members, stacked; lists instead for the layers of `sparse`."""
    shapes = {models.kernel_path(layer): shape for layer, shape in model.shapes.items()}
    paths = set(map(models.kernel_path, sparse))
    return {
        path: storage.stacked([storage.sparse_index(shapes[path], own[path]) for own in positions])
        if path in paths
        else np.stack([mask_array(own[path], shapes[path]) for own in positions])
        for path in positions[0]
    }


def stored_weights(
    drawn: Params, positions: dict[str, Positions], mask: dict[str, Any], member: int
) -> Params:
    """The weights of a member as `mask` stores them: times its mask, or the values at its positions alone."""
    leaves = flatten_dict(drawn, sep="/")
    for path, kept in mask.items():
        if isinstance(kept, SparseIndex):
            own = leaves[path][: positions[path].size]
            leaves[path] = np.pad(own, (0, kept.values - own.size))
        else:
            leaves[path] = leaves[path] * kept[member]
    return unflatten_dict(leaves, sep="/")


def stored_as(saved: np.ndarray, shape: tuple[int, ...], mask: Any) -> np.ndarray:
    """What is saved of a kernel, dense or values, as members of `mask` store it: of `shape`, members first."""

    def kept(member: int) -> Positions:
        if isinstance(mask, SparseIndex):
            return storage.positions(mask, member)
        return np.arange(np.prod(shape[1:])) if mask is None else np.flatnonzero(mask[member])

    members = range(len(saved))
    if len(shape) == 2:
        return np.stack([storage.values_at(saved[i], kept(i), shape[1]) for i in members])
    return np.stack([storage.dense_kernel(saved[i], kept(i), shape[1:]) for i in members])


def scaled_weights(spec: Spec, model: Model, unit: Params) -> tuple[Params, Params]:
    """(weights at their initial scale; learning rates) of one member."""
    rule = models.scalings(spec, model, unit)
    leaves = flatten_dict(unit, sep="/")
    scaled = {p: np.float32(rule[p].initial) * x for p, x in leaves.items()}
    rates = {p: np.float32(spec.learning_rate * rule[p].learning_rate) for p in leaves}
    return unflatten_dict(scaled, sep="/"), unflatten_dict(rates, sep="/")


def stack(trees: list[Any]) -> Any:
    """Trees of equal structure → one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
