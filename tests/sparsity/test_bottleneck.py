"""Bottlenecks: exact counts, inner dimensions that keep the budget, the forward pass, training."""

import dataclasses
import itertools
import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn.errors import UserError
from wsn.networks import models
from wsn.records import plan
from wsn.sparsity import bottleneck, family
from wsn.sparsity.shapes import mlp_shapes, resnet18_shapes
from wsn.spec import Group, changed_fields, from_fields


def nonlinear(template, base_width, widths, shapes):
    """The layers that the model says are narrowed."""
    return family.nonlinear_bottleneck(
        template, base_width, widths, shapes, lambda layers: models.bottleneck_layers(template, layers)
    )


WAYS = {"linear": family.linear_bottleneck, "nonlinear": nonlinear}
# (model, image, classes, base width, wider widths that hold the budget by both ways)
NETWORKS = [
    ("mlp", (4, 4, 1), 5, 12, (14, 18, 22)),
    ("resnet18", (8, 8, 3), 10, 8, (12, 18, 27, 40)),
    ("resnet18", (8, 8, 3), 100, 8, (12, 18, 27, 40)),
]


def template(model, width):
    return tiny.spec(model=model, width=width, hidden_layers=4)


def plain(model, image, classes):
    return lambda width: models.plain_shapes(template(model, width), image, classes)


def kernels(spec, image, classes) -> dict[str, tuple[int, ...]]:
    """The shapes of the kernels that the network really has."""
    params, _ = jax.eval_shape(models.build(spec, image, classes).init, jax.random.key(0))
    leaves = flatten_dict(params, sep="/").items()
    return {path.removesuffix("/kernel"): leaf.shape for path, leaf in leaves if path.endswith("/kernel")}


# The integers.


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("model", "image", "classes", "base", "widths"), NETWORKS)
def test_weights_are_counted_as_the_network_has_them(model, image, classes, base, widths, way):
    shapes = plain(model, image, classes)
    for spec in WAYS[way](template(model, base), base, (base, *widths), shapes):
        shapes_of = kernels(spec, image, classes)
        dense = shapes(spec.width)
        assert shapes_of == models.build(spec, image, classes).shapes
        count = sum(math.prod(shape) for shape in shapes_of.values())
        assert family.kept_weights(spec, dense) == family.kept_weights(spec, shapes_of) == count
        assert family.connectivity(spec, dense) == count / family.weights(dense)
        budget = family.weights(bottleneck.split(shapes(base)) if way == "linear" else shapes(base))
        assert abs(count - budget) <= 0.01 * budget
        if way == "nonlinear" and spec.width == base:
            assert [spec] == family.dense(template(model, base), [base])
        if way == "linear":  # the outer dimensions are those of the wide network
            outer = {
                layer: shapes_of[f"{layer}.in"][:-1] + shapes_of[f"{layer}.out"][-1:]
                for layer, _ in spec.inner
            }
            assert outer == dense and len(shapes_of) == 2 * len(dense)


def test_linear_bottlenecks_of_the_base_width_are_as_wide_as_they_can_be():
    """Counted by hand: 3 × 3 then 1 × 1 in every convolution; 183,501 weights with 10 classes."""
    shapes = plain("resnet18", (32, 32, 3), 10)
    [spec] = family.linear_bottleneck(template("resnet18", 8), 8, [8], shapes)
    assert dict(spec.inner) == {layer: min(shape[-2:]) for layer, shape in shapes(8).items()}
    stem = 27 * 3 + 3 * 8
    stages = sum((9 * d * d + d * d) * (4 if d == 8 else 3) for d in (8, 16, 32, 64))
    downs = sum((9 * d * d + d * 2 * d) + (d * d + d * 2 * d) for d in (8, 16, 32))
    assert family.kept_weights(spec, shapes(8)) == stem + stages + downs + 64 * 10 + 10 * 10 == 183_501


