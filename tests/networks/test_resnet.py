"""ResNet-18: exact weight counts, forward pass and batch statistics against NumPy, equal curves on 1, 2, 4 devices."""

import dataclasses
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from tiny import assert_equal
from trees import DEVICES, batch_over, convolve, flat, nested, random_trees
from trees import fit as fit_source

from wsn import data
from wsn.networks import models
from wsn.networks.convolution import CHANNELS_LAST, PLANES
from wsn.networks.layers import BatchNorm, BatchWeights
from wsn.sparsity import family
from wsn.sparsity.shapes import weights as weights_of
from wsn.spec import Group, Spec
from wsn.training import optimizers
from wsn.training.state import initial_members

IMAGE, CLASSES = (8, 8, 3), 5


def spec(**changes) -> Spec:
    settings = dict(dataset="tiny", model="resnet18", width=2, epochs=2, batch_size=8, learning_rate=0.05)
    return Spec(**(settings | changes))


# Counts: from Appendix D and Table 1; their last digits by hand from the shapes.


@pytest.mark.parametrize(
    ("width", "image", "classes", "weights"),
    [
        (8, (32, 32, 3), 10, 175_192),
        (12, (32, 32, 3), 10, 393_540),
        (18, (32, 32, 3), 10, 884_502),
        (40, (32, 32, 3), 10, 4_362_680),
        (64, (32, 32, 3), 10, 11_164_352),
        (8, (32, 32, 3), 100, 180_952),
        (12, (32, 32, 3), 100, 402_180),
        (18, (32, 32, 3), 100, 897_462),
        (40, (32, 32, 3), 100, 4_391_480),
        (64, (32, 32, 3), 100, 11_210_432),
        (64, (224, 224, 3), 1000, 11_678_912),
    ],
)
def test_parameters_are_those_of_the_paper(width, image, classes, weights):
    """The kernels of the initialised network, not only the shapes that the budget counts."""
    model = models.build(spec(width=width), image, classes)
    params, stats = jax.eval_shape(model.init, jax.random.key(0))
    kernels = {path: x.shape for path, x in flat(params).items() if path.endswith("/kernel")}
    assert kernels == {models.kernel_path(layer): shape for layer, shape in model.shapes.items()}
    assert sum(math.prod(shape) for shape in kernels.values()) == weights_of(model.shapes) == weights
    others = [path for path in flat(params) if path not in kernels]
    assert len(others) == 2 * 20 + 1 and "linear/bias" in others
    assert len(flat(stats)) == 2 * 20
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves((params, stats)))


