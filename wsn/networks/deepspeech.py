"""Deep Speech 2 (Amodei et al. 2016) of any width: convolutions over time and frequency, bidirectional LSTM layers.

The convolutions are 41 × 11 with stride 2 × 2 and 21 × 11 with stride 2 × 1 (frequency × time); `front_end="stack"`
joins three frames to one instead. Batch normalisation follows each convolution and lies between the recurrent layers,
over the frames of all utterances. The directions of a layer are summed. Frames behind the end of an utterance are 0
throughout and enter no statistic, so nothing depends on how far it is filled up.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.data.speech.utterances import FRONT_ENDS, Frames
from wsn.networks import recurrent
from wsn.networks.layers import BatchNorm, Conv, Dense, Weighing
from wsn.networks.lstm import State, unroll_layer
from wsn.networks.parameterization import Parameterization, parameterization
from wsn.networks.recurrent import SOFTMAX, Affine
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

narrowed = recurrent.narrowed
fields = ("hidden_layers", "front_end", "channels", "bn_group")

# (time, frequency): kernels and strides of the convolutions.
KERNELS, STRIDES = ((11, 41), (11, 21)), ((2, 2), (1, 2))
LARGEST = 20.0  # that an activation of them is: clipped ReLU
DIRECTIONS = ("forward", "backward")


class DeepSpeech(nn.Module):
    """Frames → logits of the blank (class 0) and the letters, one for `FRONT_ENDS[front_end]` frames."""

    shapes: Mapping[str, Sequence[int]]
    front_end: str
    hidden_layers: int
    bn_group: int
    parameterization: Parameterization
    dtype: Any

    @nn.compact
    def __call__(self, x: Frames, over: Weighing | None = None) -> Frames:
        x = masked(x)
        x = stacked(x) if self.front_end == "stack" else self.convolved(x, over)
        for layer in range(self.hidden_layers):
            x = x if layer == 0 else self.normalised(f"norm_{layer}", x, over)
            x = self.both_ways(f"hidden_{layer}", x)
        last = Dense(self.shapes[SOFTMAX], True, self.parameterization, self.dtype, name=SOFTMAX)
        batch, time, width = x.values.shape
        return x._replace(values=last(x.values.reshape(-1, width)).reshape(batch, time, -1))

    def convolved(self, x: Frames, over: Weighing | None) -> Frames:
        """(batch, time, features) → (batch, ⌈time/2⌉, ⌈⌈features/2⌉/2⌉ · channels)."""
        x = x._replace(values=x.values[..., None])
        for i, strides in enumerate(STRIDES):
            layer = f"conv_{i}"
            conv = Conv(self.shapes[layer], strides, self.parameterization, self.dtype, name=layer)
            x = self.normalised(f"{layer}.norm", Frames(conv(x.values), -(-x.lengths // strides[0])), over)
            x = masked(x._replace(values=jnp.clip(x.values, 0.0, LARGEST)))
        return x._replace(values=x.values.reshape(*x.values.shape[:2], -1).astype(jnp.float32))

    def normalised(self, name: str, x: Frames, over: Weighing | None) -> Frames:
        """Each channel, which is the last axis, by the frames of all utterances: what is normalised is a frame."""
        batch, time, *rest = x.values.shape
        frames = x.values.reshape(batch * time, 1, -1, rest[-1])
        if over is not None:
            over = over._replace(weight=(over.weight[:, None] * x.valid).reshape(-1))
        y = BatchNorm(self.bn_group * time, name=name)(frames, over)
        return masked(x._replace(values=y.reshape(x.values.shape)))

    def both_ways(self, name: str, x: Frames) -> Frames:
        """A bidirectional LSTM layer: (batch, time, inputs) → (batch, time, width), the sum of both directions."""
        inputs = jnp.swapaxes(x.values, 0, 1)
        valid = x.valid.T[..., None].astype(jnp.float32)
        total: Float[Array, "time batch width"] = jnp.zeros(())
        for direction in DIRECTIONS:
            layer = f"{name}.{direction}"
            weights = Affine(self.shapes[layer], self.parameterization, name=layer)()
            zeros = jnp.zeros((len(x.lengths), weights.bias.size // 4))
            backward = direction == "backward"
            start = State(zeros, zeros)
            total += unroll_layer(weights, start, inputs, self.dtype, valid=valid, backward=backward)[1]
        return x._replace(values=jnp.swapaxes(total, 0, 1))


def masked(x: Frames) -> Frames:
    """With 0 behind the end of every utterance."""
    valid = x.valid.reshape(*x.valid.shape, *[1] * (x.values.ndim - 2))
    return x._replace(values=jnp.where(valid, x.values, 0))


def stacked(x: Frames) -> Frames:
    """(batch, time, features) → (batch, ⌈time/3⌉, 3 · features): three frames side by side, the last filled with 0."""
    joined = FRONT_ENDS["stack"]
    batch, time, features = x.values.shape
    values = jnp.pad(x.values, ((0, 0), (0, -time % joined), (0, 0)))
    return Frames(values.reshape(batch, -1, joined * features), -(-x.lengths // joined))


def shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """Convolutions, the kernels of both directions of every layer, and softmax.

    With n units and i inputs of the first layer 8 i n + 8 n² + 16 (layers − 1) n² recurrent weights.
    """
    features, channels = input_shape[-1], 1
    layers: Shapes = {}
    if spec.front_end == "stack":
        inputs = FRONT_ENDS["stack"] * features
    else:
        for i, (kernel, strides) in enumerate(zip(KERNELS, STRIDES, strict=True)):
            layers[f"conv_{i}"] = (*kernel, channels, spec.channels)
            features, channels = -(-features // strides[1]), spec.channels
        inputs = features * channels
    for layer in range(spec.hidden_layers):
        for direction in DIRECTIONS:
            layers[f"hidden_{layer}.{direction}"] = (inputs + spec.width, 4 * spec.width)
        inputs = spec.width
    return layers | {SOFTMAX: (spec.width, classes)}


def group(layer: str) -> str:
    """The group of a layer, for probes: `convolutions`, `hidden` or `softmax`."""
    return "convolutions" if layer.startswith("conv") else recurrent.group(layer)


def example(input_shape: tuple[int, ...]) -> Frames:
    """A batch of one utterance, as long as the longest one."""
    return Frames(jnp.zeros((1, *input_shape)), jnp.full(1, input_shape[0]))


def module(spec: Spec, layers: Sequence[str], shapes: Shapes) -> DeepSpeech:
    """The network whose kernels are `shapes`. Raises UserError for bottlenecks."""
    recurrent.check(spec)
    rule = parameterization(spec.parameterization)
    return DeepSpeech(shapes, spec.front_end, spec.hidden_layers, spec.bn_group, rule, spec.compute_dtype)
