"""float64 stays inside `kernels`."""

import jax
import jax.numpy as jnp
import numpy as np
import tiny

from kernels.closed_forms import arc_cosine
from kernels.precision import in_float64
from kernels.theorem1 import sparse_kernels
from wsn.spec import Group


def _train():
    """Parameters of networks after training, compiled anew, as bytes."""
    jax.clear_caches()
    _, snapshot = tiny.fit(Group((tiny.spec(kept=tiny.kept(20, 7)),), (0, 1)))
    return {path: values.tobytes() for path, values in tiny.params(snapshot).items()}


def test_training_is_bit_identical_before_and_after_the_theory():
    before = _train()
    rng = np.random.default_rng(0)
    kernels = sparse_kernels(rng.normal(size=(3, 25)), rng.normal(size=(3, 25)), [0.1, 0.5], tolerance=1e-5)
    gram = arc_cosine(rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), 1, gram=True)
    assert kernels.k1.dtype == gram.dtype == np.float64
    assert not jax.config.jax_enable_x64
    assert jnp.zeros(1).dtype == jnp.float32 and jnp.asarray(np.zeros(1)).dtype == jnp.float32
    assert _train() == before


def test_float64_is_computed_on_the_cpu_whatever_the_default_device():
    """Another virtual CPU device stands for an accelerator."""
    used = in_float64(lambda x: [device.id for device in jnp.asarray(x).devices()])
    with jax.default_device(jax.local_devices()[1]):
        assert used(np.zeros(1)) == [0]


def test_without_a_cpu_float64_is_computed_on_the_default_device(monkeypatch):
    def no_cpu(backend):
        raise RuntimeError("Unknown backend cpu")

    monkeypatch.setattr(jax, "local_devices", no_cpu)
    assert in_float64(lambda x: x + 1)(1.0) == 2.0
