"""Sparse kernels: a linear map given by its values at kept positions, at a cost that follows their number.

Images have the layout PLANES (channel, row, column, batch); a dense layer has planes of one pixel. Each term of an
output unit is a value times a window of an input plane. On a CPU with a C++ compiler native ops (`wsn/native`) add up
the terms, elsewhere plain JAX. Values and gradients equal those of
the masked dense kernel to 1e-5.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wsn import devices
from wsn.native import library
from wsn.networks.convolution import CHANNELS_LAST, PLANES, Layout, operand_type
from wsn.sparsity.storage import SparseIndex, SparseKernel, Terms

Planes = Float[Array, "_ _ _ batch"]  # (planes, height, width, batch)
Values = Float[Array, " _"]  # (kept)


class Sums(NamedTuple):
    """The static numbers of the sums over windows that make a layer, or its gradient with respect to its inputs."""

    size: int  # of the kernel, in pixels
    stride: int
    rows: tuple[int, int]  # range (from, to) of planes that are read; terms of other planes are left out
    shape: tuple[int, ...]  # of the result: (planes, height, width)
    most: int  # terms of any unit
    transposed: bool = False  # whether it is the gradient


def apply_sparse(
    kernel: SparseKernel, x: Array, *, stride: int = 1, dtype: Any, layout: Layout = CHANNELS_LAST
) -> Array:
    """`linear.apply` of a sparse kernel: products of `dtype`, sums in float32 as those of a dense kernel."""
    dtype = operand_type(dtype)
    if x.ndim == 2:
        return _on_planes(kernel, x.T[:, None, None, :], 1, dtype)[:, 0, 0].T
    y = _on_planes(kernel, layout.convert(x, PLANES), stride, dtype)
    return PLANES.convert(y.astype(dtype), layout)


def _on_planes(kernel: SparseKernel, x: Planes, stride: int, dtype: Any) -> Planes:
    sum_dtype = dtype if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    values, x = (a.astype(dtype).astype(sum_dtype) for a in (kernel.values, x))
    index = jax.tree.map(jnp.asarray, kernel.index)
    size = index.shape[0] if len(index.shape) > 2 else 1
    shape = (index.shape[-1], *(-(-pixels // stride) for pixels in x.shape[1:3]))
    return linear(values, index, x, Sums(size, stride, kernel.rows, shape, index.most[0]))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear(values: Values, index: SparseIndex, x: Planes, layer: Sums) -> Planes:
    """y[unit, r, c] = Σ value · x[plane, r · stride + dy, c · stride + dx] over the terms of a unit, 0 outside."""
    return _backend(x).sums(values, index.by_output, x, layer)


def _forward(values: Values, index: SparseIndex, x: Planes, layer: Sums) -> tuple[Planes, Any]:
    return linear(values, index, x, layer), (values, index, x)


def _backward(layer: Sums, saved: Any, gradient: Planes) -> tuple[Values, None, Planes]:
    values, index, x = saved
    backend = _backend(x)
    first, last = layer.rows
    by_input = index.by_input._replace(start=index.by_input.start[first : last + 1])
    transposed = layer._replace(
        rows=(0, index.shape[-1]), shape=x.shape[:3], most=index.most[1], transposed=True
    )
    of_values = backend.value_gradient(index.by_output, x, gradient, layer, values.size)
    return of_values, None, backend.sums(values, by_input, gradient, transposed)


linear.defvjp(_forward, _backward)


def _backend(x: Planes) -> Any:
    """Native ops where they are available, else plain JAX."""
    if devices.platform() == "cpu" and x.dtype == jnp.float32 and library.available():
        return Native
    return Portable


class Native:
    """The ops of `wsn/native`: all members of a `vmap` in one call, on XLA's threads."""

    @staticmethod
    def sums(values: Values, terms: Terms, x: Planes, layer: Sums) -> Planes:
        """For each unit, the sum of its terms."""
        result = jax.ShapeDtypeStruct((*layer.shape, x.shape[-1]), x.dtype)
        call = jax.ffi.ffi_call("wsn_sum", result, vmap_method="expand_dims")
        return call(values, *terms, x, **_attributes(layer), transposed=np.bool_(layer.transposed))

    @staticmethod
    def value_gradient(terms: Terms, x: Planes, gradient: Planes, layer: Sums, count: int) -> Values:
        """The gradient of each value: the inner product of its window and the output gradient of its unit."""
        result = jax.ShapeDtypeStruct((count,), x.dtype)
        call = jax.ffi.ffi_call("wsn_value_gradient", result, vmap_method="expand_dims")
        return call(*terms, x, gradient, **_attributes(layer))


