"""Where exact D is least: the minimiser, and its bootstrap over images."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kernels.optimum import DistanceCurves, bootstrap_minimum, connectivity_grid, minimum, share_of_pairs

GRID = connectivity_grid(1e-3, 1, 31)


def parabolas(centres: np.ndarray) -> DistanceCurves:
    """Curves (log p - centre)^2: the minimiser of any weighted mean is the weighted mean of the centres."""
    return DistanceCurves(GRID, 8 / GRID, (np.log(GRID) - centres[:, None]) ** 2)


# The minimiser.


@settings(deadline=None)
@given(st.floats(0.0015, 0.7), st.floats(1e-6, 1e3), st.floats(-1, 1))
def test_minimum_finds_the_vertex_of_a_parabola(at, scale, shift):
    vertex = minimum(GRID, scale * (np.log(GRID / at) ** 2 + 1 + shift))
    np.testing.assert_allclose(vertex.at, at, rtol=1e-6)
    np.testing.assert_allclose(vertex.value, scale * (1 + shift), atol=1e-9 * scale)


@pytest.mark.parametrize(
    "curve", [GRID, 1 / GRID, np.ones(31), np.minimum(np.log(GRID / 0.1) ** 2 + 0.1, 30 * GRID)]
)
def test_a_curve_that_is_least_at_an_end_has_no_minimum(curve):
    """The last curve has a local minimum inside, but falls deeper at the end."""
    assert np.isnan(minimum(GRID, curve)).all()


# The bootstrap.


def test_bootstrap_of_equal_pairs_is_certain():
    curves = parabolas(np.full(6, np.log(0.03)))
    minima = bootstrap_minimum(curves, np.arange(12).reshape(6, 2) * 7, samples=200)
    minima = minima[~np.isnan(minima)]  # a sample may hold no pair
    assert len(minima) > 180
    np.testing.assert_allclose(minima, 0.03, rtol=1e-9)


def test_bootstrap_has_the_spread_of_the_mean_where_images_decide():
    """c_ij = h_i + h_j over all pairs of 40 images: Var(mean) = 4 Var(h) / 40."""
    height = 0.2 * np.random.default_rng(0).standard_normal(40)
    images = np.array(list(itertools.combinations(range(40), 2)))
    minima = bootstrap_minimum(parabolas(np.log(0.03) + height[images].sum(axis=1)), images, samples=1000)
    expected = 2 * height.std() / np.sqrt(40)
    assert abs(np.log(minima).std() / expected - 1) < 0.1
    assert abs(np.log(minima).mean() - np.log(0.03) - 2 * height.mean()) < 0.15 * expected


def test_bootstrap_is_conservative_where_pairs_share_no_image():
    """Independent pairs: sqrt(3) times the spread of the mean."""
    centres = np.log(0.03) + 0.5 * np.random.default_rng(0).standard_normal(400)
    minima = bootstrap_minimum(parabolas(centres), np.arange(800).reshape(2, 400).T, samples=1000)
    assert abs(np.log(minima).std() / (centres.std() / 20) - np.sqrt(3)) < 0.12


def test_bootstrap_counts_the_samples_without_a_minimum():
    """One image carries the minimum: without it the mean falls to the end. It is missed by (1 - 1/20)^20."""
    falling = np.broadcast_to(GRID, (19, 31))
    curves = DistanceCurves(GRID, 8 / GRID, np.vstack([1e6 * np.log(GRID / 0.03)[None] ** 2, falling]))
    images = np.array([[0, 0], *([i, i] for i in range(1, 20))])
    minima = bootstrap_minimum(curves, images, samples=1000)
    assert abs(np.isnan(minima).mean() - 0.95**20) < 0.04
    np.testing.assert_allclose(minima[~np.isnan(minima)], 0.03, rtol=1e-4)
    np.testing.assert_array_equal(minima, bootstrap_minimum(curves, images, samples=1000))
    assert not np.array_equal(minima, bootstrap_minimum(curves, images, samples=1000, seed=1), equal_nan=True)


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0.1, 1)))
def test_all_of_the_sum_needs_at_most_all_pairs(distance):
    assert 0 < share_of_pairs(distance, 0.5) <= share_of_pairs(distance, 1.0) <= 1
