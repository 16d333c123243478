"""Theorem 1 by Monte Carlo over masks: slow, and independent of every assumption of `kernels.quadrature`."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jaxtyping import Array

from kernels.closed_forms import angular_factor
from kernels.precision import in_float64
from kernels.validation import checked_pairs, one_connectivity
from wsn.errors import UserError


class Estimate(NamedTuple):
    k1: float
    k1_stderr: float
    k2: float
    k2_stderr: float


@partial(jax.jit, static_argnames=("chunks", "size"))
def _moments(x: Array, y: Array, p: Array, seed: Array, *, chunks: int, size: int) -> Array:
    """Sums of (K_1, K_2, K_1^2, K_2^2) over masks, `size` masks in memory at a time."""
    products = jnp.stack([x * x, y * y, x * y], axis=1)
    key = jax.random.key(seed.astype(jnp.uint32))

    def chunk(sums: Array, index: Array) -> tuple[Array, None]:
        uniform = jax.random.uniform(jax.random.fold_in(key, index), (size, len(x)), jnp.float64)
        x2, y2, xy = ((uniform < p).astype(jnp.float64) @ products / p).T
        supplement = jnp.arctan2(jnp.sqrt(jnp.maximum(x2 * y2 - xy**2, 0)), -xy)
        present = (x2 > 0) & (y2 > 0)
        k1, k2 = (
            jnp.where(present, (x2 * y2) ** (k / 2) * angular_factor(k, supplement), 0) / (2 * jnp.pi)
            for k in (1, 2)
        )
        return sums + jnp.stack([k1.sum(), k2.sum(), (k1**2).sum(), (k2**2).sum()]), None

    return jax.lax.scan(chunk, jnp.zeros(4), jnp.arange(chunks))[0]


_moments64 = in_float64(_moments)


def sample_masks(
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    connectivity: npt.ArrayLike,
    masks: int,
    seed: int = 0,
) -> Estimate:
    """K_{1,p} and K_{2,p} as means over at least `masks` Bernoulli masks, with their standard errors.

    x and y are one pair, (features,) each. Raises UserError for several pairs or connectivities, values that are
    not finite, and fewer than two masks.
    """
    x, y = checked_pairs(x, y)
    p = one_connectivity(connectivity)
    if x.ndim != 1 or masks < 2:
        raise UserError(f"`masks={masks}`, `x` of shape {x.shape}: give at least 2 masks and one pair")
    size = min(masks, max(1, 2**22 // x.shape[-1]))
    chunks = -(-masks // size)
    masks = chunks * size
    sums = _moments64(x, y, p, seed, chunks=chunks, size=size) / masks
    stderr = np.sqrt(np.maximum(sums[2:] - sums[:2] ** 2, 0) / (masks - 1))
    return Estimate(float(sums[0]), float(stderr[0]), float(sums[1]), float(stderr[1]))
