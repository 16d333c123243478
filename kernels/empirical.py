"""Kernels of finite networks, and the mean squared distance of their GP kernel to a reference.

GP kernel and NTK of any architecture through neural-tangents, and a fast path for the GP kernel of one hidden layer,
Theta = (1/(n d)) sum_j [u_j.x]_+ [u_j.y]_+ with masked weights u. In a GP kernel every hidden unit counts: the
gradient with respect to the last layer v is taken without any mask on v.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, ArrayLike, Bool, Float, Float64, Key, Shaped, UInt32

from kernels import neural_tangents
from kernels.validation import checked_count, checked_pairs, checked_reference, one_connectivity
from wsn.errors import UserError
from wsn.sparsity.masks import apply_mask

Apply = Callable[[dict[str, Any], Array], Array]


class NetworkKernels(NamedTuple):
    """Both of shape (pairs,), or (rows, columns) for a Gram matrix."""

    nngp: Float[Array, "..."]
    ntk: Float[Array, "..."]


@partial(jax.jit, static_argnames=("apply", "readout", "gram", "block"))
def network_kernels(
    apply: Apply,
    params: dict[str, Any],
    mask: Mapping[str, Shaped[ArrayLike, "..."]],
    x: Float[ArrayLike, "rows ..."],
    y: Float[ArrayLike, "columns ..."],
    *,
    readout: str,
    gram: bool = False,
    block: int = 64,
) -> NetworkKernels:
    """GP kernel and NTK of one masked network of any architecture, through neural-tangents.

    `apply(params, x)` -> (examples, classes) must treat examples independently: with a `model` of `wsn.networks`
    and its running statistics, `lambda params, x: model.apply(params, stats, x)`. Define it once: each new function
    compiles again. `mask` has the masks by parameter path, {} for a dense network; `readout` is the path of v, the
    last kernel (`output/kernel`). NNGP is grad_v f . grad_v f of a single output (all are equal), with v
    unmasked. NTK sums over all parameters, masked, and is a mean over outputs. Both scale as the model does: a
    network of one hidden layer without biases has nngp = Theta in the NTK parameterisation, n d Theta in the
    standard one.

    `block` pairs at a time: memory is block * outputs * parameters; with `gram` all rows of x with all rows of y at
    once. Raises UserError for an unknown path or shapes that do not fit, ImportError
    without neural-tangents.
    """
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.shape[gram:] != y.shape[gram:]:
        raise UserError(f"`x` {x.shape} and `y` {y.shape} must be inputs of one shape: pair them up first")
    leaves = flatten_dict(params, sep="/")
    if unknown := {readout, *mask} - leaves.keys():
        raise UserError(f"no parameter at {', '.join(sorted(unknown))}: choose from {', '.join(leaves)}")
    visible = flatten_dict(apply_mask(params, mask), sep="/")

    def first_output(v: Array, x: Array) -> Array:
        return apply(unflatten_dict(visible | {readout: v}, sep="/"), x)[:, :1]

    def network(params: dict[str, Any], x: Array) -> Array:
        return apply(apply_mask(params, mask), x)

    def kernel(function: Callable[[Any, Array], Array], about: Any) -> Array:
        ntk = neural_tangents.load().empirical_ntk_fn(function, trace_axes=(-1,), implementation=1)
        if gram:
            return ntk(x, y, about)
        return jax.lax.map(lambda pair: ntk(*(z[None] for z in pair), about)[0, 0], (x, y), batch_size=block)

    with jax.default_matmul_precision("highest"):  # the default on a GPU has three digits
        return NetworkKernels(kernel(first_output, leaves[readout]), kernel(network, params))


class MeanDistance(NamedTuple):
    """Mean over networks and pairs, its standard error over networks (pairs share one), by network and by pair."""

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
    block = min(block, width)
    u = jnp.pad(u, ((0, -width % block), (0, 0))).reshape(-1, block, features)  # padding units add nothing

    def add(total: Array, units: Array) -> tuple[Array, None]:
        of_x, of_y = (jax.nn.relu(jnp.dot(z, units.T, precision="highest")) for z in (x, y))
        return total + jnp.sum(of_x * of_y, axis=1), None

    return jax.lax.scan(add, jnp.zeros(len(x), u.dtype), u)[0] / (width * features)


def survives(words: UInt32[ArrayLike, "..."], connectivity: Float[ArrayLike, ""]) -> Bool[Array, "..."]:
    """True for round(2^32 p) of all 32-bit words, p a float32 in (0, 1]; for all of them at p = 1."""
    threshold = jnp.round(jnp.float32(connectivity) * 2.0**32).astype(jnp.uint32)
    return (jnp.asarray(words) < threshold) | (jnp.asarray(connectivity) >= 1)


@partial(jax.jit, static_argnames=("width", "features"))
def sparse_weights(
    key: Key[Array, ""], connectivity: Float[Array, ""], width: int, features: int
) -> Float[Array, "width features"]:
    """First-layer weights of Theorem 1: each N(0, 1/p) with probability p, to 2^-33, else 0."""
    which, value = jax.random.split(key)
    shape = width, features
    # Not a float32 uniform: of its 2^23 values 34 are below p = 4e-6, 1.3 % too many.
    kept = survives(jax.random.bits(which, shape, jnp.uint32), connectivity)
    return kept * jax.random.normal(value, shape, jnp.float32) / jnp.sqrt(connectivity)


@partial(jax.jit, static_argnames=("width", "networks"))
def _simulate(
    key: Array, connectivity: Array, x: Array, y: Array, reference: Array, *, width: int, networks: int
) -> tuple[Array, Array]:
    """Sum over networks of the squared distance of each pair, and its mean over pairs of each network."""

    def draw(total: Array, index: Array) -> tuple[Array, Array]:
        u = sparse_weights(jax.random.fold_in(key, index), connectivity, width, x.shape[1])
        squares = (gp_kernel(u, x, y) - reference) ** 2
        return total + squares, squares.mean()

    return jax.lax.scan(draw, jnp.zeros(len(x)), jnp.arange(networks))


def simulated_distance(
    key: Key[Array, ""],
    connectivity: npt.ArrayLike,
    width: int,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    reference: npt.ArrayLike,
    networks: int,
) -> MeanDistance:
    """Mean of (Theta - reference)^2 over pairs and at least two networks, in float32, one network in memory at a time.

    x and y are (pairs, features), the reference is (pairs,). Network i is a draw of `sparse_weights` by the key folded
    with i. Raises UserError where shapes differ, values are not finite or overflow float32, there is a single network,
    or the connectivity is below 2^-32, the least that `survives` tells from 0.
    """
    x, y = checked_pairs(x, y)
    if x.ndim != 2:
        raise UserError(f"`x` and `y` {x.shape} must be matrices, (pairs, features): give pairs as rows")
    reference, p = checked_reference(reference, x.shape[:-1]), jnp.float32(one_connectivity(connectivity))
    networks, width = checked_count("networks", networks, 2), checked_count("width", width)
    if p < 2.0**-32:
        raise UserError(f"`connectivity={p:g}` is below 2^-32: no weight would be kept")
    arrays = (jnp.asarray(array, jnp.float32) for array in (x, y, reference))
    sums = _simulate(key, p, *arrays, width=width, networks=networks)
    per_pair, per_network = (np.asarray(array, np.float64) for array in sums)
    if not np.isfinite(per_network).all():
        raise UserError("`x` and `y` overflow float32: rescale them")
    stderr = per_network.std(ddof=1) / np.sqrt(networks)
    return MeanDistance(float(per_network.mean()), float(stderr), per_network, per_pair / networks)
