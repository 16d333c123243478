"""Normalisation: statistics of the training images, and the pure function that a step applies to a batch.

Source: Golubeva, Gur-Ari, Neyshabur, "Are wider nets better given the same number of parameters?", ICLR 2021,
Figure 8: one scalar mean and deviation of all training images; Appendix A: the constants of ImageNet.
"""

import math
from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float32, UInt8

from wsn.errors import UserError, choose

# The constants of the paper's convolutional networks on every data set, in units of 255.
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CHUNK = 1024  # images whose statistics are summed at a time

Images = UInt8[np.ndarray, "n height width channels"]
Statistic = Float32[np.ndarray, "#height #width #channels"]


def statistics(images: Images, normalization: str) -> tuple[Statistic, Statistic]:
    """Mean and (population) deviation in raw units, by the entry of `NORMALIZATIONS` of that name.

    They broadcast against an image: 1×1×1 (scalar), 1×1×c (channel, imagenet) or h×w×c (pixel).
    Raises UserError for an unknown normalisation, or `imagenet` for images that are not in colour.
    """
    return choose(NORMALIZATIONS, "normalization", normalization)(images)


def of_imagenet(images: Images) -> tuple[Statistic, Statistic]:
    """The constants of ImageNet, for values 0..255."""
    if images.shape[-1] != 3:
        raise UserError(f"`normalization=imagenet` is for 3 channels, not {images.shape[-1]}: choose scalar")
    mean, deviation = (255 * np.array(x, np.float32) for x in (IMAGENET_MEAN, IMAGENET_DEVIATION))
    return mean[None, None], deviation[None, None]


def shared_over(axes: tuple[int, ...], images: Images) -> tuple[Statistic, Statistic]:
    """Statistics shared over the images and over those axes of an image.

    Integer sums keep both exact up to the last rounding, so a deviation is zero just where the value never
    changes. Memory for about a thousand images at a time.
    """
    total = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros(images.shape[1:], np.int64)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        total += chunk.sum(axis=0, dtype=np.int64)
        squares += np.square(chunk, dtype=np.uint16).sum(axis=0, dtype=np.int64)
    count = len(images) * math.prod(images.shape[1:][axis] for axis in axes)
    # count · squares passes 2^63 for a data set of this size: Python's integers from here on.
    total, squares = (values.astype(object).sum(axis=axes, keepdims=True) for values in (total, squares))
    mean = np.asarray(total / count, np.float64)
    variance = np.asarray((count * squares - total * total) / count**2, np.float64)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


# Which statistics: what shares a mean and deviation.
NORMALIZATIONS: dict[str, Callable[[Images], tuple[Statistic, Statistic]]] = {
    "scalar": partial(shared_over, (0, 1, 2)),
    "channel": partial(shared_over, (0, 1)),
    "pixel": partial(shared_over, ()),
    "imagenet": of_imagenet,
}


def normalize(
    images: UInt8[ArrayLike, "*batch height width channels"],
    mean: Float32[ArrayLike, "#height #width #channels"],
    deviation: Float32[ArrayLike, "#height #width #channels"],
) -> Float32[Array, "*batch height width channels"]:
    """(images − mean) / deviation in float32; 0 where the deviation is 0. Pure, for use inside jit."""
    varies = jnp.asarray(deviation) > 0
    scaled = (jnp.asarray(images, jnp.float32) - mean) / jnp.where(varies, deviation, 1.0)
    return jnp.where(varies, scaled, 0.0)
