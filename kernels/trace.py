"""The trace of the NTK, by parameter, from single outputs of single examples.

Summed over parameters with the learning rate of each, it is the initial speed of gradient descent: the first step of
rate α moves an output by α · trace · its error, counting its example alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, ArrayLike, Float, Int, Shaped

from wsn.sparsity.masks import apply_mask

BLOCK = 8  # samples at a time


def traces(
    apply: Callable[[dict[str, Any], Array], Array],
    params: dict[str, Any],
    mask: Mapping[str, Shaped[ArrayLike, "..."]],
    inputs: Shaped[Array, "samples ..."],
    outputs: Int[Array, " samples"],
) -> dict[str, Float[Array, ""]]:
    """Mean over samples of Σ (∂ output / ∂ θ)² over the entries θ of every parameter of a masked network, by path.

    The output of sample i is entry `outputs[i]` of the flattened `apply(params, input)`. For samples drawn uniformly
    this is an unbiased estimate of the NTK's trace over the number of (example, output) pairs.
    """

    def output(params: dict[str, Any], x: Array, i: Array) -> Array:
        return apply(apply_mask(params, mask), x).ravel()[i]

    def squares(sample: tuple[Array, Array]) -> dict[str, Array]:
        gradient = jax.grad(output)(params, *sample)
        return {path: jnp.sum(g**2) for path, g in flatten_dict(gradient, sep="/").items()}

    by_sample = jax.lax.map(squares, (inputs, outputs), batch_size=min(BLOCK, len(outputs)))
    return {path: jnp.mean(values) for path, values in by_sample.items()}
