"""ResNet-18 of any width (He et al. 2016; paper, Appendix A): four stages of two blocks, channels 1 : 2 : 4 : 8.

A 3 × 3 stem for small images, a 7 × 7 stem of stride 2 and a max-pool for large ones. Convolutions have no bias, the
linear layer has one; batch normalisation and that bias are neither masked nor counted as weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn.networks.layers import BatchNorm, Conv, Dense, Weighing, factors, in_planes
from wsn.networks.parameterization import Parameterization, parameterization
from wsn.sparsity.shapes import Shapes, resnet18_shapes
from wsn.spec import Spec

fields = ("bn_group",)
LARGE_IMAGE = 96  # pixels; from here on the stem of ImageNet


class ResNet18(nn.Module):
    """Kernels as in `shapes`, under the names of the paper's Figure 10."""

    shapes: Mapping[str, Sequence[int]]
    bn_group: int
    parameterization: Parameterization
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], over: Weighing | None = None
    ) -> Float[Array, "batch classes"]:
        def conv(name: str, x: Array, stride: int = 1) -> Array:
            for kernel in factors(self.shapes, name):
                layer = Conv(
                    self.shapes[kernel], stride, self.parameterization, self.dtype, planes, name=kernel
                )
                x, stride = layer(x), 1
            return x

        def norm(name: str, x: Array) -> Array:
            return BatchNorm(self.bn_group, planes, name=name)(x, over)

        planes = in_planes(self)
        x = x.transpose(3, 1, 2, 0) if planes else x
        large = max(x.shape[1:3]) >= LARGE_IMAGE
        x = nn.relu(norm("bn1", conv("conv1", x, 2 if large else 1)))
        if large:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage in range(1, 5):
            for block in range(2):
                name = f"layer{stage}.{block}"
                stride = 2 if stage > 1 and block == 0 else 1
                y = nn.relu(norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride)))
                y = norm(f"{name}.bn2", conv(f"{name}.conv2", y))
                if factors(self.shapes, f"{name}.shortcut.0"):
                    x = norm(f"{name}.shortcut.1", conv(f"{name}.shortcut.0", x, stride))
                x = nn.relu(x + y)
        x = x.astype(jnp.float32).mean((1, 2))
        x = x.T if planes else x
        *inner, last = factors(self.shapes, "linear")
        for kernel in inner:
            x = Dense(self.shapes[kernel], False, self.parameterization, self.dtype, name=kernel)(x)
        return Dense(self.shapes[last], True, self.parameterization, self.dtype, name=last)(x)


def shapes(spec: Spec, input_shape: tuple[int, ...], classes: int) -> Shapes:
    """Kernels of the ResNet-18 of a spec for images of `input_shape` (height, width, channels)."""
    height, width, channels = input_shape
    stem = 7 if max(height, width) >= LARGE_IMAGE else 3
    return resnet18_shapes(spec.width, classes, stem, channels)


def narrowed(layers: Sequence[str]) -> Sequence[str]:
    """The layers whose outputs a non-linear bottleneck narrows: the first convolution of every block."""
    return [layer for layer in layers if layer.startswith("layer") and layer.endswith(".conv1")]


def group(layer: str) -> str:
    """The group of a layer, for probes: `convolutions` or `output`."""
    return "output" if layer.startswith("linear") else "convolutions"


def module(spec: Spec, layers: Sequence[str], shapes: Shapes) -> ResNet18:
    """The network whose kernels are `shapes`."""
    return ResNet18(shapes, spec.bn_group, parameterization(spec.parameterization), spec.compute_dtype)
