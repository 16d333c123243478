"""The multilayer perceptron of the paper, sections 2.3 and 3."""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from wsn.errors import UserError, choose
from wsn.networks.layers import BatchWeights, Layers
from wsn.sparsity.shapes import Shapes, mlp_shapes
from wsn.spec import Spec

fields = ("hidden_layers", "activation", "bias")
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "linear": lambda x: x}


class MLP(nn.Module):
    """Hidden layers and a linear output, on flattened inputs."""

    layers: Layers
    names: Sequence[str]
    activation: Callable[[Array], Array]
    bias: bool

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."], batch_weights: BatchWeights | None = None) -> Array:
        x = x.reshape(x.shape[0], -1)
        *hidden, output = self.names
        for name in hidden:
            x = self.activation(self.layers.dense(name, x, bias=self.bias))
        return self.layers.dense(output, x, bias=self.bias)


def shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """Kernels of the MLP of a spec, for flattened inputs of `input_shape` (without the batch)."""
    return mlp_shapes(math.prod(input_shape), (spec.width,) * spec.hidden_layers, classes)


def bottleneck_layers(layers: Sequence[str]) -> Sequence[str]:
    """The layers whose outputs a non-linear bottleneck narrows: every other hidden layer, from the second.

    Raises UserError for fewer than three layers: with two, the inner dimension would be the width.
    """
    if len(layers) < 3:
        raise UserError(
            f"`hidden_layers={len(layers) - 1}` is too small for a non-linear bottleneck, which narrows every other"
            " hidden layer: give at least 2"
        )
    return layers[1:-1:2]


def group(layer: str) -> str:
    """The group of a layer, by which probes report: `hidden` or `output`."""
    return layer.partition("_")[0].partition(".")[0]


def module(spec: Spec, layers: Sequence[str], shapes: Shapes) -> MLP:
    """The network of these layers; `shapes` has one kernel for each, or the two of a linear bottleneck."""
    activation = choose(ACTIVATIONS, "activation", spec.activation)
    return MLP(Layers.of(spec, shapes), layers, activation, spec.bias)