@pytest.mark.parametrize("classes", [10, 100])
def test_weights_of_every_width_by_hand(classes):
    """The stem, four stages of 3 × 3 convolutions with three 1 × 1 shortcuts, and the linear layer."""
    stages = 4 * 9 + sum(9 * d * d // 2 + 3 * 9 * d * d + d * d // 2 for d in (2, 4, 8))
    for width in range(8, 92):
        shapes = models.build(spec(width=width), (32, 32, 3), classes).shapes
        assert weights_of(shapes) == 27 * width + stages * width**2 + 8 * width * classes


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("mask", ["elementwise", "io"])
@pytest.mark.parametrize("width", [12, 18, 27, 40, 60, 91])
def test_sparse_networks_of_every_width_keep_the_budget_of_width_8(width, mask, classes):
    image = (32, 32, 3)

    def shapes(w):
        return models.build(spec(width=w), image, classes).shapes

    (member,) = family.sparse(spec(mask=mask), 8, [width], shapes, "largest_first")
    lost = weights_of(shapes(8)) - family.kept_weights(member, shapes(width))
    assert lost == 0 if mask == "elementwise" else 0 <= lost < 9
    assert not any("bn" in layer for layer, _ in member.kept)


def test_masks_of_a_convolution_are_exact_and_batch_norm_has_none():
    kept = {"layer4.0.conv1": 300, "layer4.1.conv2": 99}
    shapes = models.build(spec(), IMAGE, CLASSES).shapes
    full = {layer: math.prod(shape) for layer, shape in shapes.items()} | kept
    one = spec(kept=tuple(full.items()))
    transformation = optimizers.build(one, optimizers.Horizon(1, 2))
    members = initial_members(Group((one,), (0,)), models.build(one, IMAGE, CLASSES), transformation)
    assert {path: int(array.sum()) for path, array in members.mask.items()} == {
        f"{layer}/kernel": count for layer, count in kept.items()
    }
    params = flat(members.state.params)
    for layer, count in kept.items():
        kernel = params[f"{layer}/kernel"]
        assert np.count_nonzero(kernel) == count
        # Uniform up to one over the root of the effective fan-in.
        bound = (math.prod(shapes[layer][:-1]) * count / kernel.size) ** -0.5
        assert 0.9 * bound < np.abs(kernel).max() <= bound * (1 + 1e-6)
    for path, x in params.items():
        if "bn" in path or "shortcut.1" in path:
            np.testing.assert_array_equal(x, np.full_like(x, path.endswith("scale")))


# The forward pass in NumPy, float64.


def forward(params, stats, x, weight=None):
    """(logits, batch statistics by path): statistics of the batch where `weight` is given, else the running ones."""
    seen = {}

    def conv(name, x, stride=1):
        return convolve(x, params[f"{name}/kernel"], stride)

    def norm(name, x):
        mean, variance = stats[f"{name}/mean"], stats[f"{name}/variance"]
        if weight is not None:
            real = x[weight == 1]
            mean, variance = real.mean((0, 1, 2)), real.var((0, 1, 2))
            count = real.size // real.shape[-1]
            seen[f"{name}/mean"], seen[f"{name}/variance"] = mean, variance * count / (count - 1)
        scaled = (x - mean) / np.sqrt(variance + 1e-5)
        return scaled * params[f"{name}/scale"] + params[f"{name}/bias"]

    relu = lambda x: np.maximum(x, 0)  # noqa: E731
    large = x.shape[1] >= 96
    x = relu(norm("bn1", conv("conv1", x, 2 if large else 1)))
    if large:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
        x = sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::2, ::2].max((-2, -1))
    for stage in range(1, 5):
        for block in range(2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = relu(norm(f"{name}.bn1", conv(f"{name}.conv1", x, stride)))
            y = norm(f"{name}.bn2", conv(f"{name}.conv2", y))
            if f"{name}.shortcut.0/kernel" in params:
                x = norm(f"{name}.shortcut.1", conv(f"{name}.shortcut.0", x, stride))
            x = relu(x + y)
    return x.mean((1, 2)) @ params["linear/kernel"] + params["linear/bias"], seen


def random_network(image):
    """(model, parameters and statistics by path in float64), with random normalization."""
    model = models.build(spec(), image, CLASSES)
    scale = lambda path, shape: math.prod(shape[:-1]) ** -0.5 if path.endswith("kernel") else 0.3  # noqa: E731
    return model, *random_trees(model, scale)


@pytest.mark.parametrize("image", [IMAGE, (96, 97, 3)])
def test_evaluation_equals_numpy(image):
    model, params, stats = random_network(image)
    x = np.random.default_rng(1).normal(size=(3, *image))
    logits = jax.jit(model.apply)(nested(params), nested(stats), jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(logits, forward(params, stats, x)[0], rtol=1e-4, atol=1e-4)


def test_training_equals_numpy_and_padding_counts_for_nothing():
    model, params, stats = random_network(IMAGE)
    x = np.random.default_rng(1).normal(size=(8, *IMAGE))
    weight = np.float32([1, 1, 1, 1, 1, 0, 0, 0])
    logits, updated = jax.jit(lambda p, s, x, w: model.apply_training(p, s, x, BatchWeights(w)))(
        nested(params), nested(stats), jnp.asarray(x, jnp.float32), weight
    )
    expected, seen = forward(params, stats, x, weight)
    np.testing.assert_allclose(logits[:5], expected[:5], rtol=1e-3, atol=1e-3)
    for path, running in flat(updated).items():
        np.testing.assert_allclose(running, 0.9 * stats[path] + 0.1 * seen[path], rtol=1e-3, atol=1e-4)


# Batch statistics.


def normalize(x, weight, devices=1, layout=CHANNELS_LAST):
    """(output, running statistics) of batch normalization with the examples over several devices."""
    module = BatchNorm(layout)
    x, weight = jnp.asarray(x), jnp.asarray(weight)
    variables = module.init(jax.random.key(0), layout.convert(x, CHANNELS_LAST), None)

    def call(x, weight):
        batch_weights = BatchWeights(weight, "batch" if devices > 1 else None)
        y, updated = module.apply(
            variables, CHANNELS_LAST.convert(x, layout), batch_weights, mutable=["batch_stats"]
        )
        return layout.convert(y, CHANNELS_LAST), updated

    if devices == 1:
        y, updated = call(x, weight)
    else:
        cut = lambda a: a.reshape(devices, -1, *a.shape[1:])  # noqa: E731
        y, updated = jax.pmap(call, axis_name="batch", devices=DEVICES[:devices])(cut(x), cut(weight))
        updated = jax.tree.map(lambda a: a[0], updated)
    return np.asarray(y).reshape(x.shape), flat(updated)


@pytest.mark.parametrize(
    ("devices", "layout"), [(2, CHANNELS_LAST), (4, CHANNELS_LAST), (1, PLANES), (4, PLANES)]
)
def test_batch_statistics_depend_on_neither_devices_nor_layout(devices, layout):
    x = np.random.default_rng(0).normal(2, 3, size=(8, 2, 3, 4)).astype(np.float32)
    weight = np.float32([1, 1, 1, 1, 1, 0, 0, 0])  # some devices hold only padding
    expected, running = normalize(x, weight)
    y, updated = normalize(x, weight, devices, layout)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert running.keys() == {"batch_stats/mean", "batch_stats/variance"}
    assert_equal(updated, running, rtol=1e-5)


# Whole runs.


@cache
def splits() -> data.Splits:
    random = np.random.default_rng(0)

    def examples(count):
        images = random.integers(0, 256, (count, *IMAGE), dtype=np.uint8)
        return images, random.integers(0, CLASSES, count).astype(np.int32)

    statistics = np.full((1, 1, 3), 120, np.float32), np.full((1, 1, 3), 70, np.float32)
    return data.Splits(*examples(21), *examples(5), *examples(11), *statistics, CLASSES)


RUN = spec(
    augmentation="crop_flip",
    momentum=0.9,
    weight_decay=5e-4,
    schedule="steps",
    decay_epochs=(1,),
    learning_rate=5e-3,  # small, so that what differs in the last digit stays small
)


GROUP = Group((RUN,), (0, 1))


def fit(devices: int = 1, resume=None, until: int = 2, group: Group = GROUP):
    """(curves, snapshot) of a run whose last batch leaves some of four devices with padding only."""
    return fit_source(group, splits(), batch_over(devices), resume, rows=until)


@cache
def on_one_device():
    return fit()


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_a_run_is_the_same_on_any_number_of_devices(devices):
    """Up to the order of float32 sums: after one epoch to four digits, momentum included.

    In the second epoch, normalization over as few as five values amplifies the difference (a unit crosses zero).
    """
    (curves, snapshot), (expected, expected_snapshot) = fit(devices, until=1), fit(until=1)
    assert_equal(curves, expected, rtol=1e-4)
    for name, leaf in expected_snapshot.state.items():
        scale = np.abs(leaf).max()
        np.testing.assert_allclose(snapshot.state[name], leaf, atol=1e-3 * scale, err_msg=name)
    assert_equal(fit(devices)[0], on_one_device()[0], rtol=1e-2)


def test_a_resumed_run_repeats_the_uninterrupted_one_bit_for_bit():
    curves, final = on_one_device()
    again, resumed = fit(resume=fit(until=1)[1])
    assert_equal(again, curves)
    assert_equal(resumed.state, final.state)
    assert any(name.startswith(".stats") for name in final.state)


def test_the_times_of_evaluations_change_no_bit_of_a_run():
    """Step by step, across the end of an epoch of 3 steps; also resumed in the middle of one."""
    group = Group((dataclasses.replace(RUN, eval_every=4),), GROUP.seeds)
    _, middle = fit(until=1, group=group)
    assert middle.history.step.tolist() == [4]
    curves, final = on_one_device()
    for snapshot in (fit(group=group)[1], fit(group=group, resume=middle)[1]):
        assert snapshot.history.step.tolist() == [4, 6]
        np.testing.assert_array_equal(snapshot.history.curves["test_loss"][-1], curves["test_loss"][-1])
        assert_equal(snapshot.state, final.state)
