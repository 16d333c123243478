"""Moments of the tangent kernel against sums over masks and counts, its distance against simulated networks."""

import jax
import numpy as np
import pytest
from scipy.stats import binom

from kernels.best_width import best_width
from kernels.masks.enumeration import masked_kernels
from kernels.precision import in_float64
from kernels.sparse_ntk import sparse_tangents, tangent_distance
from wsn.errors import UserError

ORDERS = (1, 2, 1, 2, 2)


def _pair(shape, size, rng):
    x, y = rng.normal(size=(2, size))
    if shape == "near":
        return x, -x + 1e-3 * y
    if shape == "disjoint":
        return x * (np.arange(size) < size // 2), y * (np.arange(size) >= size // 2)
    if shape == "tail":
        return x * np.exp(2.5 * rng.normal(size=size)), y * np.exp(2.5 * rng.normal(size=size))
    if shape == "image":
        return np.where(x > 0, 2.8 * rng.random(size), -0.42), np.where(y > 0, 2.8 * rng.random(size), -0.42)
    return x, x * 2 if shape == "parallel" else y


def _scaled_errors(tangents, exact, x, y):
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    return np.stack(
        [abs(a - b) / scale**order for a, b, order in zip(tangents.moments, exact, ORDERS, strict=True)]
    )


@pytest.mark.parametrize("shape", ["gaussian", "near", "disjoint", "image", "parallel", "tail"])
@pytest.mark.parametrize("size", [2, 12])
def test_quadrature_is_enumeration(shape, size):
    x, y = _pair(shape, size, np.random.default_rng(size))
    p = [0.01, 0.1, 0.3, 0.9, 1.0]
    exact = sparse_tangents(x, y, p, method="enumeration")
    quadrature = sparse_tangents(x, y, p, method="quadrature")
    errors = _scaled_errors(quadrature, exact.moments, x, y).max(axis=0)
    assert (errors < (1e-5 if shape == "tail" else 1e-6)).all()
    assert (errors <= 20 * quadrature.error_estimate + 1e-12).all()
    np.testing.assert_allclose(quadrature.ck0_excess, quadrature.ck0 - quadrature.ck0[-1], atol=1e-12)


def test_many_coordinates_are_the_sum_over_counts():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 4))
    repeats, p = np.array([2, 3, 40, 60]), np.array([0.003, 0.05, 0.5])
    counts = np.stack(
        [g.ravel() for g in np.meshgrid(*(np.arange(m + 1) for m in repeats), indexing="ij")], 1
    )
    minors = (x[:, None] * y - y[:, None] * x) ** 2 / 2
    angle = np.arctan2(np.sqrt(np.sum(counts @ minors * counts, 1)), -(counts @ (x * y)))
    values = in_float64(jax.jit(masked_kernels))(counts @ x**2, counts @ y**2, counts @ (x * y), angle)
    weights = np.stack(
        [np.prod([binom.pmf(counts[:, i], m, q) for i, m in enumerate(repeats)], axis=0) for q in p]
    )
    exact = values @ weights.T / p ** np.array(ORDERS)[:, None]
    big_x, big_y = np.repeat(x, repeats), np.repeat(y, repeats)
    for tolerance in (1e-7, 1e-4):
        tangents = sparse_tangents(big_x, big_y, p, tolerance=tolerance)
        errors = _scaled_errors(tangents, exact, big_x, big_y)
        assert (tangents.gp.method == "quadrature").all()
        assert (errors.max(axis=0) <= np.maximum(10 * tangents.error_estimate, 1e-10)).all()
        assert (errors * p[None] ** (np.array(ORDERS)[:, None] - 1)).max() < tolerance


def _networks(x, y, p, width, count, outputs, q, gamma, last, rng):
    """NTKs from the definition: sums over parameters of products of derivatives; all, and of the first layer."""
    shape = count, width, len(x)
    mask = rng.random(shape) < p
    u = mask * rng.standard_normal(shape) / np.sqrt(p)
    r = rng.random((count, width, outputs)) < q
    v = r * rng.standard_normal(r.shape) / np.sqrt(q)
    a, b = u @ x, u @ y
    first = gamma * (v**2).mean(-1) * (a > 0) * (b > 0) * (mask @ (x * y))
    second = last * r.mean(-1) * np.maximum(a, 0) * np.maximum(b, 0)
    return [z.sum(axis=1) / width / len(x) for z in (first + second, first)]


