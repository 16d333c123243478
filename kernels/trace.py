"""The trace of the tangent kernel: how much the outputs of a network move with each of its parameters.

In: a network, inputs, an output of each. Out: by parameter path, the mean of the squared derivatives of those outputs,
summed over the entries of the parameter. Summed over paths with the learning rate of each, it is how fast gradient
descent begins: the first step of rate α moves an output by α · trace · its error, from its own example alone.
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
    """Mean over samples of Σ (∂ output / ∂ θ)² over the entries θ of every parameter, masks as trained, by path.

    `apply(params, input)` → an array, of which sample i means entry `outputs[i]`, flattened. With samples that are
    drawn uniformly this estimates the trace of the tangent kernel over their number, without bias.
    """

    def output(params: dict[str, Any], x: Array, i: Array) -> Array:
        return apply(apply_mask(params, mask), x).ravel()[i]

    def squares(sample: tuple[Array, Array]) -> dict[str, Array]:
        gradient = jax.grad(output)(params, *sample)
        return {path: jnp.sum(g**2) for path, g in flatten_dict(gradient, sep="/").items()}

    found = jax.lax.map(squares, (inputs, outputs), batch_size=min(BLOCK, len(outputs)))
    return {path: jnp.mean(values) for path, values in found.items()}
