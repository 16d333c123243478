"""Batches: augmentation is a crop of the padded image, flipped or not, and depends on the noise alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wsn.data import batches

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_a_crop_is_a_window_of_the_padded_image_flipped_half_of_the_time(platform, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    noise = np.asarray(jax.random.bits(jax.random.key(0), (600,), jnp.uint32))
    images = np.tile(IMAGES, (100, 1, 1, 1))
    crops = np.asarray(batches.crop_flip(jnp.asarray(images), jnp.asarray(noise)))
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    seen = []
    for crop, whole in zip(crops, padded, strict=True):
        places = [
            (top, left, flip)
            for top in range(9)
            for left in range(9)
            for flip in (False, True)
            if np.array_equal(crop, whole[top : top + 8, left : left + 7][:, :: -1 if flip else 1])
        ]
        assert len(places) == 1
        seen += places
    tops, lefts, flips = np.array(seen).T
    # Uniform over 9 places and 2 sides: within 5 deviations of the binomial.
    for values, sides in ((tops, 9), (lefts, 9), (flips, 2)):
        counts = np.bincount(values, minlength=sides)
        assert len(counts) == sides
        assert np.all(np.abs(counts - 600 / sides) < 5 * np.sqrt(600 / sides * (1 - 1 / sides)))


def test_an_augmented_batch_is_normalised_after_the_crop():
    """So what a crop shows beside the image is black, as in the paper's code, not the mean."""
    mean, deviation = np.full((1, 1, 3), 100, np.float32), np.full((1, 1, 3), 50, np.float32)
    data = batches.Examples(jnp.asarray(IMAGES), jnp.arange(6))
    rows = batches.Indices(jnp.array([4, 2]), jnp.ones(2), jnp.array([0, 40], jnp.uint32))
    batch = batches.make_augmented_batch(batches.crop_flip, mean, deviation)(data, rows)
    assert batch.labels.tolist() == [4, 2]
    np.testing.assert_allclose(batch.inputs[0, :4], -2)  # noise 0: the upper left corner
    middle = (IMAGES[2].astype(np.float32) - 100) / 50  # noise 40 = 4 + 9 · 4: the image itself
    np.testing.assert_allclose(batch.inputs[1], middle, rtol=1e-6)


def test_noise_is_a_function_of_key_and_epoch_and_leaves_the_order_as_it_is():
    key = jax.random.key(0)
    settings = {"examples": 23, "batch_size": 8}
    plain = batches.shuffled(key, 1, **settings)
    noisy = batches.shuffled(key, 1, **settings, noisy=True)
    np.testing.assert_array_equal(noisy.examples, plain.examples)
    assert plain.noise is None and noisy.noise.shape == (3, 8)
    np.testing.assert_array_equal(noisy.noise, batches.shuffled(key, 1, **settings, noisy=True).noise)
    assert np.all(noisy.noise[0] != batches.shuffled(key, 2, **settings, noisy=True).noise[0])
