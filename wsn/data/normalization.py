"""Normalization: statistics of the training images, and the pure function that a training step applies to a batch.

Source: Golubeva, Gur-Ari, Neyshabur, "Are wider nets better given the same number of parameters?", ICLR 2021,
Figure 8: one mean and standard deviation of all training images; Appendix A: the constants of ImageNet.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float32, Float64, Real

from wsn.data.checks import WHITE, Images, check_images
from wsn.errors import UserError, choose

# The constants of the paper's convolutional networks on every data set, where white is 1.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CHUNK = 1024  # images whose statistics are summed at a time

Statistic = Float32[np.ndarray, "#height #width #channels"]


def statistics(images: Images, normalization: str) -> tuple[Statistic, Statistic]:
    """Mean and (population) standard deviation in raw units, by the entry of `NORMALIZATIONS` of that name.

    They broadcast against an image: 1×1×1 (scalar), 1×1×c (channel, imagenet) or h×w×c (pixel).
    Raises UserError for an unknown normalization, images of another dtype than `wsn.data.checks` lists, and
    `imagenet` for images that are not in color.
    """
    compute = choose(NORMALIZATIONS, "normalization", normalization)
    return compute(check_images("images", images))


def imagenet(images: Images) -> tuple[Statistic, Statistic]:
    """The constants of ImageNet, in the raw units of the images."""
    if images.shape[-1] != 3:
        raise UserError(f"`normalization=imagenet` is for 3 channels, not {images.shape[-1]}: choose scalar")
    white = WHITE[images.dtype.name]
    if images.dtype.kind == "f" and not (images.min() >= 0 and images.max() <= white):
        raise UserError(
            "`normalization=imagenet`: float images must lie in 0 to 1: scale them, or choose scalar"
        )
    mean, std = (white * np.array(x, np.float32) for x in (IMAGENET_MEAN, IMAGENET_STD))
    return mean[None, None], std[None, None]


def shared_over(axes: tuple[int, ...], images: Images) -> tuple[Statistic, Statistic]:
    """Statistics shared over the images and over those axes of an image.

    Sums are exact for integers, and a standard deviation is zero exactly where the value never changes. Memory for
    about a thousand images at a time.
    """
    chunks = (images[start : start + _CHUNK] for start in range(0, len(images), _CHUNK))
    if images.dtype.kind == "f":
        mean, std = float_statistics(chunks, (0, *(axis + 1 for axis in axes)))
        return mean[0].astype(np.float32), std[0].astype(np.float32)
    total = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros(images.shape[1:], np.int64)
    for chunk in chunks:
        total += chunk.sum(axis=0, dtype=np.int64)
        squares += np.square(chunk, dtype=np.uint32).sum(axis=0, dtype=np.int64)
    count = len(images) * math.prod(images.shape[1:][axis] for axis in axes)
    # count · squares passes 2^63 for a data set of this size: Python's integers from here on.
    total, squares = (values.astype(object).sum(axis=axes, keepdims=True) for values in (total, squares))
    mean = np.asarray(total / count, np.float64)
    variance = np.asarray((count * squares - total * total) / count**2, np.float64)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def float_statistics(
    chunks: Iterable[Real[np.ndarray, "..."]], axes: tuple[int, ...]
) -> tuple[Float64[np.ndarray, "..."], Float64[np.ndarray, "..."]]:
    """Mean and standard deviation over `axes`, the first among them, of all chunks; those axes have length 1.

    Summed in float64, one chunk at a time, relative to the first value: exactly 0 where nothing changes.
    """
    origin: Any = None
    count, total, squares = 0, np.float64(0), np.float64(0)
    for chunk in chunks:
        if origin is None:
            first = tuple(slice(1) if axis in axes else slice(None) for axis in range(chunk.ndim))
            origin = chunk[first].astype(np.float64)
        values = chunk - origin
        count += math.prod(chunk.shape[axis] for axis in axes)
        total = total + values.sum(axes, keepdims=True)
        squares = squares + np.square(values).sum(axes, keepdims=True)
    mean = total / count
    return origin + mean, np.sqrt(np.maximum(squares / count - mean**2, 0))


# Name → statistics, by the values that share a mean and standard deviation.
NORMALIZATIONS: dict[str, Callable[[Images], tuple[Statistic, Statistic]]] = {
    "scalar": partial(shared_over, (0, 1, 2)),
    "channel": partial(shared_over, (0, 1)),
    "pixel": partial(shared_over, ()),
    "imagenet": imagenet,
}


def normalize(
    images: Real[ArrayLike, "*batch height width channels"],
    mean: Float32[ArrayLike, "#height #width #channels"],
    std: Float32[ArrayLike, "#height #width #channels"],
) -> Float32[Array, "*batch height width channels"]:
    """(images − mean) / std in float32; 0 where std is 0. Pure, for use inside jit."""
    varies = jnp.asarray(std) > 0
    scaled = (jnp.asarray(images, jnp.float32) - mean) / jnp.where(varies, std, 1.0)
    return jnp.where(varies, scaled, 0.0)
