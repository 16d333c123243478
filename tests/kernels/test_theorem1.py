"""Theorem 1: enumeration, quadrature and closed forms agree, and have its symmetries."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from kernels.closed_forms import angular_factor, arc_cosine
from kernels.precision import in_float64
from kernels.theorem1 import sparse_kernels, squared_distance
from wsn.errors import UserError


def _scaled_errors(kernels, k1, k2, x, y):
    scale = np.linalg.norm(x) * np.linalg.norm(y) or 1.0
    return max(np.abs(kernels.k1 - k1).max() / scale, np.abs(kernels.k2 - k2).max() / scale**2)


def _plain_enumeration(x, y, p):
    """Equation (2) as it stands, mask by mask."""
    k1 = k2 = 0.0
    for mask in itertools.product((0.0, 1.0), repeat=len(x)):
        weight = np.prod(np.where(mask, p, 1 - p))
        k1 += weight * arc_cosine(x * np.array(mask), y * np.array(mask), 1) / p
        k2 += weight * arc_cosine(x * np.array(mask), y * np.array(mask), 2) / p**2
    return k1, k2


def _grouped(x, y, repeats, p):
    """Exact for many coordinates of few values: a sum over independent binomial counts of survivors."""
    counts = np.stack(
        [g.ravel() for g in np.meshgrid(*(np.arange(m + 1) for m in repeats), indexing="ij")], 1
    )
    weights = np.prod([binom.pmf(counts[:, i], m, p) for i, m in enumerate(repeats)], axis=0)
    x2, y2, xy = counts @ (x * x), counts @ (y * y), counts @ (x * y)
    minors = (x[:, None] * y - y[:, None] * x) ** 2 / 2
    supplement = np.arctan2(np.sqrt(np.sum(counts @ minors * counts, 1)), -xy)
    present = (x2 > 0) & (y2 > 0)
    factors = [in_float64(jax.jit(partial(angular_factor, k)))(supplement) for k in (1, 2)]
    values = [np.where(present, (x2 * y2) ** (k / 2) * factors[k - 1], 0) for k in (1, 2)]
    return [weights @ value / (2 * np.pi * p**k) for k, value in zip((1, 2), values, strict=True)]


def test_enumeration_is_equation_2():
    x, y = np.random.default_rng(0).normal(size=(2, 4))
    for p in (0.05, 0.5, 1.0):
        kernels = sparse_kernels(x, y, p)
        assert _scaled_errors(kernels, *_plain_enumeration(x, y, p), x, y) < 1e-12


_SHAPES = ("dense", "sparse", "positive", "parallel", "opposite", "near", "one-hot", "mixed", "image", "zero")


def _pair(shape, size, rng):
    x, y = rng.normal(size=(2, size))
    if shape == "sparse":
        return x * (rng.random(size) < 0.5), y * (rng.random(size) < 0.5)
    if shape == "positive":
        return np.maximum(x, 0), np.maximum(y, 0)
    if shape in ("parallel", "opposite"):
        return x, x * (2.5 if shape == "parallel" else -0.5)
    if shape == "near":
        return x, rng.choice([-1, 1]) * x + 10.0 ** -rng.uniform(1, 9) * y
    if shape == "one-hot":
        return np.eye(size)[rng.integers(size)], y
    if shape == "mixed":
        return x * np.exp(2.5 * rng.normal(size=size)), y * np.exp(2.5 * rng.normal(size=size))
    if shape == "image":  # a background value, and ink
        return np.where(x > 0, 2.8 * rng.random(size), -0.42), np.where(y > 0, 2.8 * rng.random(size), -0.42)
    if shape == "zero":
        return 0 * x, y * rng.integers(2)
    return x, y


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.sampled_from(_SHAPES),
    st.integers(1, 12),
    st.lists(st.floats(0.005, 1), min_size=5, max_size=5),
    st.integers(0, 2**31),
)
def test_quadrature_is_enumeration(shape, size, p, seed):
    x, y = _pair(shape, size, np.random.default_rng(seed))
    exact = sparse_kernels(x, y, p, method="enumeration")
    quadrature = sparse_kernels(x, y, p, method="quadrature")
    for i in range(len(p)):
        one = quadrature._replace(k1=quadrature.k1[i], k2=quadrature.k2[i])
        error = _scaled_errors(one, exact.k1[i], exact.k2[i], x, y)
        assert error < 1e-6 and error <= 10 * quadrature.error_estimate[i] + 1e-12


@pytest.mark.parametrize("tail", [1.0, 100.0])
def test_quadrature_with_many_coordinates_is_the_sum_over_counts(tail):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 6)) * np.array([tail, 1, 1, 1, 0.3, 0.3])
    repeats, p = np.array([1, 1, 2, 3, 40, 60]), np.array([0.003, 0.02, 0.2, 0.9])
    big_x, big_y = np.repeat(x, repeats), np.repeat(y, repeats)
    kernels = sparse_kernels(big_x, big_y, p)
    assert (kernels.method == "quadrature").all()
    k1, k2 = np.transpose([_grouped(x, y, repeats, q) for q in p])
    assert _scaled_errors(kernels, k1, k2, big_x, big_y) < 1e-6


def test_two_weights_left_of_half_a_million():
    """Figure 8 at width 635, p = 4e-6: masks with one survivor are all, K_1 = 1/2 sum_i [x_i y_i]_+."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 784))
    p = 2 / (784 * 635)
    kernels = sparse_kernels(x, y, p, tolerance=1e-5)
    one = np.maximum(x * y, 0)
    np.testing.assert_allclose(kernels.k1, one.sum() / 2, rtol=784 * p)
    np.testing.assert_allclose(kernels.k2, 1.5 * (one**2).sum() / p, rtol=2 * 784 * p)
    distance = squared_distance(kernels, 635)
    np.testing.assert_allclose(distance.total, distance.bias2 + distance.variance)


