"""NNGP and NTK of any finite network against its Jacobian, and the trace of the NTK."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from kernels.closed_forms import dense_kernels
from kernels.empirical import gp_kernel, network_kernels
from kernels.trace import traces
from wsn.errors import UserError
from wsn.networks import models
from wsn.sparsity import family
from wsn.sparsity.masks import apply_mask
from wsn.sparsity.shapes import sizes
from wsn.spec import Group, Spec
from wsn.training import optimizers
from wsn.training.state import initial_members

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("neural_tangents") is None, reason="neural-tangents is not installed"
)
IMAGE, CLASSES, READOUT = (3, 2, 1), 4, "output/kernel"
X, Y = np.random.default_rng(0).normal(size=(2, 5, *IMAGE)).astype(np.float32)


def network(hidden_layers=1, parameterization="ntk", bias=False, width=7):
    """(apply, params, mask) as training makes them, with half of the weights of every layer."""
    template = Spec(
        dataset="tiny",
        width=width,
        hidden_layers=hidden_layers,
        parameterization=parameterization,
        bias=bias,
        epochs=1,
        batch_size=1,
        learning_rate=1.0,
    )
    shapes = models.build(template, IMAGE, CLASSES).shapes
    kept = {layer: size // 2 for layer, size in sizes(shapes).items()}
    spec = family.with_kept(template, width, kept, shapes)
    model = models.build(spec, IMAGE, CLASSES)
    members = initial_members(Group((spec,), (3,)), model, optimizers.build(spec, optimizers.Horizon(1, 1)))
    params, mask = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), (members.state.params, members.mask))
    return stateless(model), params, mask


def stateless(model):
    """`apply` of a network without running statistics."""
    return lambda params, x: model.apply(params, {}, x)


def by_jacobian(apply, params, mask, x, y):
    """The same two kernels of every pair, by one Jacobian per input and a sum over its entries."""

    def jacobian(function, about, x):
        return jax.tree.leaves(jax.jacobian(function)(about, x))

    def contract(left, right, outputs):
        return sum(jnp.einsum("pc...,pc...->p", a, b) for a, b in zip(left, right, strict=True)) / outputs

    def of_readout(v, x):
        masked = apply_mask(params, mask)
        return apply(masked | {"output": masked["output"] | {"kernel": v}}, x)

    def masked(params, x):
        return apply(apply_mask(params, mask), x)

    v = params["output"]["kernel"]
    nngp = contract(*(jacobian(of_readout, v, z) for z in (x, y)), CLASSES)
    return nngp, contract(*(jacobian(masked, params, z) for z in (x, y)), CLASSES)


@pytest.mark.parametrize(("parameterization", "scale"), [("ntk", 1), ("standard", 7 * 6)])
def test_one_hidden_layer_has_the_kernel_of_the_fast_path(parameterization, scale):
    apply, params, mask = network(parameterization=parameterization)
    assert mask.keys() == {"hidden_0/kernel", READOUT}
    theta = gp_kernel(params["hidden_0"]["kernel"].T, X.reshape(5, -1), Y.reshape(5, -1))
    nngp = network_kernels(apply, params, mask, X, Y, readout=READOUT).nngp
    np.testing.assert_allclose(nngp, scale * theta, rtol=1e-5)


@pytest.mark.parametrize(
    ("hidden_layers", "parameterization", "bias"),
    [(1, "ntk", True), (2, "standard", False), (3, "ntk", False)],
)
def test_kernels_are_sums_over_the_jacobian(hidden_layers, parameterization, bias):
    arguments = *network(hidden_layers, parameterization, bias), X, Y
    kernels = network_kernels(*arguments, readout=READOUT, block=2)
    for ours, plain in zip(kernels, jax.jit(by_jacobian, static_argnums=0)(*arguments), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5 * np.abs(plain).max())


def test_the_gram_matrix_is_every_pair():
    arguments = network(2)
    pairs = network_kernels(*arguments, X.repeat(3, 0), np.tile(Y[:3], (5, 1, 1, 1)), readout=READOUT)
    for gram, plain in zip(
        network_kernels(*arguments, X, Y[:3], readout=READOUT, gram=True), pairs, strict=True
    ):
        np.testing.assert_allclose(gram, plain.reshape(5, 3), rtol=1e-5, atol=1e-6)


def test_a_mask_on_the_readout_changes_the_ntk_only():
    apply, params, mask = network(2)
    hidden = {path: kept for path, kept in mask.items() if path != READOUT}
    nngp, ntk = network_kernels(apply, params, mask, X, Y, readout=READOUT)
    without = network_kernels(apply, params, hidden, X, Y, readout=READOUT)
    np.testing.assert_array_equal(nngp, without.nngp)
    assert (np.abs(ntk - without.ntk) > 1e-3 * np.abs(ntk)).all()


def test_what_is_stored_at_a_removed_weight_does_not_enter():
    apply, params, mask = network(2)
    dirty = {layer: {"kernel": params[layer]["kernel"] + ~mask[f"{layer}/kernel"]} for layer in params}
    clean = network_kernels(apply, params, mask, X, Y, readout=READOUT)
    for ours, other in zip(clean, network_kernels(apply, dirty, mask, X, Y, readout=READOUT), strict=True):
        np.testing.assert_array_equal(ours, other)


def test_a_wide_dense_network_comes_near_the_infinite_one():
    spec = Spec(
        dataset="tiny",
        width=512,
        hidden_layers=2,
        parameterization="ntk",
        epochs=1,
        batch_size=1,
        learning_rate=1.0,
    )
    model = models.build(spec, IMAGE, CLASSES)
    kernels = network_kernels(stateless(model), model.init(jax.random.key(0))[0], {}, X, Y, readout=READOUT)
    infinite = dense_kernels(X.reshape(5, -1), Y.reshape(5, -1), 2)
    for ours, limit in zip(kernels, infinite, strict=True):
        assert np.abs(ours - limit).max() < 0.15 * np.abs(limit).max()


@pytest.mark.slow
def test_a_resnet_has_the_kernel_of_its_features():
    """Pooled features, the inputs of the linear layer, are the gradient with respect to v; here from the logits."""
    spec = Spec(dataset="tiny", model="resnet18", width=2, epochs=1, batch_size=1, learning_rate=1.0)
    model = models.build(
        spec, (8, 8, 3), 16
    )  # as many classes as features: the identity for v reads them off
    params, stats = model.init(jax.random.key(0))
    x, y = np.random.default_rng(0).normal(size=(2, 3, 8, 8, 3)).astype(np.float32)

    def apply(params, x):
        return model.apply(params, stats, x)

    def features(x):
        return apply(params | {"linear": {"kernel": jnp.eye(16), "bias": jnp.zeros(16)}}, x)

    theirs = jnp.sum(jax.jit(features)(x) * jax.jit(features)(y), axis=1)
    ours = network_kernels(apply, params, {}, x, y, readout="linear/kernel", block=1)
    np.testing.assert_allclose(ours.nngp, theirs, rtol=1e-5)
    assert np.all(ours.ntk > ours.nngp)


@pytest.mark.parametrize(
    ("y", "readout", "mask", "message"),
    [
        (Y[:3], READOUT, {}, "one shape"),
        (Y, "linear/kernel", {}, "linear/kernel.*output/kernel"),
        (Y, READOUT, {"hidden_9/kernel": np.ones(1)}, "hidden_9/kernel"),
    ],
)
def test_bad_input_is_refused(y, readout, mask, message):
    apply, params, _ = network()
    with pytest.raises(UserError, match=message):
        network_kernels(apply, params, mask, X, y, readout=readout)


def test_traces_over_all_outputs_add_up_to_the_tangent_kernel():
    apply, params, mask = network(2, bias=True)
    inputs = jnp.repeat(X[:, None], CLASSES, axis=0)
    outputs = jnp.tile(jnp.arange(CLASSES), len(X))
    by_path = traces(apply, params, mask, inputs, outputs)
    assert by_path.keys() == flatten_dict(params, sep="/").keys()
    kernel = network_kernels(apply, params, mask, X, X, readout="output/kernel").ntk
    assert float(sum(by_path.values())) == pytest.approx(float(kernel.mean()), rel=1e-5)


def test_a_small_step_moves_an_output_by_rate_times_trace():
    apply, params, mask = network()
    x, chosen = jnp.asarray(X[:1]), 2

    def output(params):
        return apply(params, x)[0, chosen]

    by_path = traces(apply, params, mask, x[None], jnp.array([chosen]))
    rate = 1e-3
    gradient = jax.grad(output)(params)
    masked = {path: g * mask.get(path, 1) for path, g in flatten_dict(gradient, sep="/").items()}
    trace = sum(float(x) for x in by_path.values())
    assert trace == pytest.approx(sum(float(np.sum(np.square(g))) for g in masked.values()), rel=1e-5)
    moved = jax.tree.map(lambda p, g: p + rate * g, params, gradient)
    again = {path: p * mask.get(path, 1) for path, p in flatten_dict(moved, sep="/").items()}
    change = float(output(unflatten_dict(again, sep="/")) - output(params))
    assert change == pytest.approx(rate * trace, rel=0.02)
