"""Deep Speech 2 (Amodei et al. 2016) of any width: convolutions over time and frequency, bidirectional LSTM layers.

The convolutions are 41 × 11 with stride 2 × 2 and 21 × 11 with stride 2 × 1 (frequency × time). With 32 channels they
cost 1.1 GFLOP for 2 s of 8 kHz audio; `front_end="stack"` joins three frames instead, `channels` makes them smaller.
Batch normalization follows each convolution and separates the recurrent layers; its statistics are over the valid
frames of all utterances. The two directions of a layer are added. Frames after the end of an utterance are always 0
and enter no statistics, so results do not depend on padding.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from wsn.data.speech.utterances import FRONT_ENDS, Frames
from wsn.networks.layers import BatchNorm, BatchWeights, Layers
from wsn.networks.sequence import lstm, tokens
from wsn.networks.sequence.recurrent import hidden_weights, scan_layer
from wsn.networks.sequence.tokens import SOFTMAX
from wsn.sparsity.shapes import Shapes
from wsn.spec import Spec

fields = ("hidden_layers", "front_end", "channels")
steps_through_time = True

# (time, frequency): kernels and strides of the convolutions.
KERNELS, STRIDES = ((11, 41), (11, 21)), ((2, 2), (1, 2))
MAX_ACTIVATION = 20.0  # of the convolutions: clipped ReLU
DIRECTIONS = ("forward", "backward")


class DeepSpeech(nn.Module):
    """Frames → logits of the blank (class 0) and the letters, one for every `FRONT_ENDS[front_end]` frames."""

    layers: Layers
    front_end: str
    hidden_layers: int

    @nn.compact
    def __call__(self, x: Frames, batch_weights: BatchWeights | None = None) -> Frames:
        x = zero_padding(x)
        x = stack_frames(x) if self.front_end == "stack" else self.convolve(x, batch_weights)
        for layer in range(self.hidden_layers):
            x = x if layer == 0 else self.normalize(f"norm_{layer}", x, batch_weights)
            x = self.bidirectional(f"hidden_{layer}", x)
        batch, time, width = x.values.shape
        logits = self.layers.dense(SOFTMAX, x.values.reshape(-1, width), bias=True)
        return x._replace(values=logits.reshape(batch, time, -1))

    def convolve(self, x: Frames, batch_weights: BatchWeights | None) -> Frames:
        """(batch, time, features) → (batch, ⌈time/2⌉, ⌈⌈features/2⌉/2⌉ · channels)."""
        x = x._replace(values=x.values[..., None])
        for i, strides in enumerate(STRIDES):
            y = self.layers.conv(f"conv_{i}", x.values, strides)
            x = self.normalize(f"conv_{i}.norm", Frames(y, -(-x.lengths // strides[0])), batch_weights)
            x = zero_padding(x._replace(values=jnp.clip(x.values, 0.0, MAX_ACTIVATION)))
        return x._replace(values=x.values.reshape(*x.values.shape[:2], -1).astype(jnp.float32))

    def normalize(self, name: str, x: Frames, batch_weights: BatchWeights | None) -> Frames:
        """Batch normalization of the channels (the last axis), with a frame as an example."""
        frames = x.values.reshape(x.valid.size, 1, -1, x.values.shape[-1])
        if batch_weights is not None:
            weight = (batch_weights.weight[:, None] * x.valid).reshape(-1)
            batch_weights = batch_weights._replace(weight=weight)
        y = BatchNorm(name=name)(frames, batch_weights)
        return zero_padding(x._replace(values=y.reshape(x.values.shape)))

    def bidirectional(self, name: str, x: Frames) -> Frames:
        """The sum of an LSTM layer in both directions: (batch, time, inputs) → (batch, time, width).

        The backward one is the same scan in reverse, with its state held at 0 until the last valid frame: no gather.
        """
        inputs, valid = jnp.swapaxes(x.values, 0, 1), x.valid.T[..., None].astype(jnp.float32)
        total: Any = jnp.zeros(())
        for direction in DIRECTIONS:
            weights = hidden_weights(self.layers, f"{name}.{direction}")
            start = lstm.initial_state(len(x.lengths), weights.bias.size // 4)
            settings: dict[str, Any] = dict(dtype=self.layers.dtype, valid=valid)
            total += scan_layer(
                lstm.cell, [weights], start, inputs, backward=direction == "backward", **settings
            )[1]
        return x._replace(values=jnp.swapaxes(total, 0, 1))


def zero_padding(x: Frames) -> Frames:
    """With 0 after the end of every utterance."""
    valid = x.valid.reshape(*x.valid.shape, *[1] * (x.values.ndim - 2))
    return x._replace(values=jnp.where(valid, x.values, 0))


def stack_frames(x: Frames) -> Frames:
    """(batch, time, features) → (batch, ⌈time/3⌉, 3 · features): three frames side by side, the last padded with 0."""
    joined = FRONT_ENDS["stack"]
    batch, time, features = x.values.shape
    values = jnp.pad(x.values, ((0, 0), (0, -time % joined), (0, 0)))
    return Frames(values.reshape(batch, -1, joined * features), -(-x.lengths // joined))


def shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """Convolutions, the kernels of both directions of every layer, and softmax.

    With n units, and i inputs of the first layer, 8 i n + 8 n² + 16 (layers − 1) n² recurrent weights.
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
    """The group of a layer, by which probes report: `convolutions`, `hidden` or `softmax`."""
    return "convolutions" if layer.startswith("conv") else tokens.group(layer)


def example(input_shape: tuple[int, ...]) -> Frames:
    """A batch of one utterance, as long as the longest one."""
    return Frames(jnp.zeros((1, *input_shape)), jnp.full(1, input_shape[0]))


def module(spec: Spec, layers: Sequence[str], shapes: Shapes) -> DeepSpeech:
    """The network with kernels of these `shapes`."""
    return DeepSpeech(Layers.of(spec, shapes), spec.front_end, spec.hidden_layers)
