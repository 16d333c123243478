"""Applying a mask: positions → the 0/1 array of a kernel, and keep ⊙ params.

Pure and differentiable, so that a removed weight has no gradient.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, ArrayLike, Int64, Shaped

from wsn.sparsity.lists import Kept, SparseKernel, sparse_kernel


def keep_array(
    positions: Int64[np.ndarray, " kept"], shape: tuple[int, ...], dtype: Any = np.bool_
) -> Shaped[np.ndarray, "..."]:
    """The array of `shape` that is 1 at `positions` and 0 elsewhere."""
    array = np.zeros(math.prod(shape), dtype)
    array[positions] = 1
    assert np.count_nonzero(array) == positions.size
    return array.reshape(shape)


def apply_masks(
    params: dict[str, Any], keep: Mapping[str, Shaped[ArrayLike, "..."] | Kept]
) -> dict[str, Any]:
    """keep ⊙ params: multiplies the parameters at the paths of `keep`, passes the others through.

    `params` are nested dictionaries as Flax makes them; paths join their keys by '/'; arrays of `keep` have
    the shape of their parameter. Where lists stand in place of a mask, the parameter is the values at the kept
    positions, and becomes a `SparseKernel`. Pure and differentiable: a removed weight has no gradient. Raises KeyError
    for a path that `params` lack, ValueError for another shape.
    """
    leaves = flatten_dict(params, sep="/", keep_empty_nodes=True)
    if missing := keep.keys() - leaves.keys():
        raise KeyError(f"no parameter at {sorted(missing)}; there are {sorted(leaves)}")
    for path, kept in keep.items():
        leaves[path] = _masked(path, leaves[path], kept)
    return unflatten_dict(leaves, sep="/")


def _masked(path: str, kernel: Array, kept: ArrayLike | Kept) -> Array | SparseKernel:
    if isinstance(kept, Kept):
        return sparse_kernel(kernel, kept)
    kept = jnp.asarray(kept, kernel.dtype)
    if kept.shape != kernel.shape:
        raise ValueError(f"{path}: mask of shape {kept.shape} for a parameter of shape {kernel.shape}")
    return kernel * kept
