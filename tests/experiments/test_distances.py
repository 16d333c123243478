"""Distances of networks at initialisation: the weights are those that are trained, and Theorem 1 holds for them."""

import dataclasses

import numpy as np
import optax
import pytest
from scipy import stats

from experiments.theory import inputs
from experiments.width import distances
from kernels.approximations import eq4, exact_count_correction
from kernels.closed_forms import arc_cosine
from kernels.theorem1 import sparse_kernels, squared_distance
from wsn import data
from wsn.networks import models
from wsn.sparsity import family
from wsn.sparsity.shapes import mlp_shapes
from wsn.spec import Group, Spec
from wsn.training import state

FEATURES, CLASSES, BASE = 64, 10, 4
TEMPLATE = Spec(
    dataset="digits", width=BASE, parameterization="ntk", epochs=1, batch_size=1, learning_rate=3.0
)
SPARSE = family.sparse(
    TEMPLATE, BASE, (4, 8, 20), lambda width: mlp_shapes(FEATURES, [width], CLASSES), "dense_last"
)
DENSE = family.dense(TEMPLATE, (4, 8))


@pytest.fixture(scope="module")
def pairs() -> inputs.Pairs:
    return inputs.of_images(data.load("digits"), "scalar", 16, 0)


@pytest.fixture(scope="module")
def theta(pairs) -> dict[str, np.ndarray]:
    return distances.references(pairs)


@pytest.mark.parametrize("spec", SPARSE, ids=lambda spec: str(spec.width))
def test_the_networks_are_those_that_training_starts_from(spec):
    """Bit by bit, though there they are drawn with others, of another learning rate, in the shape of the images."""
    group = Group((dataclasses.replace(spec, learning_rate=1.0), spec), (0, 1, 2))
    model = models.build(spec, (8, 8, 1), CLASSES)
    kernels = state.initial_members(group, model, optax.sgd(1.0)).state.params["hidden_0"]["kernel"]
    ours = list(distances.first_layers(spec, FEATURES, CLASSES, range(3)))
    np.testing.assert_array_equal(ours, np.swapaxes(kernels[3:], 1, 2))
    kept = dict(spec.kept).get("hidden_0", FEATURES * spec.width)
    assert all(np.count_nonzero(u) == kept for u in ours)


def test_connectivity_is_that_of_the_first_layer_alone():
    """The last width of Figure 8: two weights of 784 x 635."""
    (widest,) = family.sparse(TEMPLATE, 8, (635,), lambda width: mlp_shapes(784, [width], 10), "dense_last")
    assert distances.connectivity(widest, 784) == 2 / (784 * 635)
    assert distances.connectivity(DENSE[1], FEATURES) == 1


@pytest.mark.parametrize("spec", SPARSE[1:], ids=lambda spec: str(spec.width))
def test_many_seeds_have_the_distance_of_theorem_1(spec, pairs, theta):
    """With its correction for masks of an exact count."""
    networks = distances.first_layers(spec, FEATURES, CLASSES, range(225))
    measured = distances.empirical(networks, pairs, theta)["exact"]
    p = distances.connectivity(spec, FEATURES)
    k1 = sparse_kernels(pairs.x, pairs.y, p).k1
    expected = distances.exact([spec], pairs)[0] + exact_count_correction(k1, p, spec.width, FEATURES).mean()
    stderr = measured.std(ddof=1) / 15
    assert abs(measured.mean() - expected) < 4 * stderr < 0.5 * expected


def test_exact_is_the_mean_over_pairs_whatever_the_chunks(pairs, monkeypatch):
    monkeypatch.setattr(inputs, "CHUNK", 7)
    specs = [SPARSE[2], *DENSE, SPARSE[1]]
    p = [distances.connectivity(spec, FEATURES) for spec in specs]
    kernels = sparse_kernels(pairs.x, pairs.y, p, tolerance=1e-10)
    expected = squared_distance(kernels, [spec.width for spec in specs]).total.mean(axis=0)
    np.testing.assert_allclose(distances.exact(specs, pairs), expected, rtol=1e-4)


def test_dense_networks_have_the_closed_form(pairs):
    """The variance of one unit over the width; no bias."""
    k1, k2 = (arc_cosine(pairs.x, pairs.y, order) / FEATURES**order for order in (1, 2))
    widths = np.array([spec.width for spec in DENSE])
    np.testing.assert_allclose(distances.exact(DENSE, pairs), np.mean(k2 - k1**2) / widths, rtol=1e-9)


def test_the_references_differ_by_the_variance_of_the_wide_network():
    """Gaussian inputs are nearly independent in one network, so its own mean is near the expected one."""
    pairs = inputs.gaussian(50, 1000, 0)
    theta = distances.references(pairs)
    gap = np.mean((theta["finite"] - theta["exact"]) ** 2)
    k1, k2 = (arc_cosine(pairs.x, pairs.y, order) / 50**order for order in (1, 2))
    assert gap == pytest.approx(np.mean(k2 - k1**2) / distances.REFERENCE_WIDTH, rel=0.4)
    networks = distances.first_layers(DENSE[1], 50, CLASSES, range(3))
    measured = distances.empirical(networks, pairs, theta)
    bound = 2 * np.sqrt(measured["exact"] * gap) + gap  # Cauchy and Schwarz
    change = np.abs(measured["finite"] - measured["exact"])
    assert (change > 0).all() and (change <= bound).all()


def test_a_table_has_mean_and_standard_error_over_networks(pairs, theta):
    measured = distances.measure([*SPARSE, *DENSE], pairs, CLASSES, 5, theta)
    assert list(measured) == [*SPARSE, DENSE[1]]  # the base network once
    for spec, distance in measured.items():
        values = distance.empirical["finite"]
        row = distances.columns(distance, "finite")
        assert list(row) == distances.COLUMNS and values.shape == (5,)
        assert row["distance_empirical"] == values.mean()
        assert row["distance_empirical_stderr"] == pytest.approx(stats.sem(values))
        assert row["distance_eq4"] == eq4(distances.connectivity(spec, FEATURES), spec.width, FEATURES)