def test_nonlinear_bottlenecks_narrow_every_other_layer():
    [spec] = nonlinear(template("resnet18", 8), 8, [12], plain("resnet18", (32, 32, 3), 10))
    inner = dict(spec.inner)
    assert list(inner) == [f"layer{stage}.{block}.conv1" for stage in range(1, 5) for block in range(2)]
    shapes_of = kernels(spec, (32, 32, 3), 10)
    assert shapes_of["layer2.0.conv1"] == (3, 3, 12, inner["layer2.0.conv1"])
    assert shapes_of["layer2.0.conv2"] == (3, 3, inner["layer2.0.conv1"], 24)
    assert shapes_of["layer2.0.shortcut.0"] == (1, 1, 12, 24)

    [spec] = nonlinear(template("mlp", 12), 12, [18], plain("mlp", (4, 4, 1), 5))
    one, two = dict(spec.inner).values()
    assert kernels(spec, (4, 4, 1), 5) == {
        "hidden_0": (16, 18),
        "hidden_1": (18, one),
        "hidden_2": (one, 18),
        "hidden_3": (18, two),
        "output": (two, 5),
    }


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("base", [8, 12, 18])
def test_the_families_of_figure_3_keep_their_budget_and_narrow_in_proportion(base, classes):
    shapes = plain("resnet18", (32, 32, 3), classes)
    widths = [width for width in (8, 12, 18, 27, 40, 60, 91) if width >= base]
    for way, largest in (("linear", 91), ("nonlinear", 5 * base)):
        specs = WAYS[way](template("resnet18", base), base, [w for w in widths if w <= largest], shapes)
        budget = family.weights(bottleneck.split(shapes(base)) if way == "linear" else shapes(base))
        counts = [family.kept_weights(spec, shapes(spec.width)) for spec in specs]
        assert max(abs(count - budget) for count in counts) <= 0.002 * budget
        dimensions = [sum(dict(spec.inner).values()) for spec in specs if spec.inner]
        assert dimensions == sorted(dimensions, reverse=True) and len(set(dimensions)) == len(dimensions)
        for narrow, wide in itertools.pairwise(spec for spec in specs if spec.inner):
            assert all(wide_d <= dict(narrow.inner)[layer] + 1 for layer, wide_d in wide.inner)
        if way == "linear":
            # Dimensions that do not grow limit, and stay; the others shrink about as 1 / widening factor.
            width = next(width for width in widths if width >= 1.4 * base)
            inner = dict(next(spec for spec in specs if spec.width == width).inner)
            assert inner["conv1"] == 3 and (classes == 100 or inner["linear"] == 10)
            assert all(abs(inner[f"layer4.1.conv{i}"] / (8 * base) - base / width) < 0.04 for i in (1, 2))


@st.composite
def families_of_mlps(draw):
    """(way, base width, wide width, arguments of `mlp`); some of them cannot hold the budget."""
    base = draw(st.integers(1, 30))
    layers = draw(st.integers(1, 40)), draw(st.integers(2, 5)), draw(st.integers(1, 12))
    return draw(st.sampled_from(list(WAYS))), base, draw(st.integers(base, 4 * base)), layers


def mlp(width, inputs, depth, classes):
    return mlp_shapes(inputs, [width] * depth, classes)


