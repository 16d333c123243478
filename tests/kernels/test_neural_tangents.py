"""neural-tangents runs on this JAX, and agrees with our closed forms."""

import importlib.util
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kernels import neural_tangents
from kernels.closed_forms import dense_kernels
from kernels.empirical import gp_kernel

needs_tangents = pytest.mark.skipif(
    importlib.util.find_spec("neural_tangents") is None, reason="neural-tangents is not installed (an extra)"
)
pytestmark = pytest.mark.filterwarnings("ignore")  # neural-tangents calls what JAX deprecates


def test_neither_neural_tangents_nor_tensorflow_is_imported_before_it_is_asked_for():
    """Not by any module, nor by training."""
    program = """
import importlib, pkgutil, sys
import experiments, kernels, wsn
for package in wsn, kernels, experiments:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
import tiny
tiny.fit(tiny.Group((tiny.spec(epochs=1),), (0,)))
assert not {"neural_tangents", "tensorflow"} & set(sys.modules)
"""
    search = os.pathsep.join([os.path.dirname(os.path.dirname(__file__)), *filter(None, sys.path)])
    subprocess.run([sys.executable, "-c", program], check=True, env=os.environ | {"PYTHONPATH": search})


def test_an_absent_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install neural-tangents"):
        neural_tangents.load()


def test_a_name_that_jax_dropped_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(neural_tangents._MOVED, "jax.core", {"a_name_no_jax_has": "jax.extend.core"})
    with pytest.raises(ImportError, match="a_name_no_jax_has.*kernels/neural_tangents.py"):
        neural_tangents.load()


def test_names_that_are_still_there_are_left_alone():
    before = dict(vars(jax.core))
    neural_tangents._patch()
    assert all(vars(jax.core)[name] is value for name, value in before.items())


@needs_tangents
def test_neural_tangents_works_with_this_jax():
    """When this fails after an upgrade of jax, the message says which name to add to kernels/neural_tangents.py."""
    try:
        neural_tangents.load()
    except ImportError as error:
        pytest.fail(str(error))
    assert "tensorflow" not in sys.modules


@needs_tangents
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("weight_std", [1.0, 1.4])
def test_stax_has_our_closed_forms(depth, weight_std):
    neural_tangents.load()
    from neural_tangents import stax

    layers = [stax.Dense(1, W_std=weight_std, b_std=0.0), stax.Relu()] * depth
    kernel = stax.serial(*layers, stax.Dense(1, W_std=weight_std, b_std=0.0))[2]
    x, y = np.random.default_rng(depth).normal(size=(2, 6, 20))
    with jax.enable_x64(True):
        theirs = kernel(jnp.asarray(x), jnp.asarray(y), ("nngp", "ntk"))
        theirs = [np.asarray(theirs.nngp), np.asarray(theirs.ntk)]
    for ours, other in zip(dense_kernels(x, y, depth, weight_std, gram=True), theirs, strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-6)


@needs_tangents
@pytest.mark.parametrize("implementation", [1, 2])
def test_fast_gp_kernel_is_the_empirical_nngp(implementation):
    """Theta is the Gram matrix of the gradient in v: the NTK of v -> f, at width 50 with a sparse u."""
    nt = neural_tangents.load()
    rng = np.random.default_rng(0)
    u = (rng.normal(size=(50, 8)) * (rng.random((50, 8)) < 0.3)).astype(np.float32)
    x, y = rng.normal(size=(2, 5, 8)).astype(np.float32)

    def network(v, x):
        return jax.nn.relu(x @ u.T) @ v / jnp.sqrt(u.size)

    ntk = nt.empirical_ntk_fn(network, trace_axes=(), implementation=implementation)
    theirs = np.diagonal(np.asarray(ntk(x, y, jnp.ones((50, 1), jnp.float32))).reshape(5, 5))
    np.testing.assert_allclose(gp_kernel(u, x, y), theirs, rtol=1e-5)
