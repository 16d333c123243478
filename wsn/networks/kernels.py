"""How a kernel meets its inputs: the one function that layers call, whatever a kernel is stored as.

A kernel is a dense array (times its mask, which the trainer has applied), or a `SparseKernel`. Another storage is a
type of its own and a function that is registered for it; layers, networks and the trainer stay as they are.
"""

from functools import singledispatch
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from wsn.networks.convolution import Stride, convolve
from wsn.networks.sparse import apply_sparse, apply_sparse_to_planes
from wsn.sparsity.storage import SparseKernel


@singledispatch
def apply(kernel: Any, x: Array, *, stride: Stride = 1, dtype: Any) -> Array:
    """The linear map of a kernel, with products in `dtype`.

    (inputs, outputs): (batch, inputs) → (batch, outputs), accumulated and returned in float32. (rows, columns,
    inputs, outputs), both odd: (batch, height, width, inputs) → (batch, ⌈height/stride⌉, ⌈width/stride⌉, outputs), in
    `dtype`.
    """
    if kernel.ndim == 2:
        return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)
    return convolve(x, kernel, stride, dtype)


@singledispatch
def apply_to_planes(kernel: Any, x: Array, *, stride: Stride = 1, dtype: Any) -> Array:
    """A convolution of planes: as `apply`, with images (inputs, height, width, batch)."""
    return apply(kernel, x.transpose(3, 1, 2, 0), stride=stride, dtype=dtype).transpose(3, 1, 2, 0)


apply.register(SparseKernel, apply_sparse)
apply_to_planes.register(SparseKernel, apply_sparse_to_planes)
