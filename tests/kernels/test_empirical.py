"""Simulated networks have the distance of Theorem 1, and their weights its law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels.closed_forms import arc_cosine
from kernels.empirical import gp_kernel, simulated_distance, sparse_weights, survives
from kernels.theorem1 import sparse_kernels, squared_distance
from wsn.errors import UserError


def test_gp_kernel_is_the_sum_over_units_whatever_the_block():
    rng = np.random.default_rng(0)
    u, x, y = rng.normal(size=(37, 6)), rng.normal(size=(9, 6)), rng.normal(size=(9, 6))
    plain = (np.maximum(x @ u.T, 0) * np.maximum(y @ u.T, 0)).sum(1) / (37 * 6)
    for block in (1, 8, 37, 256):
        np.testing.assert_allclose(gp_kernel(u.astype(np.float32), x, y, block=block), plain, rtol=1e-5)


def test_weights_have_mean_zero_variance_one_and_connectivity_p():
    u = np.asarray(sparse_weights(jax.random.key(0), np.float32(0.1), 1000, 500))
    assert abs((u != 0).mean() - 0.1) < 5 * np.sqrt(0.09 / u.size)
    assert abs(u.mean()) < 5 / np.sqrt(u.size) and abs(u.var() - 1) < 0.03


@pytest.mark.parametrize("p", [4.02e-6, 1e-3, 0.3, 1 - 2.0**-24, 1.0])
def test_share_of_words_that_survive_is_p(p):
    count = round(float(np.float32(p)) * 2**32)
    assert abs(count / 2**32 - p) < 1e-4 * p
    words = np.array([0, count - 1, min(count, 2**32 - 1), 2**32 - 1], np.uint32)
    np.testing.assert_array_equal(survives(words, np.float32(p)), words < count)


@pytest.mark.parametrize(
    "p, x, y, reference, match",
    [
        (0.5, np.ones((5, 3)), np.ones((1, 3)), np.ones(1), "one shape"),
        (0.5, np.ones((5, 3)), np.ones((5, 3)), np.ones(1), "reference"),
        (0.5, np.full((5, 3), np.nan), np.ones((5, 3)), np.ones(5), "NaN"),
        (0.5, np.ones((5, 3)), np.ones((5, 3)), np.full(5, np.inf), "reference"),
        (0.5, np.ones(3), np.ones(3), 1.0, "matrices"),
        ([0.5, 1], np.ones((5, 3)), np.ones((5, 3)), np.ones(5), "one number"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(p, x, y, reference, match):
    with pytest.raises(UserError, match=f"^[^\n]*{match}[^\n]*$"):
        simulated_distance(jax.random.key(0), p, 2, x, y, reference, 2)


@pytest.mark.parametrize(
    "width, networks, p, scale, match",
    [
        (2, 1, 0.5, 1, "networks=1"), (0, 2, 0.5, 1, "width=0"), (2, 2, 1e-11, 1, "connectivity=1e-11"),
        (40, 2, 0.5, 1e20, "float32"),
    ],
)  # fmt: skip
def test_sizes_that_no_simulation_has_are_refused(width, networks, p, scale, match):
    x = np.full((5, 3), scale)
    with pytest.raises(UserError, match=f"^[^\n]*{match}[^\n]*$"):
        simulated_distance(jax.random.key(0), p, width, x, x, np.ones(5), networks)


@pytest.mark.parametrize("width, p", [(8, 1.0), (20, 0.3), (60, 0.05), (200, 0.02)])
def test_simulated_networks_have_the_distance_of_theorem_1(width, p):
    x, y = np.random.default_rng(1).normal(size=(2, 5, 40)).astype(np.float32)
    simulated = simulated_distance(jax.random.key(2), p, width, x, y, arc_cosine(x, y, 1) / 40, 1000)
    exact = squared_distance(sparse_kernels(x, y, p), width).total.mean()
    assert abs(simulated.mean - exact) < 4 * simulated.stderr
    assert simulated.stderr < 0.2 * exact
    np.testing.assert_allclose(simulated.mean, simulated.per_pair.mean(), rtol=1e-6)


def test_the_compiled_simulation_is_that_network_by_network():
    x, y = np.random.default_rng(3).normal(size=(2, 4, 10)).astype(np.float32)
    key, reference = jax.random.key(4), arc_cosine(x, y, 1) / 10
    networks = [sparse_weights(jax.random.fold_in(key, i), jnp.float32(0.3), 6, 10) for i in range(5)]
    squares = np.array([(gp_kernel(u, x, y) - reference) ** 2 for u in networks])
    simulated = simulated_distance(key, 0.3, 6, x, y, reference, 5)
    np.testing.assert_allclose(simulated.per_network, squares.mean(1), rtol=1e-4)
    np.testing.assert_allclose(simulated.per_pair, squares.mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        (simulated.mean, simulated.stderr), (squares.mean(), squares.mean(1).std(ddof=1) / 5**0.5), rtol=1e-4
    )