def _attributes(layer: Sums) -> dict[str, Any]:
    numbers = {"size": layer.size, "stride": layer.stride, "first_plane": layer.rows[0]}
    return {name: np.int64(number) for name, number in numbers.items()}


class Portable:
    """The same in plain JAX, for any device: a scan over the terms of a unit, all units at once."""

    @staticmethod
    def sums(values: Values, terms: Terms, x: Planes, layer: Sums) -> Planes:
        """As `Native.sums`."""
        zeros = jnp.zeros((*layer.shape, x.shape[-1]), x.dtype)
        if layer.most == 0:
            return zeros
        padded = _padded(x, layer)

        def add(total: Planes, n: Array) -> tuple[Planes, None]:
            exists, plane, tap, value = _nth(terms, n, layer)
            windows = _windows(padded, plane, tap, layer)
            weights = jnp.where(exists, values[value], 0)
            return total + weights[:, None, None, None] * windows, None

        return jax.lax.scan(add, zeros, jnp.arange(layer.most))[0]

    @staticmethod
    def value_gradient(terms: Terms, x: Planes, gradient: Planes, layer: Sums, count: int) -> Values:
        """As `Native.value_gradient`."""
        if layer.most == 0:
            return jnp.zeros(count, x.dtype)
        padded = _padded(x, layer)

        def product(total: Values, n: Array) -> tuple[Values, None]:
            exists, plane, tap, value = _nth(terms, n, layer)
            windows = _windows(padded, plane, tap, layer)
            products = jnp.einsum("uhwb,uhwb->u", windows, gradient, precision="highest")
            return total.at[value].add(jnp.where(exists, products, 0), mode="drop"), None

        return jax.lax.scan(product, jnp.zeros(count, x.dtype), jnp.arange(layer.most))[0]


def _nth(terms: Terms, n: Array, layer: Sums) -> tuple[Array, Array, Array, Array]:
    """The n-th term of every unit: (whether the unit has one, plane, tap, index of the value)."""
    at = terms.start[:-1] + n
    exists = at < terms.start[1:]
    at = jnp.where(exists, at, 0)
    plane = terms.plane[at] - layer.rows[0]
    exists &= (plane >= 0) & (plane < layer.rows[1] - layer.rows[0])
    tap = terms.tap[at] if layer.size > 1 else jnp.zeros_like(plane)
    return exists, jnp.where(exists, plane, 0), jnp.where(exists, tap, 0), terms.value[at]


def _padded(x: Planes, layer: Sums) -> Planes:
    """Planes that contain every window; those of a transposed strided layer are spread by its stride."""
    spread, step = (layer.stride, 1) if layer.transposed else (1, layer.stride)
    pad = layer.size // 2
    sides = []
    for pixels, outputs in zip(x.shape[1:3], layer.shape[1:], strict=True):
        length = (pixels - 1) * spread + 1
        sides.append((pad, max(outputs * step + layer.size - 1 - length - pad, 0), spread - 1))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])


def _windows(padded: Planes, plane: Array, tap: Array, layer: Sums) -> Planes:
    """For every unit, the window of its plane at its tap; the kernel of a transposed layer is mirrored."""
    size, stride = layer.size, 1 if layer.transposed else layer.stride
    if size == 1 and stride == 1:
        return padded[plane]
    lengths = [(pixels - 1) * stride + 1 for pixels in layer.shape[1:]]

    def cut(plane: Array, tap: Array) -> Array:
        tap = size**2 - 1 - tap if layer.transposed else tap
        start = (plane, tap // size, tap % size, jnp.zeros_like(plane))
        window = jax.lax.dynamic_slice(padded, start, (1, *lengths, padded.shape[-1]))
        return window[0, ::stride, ::stride]

    return jax.vmap(cut)(plane, tap)
