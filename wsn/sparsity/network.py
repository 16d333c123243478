"""Anyone's network: parameters, a budget and a key → what is kept, a start, and an optimiser that respects it.

In: any tree of parameters (Flax's linen or nnx, or your own), or of anything that has their shapes. Out: `mask`, a
tree of the same structure, True where a weight is kept; parameters to start from; an optax transformation under
which removed weights are exactly 0. In `mask` a leaf that counts as weights has an array of its own shape, any other
a single True: so `mask` alone says how many weights there are, and mask ⊙ params is the sparse network.

Leaves are named by their path, keys joined by '/', as in `hidden_0/kernel`; those of nnx carry the names that linen
would give them. The draw of a leaf depends on (key, path, shape, kept count) alone (`patterns`).
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from numbers import Integral
from typing import Any, NamedTuple, SupportsInt

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import KeyPath, tree_flatten_with_path
from jaxtyping import Array, ArrayLike, Bool, PRNGKeyArray, PyTree

from wsn.errors import UserError
from wsn.sparsity import patterns
from wsn.sparsity.budget import DISTRIBUTIONS, kept_counts
from wsn.sparsity.masks import by_path, mask_array
from wsn.sparsity.shapes import Shapes, weights

Predicate = Callable[[str, Any], bool]  # (path, leaf) → whether the leaf counts as weights


def is_kernel(path: str, leaf: Any) -> bool:
    """Two or more dimensions, and by Flax's names neither a bias (attention has some of two) nor an embedding."""
    return len(leaf.shape) >= 2 and path.rpartition("/")[2] not in ("bias", "embedding")


def random_mask(
    params: PyTree,
    *,
    key: PRNGKeyArray,
    total: SupportsInt | None = None,
    connectivity: float | None = None,
    like: PyTree | None = None,
    distribution: str = "largest_first",
    pattern: str = "elementwise",
    counted: Predicate = is_kernel,
    last: str | None = None,
) -> PyTree[Bool[np.ndarray, "..."]]:
    """Which weights are kept: `mask`, of the structure of `params`, drawn at random within each leaf.

    The budget is one of `total` weights, a share `connectivity` in (0, 1] of those that `params` have, or as many
    as `like` has, the parameters of a narrower network. `counted` chooses the leaves that hold weights, in
    both. They go to the `distribution` in the order of the tree, which for dictionaries is that of their sorted
    keys: name by its path the one that is `last` in the network where the distribution treats it apart. A pattern
    may leave a few weights of the budget without a place (`patterns.rounded`).

    `params` and `like` may be shapes, as of `jax.eval_shape`. The draw is made on the host: inside `jit` the key must
    be a constant. Raises UserError for a budget that cannot be met, unknown names, and leaves that cannot count.
    """
    _check_known("distribution", distribution, DISTRIBUTIONS)
    _check_known("pattern", pattern, patterns.PATTERNS)
    if isinstance(key, jax.core.Tracer):
        raise UserError("key: masks are drawn on the host, so call random_mask outside of jit and vmap")
    leaves = by_path(params)
    shapes = _counted_shapes(leaves, counted, last)
    size = weights(shapes)
    budget = _budget(size, total, connectivity, like, counted)
    kept = _kept(distribution, pattern, shapes, budget)
    with jax.ensure_compile_time_eval():
        positions = patterns.draw(key, shapes, kept, pattern)
    mask = {path: np.ones(shapes.get(path, ()), np.bool_) for path in leaves}
    mask |= {path: mask_array(at, shapes[path]) for path, at in positions.items()}
    assert {path: int(mask[path].sum()) for path in kept} == kept
    return jax.tree.unflatten(jax.tree.structure(params), mask.values())


def num_kept(mask: PyTree) -> dict[str, int]:
    """Path → number of kept weights of every leaf that counts; their sum is that of the network."""
    return {path: int(np.sum(kept)) for path, kept in by_path(mask).items() if kept.ndim}


def mask_and_rescale(params: PyTree, mask: PyTree) -> PyTree[Array]:
    """Parameters to start from: removed weights 0, kept ones times (connectivity of their leaf)^-1/2.

    So weights that were drawn by their fan-in are initialised by their effective fan-in, fan-in × connectivity.
    Leaves that lose nothing stay as they are. Raises UserError where `mask` does not fit the parameters.
    """
    return jax.tree.map(_rescaled, _aligned(mask, params), params)


class StaticMaskState(NamedTuple):
    """`mask` travels in the state, so it is saved and sharded with it, and is no constant of a compiled program."""

    mask: PyTree[Array]
    inner: optax.OptState


