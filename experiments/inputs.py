"""Pairs of inputs for the kernel experiments: Gaussian vectors, or test images under a normalisation.

The same arguments give the same pairs on any machine. Image statistics are those of the full training split.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from wsn import data
from wsn.errors import UserError


class Pairs(NamedTuple):
    """Flattened inputs, pair by pair, and which images they are: pairs that share one are not independent."""

    x: Float32[np.ndarray, "pairs features"]
    y: Float32[np.ndarray, "pairs features"]
    images: Int64[np.ndarray, "pairs 2"]


def distinct(images: int, pairs: int, seed: int) -> Int64[np.ndarray, "pairs 2"]:
    """`pairs` uniform draws of two different images out of `images`. Raises UserError where that cannot be."""
    if images < 2 or pairs < 1:
        raise UserError(f"--pairs={pairs}: give at least 1, of at least 2 images (there are {images})")
    rng = np.random.Generator(np.random.Philox(key=seed))
    first = rng.integers(images, size=pairs)
    return np.stack([first, (first + rng.integers(1, images, size=pairs)) % images], axis=1)


def gaussian(features: int, pairs: int, seed: int) -> Pairs:
    """Independent N(0, 1) vectors; every vector is in one pair only."""
    if features < 1 or pairs < 1:
        raise UserError(f"--pairs={pairs} of {features} features: give at least 1 of each")
    rng = np.random.Generator(np.random.Philox(key=seed))
    x, y = rng.standard_normal((2, pairs, features), np.float32)
    return Pairs(x, y, np.arange(2 * pairs).reshape(2, pairs).T)


def of_images(dataset: data.Dataset, normalization: str, pairs: int, seed: int) -> Pairs:
    """Pairs of different test images, normalised by the statistics of the full training split."""
    images = distinct(len(dataset.test_images), pairs, seed)
    used, place = np.unique(images, return_inverse=True)
    statistics = data.statistics(dataset.train_images, normalization)
    flat = np.asarray(data.normalise(dataset.test_images[used], *statistics)).reshape(len(used), -1)
    x, y = flat[place.reshape(images.shape)].transpose(1, 0, 2)
    return Pairs(x, y, images)
