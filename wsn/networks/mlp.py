"""The multilayer perceptron of the paper, sections 2.3 and 3."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from wsn.errors import UserError, choose
from wsn.networks.layers import Dense, Weighing, factors
from wsn.networks.parameterization import Parameterization, parameterization
from wsn.sparsity.shapes import Shapes, mlp_shapes
from wsn.spec import Spec

fields = ("hidden_layers", "activation", "bias")
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "linear": lambda x: x}


class MLP(nn.Module):
    """Hidden layers and a linear output, on flattened inputs."""

    shapes: Mapping[str, Sequence[int]]
    layers: Sequence[str]
    activation: Callable[[Array], Array]
    bias: bool
    parameterization: Parameterization
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."], over: Weighing | None = None) -> Array:
        def layer(name: str, x: Array) -> Array:
            *inner, last = factors(self.shapes, name)
            for kernel in inner:
                x = Dense(self.shapes[kernel], False, self.parameterization, self.dtype, name=kernel)(x)
            return Dense(self.shapes[last], self.bias, self.parameterization, self.dtype, name=last)(x)

        x = x.reshape(x.shape[0], -1)
        *hidden, output = self.layers
        for name in hidden:
            x = self.activation(layer(name, x))
        return layer(output, x)


def shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """Kernels of the MLP of a spec, for flattened inputs of `input_shape` (without the batch)."""
    return mlp_shapes(math.prod(input_shape), (spec.width,) * spec.hidden_layers, classes)


def narrowed(layers: Sequence[str]) -> Sequence[str]:
    """The layers whose outputs a non-linear bottleneck narrows: every other hidden layer, from the second.

    Raises UserError for fewer than three layers: of two, the inner dimension would be the width.
    """
    if len(layers) < 3:
        raise UserError(
            f"`hidden_layers={len(layers) - 1}` is too small for a non-linear bottleneck, which narrows every other"
            " hidden layer: give at least 2"
        )
    return layers[1:-1:2]


def group(layer: str) -> str:
    """The group of a layer, for probes: `hidden` or `output`."""
    return layer.partition("_")[0].partition(".")[0]


def module(spec: Spec, layers: Sequence[str], shapes: Shapes) -> MLP:
    """The network of those layers; `shapes` has the kernels of each, one or two."""
    return MLP(
        shapes,
        layers,
        choose(ACTIVATIONS, "activation", spec.activation),
        spec.bias,
        parameterization(spec.parameterization),
        spec.compute_dtype,
    )
