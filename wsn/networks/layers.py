"""Layers that networks are made of: dense, convolution, batch normalisation; and what a network is to the trainer.

Kernels are drawn at unit scale and multiplied by the parameterisation's `forward`; they are `<layer>/kernel` in the
parameter tree. Layers know nothing of masks. Products are taken in the layer's `dtype`, everything else in float32.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Float, Int, PRNGKeyArray

from wsn.networks.convolution import Stride
from wsn.networks.draws import drawn_at
from wsn.networks.kernels import apply, apply_to_planes
from wsn.networks.parameterization import Parameterization
from wsn.sparsity.shapes import Shapes
from wsn.sparsity.storage import SparseKernel

COMPUTE_DTYPES = ("float32", "bfloat16")

Params = dict[str, Any]
Stats = dict[str, Any]  # running statistics of batch normalisation; empty where there is none
Places = Mapping[str, Any]  # parameter path → flat positions of its kernel, in halves (`draws`)
PLACES, NOWHERE = "places", MappingProxyType[str, Any]({})


class Weighing(NamedTuple):
    """The batch that statistics are taken over: how much each example counts, and the axis of devices or None."""

    weight: Float[Array, " batch"]
    axis: str | None = None


class Recurrent(NamedTuple):
    """Pure functions of a network that reads tokens one after the other."""

    carry: Callable[
        [int], Any
    ]  # lanes → the state before the first token; lanes on the first axis of every array
    # (params, carry, tokens) → logits of what follows each token, and the carry after the last
    apply: Callable[[Params, Any, Int[Array, "time lanes"]], tuple[Float[Array, "time lanes classes"], Any]]


class Model(NamedTuple):
    """Pure functions of one network. `shapes` has its kernels, layer name → shape, from input to output."""

    shapes: Shapes
    groups: dict[str, str]  # layer → the group of layers that probes report it in
    # (key) → weights of unit scale; (key, path → places): of those kernels the values there alone
    init: Callable[..., tuple[Params, Stats]]
    # (batch, …) → logits (batch, classes); of a network that hears, `Frames` → `Frames`.
    apply: Callable[[Params, Stats, Any], Any]
    # In training, statistics are those of the batch; returns the logits and the updated running statistics.
    apply_training: Callable[[Params, Stats, Any, Weighing], tuple[Any, Stats]]
    recurrent: Recurrent | None = None  # of a network that reads tokens; `apply` begins without a past there
    scans: bool = False  # whether it goes over time in a scan
    reference: Shapes = {}  # the kernels of the dense network of the spec's `rate_width`, if it has one


def functional(module: nn.Module, shapes: Shapes, groups: dict[str, str], example: Any) -> Model:
    """The pure functions of a linen module whose call takes (x, Weighing or None), for x like `example`."""

    def init(key: PRNGKeyArray, places: Places = NOWHERE) -> tuple[Params, Stats]:
        variables = initialised(module, key, places, example)
        return variables["params"], variables.get("batch_stats", {})

    def apply(params: Params, stats: Stats, x: Any) -> Any:
        return module.apply({"params": params, "batch_stats": stats}, x)

    def apply_training(params: Params, stats: Stats, x: Any, over: Weighing) -> tuple[Any, Stats]:
        variables = {"params": params, "batch_stats": stats}
        logits, updated = module.apply(variables, x, over, mutable=["batch_stats"])
        return logits, dict(updated.get("batch_stats", {}))

    return Model(shapes, groups, init, apply, apply_training)


def initialised(module: nn.Module, key: PRNGKeyArray, places: Places, *example: Any) -> dict[str, Any]:
    """The variables of a new module; of kernels with places their values there."""
    given = {PLACES: unflatten_dict(places, sep="/")} if places else {}
    return dict(module.apply(given, *example, rngs={"params": key}, mutable=["params", "batch_stats"])[1])


def kernel_of(module: nn.Module, draw: Any, shape: Sequence[int]) -> Any:
    """The kernel of a layer, in whatever storage its parameters have it; drawn where there is none yet."""
    if module.has_variable("params", "kernel"):
        return module.get_variable("params", "kernel")
    if module.has_variable(PLACES, "kernel"):
        module.param("kernel", drawn_at, draw, tuple(shape), module.get_variable(PLACES, "kernel"))
        return jnp.zeros(tuple(shape))  # what comes out of an initialisation is thrown away
    return module.param("kernel", draw, tuple(shape), jnp.float32)


class Dense(nn.Module):
    """A fully connected layer of a kernel `shape` (inputs, outputs): (batch, inputs) → (batch, outputs)."""

    shape: Sequence[int]
    bias: bool
    parameterization: Parameterization
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        kernel = kernel_of(self, self.parameterization.draw, self.shape)
        y = apply(kernel, x, dtype=self.dtype) * forward_multiplier(self.parameterization, self.shape)
        if self.bias:
            y = y + self.param("bias", self.parameterization.draw, (self.shape[-1],), jnp.float32)
        return y


def in_planes(module: nn.Module) -> bool:
    """Whether a network of convolutions should keep its images as planes (channel, row, column, batch): where one of
    them is sparse, whose sums are over windows of planes, so that no layer changes the layout."""
    leaves = jax.tree.leaves(
        module.variables.get("params", {}), is_leaf=lambda leaf: isinstance(leaf, SparseKernel)
    )
    return any(isinstance(leaf, SparseKernel) and len(leaf.index.shape) > 2 for leaf in leaves)


class Conv(nn.Module):
    """A convolution without bias, of a kernel `shape` (rows, columns, inputs, outputs), on images or on `planes`."""

    shape: Sequence[int]
    stride: Stride
    parameterization: Parameterization
    dtype: Any
    planes: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "_ _ _ _"]) -> Float[Array, "_ _ _ _"]:
        kernel = kernel_of(self, self.parameterization.draw, self.shape)
        multiplier = forward_multiplier(self.parameterization, self.shape)
        scaled = kernel if multiplier == 1 else kernel * multiplier
        function = apply_to_planes if self.planes else apply
        return function(scaled, x, stride=self.stride, dtype=self.dtype)


def forward_multiplier(parameterization: Parameterization, shape: Sequence[int]) -> float:
    """What the parameterisation multiplies a layer's output by."""
    area = math.prod(shape[:-2])
    return parameterization.scaling(area * shape[-2], area * shape[-1], 1.0, "kernel").forward


