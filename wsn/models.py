"""Networks: a spec → pure `init` and `apply`, and the shapes of its kernels. Models know nothing of masks.

`init` draws weights of unit scale; `scalings` says by what the spec's parameterisation multiplies them. A new model
is a linen module, its shapes in `wsn.shapes`, and one line in `MODELS`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax.numpy as jnp
from flax.traverse_util import flatten_dict
from jaxtyping import Array, Float, PRNGKeyArray

from wsn.errors import UserError
from wsn.parameterization import Parameterization, Role, Scaling, parameterization
from wsn.shapes import Shapes, mlp_shapes
from wsn.spec import Spec

Params = dict[str, Any]


class Model(NamedTuple):
    """Pure functions of one network. `shapes` has its kernels, layer name → shape, from input to output."""

    shapes: Shapes
    init: Callable[[PRNGKeyArray], Params]
    apply: Callable[[Params, Float[Array, "batch ..."]], Float[Array, "batch classes"]]


def dense(x: Float[Array, "batch inputs"], kernel: Float[Array, "inputs outputs"], dtype: Any) -> Array:
    """x · kernel in `dtype`, accumulated and returned in float32. The one place where a dense kernel is applied."""
    return jnp.dot(x.astype(dtype), kernel.astype(dtype), preferred_element_type=jnp.float32)


class Dense(nn.Module):
    """A fully connected layer, (batch, inputs) → (batch, features), weights drawn at unit scale."""

    features: int
    bias: bool
    parameterization: Parameterization
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch {self.features}"]:
        fan_in = x.shape[-1]
        kernel = self.param("kernel", self.parameterization.draw, (fan_in, self.features), jnp.float32)
        forward = self.parameterization.scaling(fan_in, self.features, 1.0, "kernel").forward
        y = dense(x, kernel, self.dtype) * forward
        if self.bias:
            y = y + self.param("bias", self.parameterization.draw, (self.features,), jnp.float32)
        return y


class MLP(nn.Module):
    """Hidden layers of the given widths and a linear output, on flattened inputs (paper, section 2.3 and 3)."""

    widths: Sequence[int]
    classes: int
    activation: Callable[[Array], Array]
    bias: bool
    parameterization: Parameterization
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch ..."]) -> Float[Array, "batch {self.classes}"]:
        def layer(features: int, name: str) -> Dense:
            return Dense(features, self.bias, self.parameterization, self.dtype, name=name)

        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.widths):
            x = self.activation(layer(width, f"hidden_{i}")(x))
        return layer(self.classes, "output")(x)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {"relu": nn.relu, "linear": lambda x: x}


def mlp(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Model:
    """The MLP of a spec; inputs of `input_shape` (without the batch) are flattened."""
    widths = (spec.width,) * spec.hidden_layers
    module = MLP(
        widths,
        classes,
        ACTIVATIONS[spec.activation],
        spec.bias,
        parameterization(spec.parameterization),
        jnp.dtype(spec.compute_dtype),
    )
    example = jnp.zeros((1, *input_shape))

    def apply(params: Params, x: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        return cast(Array, module.apply({"params": params}, x))

    shapes = mlp_shapes(example.size, widths, classes)
    return Model(shapes, init=lambda key: module.init(key, example)["params"], apply=apply)


MODELS: dict[str, Callable[[Spec, tuple[int, ...], int], Model]] = {"mlp": mlp}


def build(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Model:
    """The network of a spec for inputs of `input_shape` and so many classes. Raises UserError for an unknown one."""
    if spec.model not in MODELS:
        raise UserError(f"--model={spec.model} is unknown: choose one of {', '.join(MODELS)}")
    return MODELS[spec.model](spec, input_shape, classes)


def kernel_path(layer: str) -> str:
    """The parameter path of a layer's kernel."""
    return f"{layer}/kernel"


def scalings(spec: Spec, shapes: Shapes, params: Params) -> dict[str, Scaling]:
    """The `Scaling` of every parameter by its path, with each layer's connectivity as kept in the spec.

    fan_in and fan_out are those of the kernel in the same layer, also for its bias.
    """
    kept = dict(spec.kept)
    leaves = {}
    for path in flatten_dict(params, sep="/"):
        layer, _, leaf = path.rpartition("/")
        *taps, inputs, outputs = shapes[layer]
        area = math.prod(taps)
        connectivity = kept[layer] / (area * inputs * outputs) if kept else 1.0
        role: Role = "bias" if leaf == "bias" else "kernel"
        rule = parameterization(spec.parameterization).scaling
        leaves[path] = rule(area * inputs, area * outputs, connectivity, role)
    return leaves
