import jax
import jax.numpy as jnp

from experiments.beyond import own_network
from experiments.beyond.own_network import Digits
from wsn import sparsity


def test_the_transformer_has_only_weights_and_trains_with_the_budget_of_the_narrow_one():
    templates = jax.random.normal(jax.random.key(0), (2, 4, 4))
    labels = jnp.arange(70) % 2
    images = templates[labels] + 0.1 * jax.random.normal(jax.random.key(1), (70, 4, 4))
    narrow, wide = (
        jax.eval_shape(lambda w=width: own_network.initial(w, jax.random.key(0), images)) for width in (4, 8)
    )
    size = sum(leaf.size for leaf in jax.tree.leaves(narrow))
    mask = sparsity.random_mask(wide, like=narrow, key=jax.random.key(1))
    assert sum(sparsity.num_kept(mask).values()) == size
    assert len(sparsity.num_kept(mask)) == len(jax.tree.leaves(wide))
    digits = Digits(images, labels, images, labels)
    train = jax.jit(lambda key, mask: own_network.train(8, digits, 60, 0.03, key, mask))
    assert train(jax.random.key(2), mask) > 0.9


def test_the_verdict_compares_with_the_narrow_network():
    row = {"width": 4, "weights": 10, "kind": "dense", "test": [0.5, 0.51]}
    rows = [row, row | {"width": 8, "kind": "sparse", "test": [0.8, 0.81]}, row | {"width": 8, "weights": 40}]
    [line] = own_network.verdict(rows)
    assert line.startswith("wide beats narrow at 10 weights: holds: width 8 against 4: +30.0 [")
