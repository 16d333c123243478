"""Kernels of deep sparse networks: their limits, one hidden layer, and finite networks."""

import importlib.util

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from kernels.closed_forms import dense_kernels
from kernels.deep import deep_kernels
from kernels.empirical import network_kernels
from kernels.sparse_ntk import sparse_tangents, tangent_distance
from wsn.errors import UserError
from wsn.networks import models
from wsn.spec import Spec

X, Y = np.random.default_rng(0).normal(size=(2, 3, 12))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_dense_networks_have_the_closed_form(depth):
    for ours, expected in zip(deep_kernels(X, Y, 1.0, depth), dense_kernels(X, Y, depth), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9)


@pytest.mark.parametrize("rate", [None, 1.0])
def test_one_hidden_layer_is_the_mean_of_its_moments(rate):
    p = np.array([0.1, 0.5, 1.0])
    expected = tangent_distance(sparse_tangents(X, Y, p), 10, rate=rate).mean
    np.testing.assert_allclose(deep_kernels(X, Y, p, 1, rate=rate).ntk, expected, rtol=1e-12)


def test_a_zero_vector_has_no_kernel():
    assert deep_kernels(np.zeros(4), np.ones(4), 0.5, 3) == (0, 0)


def test_a_depth_of_zero_is_refused():
    with pytest.raises(UserError, match="^`depth=0`"):
        deep_kernels(X, Y, 0.5, 0)


def simulated(width: int, p: float, others: float, rng: np.random.Generator) -> list[np.ndarray]:
    """GP kernel and NTK of one network with two masked hidden layers; NTK parameterization, one rate."""
    d = X.shape[1]
    masks = rng.random((width, d)) < p, rng.random((width, width)) < others
    u, w = (m * rng.normal(size=m.shape) / np.sqrt(q) for m, q in zip(masks, (p, others), strict=True))
    v = rng.normal(size=width)
    hidden, slopes = [], []
    for z in (X, Y):
        first = np.maximum(z @ u.T / np.sqrt(d), 0)
        second = first @ w.T / np.sqrt(width)
        back = v * (second > 0) / np.sqrt(width)
        hidden.append((z, first, np.maximum(second, 0)))
        slopes.append((back @ w / np.sqrt(width) * (first > 0), back))
    nngp = (hidden[0][2] * hidden[1][2]).sum(1) / width
    ntk = nngp
    for inputs, outputs, mask, size in ((0, 0, masks[0], d), (1, 1, masks[1], width)):
        of_inputs = hidden[0][inputs] * hidden[1][inputs]
        ntk = ntk + ((slopes[0][outputs] * slopes[1][outputs]) @ mask * of_inputs).sum(1) / size
    return [nngp, ntk]


def test_finite_networks_come_close():
    p, others, width, rng = 0.3, 0.5, 400, np.random.default_rng(1)
    kernels = np.array([simulated(width, p, others, rng) for _ in range(40)])
    mean, error = kernels.mean(0), kernels.std(0, ddof=1) / np.sqrt(len(kernels))
    exact = np.array(deep_kernels(X, Y, p, 2, others=others, rate=1.0))
    assert (abs(mean - exact) < 4 * error + 2 / (width * others) * exact).all()
    dense = np.array(dense_kernels(X, Y, 2))
    assert (abs(mean - dense) > 10 * error).any()


@pytest.mark.skipif(
    importlib.util.find_spec("neural_tangents") is None, reason="neural-tangents is not installed"
)
def test_neural_tangents_finds_the_same_in_networks_of_wsn():
    p, others, width, networks = 0.3, 0.5, 256, 12
    spec = Spec(dataset="digits", width=width, hidden_layers=2, parameterization="ntk", learning_rate=1.0,
                epochs=1, batch_size=1)  # fmt: skip
    model = models.build(spec, (X.shape[1], 1, 1), 8)

    def apply(params, x):
        return model.apply(params, {}, x)

    rng, kernels = np.random.default_rng(2), []
    for seed in range(networks):
        params = model.init(jax.random.key(seed))[0]
        leaves = flatten_dict(params, sep="/")
        paths = [path for path in leaves if path.endswith("kernel")]
        kept = dict(zip(paths, (p, others), strict=False))
        mask = {path: (rng.random(leaves[path].shape) < q) / np.sqrt(q) for path, q in kept.items()}
        found = network_kernels(apply, params, mask, *(z[..., None, None] for z in (X, Y)), readout=paths[-1])
        kernels.append(np.array(found))
    mean, error = np.mean(kernels, 0), np.std(kernels, 0, ddof=1) / np.sqrt(networks)
    exact = np.array(deep_kernels(X, Y, p, 2, others=others))
    assert (abs(mean - exact) < 4 * error + 2 / (width * others) * exact).all()
