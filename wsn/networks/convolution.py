"""Convolution of images, and on a CPU a gradient of its kernel that is faster than XLA's.

XLA computes the gradient of a kernel as a convolution whose kernel is the whole image. On one core (ResNet-18 of width
18, batch 128) forward convolutions and image gradients reach 75 GFLOP/s; kernel gradients reach 4 to 11 on 32 × 32
images, 26 on 16 × 16 and 60 on 4 × 4. Computed as matrix products, the large ones are 2 to 3 times faster (a step: 1.0
s instead of 1.4 s).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from wsn import devices

BLOCK = 4  # pixels of a row that share a matrix product; (BLOCK + 2) / BLOCK of its arithmetic is needed
# Channels of images in full float32 on a TPU; zeros are added. With 3 or 4 the kernel gradient of CIFAR's first
# convolution takes the compiler (libtpu 0.0.42, for a v5e) over 100 s (in a whole step ten minutes and 15 GB), with 8
# it takes 13 s.
LEAST_CHANNELS = 8
# Matrix products are faster from this number of floats and of pixels in an image row.
SMALLEST_ROW, SMALLEST_WIDTH = 384, 16

Images = Float[Array, "batch height width inputs"]
Outputs = Float[Array, "batch new_height new_width outputs"]
Kernel = Float[Array, "rows columns inputs outputs"]
Stride = int | tuple[int, int]


class Layout(NamedTuple):
    """Which axes of a batch of images are examples and channels; rows and columns are always axes 1 and 2."""

    examples: int
    channels: int

    def broadcast(self, vector: Float[Array, " _"], axis: int) -> Float[Array, "_ _ _ _"]:
        """A vector along one axis of the images, of size 1 along the others."""
        return jnp.expand_dims(vector, [other for other in range(4) if other != axis])

    def convert(self, x: Float[Array, "_ _ _ _"], layout: "Layout") -> Float[Array, "_ _ _ _"]:
        """Images of this layout in the other one."""
        return x if self == layout else x.transpose(3, 1, 2, 0)

    def mean_of_pixels(self, x: Float[Array, "_ _ _ _"]) -> Float[Array, "examples channels"]:
        mean = x.mean((1, 2))
        return mean if self.examples == 0 else mean.T


CHANNELS_LAST = Layout(examples=0, channels=3)  # (batch, height, width, channels)
PLANES = Layout(examples=3, channels=0)  # (channels, height, width, batch)


def operand_type(dtype: Any) -> Any:
    """The type of the operands of products: TF32 is a way to multiply float32."""
    return "float32" if dtype == "tf32" else dtype


def precision(dtype: Any) -> str | None:
    """JAX's precision of products in `dtype`; without it, accelerators round float32 to bfloat16 or TF32."""
    if devices.platform() == "cpu" or dtype == "bfloat16":
        return None
    return "high" if dtype == "tf32" else "highest"


def convolve(x: Images, kernel: Kernel, stride: Stride, dtype: Any) -> Outputs:
    """Convolution in `dtype`, padded by k // 2 on every side as in PyTorch."""
    x, kernel = (a.astype(operand_type(dtype)) for a in (x, kernel))
    if devices.platform() == "cpu" and x.dtype == jnp.float32 and _pays(x, kernel, stride):
        return convolve_in_blocks(x, kernel, stride)
    if devices.platform() == "tpu" and x.dtype == jnp.float32:
        x, kernel = with_channels(x, 3), with_channels(kernel, 2)
    return _convolve(x, kernel, stride, precision(dtype))


def with_channels(x: Float[Array, "_ _ _ _"], axis: int) -> Float[Array, "_ _ _ _"]:
    """Images, or a kernel, with zeros for what is missing of LEAST_CHANNELS input channels along an axis."""
    missing = max(LEAST_CHANNELS - x.shape[axis], 0)
    return jnp.pad(x, [(0, missing * (other == axis)) for other in range(4)])


def _pays(x: Images, kernel: Kernel, stride: Stride) -> bool:
    width, inputs = x.shape[2:]
    has_blocks = kernel.shape[:2] == (3, 3) and stride == 1 and width % BLOCK == 0
    return has_blocks and width >= SMALLEST_WIDTH and width * inputs >= SMALLEST_ROW


def _convolve(x: Images, kernel: Kernel, stride: Stride, precision: str | None = None) -> Outputs:
    strides = (stride, stride) if isinstance(stride, int) else stride
    padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=precision
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_in_blocks(x: Images, kernel: Kernel, stride: int) -> Outputs:
    """A 3 × 3 convolution of stride 1 whose rows are a multiple of BLOCK pixels; reverse-mode derivatives only."""
    return _convolve(x, kernel, stride)


def _forward(x: Images, kernel: Kernel, stride: int) -> tuple[Outputs, tuple[Images, Kernel]]:
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[Images, Kernel], gradient: Outputs) -> tuple[Images, Kernel]:
    x, kernel = saved
    [of_x] = jax.vjp(lambda x: _convolve(x, kernel, stride), x)[1](gradient)
    return of_x, kernel_gradient(x, gradient)


convolve_in_blocks.defvjp(_forward, _backward)


def kernel_gradient(x: Images, gradient: Outputs) -> Kernel:
    """Σ x[b, h + i − 1, w + j − 1, c] · gradient[b, h, w, o] for i, j < 3: three matrix products over blocks of a row.

    Each product pairs the BLOCK + 2 inputs around a block with its BLOCK outputs; pairs at distance j are summed.
    """
    batch, height, width, inputs = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    around = jnp.stack([padded[:, :, w : w + BLOCK + 2] for w in range(0, width, BLOCK)], 2)
    blocks = gradient.reshape(batch * height * width // BLOCK, -1)
    rows = []
    for i in range(3):
        neighbors = around[:, i : i + height].reshape(len(blocks), -1)
        pairs = (neighbors.T @ blocks).reshape(BLOCK + 2, inputs, BLOCK, -1)
        rows.append(jnp.stack([sum(pairs[w + j, :, w] for w in range(BLOCK)) for j in range(3)]))
    return jnp.stack(rows)
