"""Sparse kernels: a linear map given by its values at kept positions, at a cost that follows their number.

Images have the layout PLANES (channel, row, column, batch); a dense layer has planes of one pixel. Each term of an
output unit is a value times a window of an input plane. On a CPU with a C++ compiler native ops (`wsn/native`) add up
the terms, elsewhere plain JAX. Both fulfil one contract: values and gradients equal those of the masked dense kernel.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from wsn.native import library
from wsn.networks.convolution import CHANNELS_LAST, PLANES, Layout
from wsn.sparsity.storage import SparseIndex, SparseKernel, Terms

Planes = Float[Array, "_ _ _ batch"]  # (planes, height, width, batch)
Values = Float[Array, " _"]  # (kept)


class Window(NamedTuple):
    """The static numbers of a layer: kernel size in pixels, stride, and the range (from, to) of inputs read."""

    size: int
    stride: int
    rows: tuple[int, int]


def apply_sparse(
    kernel: SparseKernel, x: Array, *, stride: int = 1, dtype: Any, layout: Layout = CHANNELS_LAST
) -> Array:
    """`linear.apply` of a sparse kernel: products of `dtype`, sums in float32 as those of a dense kernel."""
    if x.ndim == 2:
        return _on_planes(kernel, x.T[:, None, None, :], 1, dtype)[:, 0, 0].T
    y = _on_planes(kernel, layout.convert(x, PLANES), stride, dtype)
    return PLANES.convert(y.astype(dtype), layout)


def _on_planes(kernel: SparseKernel, x: Planes, stride: int, dtype: Any) -> Planes:
    sum_dtype = dtype if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    values, x = (a.astype(dtype).astype(sum_dtype) for a in (kernel.values, x))
    size = kernel.index.shape[0] if len(kernel.index.shape) > 2 else 1
    return linear(values, jax.tree.map(jnp.asarray, kernel.index), x, Window(size, stride, kernel.rows))


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def linear(values: Values, index: SparseIndex, x: Planes, window: Window) -> Planes:
    """y[unit, r, c] = Σ value · x[plane, r · stride + dy, c · stride + dx] over the terms of a unit, 0 outside."""
    height, width = (-(-pixels // window.stride) for pixels in x.shape[1:3])
    shape = (index.shape[-1], height, width)
    return _backend(x).sums(values, index.by_output, x, shape, index.most[0], window)


def _forward(values: Values, index: SparseIndex, x: Planes, window: Window) -> tuple[Planes, Any]:
    return linear(values, index, x, window), (values, index, x)


def _backward(window: Window, saved: Any, gradient: Planes) -> tuple[Values, None, Planes]:
    values, index, x = saved
    backend = _backend(x)
    first, last = window.rows
    by_input = index.by_input._replace(start=index.by_input.start[first : last + 1])
    transposed = window._replace(rows=(0, index.shape[-1]))
    return (
        backend.value_gradient(index.by_output, x, gradient, values.size, index.most[0], window),
        None,
        backend.sums(values, by_input, gradient, x.shape[:3], index.most[1], transposed, transposed=True),
    )


linear.defvjp(_forward, _backward)


def _backend(x: Planes) -> Any:
    """Native ops where they are available, else plain JAX."""
    if jax.default_backend() == "cpu" and x.dtype == jnp.float32 and library.available():
        return Native
    return Portable


class Native:
    """The ops of `wsn/native`: all members of a `vmap` in one call, on XLA's threads."""

    @staticmethod
    def sums(
        values: Values,
        terms: Terms,
        x: Planes,
        shape: tuple[int, ...],
        most: int,
        window: Window,
        transposed: bool = False,
    ) -> Planes:
        """Planes of `shape` (planes, height, width): of each unit the sum of its terms, of which it has at most `most`.

        `transposed` is the gradient of a layer with respect to its inputs.
        """
        result = jax.ShapeDtypeStruct((*shape, x.shape[-1]), x.dtype)
        call = jax.ffi.ffi_call("wsn_sum", result, vmap_method="expand_dims")
        return call(values, *terms, x, **_attributes(window), transposed=np.bool_(transposed))

    @staticmethod
    def value_gradient(
        terms: Terms, x: Planes, gradient: Planes, values: int, most: int, window: Window
    ) -> Values:
        """The gradient of each value: the inner product of its window and the output gradient of its unit."""
        result = jax.ShapeDtypeStruct((values,), x.dtype)
        call = jax.ffi.ffi_call("wsn_value_gradient", result, vmap_method="expand_dims")
        return call(*terms, x, gradient, **_attributes(window))


