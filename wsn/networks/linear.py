"""The one module that knows how a kernel (a weight tensor) is stored; layers and networks call these functions.

A kernel is a dense array, which the trainer has multiplied by its mask, or a `SparseKernel`: the values at its kept
positions. To add another storage, define a type and register its `apply`; nothing else changes.
"""

from collections.abc import Callable
from functools import partial, singledispatch
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.networks.convolution import (
    CHANNELS_LAST,
    PLANES,
    Layout,
    Stride,
    convolve,
    operand_type,
    precision,
)
from wsn.networks.sparse import apply_sparse
from wsn.sparsity.storage import SparseKernel


@singledispatch
def apply(kernel: Any, x: Array, *, stride: Stride = 1, dtype: Any, layout: Layout = CHANNELS_LAST) -> Array:
    """The linear map of a kernel, with products in `dtype`.

    A kernel (inputs, outputs) maps (batch, inputs) to (batch, outputs), accumulated and returned in float32. A kernel
    (rows, columns, inputs, outputs), both sizes odd, maps images (batch, height, width, inputs) to (batch,
    ⌈height/stride⌉, ⌈width/stride⌉, outputs) in `dtype`; with the layout PLANES both have axes 0 and 3 exchanged.
    """
    if kernel.ndim == 2:
        x, kernel = (a.astype(operand_type(dtype)) for a in (x, kernel))
        return jnp.dot(x, kernel, precision=precision(dtype), preferred_element_type=jnp.float32)
    y = convolve(layout.convert(x, CHANNELS_LAST), kernel, stride, dtype)
    return CHANNELS_LAST.convert(y, layout)


apply.register(SparseKernel, apply_sparse)


def preferred_layout(params: Any) -> Layout:
    """The layout in which a network of convolutions should keep its images between layers.

    Sparse convolutions sum over PLANES. If any layer is one, all use that layout: otherwise XLA would transpose the
    images before and after every sum.
    """
    kernels = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, SparseKernel))
    sparse = any(isinstance(kernel, SparseKernel) and len(kernel.index.shape) > 2 for kernel in kernels)
    return PLANES if sparse else CHANNELS_LAST


def matmul(kernel: Any, x: Float[Array, "*batch inputs"], dtype: Any) -> Float[Array, "*batch outputs"]:
    """The linear map of a kernel (inputs, outputs) along the last axis."""
    return apply(kernel, x.reshape(-1, x.shape[-1]), dtype=dtype).reshape(*x.shape[:-1], -1)


def matmul_in_scan(kernel: Any, dtype: Any) -> Callable[[Array], Array]:
    """`matmul` inside a scan that is differentiated with respect to everything but the kernel.

    The backward pass needs a dense kernel transposed, which is done once, outside the scan.
    """
    if not isinstance(kernel, jax.Array):
        return lambda x: matmul(kernel, x, dtype)
    transposed = jax.lax.optimization_barrier(kernel.T)
    return lambda x: _matmul_constant(dtype, kernel, transposed, x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul_constant(dtype: Any, kernel: Array, transposed: Array, x: Array) -> Array:
    return matmul(kernel, x, dtype)


_matmul_constant.defvjp(
    lambda dtype, kernel, transposed, x: (matmul(kernel, x, dtype), transposed),
    lambda dtype, transposed, gradient: (None, None, matmul(transposed, gradient, dtype)),
)
