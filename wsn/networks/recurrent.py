"""Networks that read tokens: an embedding, recurrent layers, a softmax over the vocabulary, none of them tied.

What differs between them is the core: pure functions of the kernels of its hidden layers. Time is scanned in one loop
a layer, and the products with the inputs of a layer are taken for all times at once before it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from wsn.errors import UserError
from wsn.networks.kernels import apply
from wsn.networks.layers import (
    Dense,
    Model,
    Params,
    Recurrent,
    Stats,
    Weighing,
    forward_multiplier,
    kernel_of,
)
from wsn.networks.parameterization import Parameterization
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

EMBEDDING, SOFTMAX = "embedding", "softmax"

Carry = Any
Inputs = Float[Array, "time lanes inputs"]
Outputs = Float[Array, "time lanes width"]


class Weights(NamedTuple):
    """Of one hidden layer."""

    kernel: Any  # (inputs, units), in any storage; its rows may be sliced
    bias: Float[Array, " units"]


class Core(NamedTuple):
    """The hidden layers of a network."""

    carry: Callable[[int], Carry]  # lanes → the state before the first input
    unroll: Callable[[Sequence[Weights], Carry, Inputs], tuple[Carry, Outputs]]


class Affine(nn.Module):
    """Kernel and bias of a hidden layer, of a kernel `shape` (inputs, units)."""

    shape: Sequence[int]
    parameterization: Parameterization

    @nn.compact
    def __call__(self) -> Weights:
        draw = self.parameterization.draw
        kernel = kernel_of(self, draw, self.shape)
        multiplier = forward_multiplier(self.parameterization, self.shape)
        bias = self.param("bias", draw, (self.shape[-1],), jnp.float32)
        return Weights(kernel if multiplier == 1 else kernel * multiplier, bias)


class Embedding(nn.Module):
    """Rows of a kernel `shape` (symbols, units): a product with one-hot vectors, so of fan-in 1."""

    shape: Sequence[int]
    parameterization: Parameterization

    @nn.compact
    def __call__(self, tokens: Int[Array, "time lanes"]) -> Outputs:
        return self.param("kernel", self.parameterization.draw, tuple(self.shape), jnp.float32)[tokens]


class LanguageModel(nn.Module):
    """(carry, tokens) → (logits of the token after each, carry)."""

    shapes: Mapping[str, Sequence[int]]
    core: Core
    parameterization: Parameterization
    dtype: Any

    @nn.compact
    def __call__(
        self, carry: Carry, tokens: Int[Array, "time lanes"]
    ) -> tuple[Float[Array, "time lanes symbols"], Carry]:
        embedding, *hidden, softmax = self.shapes
        x = Embedding(self.shapes[embedding], self.parameterization, name=embedding)(tokens)
        weights = [Affine(self.shapes[name], self.parameterization, name=name)() for name in hidden]
        carry, y = self.core.unroll(weights, carry, x)
        last = Dense(self.shapes[softmax], True, self.parameterization, self.dtype, name=softmax)
        return last(y.reshape(-1, y.shape[-1])).reshape(*y.shape[:2], -1), carry


def functional(module: LanguageModel, shapes: Shapes, groups: dict[str, str]) -> Model:
    """The pure functions of a network that reads tokens."""
    fresh = module.core.carry

    def init(key: PRNGKeyArray) -> tuple[Params, Stats]:
        return module.init(key, fresh(1), jnp.zeros((1, 1), jnp.int32))["params"], {}

    def go_on(params: Params, carry: Carry, tokens: Array) -> tuple[Array, Carry]:
        return cast(tuple[Array, Carry], module.apply({"params": params}, carry, tokens))

    def logits(params: Params, stats: Stats, tokens: Array) -> Array:
        return go_on(params, fresh(tokens.shape[1]), tokens)[0]

    def training(params: Params, stats: Stats, tokens: Array, over: Weighing) -> tuple[Array, Stats]:
        return logits(params, stats, tokens), stats

    return Model(shapes, groups, init, logits, training, Recurrent(fresh, go_on))


def product(kernel: Any, x: Float[Array, "*batch inputs"], dtype: Any) -> Float[Array, "*batch units"]:
    """The linear map of a kernel along the last axis."""
    return apply(kernel, x.reshape(-1, x.shape[-1]), dtype=dtype).reshape(*x.shape[:-1], -1)


def shapes(symbols: int, width: int, hidden: Sequence[tuple[int, int]]) -> Shapes:
    """Embedding (symbols, width), hidden layers of those kernels, softmax (width, symbols)."""
    layers: Shapes = {f"hidden_{i}": shape for i, shape in enumerate(hidden)}
    return {EMBEDDING: (symbols, width)} | layers | {SOFTMAX: (width, symbols)}


def group(layer: str) -> str:
    """The group of a layer, for probes: `embedding`, `hidden` or `softmax`."""
    return layer.partition("_")[0]


def narrowed(layers: Sequence[str]) -> Sequence[str]:
    """Raises UserError: the state of a recurrent layer cannot be narrower than its inputs ask for."""
    raise UserError("--bottleneck=nonlinear: recurrent networks have no bottlenecks; leave it out")


def check(spec: Spec) -> None:
    """Raises UserError for settings that recurrent networks do not have."""
    if spec.bottleneck != "none":
        raise UserError(
            f"--bottleneck={spec.bottleneck}: recurrent networks have no bottlenecks; leave it out"
        )
