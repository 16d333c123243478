"""Parameterizations relative to a reference network: the tables of the papers, and the coordinate check in training."""

import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn.errors import UserError
from wsn.networks import models
from wsn.networks.parameterization import FOLLOWS_GRADIENT, Widening, parameterization
from wsn.sparsity.masks import apply_mask
from wsn.spec import Group
from wsn.training import optimizers
from wsn.training.state import initial_members

IMAGE, CLASSES, BASE, STEPS = (16, 16, 1), 4, 16, 4
RATES = {"sgd": 0.02, "adam": 0.002}


def rules(name, optimizer, wider, connectivity=1.0):
    """Layer → its scaling in a network `wider` times as wide as the reference, which has 100 inputs and 20 units."""
    rule = parameterization(name).scaling

    def of(fan_in, fan_out, inputs, outputs, role):
        return rule(fan_in, fan_out, connectivity, role, Widening(inputs, outputs, optimizer))

    units = 20 * wider
    return {
        "input": of(100, units, 1.0, wider, "kernel"),
        "hidden": of(units, units, wider, wider, "kernel"),
        "output": of(units, 10, wider, 1.0, "output"),
        "bias": of(units, units, wider, wider, "bias"),
        "output bias": of(units, 10, wider, 1.0, "bias"),
    }


@pytest.mark.parametrize("optimizer", FOLLOWS_GRADIENT)
@pytest.mark.parametrize("wider", [1, 4, 64])
def test_mup_has_the_exponents_of_table_3(optimizer, wider):
    scalings = rules("mup", optimizer, wider)
    variances = {"input": 1 / 100, "hidden": 1 / (20 * wider), "output": 1 / (20 * wider**2), "bias": 1 / 20}
    for layer, variance in (variances | {"output bias": 1 / 20}).items():
        assert scalings[layer].initial ** 2 == pytest.approx(variance) and scalings[layer].forward == 1
    rates = {"input": wider, "hidden": 1, "output": 1 / wider, "bias": wider, "output bias": 1}
    if optimizer != "sgd":
        rates = {"input": 1, "hidden": 1 / wider, "output": 1 / wider, "bias": 1, "output bias": 1}
    assert {layer: scaling.learning_rate for layer, scaling in scalings.items()} == pytest.approx(rates)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(FOLLOWS_GRADIENT)), st.integers(1, 64), st.floats(1e-3, 1))
def test_smup_divides_the_rates_of_kernels_by_the_density(optimizer, wider, connectivity):
    plain, sparse = (rules(name, optimizer, wider, connectivity) for name in ("mup", "smup"))
    for layer, scaling in sparse.items():
        density = 1 if "bias" in layer else connectivity
        assert scaling[:2] == plain[layer][:2]
        assert scaling.learning_rate * density == pytest.approx(plain[layer].learning_rate)


@pytest.mark.parametrize("name", ["mup", "smup"])
@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 999),
    st.integers(1, 999),
    st.floats(1e-3, 1),
    st.sampled_from(["kernel", "output", "bias"]),
)
def test_without_a_reference_nothing_is_scaled(name, fan_in, fan_out, connectivity, role):
    relative, plain = (
        parameterization(one).scaling(fan_in, fan_out, connectivity, role) for one in (name, "standard")
    )
    assert relative == plain


def test_every_optimizer_has_rates_and_others_are_refused():
    assert FOLLOWS_GRADIENT.keys() == optimizers.OPTIMIZERS.keys()
    with pytest.raises(UserError, match="^`optimizer=lion`: mup and smup have rates for sgd, adam"):
        rules("smup", "lion", 2)


def test_parameters_of_batch_normalization_have_the_rates_of_biases():
    for optimizer, factor in (("sgd", 3.0), ("adam", 1.0)):
        spec = tiny.spec(
            model="resnet18", width=6, rate_width=2, parameterization="smup", optimizer=optimizer
        )
        model = models.build(spec, (8, 8, 3), 4)
        params = jax.eval_shape(lambda model=model: model.init(jax.random.key(0))[0])
        scalings = models.scalings(spec, model, params)
        normal = {scalings[path] for path in scalings if path.rpartition("/")[0] not in model.shapes}
        assert normal == {(1.0, 1.0, factor)}


# The coordinate check.


