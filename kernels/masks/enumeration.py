"""Moments of masked kernels by the sum over all masks, equation (2), for few coordinates.

The angle of a masked pair is atan2(sqrt(det), x_s.y_s), with the Gram determinant as a sum of squares (Cauchy-Binet):
exact also where the masked vectors are nearly parallel.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kernels.closed_forms import angular_factor

MOST_COORDINATES = 14
_MASKS = (np.arange(2**MOST_COORDINATES)[:, None] >> np.arange(MOST_COORDINATES) & 1).astype(np.float64)


def masked_kernels(x2: Array, y2: Array, xy: Array, supplement: Array) -> Array:
    """K_1, K_2, C K_0, C^2 K_0 and C K_1 along a new first axis, C = `xy`; 0 where a vector is zero."""
    sizes = (x2 * y2) ** 0.5
    k0, k1, k2 = (sizes**order * angular_factor(order, supplement) / (2 * jnp.pi) for order in (0, 1, 2))
    return jnp.where((x2 > 0) & (y2 > 0), jnp.stack([k1, k2, xy * k0, xy**2 * k0, xy * k1]), 0)


def _one_pair(x: Array, y: Array, connectivity: Array) -> Array:
    masks = jnp.asarray(_MASKS)
    x2, y2, xy = masks @ (x * x), masks @ (y * y), masks @ (x * y)
    minors = (x[:, None] * y - y[:, None] * x) ** 2 / 2
    determinant = jnp.sum(masks @ minors * masks, axis=1)
    values = masked_kernels(x2, y2, xy, jnp.arctan2(jnp.sqrt(determinant), -xy))
    # A padded coordinate is zero in both vectors: its two states give the same value, and their weights sum to one.
    survivors = masks.sum(axis=1)
    p = connectivity[:, None]
    weights = p**survivors * (1 - p) ** (MOST_COORDINATES - survivors)
    powers = jnp.asarray([1, 2, 1, 2, 2])[:, None]
    return values @ weights.T / connectivity**powers


@jax.jit
def enumerate_masks(
    x: Float[Array, "pairs 14"], y: Float[Array, "pairs 14"], connectivity: Float[Array, " connectivities"]
) -> Float[Array, "pairs 5 connectivities"]:
    """The means of `masked_kernels` over masks, over p or p^2, exact to rounding. Pad with zeros."""
    return jax.lax.map(lambda pair: _one_pair(pair[0], pair[1], connectivity), (x, y))
