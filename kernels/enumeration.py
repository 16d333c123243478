"""Theorem 1 by the sum over all masks, equation (2), for few coordinates.

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


def _one_pair(x: Array, y: Array, connectivity: Array) -> tuple[Array, Array]:
    masks = jnp.asarray(_MASKS)
    x2, y2, xy = masks @ (x * x), masks @ (y * y), masks @ (x * y)
    minors = (x[:, None] * y - y[:, None] * x) ** 2 / 2
    determinant = jnp.sum(masks @ minors * masks, axis=1)
    supplement = jnp.arctan2(jnp.sqrt(determinant), -xy)
    present = (x2 > 0) & (y2 > 0)

    def mean(order: int) -> Array:
        values = (x2 * y2) ** (order / 2) * angular_factor(order, supplement) / (2 * jnp.pi)
        return weights @ jnp.where(present, values, 0) / connectivity**order

    # A padded coordinate is zero in both vectors: its two states give the same value, and their weights sum to one.
    survivors = masks.sum(axis=1)
    p = connectivity[:, None]
    weights = p**survivors * (1 - p) ** (MOST_COORDINATES - survivors)
    return mean(1), mean(2)


@jax.jit
def enumerate_masks(
    x: Float[Array, "pairs 14"], y: Float[Array, "pairs 14"], connectivity: Float[Array, " connectivities"]
) -> tuple[Float[Array, "pairs connectivities"], Float[Array, "pairs connectivities"]]:
    """K_{1,p}, K_{2,p} of each pair at each connectivity, exact to rounding. Pad with zeros."""
    return jax.lax.map(lambda pair: _one_pair(pair[0], pair[1], connectivity), (x, y))