@settings(deadline=None, max_examples=150)
@given(families_of_mlps())
def test_no_change_of_one_bottleneck_within_reach_comes_closer(case):
    way, narrow, width, layers = case
    base, wide = mlp(narrow, *layers), mlp(width, *layers)
    try:
        with mock.patch.object(bottleneck, "closest", wraps=bottleneck.closest) as search:
            if way == "linear":
                inner = bottleneck.linear(base, wide)
            else:
                inner = bottleneck.nonlinear(base, wide, tuple(base)[1:-1:2])
        start = search.call_args.args[1]
    except UserError:
        ones = dict.fromkeys(wide if way == "linear" else tuple(wide)[1:-1:2], 1)
        budget = family.weights(bottleneck.split(base) if way == "linear" else base)
        assert family.weights(bottleneck.transformed(wide, way, ones)) > budget
        return
    budget = family.weights(bottleneck.split(base) if way == "linear" else base)
    limits = {layer: min(wide[layer][-2:]) if way == "linear" else wide[layer][-1] for layer in inner}

    def distance(inner):
        return abs(family.weights(bottleneck.transformed(wide, way, inner)) - budget)

    def allowed(layer, d):
        return 1 <= d <= limits[layer] and abs(d - start[layer]) <= max(1, start[layer] // 4)

    assert all(allowed(layer, d) for layer, d in inner.items())
    for layer, d in inner.items():
        if d < limits[layer]:  # those at their limit stay there
            changed = [inner | {layer: other} for other in (d - 1, d + 1) if allowed(layer, other)]
            assert all(distance(other) >= distance(inner) for other in changed)
    if base == wide:
        assert distance(inner) == 0


@settings(deadline=None, max_examples=50)
@given(families_of_mlps(), st.data())
def test_transforming_twice_is_the_same_as_once(case, data):
    way, _, width, layers = case
    shapes = mlp(width, *layers)
    narrowed = tuple(shapes) if way == "linear" else tuple(shapes)[1:-1:2]
    inner = {layer: data.draw(st.integers(1, 50)) for layer in narrowed}
    once = bottleneck.transformed(shapes, way, inner)
    assert once != shapes or way == "nonlinear"
    assert bottleneck.transformed(once, way, inner) == once
    assert bottleneck.transformed(shapes, "none", inner) == shapes


# The network.


def multiplied(params, shapes):
    """Parameters of the network in which the two kernels of every bottleneck are one: their product."""
    leaves = flatten_dict(params, sep="/")
    products = {path: leaf for path, leaf in leaves.items() if ".in/" not in path and ".out/" not in path}
    for layer in shapes:
        first, second = leaves[f"{layer}.in/kernel"], leaves[f"{layer}.out/kernel"]
        products[f"{layer}/kernel"] = first @ second.reshape(second.shape[-2:])
        if f"{layer}.out/bias" in leaves:
            products[f"{layer}/bias"] = leaves[f"{layer}.out/bias"]
    return unflatten_dict(products, sep="/")


@pytest.mark.parametrize(
    ("model", "image", "width"),
    [("mlp", tiny.IMAGE, 7), pytest.param("resnet18", (8, 8, 3), 3, marks=pytest.mark.slow)],
)
def test_a_linear_bottleneck_is_the_network_of_the_products(model, image, width):
    base = tiny.spec(model=model, width=2, hidden_layers=2, bias=model == "mlp")
    shapes = plain(model, image, 4) if model == "resnet18" else lambda w: mlp_shapes(9, [w, w], 4)
    [spec] = family.linear_bottleneck(base, 2, [width], shapes)
    split = models.build(spec, image, 4)
    whole = models.build(dataclasses.replace(base, width=width), image, 4)
    params, stats = jax.jit(split.init)(jax.random.key(3))
    x = jax.random.normal(jax.random.key(1), (5, *image))
    logits = jax.jit(split.apply)(params, stats, x)
    expected = jax.jit(whole.apply)(multiplied(params, shapes(width)), stats, x)
    assert jnp.std(expected) > 0
    np.testing.assert_allclose(logits, expected, atol=2e-5 * float(jnp.abs(expected).max()) + 1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_bottlenecks_train(way):
    base = tiny.spec(width=12, hidden_layers=2, epochs=60, learning_rate=0.05, momentum=0.9, bias=True)
    [spec] = WAYS[way](base, 12, [14], lambda width: mlp_shapes(9, [width] * 2, 4))
    assert spec.bottleneck == way and from_fields(changed_fields(spec)) == spec
    history, snapshot = tiny.fit(Group((spec,), (0,)))
    assert (history["train_loss"][-1] < 0.5 * history["train_loss"][0]).all()
    trained = {path: leaf.shape[1:] for path, leaf in tiny.params(snapshot).items()}
    assert {path.removesuffix("/kernel"): s for path, s in trained.items() if path.endswith("/kernel")} == (
        kernels(spec, tiny.IMAGE, 4)
    )
    [weights] = plan.cost(Group((spec,), (0,)), tiny.SPLITS).weights
    assert weights == sum(math.prod(s) for path, s in trained.items() if path.endswith("/kernel"))


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_bottlenecks_of_a_resnet_train(way):
    base = tiny.spec(model="resnet18", width=2, epochs=10, learning_rate=0.05, momentum=0.9)
    [spec] = WAYS[way](base, 2, [3], lambda width: resnet18_shapes(width, 4, channels=1))
    history, _ = tiny.fit(Group((spec,), (0,)))
    assert (history["train_loss"][-1] < 0.8 * history["train_loss"][0]).all()


# Bad input.


@pytest.mark.parametrize("way", WAYS)
def test_widths_that_cannot_hold_the_budget_are_refused(way):
    shapes = plain("mlp", (4, 4, 1), 5)
    with pytest.raises(UserError, match="^`widths`: [^\n]* take a smaller width$"):
        WAYS[way](template("mlp", 12), 12, [1000], shapes)
    with pytest.raises(UserError, match="^`widths`: 8 is below the base width 12"):
        WAYS[way](template("mlp", 12), 12, [8], shapes)


def test_too_few_layers_are_refused():
    base = tiny.spec(hidden_layers=1)
    with pytest.raises(UserError, match="^`hidden_layers=1` is too small [^\n]*give at least 2$"):
        nonlinear(base, 5, [5, 6], lambda width: mlp_shapes(9, [width], 4))