def with_static_mask(
    inner: optax.GradientTransformation, mask: PyTree
) -> optax.GradientTransformationExtraArgs:
    """`inner` for the kept weights alone; removed ones are exactly 0 after the first update, and stay so.

    `inner` sees zeros at removed weights, in gradients, parameters and extra arguments of their shapes (such as `grad`
    of a line search): norms, moments and averages are those of the kept weights. What it answers there is replaced by
    what makes the parameter 0. `update` needs the parameters. Raises UserError without them, and in `init` where
    `mask` does not fit them.
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> StaticMaskState:
        own = jax.tree.map(jnp.array, _aligned(mask, params))  # a copy: states may be donated
        return StaticMaskState(own, inner.init(jax.tree.map(_masked, own, params)))

    def update(
        updates: PyTree, state: StaticMaskState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, StaticMaskState]:
        if params is None:
            raise UserError("update: a static mask needs the parameters, update(gradients, state, params)")
        masked = partial(jax.tree.map, _masked, state.mask)
        ours = _paths_and_shapes(params)
        extra = {
            name: masked(value) if _paths_and_shapes(value) == ours else value
            for name, value in extra.items()
        }
        updates, inner_state = inner.update(masked(updates), state.inner, masked(params), **extra)
        updates = jax.tree.map(_to_zero, state.mask, updates, params)
        return updates, StaticMaskState(state.mask, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _masked(kept: ArrayLike, leaf: ArrayLike) -> ArrayLike:
    return jnp.where(kept, leaf, 0) if jnp.ndim(kept) else leaf


def _to_zero(kept: Array, update: Array, param: Array) -> Array:
    return jnp.where(kept, update, -param) if kept.ndim else update


def _rescaled(kept: ArrayLike, param: ArrayLike) -> Array:
    kept, param = jnp.asarray(kept), jnp.asarray(param)
    if not kept.ndim:
        return param
    scale = jnp.sqrt(kept.size / kept.sum()).astype(param.dtype)
    return jnp.where(kept, scale * param, 0)


def _paths_and_shapes(tree: PyTree) -> list[tuple[KeyPath, Any]]:
    return [(path, _shape(leaf)) for path, leaf in tree_flatten_with_path(tree)[0]]


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return getattr(leaf, "shape", None)


def _counted_shapes(leaves: Mapping[str, Any], counted: Predicate, last: str | None = None) -> Shapes:
    """Shapes of the leaves that count, `last` at the end."""
    shapes = {path: tuple(leaf.shape) for path, leaf in leaves.items() if _shape(leaf) is not None}
    shapes = {path: shape for path, shape in shapes.items() if counted(path, leaves[path])}
    if not shapes:
        raise UserError(f"counted: no leaf counts as weights, of {', '.join(leaves) or 'none'}")
    for path, shape in shapes.items():
        if not shape or 0 in shape:
            raise UserError(f"counted: {path} has shape {shape}, which holds no weights; leave it out")
    if last is not None:
        if last not in shapes:
            raise UserError(f"last={last} is no leaf that counts: choose one of {', '.join(shapes)}")
        shapes[last] = shapes.pop(last)
    return shapes


def _budget(
    size: int, total: SupportsInt | None, connectivity: float | None, like: PyTree | None, counted: Predicate
) -> int:
    """The number of weights to keep, of `size`."""
    budgets = {"total": total, "connectivity": connectivity, "like": like}
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) != 1:
        raise UserError(f"give one budget: total, connectivity or like; here {' and '.join(given) or 'none'}")
    if like is not None:
        return weights(_counted_shapes(by_path(like), counted))
    if connectivity is not None:
        if not 0 < connectivity <= 1:
            raise UserError(f"connectivity={connectivity:g} is outside (0, 1]")
        return round(connectivity * size)
    if not isinstance(total, Integral):
        raise UserError(f"total={total} is not a whole number")
    return int(total)


def _kept(distribution: str, pattern: str, shapes: Shapes, budget: int) -> dict[str, int]:
    """Path → kept count."""
    size = weights(shapes)
    if budget < len(shapes):
        raise UserError(f"a budget of {budget} weights cannot leave one in each of {len(shapes)} leaves")
    if budget > size:
        raise UserError(f"a budget of {budget} weights exceeds the {size} of the network: take a wider one")
    try:
        return patterns.rounded(pattern, kept_counts(distribution, shapes, budget), shapes)
    except UserError as error:  # names a flag first, which a caller of this library does not have
        reason = str(error).partition(": ")[2]
        raise UserError(f"distribution={distribution}, pattern={pattern}: {reason}") from error


def _aligned(mask: PyTree, params: PyTree) -> PyTree:
    """`mask` in the structure of `params`, which may lack leaves of it or hold them in nnx's variables."""
    kept = by_path(mask)
    leaves = by_path(params)
    for path, leaf in leaves.items():
        if path not in kept:
            raise UserError(f"mask: there is no {path} in it; it was drawn for {', '.join(kept)}")
        if kept[path].ndim and kept[path].shape != leaf.shape:
            raise UserError(f"mask: {path} has shape {kept[path].shape} in it, and {leaf.shape} in params")
    return jax.tree.unflatten(jax.tree.structure(params), [kept[path] for path in leaves])


def _check_known(argument: str, name: str, registry: Collection[str]) -> None:
    if name not in registry:
        raise UserError(f"{argument}={name} is unknown: choose one of {', '.join(registry)}")
