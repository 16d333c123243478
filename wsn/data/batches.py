"""Batches of an epoch from a split on the device: which examples, how they are augmented and normalized.

The order of an epoch and its random numbers for augmentation are functions of (key, epoch), drawn for the whole epoch:
a batch is the same on one device or many, in a resumed run or an uninterrupted one.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Real, Shaped, UInt32

from wsn import devices, seeds
from wsn.data.normalization import normalize

TINY_BATCH = 8  # examples; fewer have no useful batch statistics
PADDING = 4  # pixels on every side of an image before it is cropped


class Batch(NamedTuple):
    """Examples for classification; `weight` is 1, or 0 for padding. On the host, images of a stream are still uint8."""

    inputs: Real[Array | np.ndarray, "batch ..."]
    labels: Int[Array | np.ndarray, " batch"]
    weight: Float[Array | np.ndarray, " batch"]


def image_batch_shapes(size: int, shape: tuple[int, ...]) -> Any:
    """The shapes and dtypes of a batch of images."""
    array: Any = jax.ShapeDtypeStruct
    return Batch(array((size, *shape), jnp.float32), array((size,), jnp.int32), array((size,), jnp.float32))


class Indices(NamedTuple):
    """The examples of each batch: (batches, batch), or (members, batches, batch) if members differ."""

    examples: Int[Array, "..."]
    weight: Float[Array, "..."]
    noise: UInt32[Array, "..."] | None = None  # a random word an example, for augmentation


class Examples(NamedTuple):
    """A split on the device: normalized, or raw if it is augmented first."""

    inputs: Shaped[Array, "examples ..."]
    labels: Int[Array, " examples"]


MakeBatch = Callable[[Any, Any], Any]  # (data, row) → batch


def make_batch(data: Examples, indices: Indices) -> Batch:
    """The batch of one row of `Indices`."""
    return Batch(data.inputs[indices.examples], data.labels[indices.examples], indices.weight)


def make_augmented_batch(augment: Callable, mean: np.ndarray, std: np.ndarray) -> MakeBatch:
    """Makes the batch of one row of `Indices` from raw images: augmented by its noise, then normalized."""

    def augmented(data: Examples, indices: Indices) -> Batch:
        batch = make_batch(data, indices)
        return batch._replace(inputs=normalize(augment(batch.inputs, indices.noise), mean, std))

    return augmented


def crop_flip(
    images: Real[Array, "batch height width channels"], noise: UInt32[Array, " batch"]
) -> Real[Array, "batch height width channels"]:
    """A random crop of the image padded by 4 pixels of 0, flipped half of the time (Appendix A)."""
    _, height, width, _ = images.shape
    padded = jnp.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING), (0, 0)))
    places = 2 * PADDING + 1
    take = select_pixels if devices.platform() == "tpu" and images.dtype == jnp.uint8 else gather_pixels

    def crop(image: Array, word: Array) -> Array:
        top, left, flip = word % places, word // places % places, word // places**2 % 2
        rows = top + jnp.arange(height)
        columns = left + jnp.where(flip == 1, jnp.arange(width)[::-1], jnp.arange(width))
        return take(image, rows, columns)

    return jax.vmap(crop)(padded, noise)


def gather_pixels(image: Array, rows: Array, columns: Array) -> Array:
    return image[rows[:, None], columns]


def select_pixels(image: Array, rows: Array, columns: Array) -> Array:
    """`gather_pixels` of bytes, which bfloat16 holds exactly, as two products with one-hot matrices.

    For 128 images of CIFAR a TPU v5e takes 0.05 instead of 1.07 ms by its compiler's estimate (a step of a ResNet-18 of
    width 8 takes 0.6 ms besides), a core of a CPU 1.5 instead of 0.2 ms.
    """
    row, column = (
        jax.nn.one_hot(places, size, dtype=jnp.bfloat16)
        for places, size in zip((rows, columns), image.shape[:2], strict=True)
    )
    cut = jnp.einsum("rh,hwc->rwc", row, image.astype(jnp.bfloat16))
    return jnp.einsum("vw,rwc->rvc", column, cut).astype(image.dtype)


# Name → (images, a random word for each) → images; None: unchanged.
AUGMENTATIONS: dict[str, Callable | None] = {"none": None, "crop_flip": crop_flip}


def positions(examples: int, batch_size: int, spread: bool = False) -> Int[np.ndarray, "batches batch"]:
    """Which positions in the order of an epoch each batch holds; -1 is padding, at the end of a batch.

    All batches are full but the last. With `spread`, which is set for networks with batch normalization, a last batch
    of fewer than 8 examples and less than a quarter of `batch_size` is avoided: the sizes of all batches differ by at
    most 1. The number of steps is the same, and every example counts once an epoch. The statistics of very few examples
    ruin a step and the running averages: ResNet-18 of width 4 on digits (batches of 100, six epochs, means over three
    seeds) gets 84 % of the test images right after training on 1000 images, 14 % on 1002 (a last batch of 2), and
    91 % on 1002 in spread batches.
    """
    steps = -(-examples // batch_size)
    sizes = np.full(steps, batch_size)
    sizes[-1] -= steps * batch_size - examples
    if spread and sizes[-1] < min(TINY_BATCH, batch_size / 4):
        sizes = examples // steps + (np.arange(steps) < examples % steps)
    lanes = np.arange(batch_size)
    return np.where(lanes < sizes[:, None], (np.cumsum(sizes) - sizes)[:, None] + lanes, -1)


def batches(
    order: Int[Array, " examples"], batch_size: int, noise: Array | None = None, spread: bool = False
) -> Indices:
    """Cuts an order of examples into batches (`positions`), padded with examples of weight 0."""
    places = positions(order.size, batch_size, spread)

    def cut(x: Array) -> Array:
        return jnp.where(places >= 0, x[places], jnp.zeros((), x.dtype))

    return Indices(cut(order), cut(jnp.ones(order.size)), None if noise is None else cut(noise))


@seeds.fixed_bits
@partial(jax.jit, static_argnames=("examples", "batch_size", "noisy", "spread"))
def shuffled(
    key: PRNGKeyArray,
    epoch: Int[Array, ""],
    *,
    examples: int,
    batch_size: int,
    noisy: bool = False,
    spread: bool = False,
) -> Indices:
    """The batches of an epoch, a function of (key, epoch), so that a resumed run sees the same ones."""
    key = jax.random.fold_in(key, epoch)
    noise = jax.random.bits(jax.random.fold_in(key, 1), (examples,), jnp.uint32) if noisy else None
    return batches(jax.random.permutation(key, examples), batch_size, noise, spread)
