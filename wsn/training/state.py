"""The state of training, its constants, and how both are initialized.

Parameters are stored masked, and multiplied by the mask in every step: by the chain rule the gradient of mask ⊙ params
is masked too, so neither momentum nor weight decay can revive a removed weight, which stays exactly 0.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Shaped

from wsn import seeds
from wsn.errors import UserError
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
    """Everything that a step changes, hence all that a resumed run needs."""

    params: Params
    stats: Stats
    optimizer: optax.OptState
    step: Any  # steps taken
    carry: Carry  # of the task, lanes of the batch first; cut over devices with the batch


class Members(NamedTuple):
    """The networks of a group; every leaf has a leading axis of members."""

    state: State
    # Parameter path → 1 = kept, 0 = removed; for a kernel that runs sparse its index, and the parameter is its values.
    mask: dict[str, Shaped[Array, "..."] | SparseIndex]
    rates: Params  # learning rate of each parameter, scalars
    key: Any  # raw random key of the steps
    start: Params  # parameters that probes compare with, usually the initial ones; {} without probes


# The leaves that are cut over devices with the batch (0), for `devices.compile_program`.
_NO: Any = None
LANES: Any = Members(State(_NO, _NO, _NO, _NO, 0), _NO, _NO, _NO, _NO)


@seeds.fixed_bits
def initial_members(
    group: Group,
    model: Model,
    transformation: optax.GradientTransformation,
    carry: Carry = (),
    sparse: Collection[str] = (),
) -> Members:
    """Draw the masks and weights of every member; removed weights are 0.

    `carry`: of one member, for all lanes of the batch. Layers in `sparse` store only the values at their kept
    positions, which are the same numbers.
    """
    keys = {seed: seeds.key(seed) for seed in group.seeds}
    positions = drawn_positions(group, model, keys, sparse)
    mask = stored_masks(positions, model, sparse)
    units = unit_weights(model, [keys[seed] for _, seed in group.members], positions, mask)
    params, stats, rates = [], [], []
    for member, (unit_params, unit_stats) in enumerate(units):
        stored = stored_weights(unit_params, positions[member], mask, member)
        weights, learning_rates = scaled_weights(group.members[member][0], model, stored)
        params.append(weights)
        rates.append(learning_rates)
        stats.append(unit_stats)
    stacked_params, count = stack(params), len(group.members)
    state = State(
        stacked_params,
        stack(stats),
        jax.jit(jax.vmap(transformation.init))(stacked_params),
        np.zeros(count, np.int32),
        jax.tree.map(lambda x: np.repeat(np.asarray(x)[None], count, axis=0), carry),
    )
    step_keys = [
        np.asarray(jax.random.key_data(jax.random.fold_in(keys[s], STEPS))) for _, s in group.members
    ]
    start = stacked_params if group.specs[0].probes else {}
    return Members(state, mask, stack(rates), np.stack(step_keys), start)


def undrawn_members(
    group: Group,
    model: Model,
    transformation: optax.GradientTransformation,
    carry: Carry = (),
    sparse: Collection[str] = (),
) -> Members:
    """`initial_members` with zeros in place of all numbers, which take no memory: to compile with."""
    if sparse:
        raise UserError(
            "`execution=sparse` stores drawn positions: to compile for a target give `masked` or `auto`"
        )
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    lossy = {
        layer for spec in group.specs for layer, kept in spec.kept if kept < math.prod(model.shapes[layer])
    }
    array: Any = jax.ShapeDtypeStruct
    number, key = array((), np.int32), array((2,), np.uint32)
    member = Members(
        State(params, stats, jax.eval_shape(transformation.init, params), number, carry),
        {models.kernel_path(layer): array(model.shapes[layer], bool) for layer in lossy},
        jax.tree.map(lambda x: array((), np.float32), params),
        key,
        params if group.specs[0].probes else {},
    )
    count = len(group.members)
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), (count, *x.shape)), member)


def unit_weights(
    model: Model, keys: Sequence[Any], positions: Sequence[dict[str, Positions]], mask: dict[str, Any]
) -> Iterator[tuple[Params, Stats]]:
    """The weights of every member at unit scale; of a sparse kernel the values at its positions, then padding.

    A loop, since `vmap` of the draws takes XLA five times as long to compile. On a CPU the many draws of a ResNet are
    compiled without optimization (2 s instead of 30), which keeps the bits of uniform draws but not of normal ones.
    """
    options = {"xla_backend_optimization_level": 0} if goes_step_by_step(model) else None
    init = jax.jit(model.init, compiler_options=options)
    sizes = {path: index.values for path, index in mask.items() if isinstance(index, SparseIndex)}
    dense: dict[Any, tuple[Params, Stats]] = {}  # members with the same seed share them
    for key, kept in zip(keys, positions, strict=True):
        seed = jax.random.key_data(key).tobytes()
        if sizes or seed not in dense:
            places = {path: uint32_pairs(np.resize(kept[path], size)) for path, size in sizes.items()}
            dense[seed] = jax.tree.map(np.asarray, init(jax.random.fold_in(key, WEIGHTS), places))
        yield dense[seed]


def drawn_positions(
    group: Group, model: Model, keys: dict[int, Any], sparse: Collection[str] = ()
) -> list[dict[str, Positions]]:
    """The kept positions of every member, in layers where any member loses weights and in those of `sparse`."""
    shapes = {models.kernel_path(layer): shape for layer, shape in model.shapes.items()}
    drawn = []
    for spec, seed in group.members:
        counts = {models.kernel_path(layer): kept for layer, kept in spec.kept}
        key = jax.random.fold_in(keys[seed], MASKS)
        drawn.append(patterns.draw(key, shapes, counts, spec.mask) if counts else {})
    needed = {*map(models.kernel_path, sparse)}.union(*drawn)
    everything = {path: np.arange(math.prod(shape)) for path, shape in shapes.items() if path in needed}
    return [{path: positions.get(path, every) for path, every in everything.items()} for positions in drawn]


def stored_masks(
    positions: Sequence[dict[str, Positions]], model: Model, sparse: Collection[str]
) -> dict[str, Any]:
    """The masks of all members, stacked; the index of kept weights for the layers of `sparse`."""
    shapes = {models.kernel_path(layer): shape for layer, shape in model.shapes.items()}
    paths = set(map(models.kernel_path, sparse))
    return {
        path: storage.stacked([storage.sparse_index(shapes[path], kept[path]) for kept in positions])
        if path in paths
        else np.stack([mask_array(kept[path], shapes[path]) for kept in positions])
        for path in positions[0]
    }


def stored_weights(
    drawn: Params, positions: dict[str, Positions], mask: dict[str, Any], member: int
) -> Params:
    """The drawn weights of a member: multiplied by the mask, or the values at kept positions, padded with 0."""
    leaves = flatten_dict(drawn, sep="/")
    for path, stored in mask.items():
        if isinstance(stored, SparseIndex):
            values = leaves[path][: positions[path].size]
            leaves[path] = np.pad(values, (0, stored.values - values.size))
        else:
            leaves[path] = leaves[path] * stored[member]
    return unflatten_dict(leaves, sep="/")


def stored_as(saved: np.ndarray, shape: tuple[int, ...], mask: Any) -> np.ndarray:
    """A saved kernel, dense or values, in the other storage, of `shape` with members first."""

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