def _attributes(window: Window) -> dict[str, Any]:
    return {
        "size": np.int64(window.size),
        "stride": np.int64(window.stride),
        "first_plane": np.int64(window.rows[0]),
    }


class Portable:
    """The same in plain JAX, for any device: a scan over the terms of a unit, all units at once."""

    @staticmethod
    def sums(
        values: Values,
        terms: Terms,
        x: Planes,
        shape: tuple[int, ...],
        most: int,
        window: Window,
        transposed: bool = False,
    ) -> Planes:
        """As `Native.sums`."""
        zeros = jnp.zeros((*shape, x.shape[-1]), x.dtype)
        if most == 0:
            return zeros
        stride = 1 if transposed else window.stride
        padded = _padded(x, window, shape, transposed)

        def add(total: Planes, n: Array) -> tuple[Planes, None]:
            exists, plane, tap, value = _nth(terms, n, window)
            tap = window.size**2 - 1 - tap if transposed else tap  # the kernel is mirrored
            windows = _windows(padded, plane, tap, window.size, stride, shape[1:])
            weights = jnp.where(exists, values[value], 0)
            return total + weights[:, None, None, None] * windows, None

        return jax.lax.scan(add, zeros, jnp.arange(most))[0]

    @staticmethod
    def value_gradient(
        terms: Terms, x: Planes, gradient: Planes, values: int, most: int, window: Window
    ) -> Values:
        """As `Native.value_gradient`."""
        if most == 0:
            return jnp.zeros(values, x.dtype)
        padded = _padded(x, window, gradient.shape[:3], False)

        def product(total: Values, n: Array) -> tuple[Values, None]:
            exists, plane, tap, value = _nth(terms, n, window)
            windows = _windows(padded, plane, tap, window.size, window.stride, gradient.shape[1:3])
            products = jnp.einsum("uhwb,uhwb->u", windows, gradient, precision="highest")
            return total.at[value].add(jnp.where(exists, products, 0), mode="drop"), None

        return jax.lax.scan(product, jnp.zeros(values, x.dtype), jnp.arange(most))[0]


def _nth(terms: Terms, n: Array, window: Window) -> tuple[Array, Array, Array, Array]:
    """The n-th term of every unit: (whether the unit has one, plane, tap, index of the value)."""
    at = terms.start[:-1] + n
    exists = at < terms.start[1:]
    at = jnp.where(exists, at, 0)
    plane = terms.plane[at] - window.rows[0]
    exists &= (plane >= 0) & (plane < window.rows[1] - window.rows[0])
    tap = terms.tap[at] if window.size > 1 else jnp.zeros_like(plane)
    return exists, jnp.where(exists, plane, 0), jnp.where(exists, tap, 0), terms.value[at]


def _padded(x: Planes, window: Window, shape: tuple[int, ...], transposed: bool) -> Planes:
    """Planes that contain every window; those of a transposed strided layer are spread by its stride."""
    spread, step = (window.stride, 1) if transposed else (1, window.stride)
    pad = window.size // 2
    sides = []
    for pixels, outputs in zip(x.shape[1:3], shape[1:], strict=True):
        length = (pixels - 1) * spread + 1
        sides.append((pad, max(outputs * step + window.size - 1 - length - pad, 0), spread - 1))
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *sides, (0, 0, 0)])


def _windows(
    padded: Planes, plane: Array, tap: Array, size: int, stride: int, pixels: tuple[int, ...]
) -> Planes:
    """For every unit, the window of its plane at its tap."""
    if size == 1 and stride == 1:
        return padded[plane]
    lengths = [(p - 1) * stride + 1 for p in pixels]

    def cut(plane: Array, tap: Array) -> Array:
        start = (plane, tap // size, tap % size, jnp.zeros_like(plane))
        window = jax.lax.dynamic_slice(padded, start, (1, *lengths, padded.shape[-1]))
        return window[0, ::stride, ::stride]

    return jax.vmap(cut)(plane, tap)
