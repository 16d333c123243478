"""From a data set to what training sees: subset, held-out examples, statistics, normalised batches.

Source: Golubeva, Gur-Ari, Neyshabur, "Are wider nets better given the same number of parameters?", ICLR 2021,
Figure 8: a subset of MNIST, normalised by one scalar mean and deviation of all training images.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float32, Int32, UInt8

from wsn.data.images import Dataset, permutation
from wsn.errors import UserError

# The axes of an image over which each normalisation shares its statistics.
NORMALIZATIONS: dict[str, tuple[int, ...]] = {"scalar": (0, 1, 2), "channel": (0, 1), "pixel": ()}
# "imagenet": the constants of the paper's convolutional networks on every data set, here for values 0..255.
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_CHUNK = 1024  # images whose statistics are summed at a time


@dataclasses.dataclass(frozen=True)
class Splits:
    """What training sees: raw uint8 images, and the statistics of the full training split.

    `mean` and `deviation` broadcast against an image: 1×1×1 (scalar), 1×1×c (channel) or h×w×c (pixel).
    """

    train_images: UInt8[np.ndarray, "train height width channels"]
    train_labels: Int32[np.ndarray, " train"]
    validation_images: UInt8[np.ndarray, "validation height width channels"]
    validation_labels: Int32[np.ndarray, " validation"]
    test_images: UInt8[np.ndarray, "test height width channels"]
    test_labels: Int32[np.ndarray, " test"]
    mean: Float32[np.ndarray, "#height #width #channels"]
    deviation: Float32[np.ndarray, "#height #width #channels"]
    classes: int

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(height, width, channels)."""
        return self.train_images.shape[1:]


def split(
    dataset: Dataset,
    *,
    train_samples: int | None,
    validation_samples: int,
    data_seed: int,
    normalization: str,
) -> Splits:
    """Draws the training subset and holds out validation.

    `permutation(n, data_seed)` orders the training split. Its first `train_samples` are the subset, its last
    `validation_samples` are validation: the two never meet, and the subset is the same whatever is held out.
    `train_samples=None` takes all that is not validation.

    Raises:
      UserError: counts that do not fit the data set, a negative seed, an unknown normalisation.
    """
    size = len(dataset.train_labels)
    if not 0 <= validation_samples < size:
        raise UserError(f"--validation_samples={validation_samples}: choose 0 to {size - 1}")
    available = size - validation_samples
    if train_samples is None:
        train_samples = available
    if not 1 <= train_samples <= available:
        raise UserError(
            f"--train_samples={train_samples}: choose 1 to {available} "
            f"({size} training images, {validation_samples} of them held out for validation)"
        )
    if data_seed < 0:
        raise UserError(f"--data_seed={data_seed}: choose a seed of 0 or more")
    order = permutation(size, data_seed)
    train, validation = order[:train_samples], order[available:]
    mean, deviation = statistics(dataset.train_images, normalization)
    return Splits(
        dataset.train_images[train],
        dataset.train_labels[train],
        dataset.train_images[validation],
        dataset.train_labels[validation],
        dataset.test_images,
        dataset.test_labels,
        mean,
        deviation,
        dataset.classes,
    )


def statistics(
    images: UInt8[np.ndarray, "n height width channels"], normalization: str
) -> tuple[Float32[np.ndarray, "#height #width #channels"], Float32[np.ndarray, "#height #width #channels"]]:
    """Mean and (population) deviation in raw units, shared over the images and as `NORMALIZATIONS` says.

    Integer sums keep both exact up to the last rounding, so a deviation is zero just where the value never
    changes. Memory for about a thousand images at a time.

    Raises:
      UserError: an unknown normalisation, or `imagenet` for images that are not in colour.
    """
    if normalization == "imagenet":
        if images.shape[-1] != 3:
            raise UserError(
                f"--normalization=imagenet is for 3 channels, not {images.shape[-1]}: choose scalar"
            )
        mean, deviation = (255 * np.array(x, np.float32) for x in (IMAGENET_MEAN, IMAGENET_DEVIATION))
        return mean[None, None], deviation[None, None]
    if normalization not in NORMALIZATIONS:
        raise UserError(f"--normalization={normalization}: choose {', '.join(NORMALIZATIONS)}, imagenet")
    total = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros(images.shape[1:], np.int64)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        total += chunk.sum(axis=0, dtype=np.int64)
        squares += np.square(chunk, dtype=np.uint16).sum(axis=0, dtype=np.int64)
    axes = NORMALIZATIONS[normalization]
    count = len(images) * math.prod(images.shape[1:][axis] for axis in axes)
    # count · squares passes 2^63 for a data set of this size: Python's integers from here on.
    total, squares = (values.astype(object).sum(axis=axes, keepdims=True) for values in (total, squares))
    mean = np.asarray(total / count, np.float64)
    variance = np.asarray((count * squares - total * total) / count**2, np.float64)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def normalise(
    images: UInt8[ArrayLike, "*batch height width channels"],
    mean: Float32[ArrayLike, "#height #width #channels"],
    deviation: Float32[ArrayLike, "#height #width #channels"],
) -> Float32[Array, "*batch height width channels"]:
    """(images − mean) / deviation in float32; 0 where the deviation is 0. Pure, for use inside jit."""
    varies = jnp.asarray(deviation) > 0
    scaled = (jnp.asarray(images, jnp.float32) - mean) / jnp.where(varies, deviation, 1.0)
    return jnp.where(varies, scaled, 0.0)
