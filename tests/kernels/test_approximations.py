"""Approximations of Theorem 1, the optimal connectivity, and Monte Carlo, against the exact theorem."""

import numpy as np
import pytest
from scipy.special import gammaln

from kernels.approximations import eq4, eq25, exact_count_correction, leading_bias
from kernels.closed_forms import arc_cosine
from kernels.masks.sampling import sample_masks
from kernels.optimum import (
    at_fixed_budget,
    at_fixed_weights_per_input,
    budget_connectivity,
    connectivity_grid,
    minimum,
    share_of_pairs,
)
from kernels.sparse_ntk import sparse_tangents
from kernels.theorem1 import sparse_kernels, squared_distance
from wsn.errors import UserError


@pytest.mark.parametrize(("weights", "optimum"), [(8, 0.0505), (0.5, 0.01263)])
def test_eq25_is_close_to_the_minimum_of_eq4_at_fixed_np(weights, optimum):
    """It neglects p beside 1, so it is 7 % too large at p* = 0.05."""
    p = np.geomspace(1e-3, 1, 20001)
    least = p[np.argmin(eq4(p, np.maximum(weights / p, 1), 784))]
    assert abs(eq25(weights, 784) / optimum - 1) < 1e-3 and 1 < optimum / least < 1 + 0.4 * optimum**0.5
    assert abs(eq4(1, 8, 784) - 0.028) < 5e-4  # the left end of Figure 8's axis


def test_leading_bias_and_variance_are_those_of_the_theorem_for_many_survivors():
    x, y = np.random.default_rng(1).normal(size=(2, 12, 400))
    p = np.array([0.5, 0.9])
    kernels = sparse_kernels(x, y, p, tolerance=1e-10)
    np.testing.assert_allclose(
        leading_bias(x, y, p), kernels.k1_excess, atol=0.05 * np.abs(kernels.k1_excess).max()
    )
    distance = squared_distance(kernels, 100)
    assert (distance.bias2 < eq4(p, 100, 400) - eq4(1, 100, 400)).all()  # (4) has far too much bias
    gaussian = (1 - 1 / np.pi**2 + (3 / p - 1.25 - 1 / np.pi**2) / 400) / (
        4 * 100
    )  # the mean over such pairs
    assert abs(distance.total.mean() / gaussian.mean() - 1) < 0.1


@pytest.mark.parametrize("seed", [5, 6])
def test_leading_bias_is_approached_as_one_over_the_number_of_survivors(seed):
    """Repeating the coordinates m times leaves the leading term as it is: the next is 1/m of it."""
    x, y = np.random.default_rng(seed).normal(size=(2, 2))
    p, error = np.array([0.9, 0.97]), {}
    for repeats in (4, 5, 6, 7):
        many = [np.tile(z, repeats) for z in (x, y)]
        leading = leading_bias(*many, p)
        np.testing.assert_allclose(leading, leading_bias(x, y, p))
        error[repeats] = np.abs(sparse_kernels(*many, p).k1_excess / leading - 1)
    for repeats in (4, 5, 6):
        np.testing.assert_allclose(repeats * error[repeats], 7 * error[7], rtol=0.25 / (repeats - 3))
    assert (error[7] < 0.1).all()


@pytest.mark.parametrize("factor", [1.0, 2.5, -1 / 3, 0.0])
def test_leading_bias_vanishes_on_a_line_as_the_exact_one(factor):
    x, z = np.random.default_rng(8).normal(size=(2, 400))
    for gap in (0, 1e-9, 1e-7):
        y = factor * (x + gap * z)
        assert abs(leading_bias(x, y, 0.5)) < 1e-9 * (x @ x)
    if factor:
        y = factor * (x + 0.1 * z)
        np.testing.assert_allclose(
            leading_bias(x, y, 0.5), sparse_kernels(x, y, 0.5, tolerance=1e-10).k1_excess, rtol=0.02
        )


@pytest.mark.parametrize("weights, features", [(0.0, 784), (-1.0, 784), (np.nan, 784), (8.0, 0)])
def test_budgets_that_are_not_positive_are_refused(weights, features):
    with pytest.raises(UserError, match="positive"):
        eq25(weights, features)


