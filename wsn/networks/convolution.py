"""Convolution, and on a CPU a gradient of its kernel that is faster than XLA's.

XLA takes the gradient of a kernel as a convolution whose kernel is the whole image. On one core (ResNet-18 of width 18,
batch 128) its forward convolutions and gradients of images reach 75 GFLOP/s, those of kernels 4 to 11 where images
have 32 pixels, 26 at 16 and 60 at 4. The same sums as matrix products are 2 to 3 times faster for the large ones.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

BLOCK = 4  # pixels of a row that share a matrix product; (BLOCK + 2) / BLOCK of its arithmetic is needed
SMALLEST_ROW, SMALLEST_WIDTH = (
    384,
    16,
)  # numbers and pixels of an image's row from which the products are faster

Images = Float[Array, "batch height width inputs"]
Outputs = Float[Array, "batch new_height new_width outputs"]
Kernel = Float[Array, "rows columns inputs outputs"]
Stride = int | tuple[int, int]


def convolve(x: Images, kernel: Kernel, stride: Stride, dtype: Any) -> Outputs:
    """Convolution padded by k // 2 on every side, as PyTorch's, in `dtype`."""
    x, kernel = x.astype(dtype), kernel.astype(dtype)
    cpu = jax.default_backend() == "cpu" and x.dtype == jnp.float32
    return (convolve_in_blocks if cpu and _pays(x, kernel, stride) else _convolve)(x, kernel, stride)


def _pays(x: Images, kernel: Kernel, stride: Stride) -> bool:
    width, inputs = x.shape[2:]
    square = kernel.shape[:2] == (3, 3) and stride == 1 and width % BLOCK == 0
    return square and width >= SMALLEST_WIDTH and width * inputs >= SMALLEST_ROW


def _convolve(x: Images, kernel: Kernel, stride: Stride) -> Outputs:
    strides = (stride, stride) if isinstance(stride, int) else stride
    padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_in_blocks(x: Images, kernel: Kernel, stride: int) -> Outputs:
    """A convolution of 3 × 3 and stride 1 on rows of a multiple of BLOCK pixels, for reverse-mode derivatives."""
    return _convolve(x, kernel, stride)


def _forward(x: Images, kernel: Kernel, stride: int) -> tuple[Outputs, tuple[Images, Kernel]]:
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(stride: int, saved: tuple[Images, Kernel], slope: Outputs) -> tuple[Images, Kernel]:
    x, kernel = saved
    return jax.vjp(lambda x: _convolve(x, kernel, stride), x)[1](slope)[0], kernel_gradient(x, slope)


convolve_in_blocks.defvjp(_forward, _backward)


def kernel_gradient(x: Images, slope: Outputs) -> Kernel:
    """Σ x[b, h + i − 1, w + j − 1, c] · slope[b, h, w, o] for i, j < 3: three matrix products over blocks of a row.

    A product pairs the BLOCK + 2 inputs around a block with its BLOCK outputs; the pairs j apart are summed.
    """
    batch, height, width, inputs = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    around = jnp.stack([padded[:, :, w : w + BLOCK + 2] for w in range(0, width, BLOCK)], 2)
    blocks = slope.reshape(batch * height * width // BLOCK, -1)
    rows = []
    for i in range(3):
        neighbours = around[:, i : i + height].reshape(len(blocks), -1)
        pairs = (neighbours.T @ blocks).reshape(BLOCK + 2, inputs, BLOCK, -1)
        rows.append(jnp.stack([sum(pairs[w + j, :, w] for w in range(BLOCK)) for j in range(3)]))
    return jnp.stack(rows)
