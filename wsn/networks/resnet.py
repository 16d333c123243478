"""ResNet-18 of any width (He et al. 2016; paper, Appendix A): four stages of two blocks, channels 1 : 2 : 4 : 8.

A 3 × 3 stem for small images, a 7 × 7 stem of stride 2 and a max-pool for large ones. Convolutions have no bias, the
linear layer has one; batch normalization and that bias are neither masked nor counted as weights.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.networks.convolution import CHANNELS_LAST
from wsn.networks.layers import BatchNorm, BatchWeights, Layers, factors
from wsn.networks.linear import preferred_layout
from wsn.sparsity.shapes import Shapes, resnet18_shapes
from wsn.spec import Spec

fields = ()
LARGE_IMAGE = 96  # pixels from which the stem is that of ImageNet


class ResNet18(nn.Module):
    """ResNet-18 with the layer names of the paper's Figure 10."""

    layers: Layers

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], batch_weights: BatchWeights | None = None
    ) -> Float[Array, "batch classes"]:
        layout = preferred_layout(self.variables.get("params", {}))

        def conv_norm(conv: str, norm: str, x: Array, stride: int = 1) -> Array:
            x = self.layers.conv(conv, x, stride, layout)
            return BatchNorm(layout, name=norm)(x, batch_weights)

        x = CHANNELS_LAST.convert(x, layout)
        large = max(x.shape[1:3]) >= LARGE_IMAGE
        x = nn.relu(conv_norm("conv1", "bn1", x, 2 if large else 1))
        if large:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage in range(1, 5):
            for block in range(2):
                name = f"layer{stage}.{block}"
                stride = 2 if stage > 1 and block == 0 else 1
                y = nn.relu(conv_norm(f"{name}.conv1", f"{name}.bn1", x, stride))
                y = conv_norm(f"{name}.conv2", f"{name}.bn2", y)
                if factors(self.layers.shapes, f"{name}.shortcut.0"):
                    x = conv_norm(f"{name}.shortcut.0", f"{name}.shortcut.1", x, stride)
                x = nn.relu(x + y)
        return self.layers.dense("linear", layout.mean_of_pixels(x.astype(jnp.float32)), bias=True)


def shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """Kernels of the ResNet-18 of a spec for images of `input_shape` (height, width, channels)."""
    height, width, channels = input_shape
    stem = 7 if max(height, width) >= LARGE_IMAGE else 3
    return resnet18_shapes(spec.width, classes, stem, channels)


def bottleneck_layers(layers: Sequence[str]) -> Sequence[str]:
    """The layers whose outputs a non-linear bottleneck narrows: the first convolution of every block."""
    return [layer for layer in layers if layer.startswith("layer") and layer.endswith(".conv1")]


def group(layer: str) -> str:
    """The group of a layer, by which probes report: `convolutions` or `output`."""
    return "output" if layer.startswith("linear") else "convolutions"


def module(spec: Spec, layers: Sequence[str], shapes: Shapes) -> ResNet18:
    """The network with kernels of these `shapes`."""
    return ResNet18(Layers.of(spec, shapes))
