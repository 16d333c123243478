"""Sparse execution equals masked training up to rounding, and a run resumes in either."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax.traverse_util import flatten_dict

from wsn import devices
from wsn.data import feeds
from wsn.errors import UserError
from wsn.native import library
from wsn.networks import models
from wsn.networks.layers import Model
from wsn.sparsity import storage
from wsn.sparsity.budget import kept_counts
from wsn.sparsity.masks import apply_mask
from wsn.sparsity.shapes import mlp_shapes, resnet18_shapes
from wsn.spec import Group, Spec
from wsn.training import strategy, train
from wsn.training.state import initial_members

DEVICES = tuple(jax.local_devices())
PLACEMENTS = {kind: devices.Placement(kind, DEVICES[:2]) for kind in ("members", "batch")} | {
    "single": tiny.SINGLE
}
COUNTS = (tiny.kept(20, 15), tiny.kept(9, 20), tiny.kept(1, 1))  # of members of one program
KEPT = Group(tuple(tiny.spec(kept=kept, epochs=34) for kept in COUNTS), (0, 1))  # 102 steps
TOLERANCE = 1e-4


def dense_params(group, snapshot, sparse):
    """Parameters by path, those of sparse layers as dense kernels."""
    ready = train.prepare(group, tiny.SPLITS, tiny.SINGLE, "sparse" if sparse else "masked")
    params = tiny.params(snapshot)
    for path, mask in ready.members.mask.items():
        if isinstance(mask, storage.SparseIndex):
            shape = (len(params[path]), *mask.shape)
            kernels = [
                storage.dense_kernel(params[path][i], storage.positions(mask, i), mask.shape)
                for i in range(shape[0])
            ]
            params[path] = np.stack(kernels)
    return params


@pytest.fixture(scope="module")
def masked():
    return tiny.fit(KEPT)


def close(group, trained, expected, sparse=True, tolerance=TOLERANCE):
    for name, curve in expected[0].items():
        np.testing.assert_allclose(trained[0][name], curve, rtol=tolerance, atol=tolerance)
    ours, theirs = dense_params(group, trained[1], sparse), dense_params(group, expected[1], False)
    for path, kernel in theirs.items():
        np.testing.assert_allclose(
            ours[path], kernel, rtol=0, atol=tolerance * max(np.abs(kernel).max(), 0.1)
        )


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_hundred_sparse_steps_equal_masked_ones(placement, masked):
    trained = tiny.fit(KEPT, PLACEMENTS[placement], execution="sparse")
    assert tiny.params(trained[1])["hidden_0/kernel"].shape == (6, 20)
    close(KEPT, trained, masked)


OPTIMIZERS = {
    "sgd with momentum, decay and clipping": dict(
        momentum=0.9, weight_decay=0.01, clip=0.5, learning_rate=0.1
    ),
    "adam": dict(optimizer="adam", learning_rate=0.01),
    "adamw": dict(optimizer="adamw", learning_rate=0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_optimizer_trains_sparse_as_masked(settings):
    group = Group(tuple(dataclasses.replace(spec, **settings) for spec in KEPT.specs), (0,))
    close(group, tiny.fit(group, execution="sparse"), tiny.fit(group))


NETWORKS = {
    "normal weights": (dict(width=40, parameterization="ntk"), (8, 8, 3)),
    "biases, two layers": (dict(width=20, bias=True, hidden_layers=2), (8, 8, 3)),
    "resnet": (dict(model="resnet18", width=2), (8, 8, 3)),
    "lstm": (dict(model="lstm", task="characters", width=6), ()),
}


@pytest.mark.parametrize(("changes", "image"), NETWORKS.values(), ids=NETWORKS)
def test_initial_weights_equal_those_of_masked_networks_bit_for_bit(changes, image):
    """Though only kept weights are drawn; of two members with different counts one keeps everything."""
    spec = tiny.spec(**changes)
    model = models.build(spec, image, 5)
    counts = [{layer: max(1, math.prod(s) // n) for layer, s in model.shapes.items()} for n in (3, 1)]
    group = Group(tuple(dataclasses.replace(spec, kept=tuple(kept.items())) for kept in counts), (0, 1))
    sparse = strategy.sparse_layers(group, model, "sparse")
    masked, stored = (initial_members(group, model, optax.identity(), (), layers) for layers in ((), sparse))
    ours, theirs = (flatten_dict(members.state.params, sep="/") for members in (stored, masked))
    for path, kernel in theirs.items():
        mask = stored.mask.get(path)
        if isinstance(mask, storage.SparseIndex):
            places = [storage.positions(mask, i) for i in range(len(kernel))]
            pairs = zip(ours[path], places, strict=True)
            ours[path] = np.stack([storage.dense_kernel(values, kept, mask.shape) for values, kept in pairs])
        np.testing.assert_array_equal(ours[path], kernel)


@pytest.mark.parametrize(("before", "after"), [("masked", "sparse"), ("sparse", "masked")])
def test_a_run_resumes_in_the_other_storage(before, after, masked):
    _, snapshot = tiny.fit(KEPT, until=17, execution=before)
    trained = tiny.fit(KEPT, resume=snapshot, execution=after)
    close(KEPT, trained, masked, after == "sparse")


def test_an_unknown_execution_is_refused():
    with pytest.raises(UserError, match="`execution=fast` is unknown"):
        next(train.train(KEPT, tiny.SPLITS, execution="fast"))


AUTO = {
    "wide": (dict(width=200, kept=tiny.kept(100, 100)), ("hidden_0", "output")),
    "the last layer stays dense": (dict(width=200, kept=tiny.kept(100, 800)), ("hidden_0", "output")),
    "narrow": (dict(kept=tiny.kept(20, 15)), ()),
    "dense": (dict(), ()),
    "bfloat16": (dict(width=200, kept=tiny.kept(100, 100), compute_dtype="bfloat16"), ()),
}


@pytest.mark.parametrize(("changes", "layers"), AUTO.values(), ids=AUTO)
def test_auto_runs_sparse_what_is_faster(changes, layers, monkeypatch):
    group = Group((tiny.spec(**changes),), (0,))
    model = models.build(group.specs[0], tiny.IMAGE, tiny.CLASSES)
    monkeypatch.setattr(library, "available", lambda: True)
    assert strategy.sparse_layers(group, model, "auto") == layers
    monkeypatch.setattr(library, "available", lambda: False)
    assert strategy.sparse_layers(group, model, "auto") == ()
    monkeypatch.setattr(library, "available", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert strategy.sparse_layers(group, model, "auto") == ()


def auto_layers(layers, kept, monkeypatch):
    """The layers that `auto` runs sparse in a network with those counts."""
    monkeypatch.setattr(library, "available", lambda: True)
    spec = tiny.spec(model="resnet18" if "linear" in layers else "mlp", width=1, kept=tuple(kept.items()))
    return strategy.sparse_layers(Group((spec,), (0,)), Model(layers, {}, None, None, None), "auto")


def test_auto_is_right_for_measured_networks(monkeypatch):
    """Figure 8: masked up to width 24 (33 %: sparse is faster in large batches only); ResNet-18: always sparse."""
    both = ("hidden_0", "output")
    for width, layers in {16: (), 24: (), 32: both, 216: both, 512: both}.items():
        shapes = mlp_shapes(784, [width], 10)
        assert auto_layers(shapes, kept_counts("dense_last", shapes, 8 * 794), monkeypatch) == layers
    for width in (8, 18, 40, 91):
        shapes = resnet18_shapes(width, 100)
        assert auto_layers(shapes, kept_counts("largest_first", shapes, 180_952), monkeypatch)[0] == "conv1"


def test_wide_networks_run_one_after_another_and_are_evaluated_in_small_batches():
    assert [feeds.evaluation_batch_size(width) for width in (5, 10**6, 2**24)] == [1000, 33, 2]
    shapes = mlp_shapes(9, [strategy.WIDEST_TOGETHER + 1], 4)
    model = Model(shapes, {}, None, None, None)
    assert strategy.trains_together(model, strategy.WIDEST_TOGETHER, 100)
    assert not strategy.trains_together(model, strategy.WIDEST_TOGETHER + 1, 100)


def test_networks_that_step_through_time_run_one_after_another_on_a_cpu():
    for name, front_end in (("lstm", "conv"), ("deepspeech", "stack"), ("mlp", "conv")):
        spec = tiny.spec(model=name, front_end=front_end)
        model = models.build(spec, tiny.input_shape(name), 5)
        assert strategy.trains_together(model, 5, 100) == (name == "mlp")


def test_all_convolutions_run_sparse_or_none():
    """Beyond a number of weights none, since their index would take too long to make."""
    shapes = {"conv1": (3, 3, 3, 40), "conv2": (3, 3, 40, 40), "linear": (40, 100)}
    model = Model(shapes, {}, None, None, None)
    for connectivity in (0.1, 1.0):
        sparse_layers = strategy.faster_sparse(model, {"conv1": 1.0, "conv2": connectivity, "linear": 1.0})
        assert sparse_layers == ("conv1", "conv2")
    wide = Model(
        {"conv1": (3, 3, 3, 999), "conv2": (3, 3, 999, 999), "output": (999, 10)}, {}, None, None, None
    )
    assert strategy.faster_sparse(wide, dict.fromkeys(wide.shapes, 1.0)) == ()
    assert strategy.faster_sparse(wide, {"conv1": 1.0, "conv2": 0.1, "output": 1.0}) == tuple(wide.shapes)


# A small rate: at 0.1 the loss grows to 100, and rounding with it.
RESNET = tiny.spec(model="resnet18", width=2, learning_rate=0.005, momentum=0.9, batch_size=8, epochs=1)


@pytest.mark.parametrize("placement", [None, pytest.param("batch", marks=pytest.mark.slow)])
def test_a_resnet_runs_sparse(placement):
    """In planes, batch statistics included, also over four devices: the parameters after an epoch."""
    shapes = models.build(RESNET, tiny.IMAGE, tiny.CLASSES).shapes
    kept = tuple((layer, math.ceil(0.6 * math.prod(shape))) for layer, shape in shapes.items())
    group = Group((dataclasses.replace(RESNET, kept=kept),), (0,))
    place = devices.Placement("batch", DEVICES[:4]) if placement else tiny.SINGLE
    tolerance = (
        1e-3 if placement else TOLERANCE
    )  # batch statistics are sums over other parts, as in `test_resnet`
    close(group, tiny.fit(group, place, execution="sparse"), tiny.fit(group), tolerance=tolerance)


OF_TOKENS = dict(dataset="tiny", epochs=1, batch_size=4, learning_rate=0.1, width=6, task="characters")


@pytest.mark.parametrize("model", models.TOKEN_MODELS)
def test_networks_that_read_tokens_run_sparse(model):
    """Loss and gradient of the values, against masked."""
    spec = Spec(model=model, **OF_TOKENS)
    network = models.build(spec, (), 5)
    counts = {layer: max(1, math.prod(shape) // 3) for layer, shape in network.shapes.items()}
    group = Group((dataclasses.replace(spec, kept=tuple(counts.items())),), (0,))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 5, (3, 4)))

    def loss_and_gradient(execution):
        sparse = strategy.sparse_layers(group, network, execution)
        members = initial_members(group, network, optax.identity(), (), sparse)
        member = jax.tree.map(lambda x: jnp.asarray(x[0]), members)

        @jax.jit
        def run(params, mask):
            def loss(params):
                masked = apply_mask(params, mask)
                return jnp.sum(network.tokens.apply(masked, network.tokens.carry(4), tokens)[0] ** 2)

            return jax.value_and_grad(loss)(params)

        value, gradient = run(member.state.params, member.mask)
        return value, optax.tree.norm(gradient), len(sparse)

    (loss, norm, layers), (masked_loss, masked_norm, _) = map(loss_and_gradient, ("sparse", "masked"))
    assert layers == len(network.shapes) - 1  # all but the embedding
    np.testing.assert_allclose([loss, norm], [masked_loss, masked_norm], rtol=1e-5)
