"""Small networks that are no part of wsn, and what tests of masks ask of their trees."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

X = jax.random.normal(jax.random.key(1), (8, 6))


class Linen(nn.Module):
    """An embedding, a convolution of one dimension, attention and a normalization."""

    width: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(5, self.width, name="embed")(tokens)
        x = nn.Conv(self.width, (3,), name="conv")(x)
        x = nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm(name="norm")(x))
        return nn.Dense(3, name="output")(x)


def linen(width):
    """Shapes of its parameters."""
    return jax.eval_shape(Linen(width).init, jax.random.key(0), jnp.zeros((2, 4), int))["params"]


class Nnx(nnx.Module):
    def __init__(self, width):
        rngs = nnx.Rngs(0)
        self.hidden_0 = nnx.Linear(6, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.output = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        return self.output(nnx.relu(self.norm(self.hidden_0(x))))


def plain():
    """Parameters of two layers, 108 weights, initialized without masks."""
    a, b, c = jax.random.split(jax.random.key(2), 3)
    return {
        "hidden": {"kernel": jax.random.normal(a, (6, 12)), "bias": jax.random.normal(b, (12,))},
        "output": {"kernel": jax.random.normal(c, (12, 3))},
    }


def loss(params, x=X):
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return jnp.mean((hidden @ params["output"]["kernel"] - 1) ** 2)


def equal(a, b):
    same = jax.tree.map(lambda a, b: bool(np.all(a == b)), a, b)  # keys, too
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(same)


def close(a, b, rtol=1e-5, atol=1e-6):
    return jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=rtol, atol=atol), a, b))


def kept(mask, tree):
    """How many entries are not 0 where weights count; asserts that they are among those that are kept."""
    counts = []
    for leaf, entries in zip(jax.tree.leaves(mask), jax.tree.leaves(tree), strict=True):
        if leaf.ndim:
            assert not np.any(np.asarray(entries)[~np.asarray(leaf)])
            counts.append(np.count_nonzero(entries))
    return sum(counts)
