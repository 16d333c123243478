"""What networks that read tokens share: embedding, softmax, and functions over windows of text.

Such a network is a linen module that maps (carry, tokens) to (logits of the token after each, carry) and has a method
`initial_carry(lanes)`: the state before the first token, () for a network whose windows start without a past.
"""

from collections.abc import Sequence
from typing import Any, cast

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wsn.networks import layers, linear
from wsn.networks.layers import BatchWeights, Model, Params, Stats, TokenFunctions
from wsn.networks.parameterization import Parameterization
from wsn.sparsity.shapes import Shapes

EMBEDDING, SOFTMAX = "embedding", "softmax"
Carry = Any


class Embedding(nn.Module):
    """Rows of a kernel of `shape` (symbols, units): a product with one-hot vectors, so the fan-in is 1."""

    shape: Sequence[int]
    parameterization: Parameterization

    def setup(self) -> None:
        self.kernel = self.param("kernel", self.parameterization.draw, tuple(self.shape), jnp.float32)

    def __call__(self, tokens: Int[Array, "*batch"]) -> Float[Array, "*batch units"]:
        return self.kernel[tokens]

    def transposed(self, x: Float[Array, "*batch units"], dtype: Any) -> Float[Array, "*batch symbols"]:
        """x times the transposed kernel: the logits of an output layer that is tied to the embedding."""
        return linear.matmul(self.kernel.T, x, dtype)


def functional(module: Any, shapes: Shapes, groups: dict[str, str]) -> Model:
    """The pure functions of a network that reads tokens."""

    def apply_window(params: Params, carry: Carry, tokens: Array) -> tuple[Array, Carry]:
        return cast(tuple[Array, Carry], module.apply({"params": params}, carry, tokens))

    def apply(params: Params, stats: Stats, tokens: Array) -> Array:
        return apply_window(params, module.initial_carry(tokens.shape[1]), tokens)[0]

    def apply_training(params: Params, stats: Stats, tokens: Array, _: BatchWeights) -> tuple[Array, Stats]:
        return apply(params, stats, tokens), stats

    model = layers.functional(module, shapes, groups, module.initial_carry(1), jnp.zeros((1, 1), jnp.int32))
    functions = TokenFunctions(module.initial_carry, apply_window)
    return model._replace(apply=apply, apply_training=apply_training, tokens=functions)


def shapes(symbols: int, width: int, hidden: Sequence[tuple[int, int]]) -> Shapes:
    """Embedding (symbols, width), hidden layers with kernels of these shapes, softmax (width, symbols)."""
    named: Shapes = {f"hidden_{i}": shape for i, shape in enumerate(hidden)}
    return {EMBEDDING: (symbols, width)} | named | {SOFTMAX: (width, symbols)}


def group(layer: str) -> str:
    """The group of a layer, by which probes report: its name before the first `_`, such as `embedding` or `hidden`."""
    return layer.partition("_")[0]
