"""Networks: exact weight counts, the forward pass against NumPy, the scale of the initial draw."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from trees import flat

from wsn.data.speech.utterances import Frames
from wsn.errors import UserError
from wsn.networks import models
from wsn.networks.layers import Model
from wsn.networks.models import MODELS, SPEECH_MODELS, TOKEN_MODELS
from wsn.networks.parameterization import PARAMETERIZATIONS, parameterization
from wsn.sparsity import family
from wsn.sparsity.patterns import PATTERNS
from wsn.sparsity.shapes import mlp_shapes, weights
from wsn.spec import Group
from wsn.training import optimizers
from wsn.training.state import Members, initial_members

X = jax.random.normal(jax.random.key(1), (7, *tiny.IMAGE))


def build(input_shape=tiny.IMAGE, classes=tiny.CLASSES, **changes) -> Model:
    return models.build(tiny.spec(**changes), input_shape, classes)


def initial(*seeds, input_shape=tiny.IMAGE, classes=tiny.CLASSES, **changes) -> Members:
    spec = tiny.spec(**changes)
    model = models.build(spec, input_shape, classes)
    return initial_members(
        Group((spec,), seeds or (0,)), model, optimizers.build(spec, optimizers.Horizon(1, 3))
    )


@pytest.mark.parametrize(("width", "depth"), [(1, 1), (8, 2), (6, 3)])
def test_weights_of_every_mlp_by_hand(width, depth):
    shapes = build(width=width, hidden_layers=depth).shapes
    assert weights(shapes) == 9 * width + (depth - 1) * width**2 + width * 4
    assert family.kept_weights(tiny.spec(width=width), shapes) == weights(shapes)
    assert weights(build((28, 28, 1), 10, width=8).shapes) == 6352  # Figure 8
    assert weights(build((28, 28, 1), 10, width=5).shapes) == 3970  # Figure 5


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
@pytest.mark.parametrize("activation", ["relu", "linear"])
@pytest.mark.parametrize(("depth", "bias"), [(1, False), (1, True), (3, True)])
def test_the_forward_pass_equals_numpy(name, activation, depth, bias):
    model = build(parameterization=name, activation=activation, hidden_layers=depth, bias=bias)
    params, stats = model.init(jax.random.key(3))
    assert stats == {}
    leaves = {path: leaf.astype(np.float64) for path, leaf in flat(params).items()}
    y = np.asarray(X, np.float64).reshape(7, -1)
    for i, (layer, (fan_in, _)) in enumerate(model.shapes.items()):
        if i and activation == "relu":
            y = np.maximum(y, 0)
        y = y @ leaves[f"{layer}/kernel"] / (np.sqrt(fan_in) if name == "ntk" else 1)
        y = y + leaves.get(f"{layer}/bias", 0)
    np.testing.assert_allclose(model.apply(params, {}, X), y, rtol=2e-5, atol=2e-6)


def test_bfloat16_rounds_the_operands_and_accumulates_in_float32():
    """Equal to float32 arithmetic on rounded operands; gradients come in float32, close to the exact ones."""
    exact, rounded = build(width=64), build(width=64, compute_dtype="bfloat16")
    params, _ = exact.init(jax.random.key(0))

    def as_bfloat16(x):
        return np.asarray(x, ml_dtypes.bfloat16).astype(np.float32)

    kernels = {path: as_bfloat16(leaf) for path, leaf in flat(params).items()}
    hidden = np.maximum(as_bfloat16(X.reshape(7, -1)) @ kernels["hidden_0/kernel"], 0)
    expected = as_bfloat16(hidden) @ kernels["output/kernel"]
    logits = rounded.apply(params, {}, X)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, atol=0.01 * np.abs(expected).max())

    gradients = [
        jax.grad(lambda p, m=m: jnp.square(m.apply(p, {}, X)).mean())(params) for m in (exact, rounded)
    ]
    for path, true in flat(gradients[0]).items():
        approximate = flat(gradients[1])[path]
        assert approximate.dtype == np.float32
        assert np.linalg.norm(approximate - true) < 0.02 * np.linalg.norm(true)


@pytest.mark.parametrize("name", MODELS)
def test_products_on_accelerators_have_the_precision_of_their_type(name, monkeypatch):
    """Every product, forward and backward. Programs for a CPU, which multiplies float32 exactly, name no precision."""
    shape = tiny.input_shape(name)
    inputs = {
        0: jnp.zeros((2, 1), jnp.int32),
        2: Frames(jnp.zeros((1, *shape)), jnp.ones(1, jnp.int32)),
        3: jnp.zeros((1, *shape)),
    }[len(shape)]

    def precisions(dtype: str) -> set[str]:
        model = build(shape, model=name, width=4, compute_dtype=dtype)
        shapes = jax.eval_shape(model.init, jax.random.key(0))
        params, stats = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)

        def total(params):
            return sum(jnp.sum(x) for x in jax.tree.leaves(model.apply(params, stats, inputs)))

        program = str(jax.make_jaxpr(jax.grad(total))(params))
        products = program.count("dot_general[") + program.count("conv_general_dilated[")
        named = re.findall(r"\bprecision=\S*Precision\.(\w+)", program)
        assert products > 2 and len(named) in (0, products)
        return set(named)

    assert precisions("float32") == set()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert precisions("float32") == {"HIGHEST"}
    assert precisions("tf32") == {"HIGH"}
    assert precisions("bfloat16") == set()


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(1e-4, 1))
def test_scalings_follow_the_effective_fan_in(name, fan_in, fan_out, connectivity):
    """The kept inputs of a unit together have the variance of all inputs of a dense one; nothing else changes."""
    rule = parameterization(name).scaling
    dense, sparse = (rule(fan_in, fan_out, c, "kernel") for c in (1.0, connectivity))
    assert fan_in * connectivity * (sparse.initial * sparse.forward) ** 2 == pytest.approx(1)
    assert dense.forward**2 * fan_in == pytest.approx(1) if name == "ntk" else dense.forward == 1
    assert sparse[1:] == dense[1:] and dense.learning_rate == 1
    bias = rule(fan_in, fan_out, connectivity, "bias")
    assert bias.initial == 0 if name == "ntk" else bias.initial == sparse.initial
    for role in ("kernel", "output", "bias"):
        assert all(math.isfinite(x) and x >= 0 for x in rule(fan_in, fan_out, connectivity, role))


@pytest.mark.parametrize("name", MODELS)
def test_rates_follow_the_kept_inputs_of_a_unit(name):
    """Rate × kept inputs of a unit is that of the dense network of `rate_width`."""
    image = tiny.input_shape(name)

    def kernels(spec):
        model = models.build(spec, image, tiny.CLASSES)
        params = jax.eval_shape(lambda: model.init(jax.random.key(0))[0])
        return model.shapes, models.scalings(spec, model, params)

    reference = tiny.spec(model=name, width=2, rate_width=2)
    base, rules = kernels(reference)
    assert rules == kernels(dataclasses.replace(reference, rate_width=0))[1]
    wide = dataclasses.replace(reference, width=6)
    shapes = models.plain_shapes(wide, image, tiny.CLASSES)
    kept = tuple((layer, max(1, math.prod(shape) // 3)) for layer, shape in shapes.items())
    rules = kernels(dataclasses.replace(wide, kept=kept))[1]
    for layer, count in kept:
        units, inputs = shapes[layer][-1], 1 if layer == "embedding" else math.prod(base[layer][:-1])
        kept_inputs = count / (shapes[layer][0] * units) if layer == "embedding" else count / units
        assert rules[models.kernel_path(layer)].learning_rate * kept_inputs == pytest.approx(inputs)
    others = rules.keys() - {models.kernel_path(layer) for layer in shapes}
    assert {rules[path].learning_rate for path in others} <= {1.0}


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_the_kernels_and_groups_of_its_shapes(name):
    spec = tiny.spec(model=name, width=8 if name in TOKEN_MODELS else 2, hidden_layers=3, bias=True)
    model = models.build(spec, tiny.input_shape(name), tiny.CLASSES)
    assert model.groups.keys() == model.shapes.keys() and all(model.groups.values())
    # Without optimization it compiles at once, whatever the network.
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    params, stats = init(jax.random.key(0))
    leaves = flat(params)
    kernels = {models.kernel_path(layer): shape for layer, shape in model.shapes.items()}
    assert {path: leaf.shape for path, leaf in leaves.items() if path in kernels} == kernels
    # Biases and normalization parameters are not counted as weights: they are vectors.
    assert all(leaf.ndim == 1 for path, leaf in leaves.items() if path not in kernels)
    assert all(leaf.dtype == np.float32 for leaf in leaves.values())
    biases = {path for path in leaves if path.endswith("bias") and path.rpartition("/")[0] in model.shapes}
    if name == "mlp":
        assert biases == leaves.keys() - kernels.keys() == {f"{layer}/bias" for layer in model.shapes}
        assert flat(jax.eval_shape(build().init, jax.random.key(0))[0]).keys() == {
            "hidden_0/kernel",
            "output/kernel",
        }
    if name in ("rhn", "lstm"):
        assert biases == {f"{layer}/bias" for layer in model.shapes if layer != "embedding"}
    draws = np.concatenate([leaves[path].ravel() for path in kernels])
    assert np.abs(draws).max() <= 1 and draws.std() == pytest.approx(3**-0.5, rel=0.1)
    assert models.scalings(spec, model, params).keys() == leaves.keys()
    inputs: Any = jnp.zeros((3, *tiny.input_shape(name)))
    lanes: tuple[int, ...] = (3,)
    if name in TOKEN_MODELS:
        inputs, lanes = jnp.zeros((3, 2), int), (3, 2)  # (time, lanes) of tokens
    if name in SPEECH_MODELS:
        inputs, lanes = Frames(inputs, jnp.arange(3)), (3, -(-inputs.shape[1] // 2))
    logits = jax.eval_shape(model.apply, params, stats, inputs)
    logits = logits.values if name in SPEECH_MODELS else logits
    assert logits.shape == (*lanes, tiny.CLASSES) and logits.dtype == jnp.float32


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name not in TOKEN_MODELS and name not in SPEECH_MODELS]
)
def test_bottleneck_layers_are_not_adjacent(name):
    spec = tiny.spec(model=name, hidden_layers=4)
    layers = list(models.plain_shapes(spec, (8, 8, 3), tiny.CLASSES))
    places = [layers.index(layer) for layer in models.bottleneck_layers(spec, layers)]
    assert places and min(np.diff([*places, len(layers)])) > 1


@pytest.mark.parametrize("connectivity", [1.0, 0.25])
@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_initial_weights_have_the_moments_of_their_distribution(name, connectivity):
    """Uniform up to one over the root of the effective fan-in; ntk: normal with variance 1 / connectivity."""
    wide = dict(input_shape=(4, 9, 1), classes=12, width=400, bias=True, parameterization=name)
    kept = (("hidden_0", 3600), ("output", 1200)) if connectivity < 1 else ()
    leaves = flat(jax.tree.map(lambda x: np.float64(x[0]), initial(**wide, kept=kept).state.params))
    for layer, (fan_in, fan_out) in mlp_shapes(36, [400], 12).items():
        kernel, bias = leaves[f"{layer}/kernel"], leaves[f"{layer}/bias"]
        bound = (connectivity if name == "ntk" else fan_in * connectivity) ** -0.5
        draws = kernel[kernel != 0] / bound
        assert draws.size == connectivity * fan_in * fan_out
        # (power, its mean, its variance), to 5 standard errors.
        moments = [(1, 0, 1), (2, 1, 2), (4, 3, 96)] if name == "ntk" else [(1, 0, 1 / 3), (2, 1 / 3, 4 / 45)]
        for power, mean, variance in moments:
            assert abs((draws**power).mean() - mean) < 5 * np.sqrt(variance / draws.size)
        if name == "ntk":
            assert not bias.any()
        else:
            assert 0.98 < np.abs(draws).max() <= 1 + 1e-6 and 0.7 * bound < np.abs(bias).max() <= bound * (
                1 + 1e-6
            )


def test_a_seed_draws_the_same_network_in_every_group():
    several, alone = initial(4, 0, 2), initial(2)
    for path, leaf in flat(several.state.params).items():
        np.testing.assert_array_equal(leaf[2], flat(alone.state.params)[path][0])
        assert not np.any(leaf[0] == leaf[1])
    leaves = flat(initial(0, width=4, hidden_layers=3).state.params)
    assert not np.any(leaves["hidden_1/kernel"] == leaves["hidden_2/kernel"])


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_a_sparse_network_is_its_dense_one_masked_and_rescaled(name):
    dense, sparse = (initial(7, parameterization=name, kept=kept) for kept in ((), tiny.kept(11, 20)))
    assert dense.mask == {} and sparse.mask.keys() == {"hidden_0/kernel"}
    mask = sparse.mask["hidden_0/kernel"]
    assert mask.sum() == 11
    ours, theirs = flat(sparse.state.params), flat(dense.state.params)
    np.testing.assert_allclose(
        ours["hidden_0/kernel"], theirs["hidden_0/kernel"] * mask * np.sqrt(45 / 11), rtol=1e-6
    )
    np.testing.assert_array_equal(ours["output/kernel"], theirs["output/kernel"])


@pytest.mark.parametrize("mask", PATTERNS)
def test_inputs_of_a_unit_have_the_variance_of_the_dense_network_under_every_pattern(mask):
    """On average over units, to 6 standard errors: Σ w² = 1/3 of standard, 1/p · p of ntk."""
    count = 600
    for name, variance in (("standard", 1 / 3), ("ntk", 64)):
        kept = (("hidden_0", count), ("output", 128))
        members = initial(input_shape=(8, 8, 1), width=32, mask=mask, kept=kept, parameterization=name)
        kernel = np.asarray(members.state.params["hidden_0"]["kernel"][0], np.float64)
        assert np.count_nonzero(kernel) == count
        spread = 6 * math.sqrt((2 if name == "ntk" else 0.8) / count)
        assert np.square(kernel).sum(0).mean() == pytest.approx(variance, rel=spread)


def test_masks_of_seeds_and_layers_differ():
    mask = initial(
        0, 1, hidden_layers=3, kept=(("hidden_0", 20), ("hidden_1", 9), ("hidden_2", 9), ("output", 9))
    ).mask
    assert {path: array.sum(axis=(1, 2)).tolist() for path, array in mask.items()} == {
        "hidden_0/kernel": [20, 20],
        "hidden_1/kernel": [9, 9],
        "hidden_2/kernel": [9, 9],
        "output/kernel": [9, 9],
    }
    assert np.any(mask["hidden_0/kernel"][0] != mask["hidden_0/kernel"][1])
    assert np.any(mask["hidden_1/kernel"][0] != mask["hidden_2/kernel"][0])


def test_members_with_different_kept_counts_are_those_of_separate_groups():
    cells = [tiny.spec(kept=tiny.kept(30, 4)), tiny.spec(kept=tiny.kept(14, 20)), tiny.spec()]
    model = build()
    optimizer = optimizers.build(cells[0], optimizers.Horizon(1, 3))
    together = initial_members(Group(tuple(cells), (5, 6)), model, optimizer)
    for i, cell in enumerate(cells):
        alone = initial_members(Group((cell,), (5, 6)), model, optimizer)
        member = slice(2 * i, 2 * i + 2)
        for path, leaf in flat(alone.state.params).items():
            np.testing.assert_array_equal(flat(together.state.params)[path][member], leaf)
        for path, size in {"hidden_0/kernel": (2, 9, 5), "output/kernel": (2, 5, 4)}.items():
            np.testing.assert_array_equal(
                together.mask[path][member], alone.mask.get(path, np.ones(size, bool))
            )


def test_every_parameter_has_the_learning_rate_of_its_spec():
    rates = initial(0, 1, bias=True, learning_rate=0.25).rates
    assert flat(rates).keys() == {
        f"{layer}/{leaf}" for layer in ("hidden_0", "output") for leaf in ("kernel", "bias")
    }
    assert all(leaf.tolist() == [0.25, 0.25] for leaf in flat(rates).values())


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({"model": "vgg"}, tiny.IMAGE, "`model=vgg` is unknown: choose one of .*mlp"),
        ({"parameterization": "muP"}, tiny.IMAGE, "`parameterization=muP` is unknown"),
        ({}, (), "`model=mlp`: `dataset=tiny` is text: choose `model` from rhn, lstm, transformer$"),
        ({}, (9, 8), "`model=mlp`: `dataset=tiny` is utterances: choose `model` from deepspeech$"),
        (
            {"model": "lstm"},
            tiny.IMAGE,
            "`model=lstm`: `dataset=tiny` is images: choose `model` from mlp, resnet18$",
        ),
        ({"model": "deepspeech"}, tiny.IMAGE, "`model=deepspeech`: `dataset=tiny` is images: choose"),
        ({"model": "rhn", "bottleneck": "linear"}, (), "`bottleneck=linear`: `model=rhn` has no bottlenecks"),
        (
            {"model": "rhn", "bottleneck": "nonlinear"},
            (),
            "`bottleneck=nonlinear`: `model=rhn` has no bottlenecks",
        ),
        (
            {"model": "deepspeech", "bottleneck": "linear"},
            (9, 8),
            "`bottleneck=linear`: `model=deepspeech` has no",
        ),
        ({"rate_width": 2, "bottleneck": "linear"}, tiny.IMAGE, "`rate_width=2`: `bottleneck=linear`"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, shape, message):
    with pytest.raises(UserError, match=f"^{message}"):
        build(shape, **changes)


def test_a_network_without_bottlenecks_has_no_bottleneck_layers():
    with pytest.raises(UserError, match="^`bottleneck=nonlinear`"):
        models.bottleneck_layers(tiny.spec(model="rhn"), ("embedding", "hidden_0", "softmax"))


def test_the_example_of_the_readme_runs():
    text = Path(models.__file__).with_name("README.md").read_text()
    names: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], names)
    assert names["logits"].shape == (2, 10) and names["factors"].keys() == flat(names["params"]).keys()
