"""Layers that networks are made of (dense, convolution, batch normalization), and the functions a network gives.

Kernels are drawn at unit scale and multiplied by the parameterization's `forward`; they are `<layer>/kernel` in the
parameter tree. Layers know neither masks nor how a kernel is stored (`linear`). Products are computed in the layer's
`dtype`, everything else in float32.
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

from wsn.networks import linear
from wsn.networks.convolution import CHANNELS_LAST, Layout, Stride
from wsn.networks.draws import draw_at
from wsn.networks.parameterization import Parameterization, parameterization
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

# Types of products, exact to least exact. TF32: on a GPU its format of 19 bits, on a TPU three products of bfloat16 in
# place of the six that float32 takes, on a CPU float32.
COMPUTE_DTYPES = ("float32", "tf32", "bfloat16")

Params = dict[str, Any]
Stats = dict[str, Any]  # running statistics of batch normalization; empty without it
Positions = Mapping[str, Any]  # parameter path → flat positions in its kernel, as `draws.uint32_pairs`
POSITIONS, NO_POSITIONS = "positions", MappingProxyType[str, Any]({})


class BatchWeights(NamedTuple):
    """How much each example counts in batch statistics, and the device axis to sum over or None."""

    weight: Float[Array, " batch"]
    axis: str | None = None


class TokenFunctions(NamedTuple):
    """Pure functions of a network that reads tokens in consecutive windows."""

    # Number of lanes → the state before the first token. Every array has lanes on its first axis; () without state.
    carry: Callable[[int], Any]
    # (params, carry, tokens) → logits of the token after each, and the carry after the last.
    apply: Callable[[Params, Any, Int[Array, "time lanes"]], tuple[Float[Array, "time lanes classes"], Any]]


class Model(NamedTuple):
    """Pure functions of one network. `shapes`: layer name → shape of its kernel, from input to output."""

    shapes: Shapes
    groups: dict[str, str]  # layer → its group, by which probes report
    # (key) → parameters of unit scale; (key, positions): of the kernels named, only the values at these positions.
    init: Callable[..., tuple[Params, Stats]]
    # (batch, …) → logits (batch, classes); of a speech network, `Frames` → `Frames`.
    apply: Callable[[Params, Stats, Any], Any]
    # With the statistics of the batch; returns the logits and the updated running statistics.
    apply_training: Callable[[Params, Stats, Any, BatchWeights], tuple[Any, Stats]]
    tokens: TokenFunctions | None = None  # of a network that reads tokens; `apply` starts without a past
    steps_through_time: bool = False  # whether it scans over time
    reference: Shapes = {}  # kernels of the dense network of the spec's `rate_width`, if it is set


def functional(module: nn.Module, shapes: Shapes, groups: dict[str, str], *example: Any) -> Model:
    """The pure functions of a linen module whose call takes (x, BatchWeights or None), for x like `example`."""

    def init(key: PRNGKeyArray, positions: Positions = NO_POSITIONS) -> tuple[Params, Stats]:
        """Kernels with positions have only the values there."""
        variables = {POSITIONS: unflatten_dict(positions, sep="/")} if positions else {}
        mutable = ["params", "batch_stats"]
        _, drawn = module.apply(variables, *example, rngs={"params": key}, mutable=mutable)
        return dict(drawn["params"]), dict(drawn.get("batch_stats", {}))

    def apply(params: Params, stats: Stats, x: Any) -> Any:
        return module.apply({"params": params, "batch_stats": stats}, x)

    def apply_training(
        params: Params, stats: Stats, x: Any, batch_weights: BatchWeights
    ) -> tuple[Any, Stats]:
        variables = {"params": params, "batch_stats": stats}
        logits, updated = module.apply(variables, x, batch_weights, mutable=["batch_stats"])
        return logits, dict(updated.get("batch_stats", {}))

    return Model(shapes, groups, init, apply, apply_training)


def get_kernel(module: nn.Module, draw: Any, shape: Sequence[int]) -> Any:
    """The kernel of a layer in any storage; drawn during initialization."""
    if module.has_variable("params", "kernel"):
        return module.get_variable("params", "kernel")
    if module.has_variable(POSITIONS, "kernel"):
        module.param("kernel", draw_at, draw, tuple(shape), module.get_variable(POSITIONS, "kernel"))
        return jnp.zeros(tuple(shape))  # the outputs of an initialization are discarded
    return module.param("kernel", draw, tuple(shape), jnp.float32)


def scaled_kernel(module: nn.Module, rule: Parameterization, shape: Sequence[int]) -> Any:
    """The kernel of a layer times the forward multiplier of its parameterization."""
    kernel, multiplier = get_kernel(module, rule.draw, shape), forward_multiplier(rule, shape)
    return kernel if multiplier == 1 else kernel * multiplier


def forward_multiplier(rule: Parameterization, shape: Sequence[int]) -> float:
    """The factor of a parameterization for the output of a layer with a kernel of this shape."""
    area = math.prod(shape[:-2])
    return rule.scaling(area * shape[-2], area * shape[-1], 1.0, "kernel").forward


class Dense(nn.Module):
    """A fully connected layer with a kernel of `shape` (inputs, outputs)."""

    shape: Sequence[int]
    bias: bool
    parameterization: Parameterization
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        kernel = get_kernel(self, self.parameterization.draw, self.shape)
        multiplier = forward_multiplier(self.parameterization, self.shape)
        y = linear.apply(kernel, x, dtype=self.dtype) * multiplier
        if self.bias:
            y = y + self.param("bias", self.parameterization.draw, (self.shape[-1],), jnp.float32)
        return y


class Conv(nn.Module):
    """A convolution without bias, with a kernel of `shape` (rows, columns, inputs, outputs)."""

    shape: Sequence[int]
    stride: Stride
    parameterization: Parameterization
    dtype: Any
    layout: Layout = CHANNELS_LAST

    @nn.compact
    def __call__(self, x: Float[Array, "_ _ _ _"]) -> Float[Array, "_ _ _ _"]:
        kernel = scaled_kernel(self, self.parameterization, self.shape)
        return linear.apply(kernel, x, stride=self.stride, dtype=self.dtype, layout=self.layout)


MOMENTUM, EPSILON = 0.1, 1e-5


class BatchNorm(nn.Module):
    """Batch normalization as in PyTorch: momentum 0.1, ε 1e-5, unbiased running variance; in float32.

    Training uses the statistics of the whole batch, over all devices, with the weight of each example.
    """

    layout: Layout = CHANNELS_LAST

    @nn.compact
    def __call__(
        self, x: Float[Array, "_ _ _ _"], batch_weights: BatchWeights | None
    ) -> Float[Array, "_ _ _ _"]:
        shape = (x.shape[self.layout.channels],)
        scale = self.param("scale", nn.initializers.ones_init(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros_init(), shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_variance = self.variable("batch_stats", "variance", jnp.ones, shape, jnp.float32)
        values = x.astype(jnp.float32)
        if batch_weights is None:
            mean, variance = running_mean.value, running_variance.value
        else:
            count, mean, variance = moments(values, batch_weights, self.layout)
            unbiased = variance * count / jnp.maximum(count - 1, 1)
            running_mean.value += MOMENTUM * (mean - running_mean.value)
            running_variance.value += MOMENTUM * (unbiased - running_variance.value)
        factor = scale * jax.lax.rsqrt(variance + EPSILON)
        factor, shift = (
            self.layout.broadcast(vector, self.layout.channels) for vector in (factor, bias - mean * factor)
        )
        return (values * factor + shift).astype(x.dtype)


def moments(
    x: Float[Array, "_ _ _ _"], batch_weights: BatchWeights, layout: Layout
) -> tuple[Float[Array, ""], Float[Array, " channels"], Float[Array, " channels"]]:
    """(weighted number of values, mean, variance) of each channel, over examples, pixels and devices.

    Devices add up weighted sums, never means: so padding counts for nothing, and the number of devices changes nothing.
    """
    weighted = x * layout.broadcast(batch_weights.weight, layout.examples)
    axes = tuple(axis for axis in range(4) if axis != layout.channels)
    sums = weighted.sum(axes), (weighted * x).sum(axes), batch_weights.weight.sum()
    first, second, examples = sums if batch_weights.axis is None else jax.lax.psum(sums, batch_weights.axis)
    count = examples * (x.shape[1] * x.shape[2])
    mean = first / jnp.maximum(count, 1)
    return count, mean, jnp.maximum(second / jnp.maximum(count, 1) - mean**2, 0)


class Layers(NamedTuple):
    """Applies the layers of a network by name, inside a module's call."""

    shapes: Mapping[str, Sequence[int]]
    parameterization: Parameterization
    dtype: Any

    @classmethod
    def of(cls, spec: Spec, shapes: Shapes) -> "Layers":
        """The layers of a spec. Raises UserError for an unknown parameterization."""
        return cls(shapes, parameterization(spec.parameterization), spec.compute_dtype)

    def dense(
        self, name: str, x: Float[Array, "batch inputs"], *, bias: bool
    ) -> Float[Array, "batch outputs"]:
        """A fully connected layer, or the two factors of a linear bottleneck; the last has the bias."""
        *inner, last = factors(self.shapes, name)
        for factor in inner:
            x = self._dense(factor, False)(x)
        return self._dense(last, bias)(x)

    def _dense(self, name: str, bias: bool) -> Dense:
        return Dense(self.shapes[name], bias, self.parameterization, self.dtype, name=name)

    def conv(self, name: str, x: Array, stride: Stride = 1, layout: Layout = CHANNELS_LAST) -> Array:
        """A convolution, or the two factors of a linear bottleneck; the first has the stride."""
        for factor in factors(self.shapes, name):
            shape = self.shapes[factor]
            x = Conv(shape, stride, self.parameterization, self.dtype, layout, name=factor)(x)
            stride = 1
        return x


def factors(shapes: Mapping[str, Sequence[int]], layer: str) -> list[str]:
    """The kernels that make up a layer: its own, or the two that a linear bottleneck puts in its place."""
    return [name for name in (layer, f"{layer}.in", f"{layer}.out") if name in shapes]
