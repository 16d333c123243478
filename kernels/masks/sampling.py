"""Moments of masked kernels by Monte Carlo over masks: slow, independent of every assumption of `quadrature`."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array, Float64

from kernels.masks.enumeration import masked_kernels
from kernels.precision import in_float64
from kernels.validation import checked_pairs, one_connectivity
from wsn.errors import UserError


class Estimate(NamedTuple):
    """K_{1,p}, K_{2,p}, E[C K_0]/p, E[C^2 K_0]/p^2 and E[C K_1]/p^2, and their standard errors."""

    mean: Float64[np.ndarray, " 5"]
    stderr: Float64[np.ndarray, " 5"]


@partial(jax.jit, static_argnames=("chunks", "size"))
def _moments(x: Array, y: Array, p: Array, seed: Array, *, chunks: int, size: int) -> Array:
    """Sums over masks of the five kernels and of their squares, `size` masks in memory at a time."""
    products = jnp.stack([x * x, y * y, x * y], axis=1)
    key = jax.random.key(seed.astype(jnp.uint32))

    def chunk(sums: Array, index: Array) -> tuple[Array, None]:
        uniform = jax.random.uniform(jax.random.fold_in(key, index), (size, len(x)), jnp.float64)
        x2, y2, xy = ((uniform < p).astype(jnp.float64) @ products / p).T
        supplement = jnp.arctan2(jnp.sqrt(jnp.maximum(x2 * y2 - xy**2, 0)), -xy)
        values = masked_kernels(x2, y2, xy, supplement)
        return sums + jnp.stack([values.sum(axis=1), (values**2).sum(axis=1)]), None

    return jax.lax.scan(chunk, jnp.zeros((2, 5)), jnp.arange(chunks))[0]


_moments64 = in_float64(_moments)


def sample_masks(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    connectivity: npt.ArrayLike,
    masks: int,
    seed: int = 0,
) -> Estimate:
    """The five moments as means over at least `masks` Bernoulli masks, with their standard errors.

    x and y are one pair, (features,) each. Raises UserError for several pairs or connectivities, values that are
    not finite, and fewer than two masks.
    """
    x, y = checked_pairs(x, y)
    p = one_connectivity(connectivity)
    if not 0 <= seed < 2**32:
        raise UserError(f"`seed={seed}`: choose 0 to {2**32 - 1}")
    if x.ndim != 1 or masks < 2:
        raise UserError(f"`masks={masks}`, `x` of shape {x.shape}: give at least 2 masks and one pair")
    size = min(masks, max(1, 2**22 // x.shape[-1]))
    chunks = -(-masks // size)
    masks = chunks * size
    mean, square = _moments64(x, y, p, seed, chunks=chunks, size=size) / masks
    return Estimate(mean, np.sqrt(np.maximum(square - mean**2, 0) / (masks - 1)))
