"""Every normalisation and every augmentation of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from wsn.data.batches import AUGMENTATIONS, make_batch
from wsn.data.normalization import IMAGENET_MEAN, IMAGENET_STD, NORMALIZATIONS, normalize, statistics
from wsn.spec import Group

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_a_normalisation_broadcasts_and_is_undone_by_its_statistics(name):
    mean, deviation = statistics(IMAGES, name)
    assert mean.dtype == deviation.dtype == np.float32
    assert np.broadcast_shapes(mean.shape, deviation.shape, IMAGES.shape[1:]) == IMAGES.shape[1:]
    assert np.isfinite(mean).all() and (deviation > 0).all()
    normalised = normalize(IMAGES, mean, deviation)
    assert normalised.dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(normalised) * deviation + mean, IMAGES, atol=1e-3)
    # Of an image alone it is the same: nothing depends on the batch.
    np.testing.assert_allclose(normalize(IMAGES[2], mean, deviation), normalised[2], rtol=1e-6)


def test_imagenet_has_its_own_constants_whatever_the_images():
    for images in (IMAGES, IMAGES[:1] // 2):
        for found, expected in zip(
            statistics(images, "imagenet"), (IMAGENET_MEAN, IMAGENET_STD), strict=True
        ):
            np.testing.assert_allclose(found.ravel(), np.multiply(255, expected), rtol=1e-6)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_an_augmentation_is_a_function_of_an_image_and_its_noise(name):
    """So a batch is the same on any number of devices."""
    augment = AUGMENTATIONS[name]
    if augment is None:
        group = Group((tiny.spec(augmentation=name),), (0,))
        feed = tiny.SPLITS.feed(group, tiny.SINGLE)
        assert feed.training(0, 1).noise is None and feed.make_training_batch is make_batch
        return
    noise = jax.random.bits(jax.random.key(0), (6,), jnp.uint32)
    images = jnp.asarray(IMAGES)
    whole = augment(images, noise)
    assert whole.shape == images.shape and whole.dtype == images.dtype
    order = np.array([3, 0, 5])
    np.testing.assert_array_equal(augment(images[order], noise[order]), whole[order])
    others = [augment(images, noise + jnp.uint32(word)) for word in range(1, 5)]
    assert any(np.any(other != whole) for other in others)
