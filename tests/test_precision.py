"""float64 stays inside `kernels`."""

import jax
import jax.numpy as jnp
import numpy as np

from kernels.closed_forms import arc_cosine
from kernels.theorem1 import sparse_kernels


def _train():
    """A few float32 steps, compiled anew, as bytes."""

    @jax.jit
    def step(w, x):
        return w - 0.1 * jax.grad(lambda w: jnp.mean(jnp.tanh(x @ w) ** 2))(w)

    w, x = jax.random.normal(jax.random.key(0), (8, 3)), jax.random.normal(jax.random.key(1), (16, 8))
    for _ in range(5):
        w = step(w, x)
    return np.asarray(w).tobytes()


def test_training_is_bit_identical_before_and_after_the_theory():
    before = _train()
    rng = np.random.default_rng(0)
    kernels = sparse_kernels(rng.normal(size=(3, 25)), rng.normal(size=(3, 25)), [0.1, 0.5], tolerance=1e-5)
    gram = arc_cosine(rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), 1, gram=True)
    assert kernels.k1.dtype == gram.dtype == np.float64
    assert not jax.config.jax_enable_x64
    assert jnp.zeros(1).dtype == jnp.float32 and jnp.asarray(np.zeros(1)).dtype == jnp.float32
    assert _train() == before