class BatchNorm(nn.Module):
    """Batch normalisation as PyTorch's: momentum 0.1, ε 1e-5, running variance without bias; in float32.

    In training the statistics are those of the whole batch, over all devices and with the weight of each example,
    or of every `group` consecutive examples (0: the whole batch). The running ones are means over the groups.
    On images (batch, height, width, channels), or on `planes` of them (channels, height, width, batch).
    """

    group: int
    planes: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "_ _ _ _"], over: Weighing | None) -> Float[Array, "_ _ _ _"]:
        channels = x.shape[0 if self.planes else -1]
        scale = self.param("scale", nn.initializers.ones_init(), (channels,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), (channels,), jnp.float32)
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        variance = self.variable("batch_stats", "variance", jnp.ones, (channels,), jnp.float32)
        if over is None:
            factor = scale * jax.lax.rsqrt(variance.value + EPSILON)
            shift = bias - mean.value * factor
            if self.planes:
                factor, shift = factor[:, None, None, None], shift[:, None, None, None]
            return (x.astype(jnp.float32) * factor + shift).astype(x.dtype)

        weight = over.weight.reshape(-1, self.group or len(over.weight))
        if self.planes:
            grouped = x.astype(jnp.float32).reshape(*x.shape[:3], *weight.shape)
            weighted = grouped * weight
            sums = weighted.sum((1, 2, 4)).T, (weighted * grouped).sum((1, 2, 4)).T
        else:
            grouped = x.astype(jnp.float32).reshape(*weight.shape, *x.shape[1:])
            weighted = grouped * weight[:, :, None, None, None]
            sums = weighted.sum((1, 2, 3)), (weighted * grouped).sum((1, 2, 3))
        pixels, axis = x.shape[1] * x.shape[2], None if self.group else over.axis
        size, batch_mean, batch_variance = moments(*sums, weight.sum(1, keepdims=True), pixels, axis)
        if not self.is_initializing():
            unbiased = batch_variance * size / jnp.maximum(size - 1, 1)
            present = (size > 0).astype(jnp.float32)
            own = (present * batch_mean).sum(0), (present * unbiased).sum(0), present.sum()
            if self.group and over.axis is not None:
                own = jax.lax.psum(own, over.axis)
            for running, total in ((mean, own[0]), (variance, own[1])):
                running.value += MOMENTUM * (total / own[2] - running.value)
        factor = scale * jax.lax.rsqrt(batch_variance + EPSILON)
        shift = bias - batch_mean * factor
        if self.planes:
            y = grouped * factor.T[:, None, None, :, None] + shift.T[:, None, None, :, None]
        else:
            y = grouped * factor[:, None, None, None] + shift[:, None, None, None]
        return y.reshape(x.shape).astype(x.dtype)


MOMENTUM, EPSILON = 0.1, 1e-5


def moments(
    first: Float[Array, "groups channels"],
    second: Float[Array, "groups channels"],
    examples: Float[Array, "groups 1"],
    pixels: int,
    axis: str | None,
) -> tuple[Float[Array, "groups 1"], Float[Array, "groups channels"], Float[Array, "groups channels"]]:
    """(values counted, mean, variance) of each channel, over the examples of a group and over the devices of `axis`.

    In: weighted sums of the values and of their squares, and of the weights of the examples.
    """
    if axis is not None:
        first, second, examples = jax.lax.psum((first, second, examples), axis)
    size = examples * pixels
    mean = first / jnp.maximum(size, 1)
    return size, mean, jnp.maximum(second / jnp.maximum(size, 1) - mean**2, 0)


def factors(shapes: Mapping[str, Sequence[int]], layer: str) -> list[str]:
    """The kernels that make up a layer: its own, or the two that a linear bottleneck puts in its place."""
    return [name for name in (layer, f"{layer}.in", f"{layer}.out") if name in shapes]