def examples():
    """Inputs with four latent dimensions, so that examples are correlated however many inputs a unit keeps."""
    random = np.random.default_rng(0)
    latent = random.normal(size=(16, 4))
    x = latent @ random.normal(size=(4, math.prod(IMAGE))) / 2
    return jnp.asarray(x.reshape(-1, *IMAGE), jnp.float32), jnp.asarray(np.argmax(latent, axis=1))


X, LABELS = examples()


@cache
def training(width, optimizer):
    """A jitted function: (params, mask, rates) of several networks → params after STEPS steps."""
    spec = tiny.spec(width=width, hidden_layers=2, optimizer=optimizer)
    model = models.build(spec, IMAGE, CLASSES)
    transformation = optimizers.build(spec, optimizers.Horizon(1, STEPS))

    def loss(params, mask):
        logits = model.apply(apply_mask(params, mask), {}, X)
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()

    def train(params, mask, rates):
        def step(state, _):
            params, optimizer_state = state
            updates, optimizer_state = transformation.update(jax.grad(loss)(params, mask), optimizer_state)
            moved = jax.tree.map(lambda p, rate, update: p + rate * update, params, rates, updates)
            return (moved, optimizer_state), None

        return jax.lax.scan(step, (params, transformation.init(params)), length=STEPS)[0][0]

    return jax.jit(jax.vmap(train))


def coordinates(name, optimizer, width, density=1.0):
    """Root mean squares, over units and examples, of initial preactivations and of their changes in training."""
    shapes = {"hidden_0": 256 * width, "hidden_1": width**2, "output": CLASSES * width}
    kept = tuple((layer, n if layer == "output" else round(density * n)) for layer, n in shapes.items())
    spec = tiny.spec(
        width=width,
        hidden_layers=2,
        parameterization=name,
        rate_width=BASE if name in ("mup", "smup") else 0,
        optimizer=optimizer,
        learning_rate=RATES[optimizer],
        kept=kept if density < 1 else (),
    )
    model = models.build(spec, IMAGE, CLASSES)
    members = initial_members(Group((spec,), (0, 1)), model, optax.identity())
    start = members.state.params
    mask = {f"{layer}/kernel": np.ones((2, *shape), bool) for layer, shape in model.shapes.items()}
    end = training(width, optimizer)(start, mask | members.mask, members.rates)
    first, last = (preactivations(params) for params in (start, end))
    measured = {f"size of {layer}": first[layer] for layer in ("hidden_0", "hidden_1")}
    measured |= {f"change of {layer}": last[layer] - first[layer] for layer in first}
    return {name: float(np.sqrt(np.square(value).mean())) for name, value in measured.items()}


def preactivations(params):
    x = np.asarray(X, np.float64).reshape(len(X), -1)
    by_layer = {}
    for layer in ("hidden_0", "hidden_1", "output"):
        by_layer[layer] = x @ np.asarray(params[layer]["kernel"], np.float64)
        x = np.maximum(by_layer[layer], 0)
    return by_layer


BY_WIDTH = [(16, 1.0), (128, 1.0), (1024, 1.0)]
BY_DENSITY = [(1024, 1.0), (1024, 1 / 8), (1024, 1 / 64)]


def spreads(name, optimizer, networks):
    """For every coordinate, its largest value over the networks divided by its smallest."""
    measured = [coordinates(name, optimizer, *network) for network in networks]
    return {key: max(m[key] for m in measured) / min(m[key] for m in measured) for key in measured[0]}


@pytest.mark.parametrize("optimizer", RATES)
def test_coordinates_of_smup_depend_on_neither_width_nor_density(optimizer):
    """The bound is not nearer to 1, since the output of the narrowest network does not start near 0."""
    assert max(spreads("smup", optimizer, BY_WIDTH + BY_DENSITY).values()) < 2.2


@pytest.mark.parametrize("optimizer", RATES)
def test_coordinates_of_mup_depend_on_the_density_only(optimizer):
    assert max(spreads("mup", optimizer, BY_WIDTH).values()) < 2.2
    assert all(spread > 5 for key, spread in spreads("mup", optimizer, BY_DENSITY).items() if "change" in key)


@pytest.mark.parametrize("optimizer", RATES)
def test_coordinates_of_standard_depend_on_both(optimizer):
    for networks in (BY_WIDTH, BY_DENSITY):
        by_key = spreads("standard", optimizer, networks)
        assert max(spread for key, spread in by_key.items() if "change" in key) > 5
        assert max(spread for key, spread in by_key.items() if "size" in key) < 1.2