def _exact_count_distance(x, y, p, width):
    """D where p * width * d of all first-layer weights are kept, by the sum over the masks of two units."""
    d = len(x)
    masks = (np.arange(2**d)[:, None] >> np.arange(d) & 1).astype(float)
    count, total, kept = masks.sum(axis=1).astype(int), width * d, round(p * width * d)
    k1, k2 = (arc_cosine(masks * x, masks * y, order) / p**order for order in (1, 2))
    by_count1, by_count2 = (np.bincount(count, weights=k, minlength=d + 1) for k in (k1, k2))

    def share(units, survivors):
        """Probability of one mask of so many units with so many survivors."""
        rest, left = total - units * d, kept - survivors
        possible = (left >= 0) & (left <= rest)
        left = np.clip(left, 0, rest)
        log = gammaln(rest + 1) - gammaln(left + 1) - gammaln(rest - left + 1)
        return possible * np.exp(log - gammaln(total + 1) + gammaln(kept + 1) + gammaln(total - kept + 1))

    sizes = np.arange(d + 1)
    mean, square = by_count1 @ share(1, sizes), by_count2 @ share(1, sizes)
    product = by_count1 @ share(2, sizes[:, None] + sizes) @ by_count1 if width > 1 else 0.0
    reference = arc_cosine(x, y, 1)
    return ((square + (width - 1) * product) / width - 2 * reference * mean + reference**2) / d**2


def test_exact_counts_change_the_distance_as_said_up_to_one_over_width():
    x = np.random.default_rng(6).uniform(0.5, 1.5, size=10)
    y = x * np.random.default_rng(7).uniform(0.8, 1.2, size=10)
    kernels = sparse_kernels(x, y, 0.5)
    error = []
    for width in (32, 128, 512):
        change = _exact_count_distance(x, y, 0.5, width) - squared_distance(kernels, width).total
        error.append(change / exact_count_correction(kernels.k1, 0.5, width, 10) - 1)
    assert error[0] < 8 / 32 and abs(error[2]) < 0.03
    np.testing.assert_allclose(np.divide(error[:-1], error[1:]), 4, rtol=0.25)
    assert exact_count_correction(kernels.k1, 1.0, 32, 10) == 0


def test_gaussian_inputs_have_no_optimum_at_fixed_np():
    x, y = np.random.default_rng(2).normal(size=(2, 8, 200))
    grid = connectivity_grid(0.02, 1, 8)
    curves = at_fixed_weights_per_input(sparse_kernels(x, y, grid, tolerance=1e-6), grid, 8)
    mean = curves.distance.mean(0)
    assert (np.diff(mean) > 0).all()  # falls all the way to the sparse end
    assert np.isnan(minimum(grid, mean).at)


def test_minimum_of_a_parabola_in_the_logarithm_is_exact():
    grid = connectivity_grid(1e-3, 1, 31)
    vertex = minimum(grid, 2 + (np.log(grid) - np.log(0.037)) ** 2)
    np.testing.assert_allclose(vertex, (0.037, 2), rtol=1e-9)


def test_budget_of_figure_8():
    """6352 weights, dense last layer: p = 1 at width 8, two weights left in the first layer at width 635."""
    p = budget_connectivity([8, 216, 635], 784, 10, 6352)
    np.testing.assert_allclose(p * 784 * np.array([8, 216, 635]), [6272, 4192, 2])
    with pytest.raises(UserError):
        budget_connectivity(636, 784, 10, 6352)
    x, y = np.random.default_rng(3).normal(size=(2, 3, 12))
    curves = at_fixed_budget(x, y, [4, 8, 16], 2, 56)
    assert curves.distance.shape == (3, 3)
    expected = squared_distance(sparse_kernels(x, y, curves.connectivity), curves.width).total
    np.testing.assert_allclose(curves.distance, expected)


def test_share_of_pairs_is_small_when_one_pair_is_everything():
    assert share_of_pairs(np.r_[100.0, np.full(99, 0.01)]) == 0.01
    assert share_of_pairs(np.ones(100)) == 0.9


def test_monte_carlo_agrees_within_its_error():
    x, y = np.random.default_rng(4).normal(size=(2, 50))
    exact, estimate = sparse_tangents(x, y, 0.1).moments, sample_masks(x, y, 0.1, 100_000)
    assert (np.abs(estimate.mean - exact) < 4 * estimate.stderr).all()
    assert estimate.stderr[0] < 1e-2 * exact[0]


@pytest.mark.parametrize(
    "x, p, masks, match",
    [
        (np.ones((2, 3)), 0.5, 9, "one pair"),
        (np.ones(3), 0.5, 0, "2 masks"),
        (np.ones(3), 0.5, 1, "2 masks"),
        (np.ones(3), [0.5], 9, "one number"),
    ],
)
def test_monte_carlo_is_of_one_pair_and_has_an_error(x, p, masks, match):
    with pytest.raises(UserError, match=match):
        sample_masks(x, x, p, masks)
