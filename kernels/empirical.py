"""The GP kernel of finite one-hidden-layer networks, and its distance to a reference kernel.

In: first-layer weights u (masks applied), pairs of inputs, a reference kernel. Out: Theta = (1/(n d)) sum_j
[u_j.x]_+ [u_j.y]_+, and the mean of (Theta - reference)^2 over pairs, network by network. Every hidden unit
counts: the gradient with respect to v is taken before any mask on v. A general network goes through
`kernels.tangents`, which agrees.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float, Float64, Key

from kernels.validation import checked_connectivity
from wsn.errors import UserError


class MeanDistance(NamedTuple):
    """Mean over networks and pairs, its standard error over networks (pairs share one), and the parts."""

    mean: float
    stderr: float
    per_network: Float64[np.ndarray, " networks"]
    per_pair: Float64[np.ndarray, " pairs"]


@partial(jax.jit, static_argnames="block")
def gp_kernel(
    u: Float[Array, "width features"],
    x: Float[Array, "pairs features"],
    y: Float[Array, "pairs features"],
    block: int = 256,
) -> Float[Array, " pairs"]:
    """Theta(x, y) of each pair; `block` hidden units at a time, so memory is pairs * (block + features)."""
    width, features = u.shape
    u = jnp.pad(u, ((0, -width % block), (0, 0))).reshape(-1, block, features)  # an absent unit adds nothing

    def add(total: Array, units: Array) -> tuple[Array, None]:
        return total + jnp.sum(jax.nn.relu(x @ units.T) * jax.nn.relu(y @ units.T), axis=1), None

    return jax.lax.scan(add, jnp.zeros(len(x), u.dtype), u)[0] / (width * features)


@partial(jax.jit, static_argnames=("width", "features", "dtype"))
def sparse_weights(
    key: Key[Array, ""],
    connectivity: Float[Array, ""],
    width: int,
    features: int,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "width features"]:
    """First-layer weights of Theorem 1: each N(0, 1/p) with probability p, else 0."""
    which, value = jax.random.split(key)
    kept = jax.random.uniform(which, (width, features), dtype) < connectivity
    return kept * jax.random.normal(value, (width, features), dtype) / jnp.sqrt(connectivity).astype(dtype)


def mean_squared_distance(
    networks: Iterable[Float[ArrayLike, "width features"]],
    x: Float[ArrayLike, "pairs features"],
    y: Float[ArrayLike, "pairs features"],
    reference: Float[ArrayLike, " pairs"],
    kernel: Callable[..., Array] = gp_kernel,
) -> MeanDistance:
    """Mean of (Theta - reference)^2 over pairs and at least two networks, one network in memory at a time."""
    reference = np.asarray(reference, np.float64)
    per_network, per_pair = [], np.zeros(len(reference))
    for u in networks:
        squares = (np.asarray(kernel(u, x, y), np.float64) - reference) ** 2
        per_network.append(squares.mean())
        per_pair += squares
    if len(per_network) < 2:
        raise UserError("an error bar needs at least two networks: give more seeds")
    values = np.asarray(per_network)
    stderr = values.std(ddof=1) / np.sqrt(len(values))
    return MeanDistance(float(values.mean()), float(stderr), values, per_pair / len(values))


def sampled_networks(
    key: Key[Array, ""], connectivity: float, width: int, features: int, networks: int
) -> Iterable[Float[Array, "width features"]]:
    """`networks` independent draws of `sparse_weights`; draw i depends on the key and i alone."""
    p = jnp.float32(checked_connectivity(connectivity))
    return (sparse_weights(jax.random.fold_in(key, i), p, width, features) for i in range(networks))
