"""Sparse kernels: the linear map of values at kept positions, at a cost that follows their number.

Images are planes (channel, row, column, batch) here, one pixel of them where a layer is dense: a term of an output unit
is a value times a window of a plane. On a CPU with a compiler the native kernels add up the terms, elsewhere plain JAX.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wsn.native import library
from wsn.sparsity.storage import SparseIndex, SparseKernel, Terms

Planes = Float[Array, "_ _ _ batch"]  # (planes, height, width, batch)
Values = Float[Array, " _"]  # (kept)


class Layer(NamedTuple):
    """What is static of a layer: pixels along a side of its kernel, stride, and the inputs (from, to) that it reads."""

    size: int
    stride: int
    rows: tuple[int, int]


def apply_sparse(kernel: SparseKernel, x: Array, *, stride: int = 1, dtype: Any) -> Array:
    """The linear map of a sparse kernel; products are those of `dtype`, sums in float32 as those of a dense one."""
    if x.ndim == 2:
        return _in_planes(kernel, x.T[:, None, None, :], 1, dtype)[:, 0, 0].T
    planes = apply_sparse_to_planes(kernel, x.transpose(3, 1, 2, 0), stride=stride, dtype=dtype)
    return planes.transpose(3, 1, 2, 0)


def apply_sparse_to_planes(kernel: SparseKernel, x: Planes, *, stride: int = 1, dtype: Any) -> Planes:
    """The convolution of planes, in `dtype`."""
    return _in_planes(kernel, x, stride, dtype).astype(dtype)


def _in_planes(kernel: SparseKernel, x: Planes, stride: int, dtype: Any) -> Planes:
    wide = dtype if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    values, x = (a.astype(dtype).astype(wide) for a in (kernel.values, x))
    size = kernel.index.shape[0] if len(kernel.index.shape) > 2 else 1
    return linear(values, jax.tree.map(jnp.asarray, kernel.index), x, Layer(size, stride, kernel.rows))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear(values: Values, index: SparseIndex, x: Planes, layer: Layer) -> Planes:
    """y[unit, r, c] = Σ value · x[plane, r · stride + dy, c · stride + dx] over the terms of a unit, 0 outside."""
    height, width = (-(-pixels // layer.stride) for pixels in x.shape[1:3])
    return _backend(x).sums(
        values, index.by_output, x, (index.shape[-1], height, width), index.most[0], layer
    )


def _forward(values: Values, index: SparseIndex, x: Planes, layer: Layer) -> tuple[Planes, Any]:
    return linear(values, index, x, layer), (values, index, x)


def _backward(layer: Layer, saved: Any, slope: Planes) -> tuple[Values, None, Planes]:
    values, index, x = saved
    backend = _backend(x)
    first, last = layer.rows
    own = index.by_input._replace(start=index.by_input.start[first : last + 1])
    whole = layer._replace(rows=(0, index.shape[-1]))  # of the transposed kernel
    gradient = backend.value_gradient(index.by_output, x, slope, values.size, index.most[0], layer)
    return (
        gradient,
        None,
        backend.sums(values, own, slope, x.shape[:3], index.most[1], whole, transposed=True),
    )


linear.defvjp(_forward, _backward)


def _backend(x: Planes) -> Any:
    """The native kernels where they can be had, else plain JAX."""
    if jax.default_backend() == "cpu" and x.dtype == jnp.float32 and library.available():
        return Native
    return Portable


class Native:
    """The kernels of `wsn/native`: all members of a map in one call, on the threads of XLA."""

    @staticmethod
    def sums(
        values: Values,
        terms: Terms,
        x: Planes,
        planes: tuple[int, ...],
        most: int,
        layer: Layer,
        transposed: bool = False,
    ) -> Planes:
        """Of each unit the sum of its terms; transposed, the gradient of the inputs of a layer."""
        result = jax.ShapeDtypeStruct((*planes, x.shape[-1]), x.dtype)
        call = jax.ffi.ffi_call("wsn_sum", result, vmap_method="expand_dims")
        return call(values, *terms, x, **_attributes(layer), transposed=np.bool_(transposed))

    @staticmethod
    def value_gradient(
        terms: Terms, x: Planes, slope: Planes, values: int, most: int, layer: Layer
    ) -> Values:
        """Of each value the inner product of its window and the slope of its unit."""
        call = jax.ffi.ffi_call(
            "wsn_value_gradient", jax.ShapeDtypeStruct((values,), x.dtype), vmap_method="expand_dims"
        )
        return call(*terms, x, slope, **_attributes(layer))


def _attributes(layer: Layer) -> dict[str, Any]:
    return {
        "size": np.int64(layer.size),
        "stride": np.int64(layer.stride),
        "first_plane": np.int64(layer.rows[0]),
    }


class Portable:
    """The same in plain JAX, for any device: a scan over the terms of a unit, all units at once."""

    @staticmethod
    def sums(
        values: Values,
        terms: Terms,
        x: Planes,
        planes: tuple[int, ...],
        most: int,
        layer: Layer,
        transposed: bool = False,
    ) -> Planes:
        """As `Native.sums`."""
        zeros = jnp.zeros((*planes, x.shape[-1]), x.dtype)
        if most == 0:
            return zeros
        stride = 1 if transposed else layer.stride
        padded = _padded(x, layer, planes, transposed)

        def add(total: Planes, number: Array) -> tuple[Planes, None]:
            there, plane, tap, value = _nth(terms, number, layer)
            tap = layer.size**2 - 1 - tap if transposed else tap  # the kernel is mirrored
            windows = _windows(padded, plane, tap, layer.size, stride, planes[1:])
            weights = jnp.where(there, values[value], 0)
            return total + weights[:, None, None, None] * windows, None

        return jax.lax.scan(add, zeros, jnp.arange(most))[0]

    @staticmethod
    def value_gradient(
        terms: Terms, x: Planes, slope: Planes, values: int, most: int, layer: Layer
    ) -> Values:
        """As `Native.value_gradient`."""
        if most == 0:
            return jnp.zeros(values, x.dtype)
        padded = _padded(x, layer, slope.shape[:3], False)

        def product(gradient: Values, number: Array) -> tuple[Values, None]:
            there, plane, tap, value = _nth(terms, number, layer)
            windows = _windows(padded, plane, tap, layer.size, layer.stride, slope.shape[1:3])
            found = jnp.einsum("uhwb,uhwb->u", windows, slope, precision="highest")
            return gradient.at[value].add(jnp.where(there, found, 0), mode="drop"), None

        return jax.lax.scan(product, jnp.zeros(values, x.dtype), jnp.arange(most))[0]


def _nth(terms: Terms, number: Array, layer: Layer) -> tuple[Array, Array, Array, Array]:
    """Of every unit its term of that number: (whether it has one, plane, tap, place of the value)."""
    at = terms.start[:-1] + number
    there = at < terms.start[1:]
    at = jnp.where(there, at, 0)
    plane = terms.plane[at] - layer.rows[0]
    there &= (plane >= 0) & (plane < layer.rows[1] - layer.rows[0])
    tap = terms.tap[at] if layer.size > 1 else jnp.zeros_like(plane)
    return there, jnp.where(there, plane, 0), jnp.where(there, tap, 0), terms.value[at]


def _padded(x: Planes, layer: Layer, planes: tuple[int, ...], transposed: bool) -> Planes:
    """Planes on which every window lies inside; those of a transposed strided layer are spread by its stride."""
    step = layer.stride if transposed else 1
    pad = layer.size // 2
    reach = [pixels * (1 if transposed else layer.stride) + layer.size - 1 for pixels in planes[1:]]
    sides = []
    for pixels, least in zip(x.shape[1:3], reach, strict=True):
        spread = (pixels - 1) * step + 1
        sides.append((pad, max(least - spread - pad, 0), step - 1))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])


def _windows(
    padded: Planes, plane: Array, tap: Array, size: int, stride: int, pixels: tuple[int, ...]
) -> Planes:
    """Of every unit the window of that plane at that tap."""
    if size == 1 and stride == 1:
        return padded[plane]
    lengths = [(p - 1) * stride + 1 for p in pixels]

    def window(plane: Array, tap: Array) -> Array:
        start = (plane, tap // size, tap % size, jnp.zeros_like(plane))
        found = jax.lax.dynamic_slice(padded, start, (1, *lengths, padded.shape[-1]))
        return found[0, ::stride, ::stride]

    return jax.vmap(window)(plane, tap)