def test_scaling_symmetry_and_order_of_coordinates():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 60))
    order = rng.permutation(60)
    base = sparse_kernels(x, y, 0.1)
    for other, factor in (
        (sparse_kernels(1e-150 * x, 1e150 * y, 0.1), 1),
        (sparse_kernels(y, x, 0.1), 1),
        (sparse_kernels(x[order], y[order], 0.1), 1),
        (sparse_kernels(2 * x, 3 * y, 0.1), 6),
        (sparse_kernels(np.append(x, np.zeros(9)), np.append(y, np.zeros(9)), 0.1), 1),
    ):
        np.testing.assert_allclose(other.k1, factor * base.k1, rtol=1e-8)
        np.testing.assert_allclose(other.k2, factor**2 * base.k2, rtol=1e-8)


def test_reflection_adds_up_to_the_mean_product():
    """K_1(x, y) - K_1(x, -y) = E[ab]/2 = x.y/2 at every connectivity, and K_2 likewise."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 40))
    p = np.array([0.01, 0.1, 0.7])
    plus, minus = sparse_kernels(x, y, p), sparse_kernels(x, -y, p)
    np.testing.assert_allclose(plus.k1 - minus.k1, x @ y / 2, atol=1e-6)
    squares = (x @ x) * (y @ y) + 2 * (x @ y) ** 2 + 3 * (1 - p) / p * np.sum(x**2 * y**2)
    np.testing.assert_allclose(plus.k2 + minus.k2, squares / 2, rtol=1e-7)


def test_batches_are_pairs_and_connectivities_one_by_one():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 2, 3, 20))
    x[0, 0, 6:] = y[0, 0, 6:] = 0  # few coordinates: enumeration
    x[1, 1] = -y[1, 1]  # one line: closed form
    p = np.array([[0.05, 1.0], [0.4, 0.9]])
    kernels = sparse_kernels(x, y, p)
    assert kernels.k1.shape == kernels.method.shape == (2, 3, 2, 2)
    for i, j in np.ndindex(2, 3):
        one = sparse_kernels(x[i, j], y[i, j], p)
        assert (one.method == kernels.method[i, j]).all()
        np.testing.assert_allclose(one.k1, kernels.k1[i, j], atol=2e-8 * 400)
    for k, m in np.ndindex(2, 2):
        one = sparse_kernels(x[0, 1], y[0, 1], p[k, m])
        np.testing.assert_allclose(one.k1, kernels.k1[0, 1, k, m], atol=2e-8 * 400)
    assert set(kernels.method.ravel()) == {"closed form", "enumeration", "quadrature"}


def test_distance_is_bias_plus_variance_and_width_divides_the_variance():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(2, 5, 25))
    kernels = sparse_kernels(x, y, [0.1, 1.0])
    narrow, wide = squared_distance(kernels, 10), squared_distance(kernels, [40, 80])
    assert (narrow.bias2[:, 1] == 0).all()
    np.testing.assert_array_equal(narrow.bias2, wide.bias2)
    np.testing.assert_allclose(narrow.variance, wide.variance * [4, 8])
    np.testing.assert_allclose(
        narrow.variance[:, 1], (arc_cosine(x, y, 2) - arc_cosine(x, y, 1) ** 2) / 25**2 / 10
    )


@pytest.mark.parametrize("p", [0.3, [0.3, 0.9]])
def test_widths_broadcast_over_connectivities_and_never_over_pairs(p):
    """As many widths as pairs are no reason to pair them up."""
    x, y = np.random.default_rng(7).normal(size=(2, 3, 5))
    widths = np.array([10.0, 100.0, 1000.0]).reshape(3, *[1] * np.ndim(p))
    together = squared_distance(sparse_kernels(x, y, p), widths).total
    assert together.shape == (3, 3, *np.shape(p))
    for i, j in np.ndindex(3, 3):
        alone = squared_distance(sparse_kernels(x[i], y[i], p), widths[j]).total
        np.testing.assert_allclose(together[i, j], alone, rtol=1e-9)


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (0.0, "`connectivity=0.0`"),
        (-0.1, "`connectivity=-0.1`"),
        (1.0000001, "`connectivity=1.0000001` is not in"),
        (np.nan, "`connectivity` has NaN"),
        ([0.5, 2], "`connectivity=2.0`"),
        ([], "`connectivity`: give at least one"),
    ],
)
def test_connectivity_outside_the_unit_interval_is_refused(p, message):
    with pytest.raises(UserError, match=f"^{message}"):
        sparse_kernels(np.ones(3), np.ones(3), p)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.uint8, bool])
def test_inputs_of_any_real_type_are_converted(dtype):
    x, y = np.array([1, 0, 1]), np.array([1, 1, 0])
    expected = sparse_kernels(x, y, 0.5).k1
    np.testing.assert_array_equal(
        sparse_kernels(jnp.asarray(x, dtype), np.asarray(y, dtype), 0.5).k1, expected
    )


@pytest.mark.parametrize(
    "x, y", [(np.ones(3), np.ones(4)), ([1.0, np.inf], [1.0, 1.0]), ([1.0, 2.0], [np.nan, 1.0])]
)
def test_inputs_that_do_not_fit_or_are_not_finite_are_refused(x, y):
    with pytest.raises(UserError):
        sparse_kernels(x, y, 0.5)
    with pytest.raises(UserError, match="width"):
        squared_distance(sparse_kernels(np.ones(2), np.ones(2), 0.5), 0)
    with pytest.raises(UserError, match="enumeration"):
        sparse_kernels(np.ones(20), np.ones(20), 0.5, method="enumeration")
