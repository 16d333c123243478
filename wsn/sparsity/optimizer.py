"""An optimizer that respects a mask: any optax transformation, for the kept weights alone.

Exact, as if the removed weights did not exist: all of optax that acts on single weights, or on norms and inner products
of leaves or of the tree. Averages over a leaf (`LEAF_MEANS`) would count the removed zeros; with one of them in it the
transformation gets the kept weights of a leaf as a vector of the leaf's rank, (kept, 1, …), which is exact too
(Adafactor does not factor it). Not exact are transformations of a leaf as a matrix: `centralize`, refused, and Muon and
GaLore, which see a kernel with zeros.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import tree_flatten_with_path
from jaxtyping import Array, ArrayLike, PyTree

from wsn.errors import UserError
from wsn.sparsity.masks import is_explicit, placed
from wsn.sparsity.network import aligned

# Names of optax's functions: averages over a leaf, and those of a leaf as a matrix.
LEAF_MEANS = {"adafactor", "scale_by_factored_rms", "clip_by_block_rms", "scale_by_param_block_rms"}
MATRIX = {"muon", "scale_by_muon", "galore", "scale_by_galore"}
BY_UNIT = {"adaptive_grad_clip", "sm3", "scale_by_sm3"}  # exact, but for vectors of kept weights
ELSEWHERE = {"jax", "jaxlib", "numpy", "flax"}  # no function of these holds one of optax


class StaticMaskState(NamedTuple):
    """The mask travels in the state, so it is saved and sharded with it, and is no constant of a compiled program.

    `positions`: of the kept weights in a leaf, flat, where the transformation gets them as vectors; else ().
    """

    mask: PyTree[Array]
    inner: optax.OptState
    positions: PyTree[Array] = ()


def with_static_mask(
    inner: optax.GradientTransformation, mask: PyTree
) -> optax.GradientTransformationExtraArgs:
    """`inner` for the kept weights alone; removed ones are exactly 0 after the first update, and remain so.

    `inner` sees zeros at removed weights, in gradients, parameters and extra arguments of their shapes (such as `grad`
    of a line search), so norms, moments and averages over steps are those of the kept weights. Functions among the
    extra arguments (`value_fn`, SAM's `grad_fn`) get masked parameters, and their gradients are masked. At removed
    weights its updates are replaced by what makes the parameter 0. Averages over a leaf: see this module. Put inside
    whatever looks at more than one weight, such as clipping by a norm: outside, gradients of removed weights count.

    `update` needs the parameters. Raises UserError without them, for `centralize`, for averages over a leaf where
    `mask` is traced or a transformation of matrices or units is chained to them, and in `init` where `mask` does not
    fit them.
    """
    names = set(_names_of(inner, set()))
    means = sorted(names & LEAF_MEANS)
    if "centralize" in names or (means and names & {*MATRIX, *BY_UNIT}):
        which = ", ".join(sorted(names & {*LEAF_MEANS, *MATRIX, *BY_UNIT, "centralize"}))
        raise UserError(f"`inner`: averages of {which} would count removed weights: leave it out")
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> StaticMaskState:
        own = aligned(mask, params)
        positions = jax.tree.map(partial(_positions, means), own) if means else ()
        own = jax.tree.map(placed, own, params)
        return StaticMaskState(own, inner.init(_seen(own, positions)(params)), positions)

    def update(
        updates: PyTree, state: StaticMaskState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, StaticMaskState]:
        if params is None:
            raise UserError("`params`: a static mask needs them, update(gradients, state, params)")
        down = _seen(state.mask, state.positions)
        up = _restored(state.mask, state.positions)
        extra = {name: _masked_argument(value, down, up, params) for name, value in extra.items()}
        updates, inner_state = inner.update(down(updates), state.inner, down(params), **extra)
        updates = jax.tree.map(_to_zero, state.mask, up(updates), params)
        return updates, state._replace(inner=inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


Map = Callable[[PyTree], PyTree]


def _are_none(positions: PyTree) -> bool:
    return isinstance(positions, tuple) and not positions


def _seen(mask: PyTree, positions: PyTree) -> Map:
    """Trees of the parameters' shapes → what the transformation sees of them: kept values, or zeros elsewhere."""
    if _are_none(positions):
        return partial(jax.tree.map, lambda kept, leaf: jnp.where(kept, leaf, 0) if kept.ndim else leaf, mask)

    def gathered(at: Array, leaf: ArrayLike) -> ArrayLike:
        if not at.ndim:
            return leaf
        leaf = jnp.asarray(leaf)
        return jnp.ravel(_replicated(leaf))[at].reshape(-1, *[1] * (leaf.ndim - 1))  # of the same rank

    return partial(jax.tree.map, gathered, positions)


def _restored(mask: PyTree, positions: PyTree) -> Map:
    """The way back, with zeros at removed weights."""
    if _are_none(positions):
        return _seen(mask, positions)

    def scattered(kept: Array, at: Array, values: ArrayLike) -> ArrayLike:
        if not at.ndim:
            return values
        values = jnp.asarray(values)
        leaf = jnp.zeros(kept.size, values.dtype).at[at].set(values.ravel()).reshape(kept.shape)
        return jax.sharding.reshard(leaf, jax.typeof(kept).sharding) if is_explicit(kept) else leaf

    return partial(jax.tree.map, scattered, mask, positions)


def _replicated(leaf: Array) -> Array:
    """Whole on every device of an explicit mesh, where single weights can be gathered."""
    if not is_explicit(leaf):
        return leaf
    return jax.sharding.reshard(leaf, NamedSharding(jax.typeof(leaf).sharding.mesh, PartitionSpec()))


def _positions(means: list[str], mask: ArrayLike) -> Array:
    """Flat positions of the kept weights of a leaf; a scalar for one that keeps its shape."""
    if isinstance(mask, jax.core.Tracer):
        raise UserError(
            f"`mask` is traced, and {', '.join(means)} averages over the kept weights of a leaf, whose number must be"
            " known: make the optimizer outside of jit and vmap, or choose another `inner`"
        )
    return jnp.asarray(0 if np.all(mask) else np.flatnonzero(mask), jnp.int32)


def _masked_argument(value: Any, down: Map, up: Map, params: PyTree) -> Any:
    """An extra argument as the transformation sees it: trees like `params`, functions of them, collections of both."""
    like, seen = _shapes(params), _shapes(jax.eval_shape(down, params))

    def convert(value: Any, shapes: list, change: Map) -> Any:
        if _shapes(value) == shapes:
            return change(value)
        if isinstance(value, tuple | list):
            parts = [convert(part, shapes, change) for part in value]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if isinstance(value, dict):
            return {name: convert(part, shapes, change) for name, part in value.items()}
        return masked(value) if callable(value) else value

    def masked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = convert((args, kwargs), seen, up)
            return convert(function(*args, **kwargs), like, down)

        return call

    return convert(value, like, down)


def _shapes(tree: PyTree) -> list[tuple[Any, Any]]:
    return [(path, getattr(leaf, "shape", None)) for path, leaf in tree_flatten_with_path(tree)[0]]


def _to_zero(mask: Array, update: Array, param: Array) -> Array:
    return jnp.where(mask, update, -param) if mask.ndim else update


def _names_of(part: Any, visited: set[int]) -> Iterator[str]:
    """The names of optax's functions that a transformation consists of, as far as its functions hold them."""
    if id(part) in visited or (getattr(part, "__module__", None) or "").partition(".")[0] in ELSEWHERE:
        return
    visited.add(id(part))
    parts: list[Any] = []
    if isinstance(part, FunctionType):
        held = inspect.getclosurevars(part)
        if part.__module__.startswith("optax."):
            yield part.__qualname__.partition(".")[0]
        else:  # a factory of the caller, as of inject_hyperparams, names them
            yield from part.__code__.co_names
            parts = list(held.globals.values())
        parts += [*held.nonlocals.values(), *(part.__defaults__ or ())]
    elif isinstance(part, MethodType):
        parts = [part.__func__, part.__self__]
    elif isinstance(part, partial):
        parts = [part.func, *part.args, *part.keywords.values()]
    elif isinstance(part, tuple | list):
        parts = list(part)
    elif isinstance(part, dict):
        parts = list(part.values())
    elif hasattr(part, "__wrapped__"):  # by jax.jit
        parts = [part.__wrapped__]
    elif type(part).__module__.startswith("optax."):
        parts = list(vars(part).values())
    for other in parts:
        yield from _names_of(other, visited)