@pytest.mark.parametrize(
    ("outputs", "q", "rate", "last_rate"), [(1, 1.0, None, None), (3, 0.5, None, None), (3, 0.5, 1.0, 1.0)]
)
def test_simulated_networks_have_this_mean_and_distance(outputs, q, rate, last_rate):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 16))
    p, width = 0.2, 4
    gammas = 1 / p if rate is None else rate, 1 / q if last_rate is None else last_rate
    tangents, dense = sparse_tangents(x, y, p), sparse_tangents(x, y, 1.0)
    simulated = _networks(x, y, p, width, 30_000, outputs, q, *gammas, rng)
    for layers, theta in zip(("all", "first"), simulated, strict=True):
        setting = {"layers": layers, "outputs": outputs}
        mean, distance = tangent_distance(
            tangents, width, rate=rate, last_connectivity=q, last_rate=last_rate, **setting
        )
        limit = tangent_distance(dense, width, **setting).mean
        for values, expected in ((theta, mean), ((theta - limit) ** 2, distance.total)):
            assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))
        np.testing.assert_allclose(distance.total, distance.bias2 + distance.variance)


def test_widths_and_rates_broadcast_over_connectivities_alone():
    x, y = np.random.default_rng(8).normal(size=(2, 3, 5))
    widths, rates = np.array([10.0, 100.0, 1000.0]), np.array([[1.0], [2.0]])
    tangents = sparse_tangents(x, y, 0.3)
    mean, together = tangent_distance(tangents, widths, rate=rates, outputs=np.int64(2))
    assert together.total.shape == (3, 2, 3) and mean.shape == (3, 2, 1)
    for i, j, k in np.ndindex(3, 2, 3):
        one = sparse_tangents(x[i], y[i], 0.3)
        alone = tangent_distance(one, widths[k], rate=rates[j, 0], outputs=2)
        np.testing.assert_allclose(together.total[i, j, k], alone.distance.total, rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0}, "`width=0.0`"),
        ({"outputs": 0}, "`outputs=0`"),
        ({"layers": "second"}, "`layers=second`"),
        ({"rate": 0}, "`rate=0.0`"),
        ({"last_connectivity": 1.5}, "`connectivity=1.5`"),
        ({"last_rate": -1}, "`last_rate=-1.0`"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    tangents = sparse_tangents(np.ones(3), np.arange(3), 0.5)
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        tangent_distance(tangents, **{"width": 2} | arguments)


def test_best_width_of_arrays():
    """The least of the three mean curves, inside its interval; the first layer's below that of the GP kernel."""
    images = np.maximum(np.random.default_rng(3).normal(size=(30, 12)), -0.4)
    best = best_width(images, 3, 90, pairs=20, points=8, samples=50)
    assert list(best) == ["gp", "ntk", "first"]
    for one in best.values():
        mean = one.curves.distance.mean(axis=0)
        assert one.flat_low <= one.curves.width[np.argmin(mean)] <= one.flat_high
        assert np.isnan(one.low) or one.low <= one.width <= one.high


@pytest.mark.parametrize(
    ("inputs", "outputs", "budget", "message"),
    [
        (np.ones(3), 2, 50, "`inputs`"),
        (np.ones((1, 3)), 2, 50, "`pairs=300`"),
        (np.full((5, 3), np.nan), 2, 50, "`inputs` has NaN"),
        (np.ones((5, 3)), 2, 3, "`weights=3`"),
        (np.ones((5, 3)), 0, 50, "`outputs=0`"),
    ],
)
def test_bad_input_of_best_width_is_refused(inputs, outputs, budget, message):
    with pytest.raises(UserError, match=f"^{message}[^\n]*$"):
        best_width(inputs, outputs, budget)
