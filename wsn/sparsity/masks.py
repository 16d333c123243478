"""Applying a mask: positions → the boolean array of a kernel, and mask ⊙ params."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, KeyPath, keystr, tree_flatten_with_path
from jaxtyping import Array, ArrayLike, Int64, PyTree, Shaped

from wsn.errors import UserError
from wsn.sparsity.storage import SparseIndex, SparseKernel, sparse_kernel


def mask_array(
    positions: Int64[np.ndarray, " kept"], shape: tuple[int, ...], dtype: Any = np.bool_
) -> Shaped[np.ndarray, "..."]:
    """The array of `shape` that is 1 at the flat `positions` and 0 elsewhere."""
    array = np.zeros(math.prod(shape), dtype)
    array[positions] = 1
    assert np.count_nonzero(array) == positions.size
    return array.reshape(shape)


def apply_mask(params: PyTree, mask: PyTree) -> PyTree:
    """mask ⊙ params, by multiplication: differentiable, and a removed weight has no gradient.

    `mask` is a tree as `random_mask` makes it, or a dictionary from paths (`hidden_0/kernel`) to arrays of the shape
    of their parameter; parameters without an entry, or with a single True, pass through. Where a `SparseIndex` stands
    in place of an array, the parameter is the values at the kept positions, and becomes a `SparseKernel`. Raises
    UserError for a path that `params` lack, and for another shape.
    """
    masks = by_path(mask)
    leaves = by_path(params)
    if missing := masks.keys() - leaves.keys():
        raise UserError(f"`mask`: `params` have no {', '.join(sorted(missing))}, only {', '.join(leaves)}")
    masked = [_masked(path, leaf, masks.get(path, np.True_)) for path, leaf in leaves.items()]
    return jax.tree.unflatten(jax.tree.structure(params), masked)


def check_scalar(path: str, mask: Any) -> None:
    """Raises UserError for a single False, which would be read as a leaf that keeps all."""
    if not isinstance(mask, jax.core.Tracer) and not np.ndim(mask) and not mask:
        raise UserError(f"`mask`: {path} is a single False: give an array of its shape")


def placed(mask: ArrayLike, param: ArrayLike) -> Array:
    """A copy of a mask with the sharding of its parameter; under an explicit mesh also while that is traced."""
    mask = jnp.array(mask)
    if not mask.ndim:
        return mask
    if isinstance(param, jax.core.Tracer):
        sharding = jax.typeof(param).sharding
        return jax.sharding.reshard(mask, sharding) if is_explicit(param) else mask
    return jax.device_put(mask, param.sharding) if getattr(param, "committed", False) else mask  # type: ignore[union-attr]


def is_explicit(array: Array) -> bool:
    """Whether the sharding of an array is part of its type (`jax.sharding.AxisType.Explicit`)."""
    mesh = getattr(jax.typeof(array).sharding, "mesh", None)
    return jax.sharding.AxisType.Explicit in getattr(mesh, "axis_types", ())


def by_path(tree: PyTree, leaf: type = SparseIndex) -> dict[str, Any]:
    """Path → leaf, in the order of the tree. Raises UserError where two leaves have the same path."""
    leaves = tree_flatten_with_path(tree, is_leaf=lambda node: isinstance(node, leaf))[0]
    named = {_name(path): leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        raise UserError("`params`: two leaves have the same path; use keys without '/'")
    return named


def _name(path: KeyPath) -> str:
    if path and path[-1] == GetAttrKey("value"):  # where nnx's variables hold their array
        path = path[:-1]
    return keystr(path, simple=True, separator="/")


def _masked(path: str, param: Array, mask: ArrayLike | SparseIndex) -> Array | SparseKernel:
    if isinstance(mask, SparseIndex):
        return sparse_kernel(param, mask)
    check_scalar(path, mask)
    if not jnp.ndim(mask):
        return param
    mask = jnp.asarray(mask, param.dtype)
    if mask.shape != param.shape:
        raise UserError(f"`mask`: {path} has shape {mask.shape}, its parameter {param.shape}")
    return param * mask
