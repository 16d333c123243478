"""Anyone's network: laws of the draw, the start and the wrapped optimiser, on linen, nnx and plain trees."""

import dataclasses
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn import sparsity
from wsn.errors import UserError
from wsn.networks import models
from wsn.sparsity import patterns
from wsn.sparsity.budget import DISTRIBUTIONS
from wsn.sparsity.masks import mask_array
from wsn.sparsity.patterns import PATTERNS
from wsn.sparsity.shapes import sizes
from wsn.spec import Spec

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (8, 6))


def trees_equal(a, b):
    same = jax.tree.map(lambda a, b: bool(np.all(a == b)), a, b)
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(same)


class Own(nn.Module):
    """Linen, with an embedding, a convolution of one dimension, attention and a normalisation."""

    width: int

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(5, self.width, name="embed")(tokens)
        x = nn.Conv(self.width, (3,), name="conv")(x)
        x = nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm(name="norm")(x))
        return nn.Dense(3, name="output")(x)


def own(width):
    return jax.eval_shape(Own(width).init, KEY, jnp.zeros((2, 4), int))["params"]


class OwnNnx(nnx.Module):
    def __init__(self, width):
        rngs = nnx.Rngs(0)
        self.hidden_0 = nnx.Linear(6, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.output = nnx.Linear(width, 3, rngs=rngs)

    def __call__(self, x):
        return self.output(nnx.relu(self.norm(self.hidden_0(x))))


def plain():
    """Parameters of a small network of two layers, at a start that does not know of masks."""
    a, b, c = jax.random.split(jax.random.key(2), 3)
    return {
        "hidden": {"kernel": jax.random.normal(a, (6, 12)), "bias": jax.random.normal(b, (12,))},
        "output": {"kernel": jax.random.normal(c, (12, 3))},
    }


def loss(params, x=X):
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return jnp.mean((hidden @ params["output"]["kernel"] - 1) ** 2)


def steps(optimizer, params, n, keep_average=0.9):
    """Parameters, an average of them over the steps, and the optimiser's state, after `n` steps."""

    @jax.jit
    def step(params, average, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        return params, optax.incremental_update(params, average, 1 - keep_average), state

    average, state = params, optimizer.init(params)
    for _ in range(n):
        params, average, state = step(params, average, state)
    return params, average, state


def removed(mask, tree):
    """The entries of a tree at removed weights, of all leaves in one array."""
    entries = jax.tree.map(lambda kept, leaf: np.asarray(leaf)[~kept] if kept.ndim else [], mask, tree)
    return np.concatenate(jax.tree.leaves(entries, is_leaf=lambda entry: isinstance(entry, list)))


def kept_entries(mask, tree):
    """How many entries are not 0 where weights count."""
    return sum(
        jax.tree.leaves(jax.tree.map(lambda k, leaf: np.count_nonzero(leaf) if k.ndim else 0, mask, tree))
    )


# --- The draw ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("pattern", ["elementwise", "io"])
def test_the_draw_is_that_of_wsns_own_models(distribution, pattern):
    spec = Spec(dataset="digits", width=20, hidden_layers=2, epochs=1, batch_size=1, learning_rate=1.0)
    model = models.build(spec, (3, 4, 1), 10)
    params, _ = model.init(KEY)
    mask = sparsity.random_mask(params, total=300, key=KEY, distribution=distribution, pattern=pattern)
    shapes = {models.kernel_path(layer): shape for layer, shape in model.shapes.items()}
    counts = sparsity.kept_counts(distribution, shapes, 300)
    drawn = patterns.draw(KEY, shapes, counts, pattern)
    flat = flatten_dict(mask, sep="/")
    assert sparsity.num_kept(mask) == counts
    for path, shape in shapes.items():
        whole = np.arange(np.prod(shape))
        assert np.array_equal(flat[path], mask_array(drawn.get(path, whole), shape))
    assert all(flat[path].shape == () and flat[path] for path in flat.keys() - shapes.keys())


@settings(deadline=None, max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from("abcdef"), st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=6
    ),
    st.sampled_from([name for name in DISTRIBUTIONS]),
    st.sampled_from([name for name in PATTERNS]),
    st.data(),
)
def test_counts_are_exact_or_the_budget_is_refused(shapes, distribution, pattern, data):
    params = {name: np.zeros(shape) for name, shape in shapes.items()} | {"bias": np.zeros(3)}
    size = sum(sizes(shapes).values())
    total = data.draw(st.integers(len(shapes), size))
    try:
        mask = sparsity.random_mask(params, total=total, key=KEY, distribution=distribution, pattern=pattern)
    except UserError as error:
        assert "--" not in str(error) and distribution != "largest_first"
        return
    assert sum(sparsity.num_kept(mask).values()) == total
    assert mask.keys() == params.keys() and mask["bias"].shape == ()
    assert all(mask[name].shape == shape and mask[name].any() for name, shape in shapes.items())


def test_budgets_say_the_same_in_three_ways():
    wide, narrow = own(16), own(8)
    chosen = {"key": KEY, "counted": lambda path, leaf: path.endswith(("kernel", "embedding"))}
    like = sparsity.random_mask(wide, like=narrow, **chosen)
    total = sum(sparsity.num_kept(like).values())
    assert total == sum(
        leaf.size
        for path, leaf in flatten_dict(narrow, sep="/").items()
        if "bias" not in path and "scale" not in path
    )
    size = sum(sparsity.num_kept(sparsity.random_mask(wide, connectivity=1.0, **chosen)).values())
    assert trees_equal(like, sparsity.random_mask(wide, total=total, **chosen))
    assert trees_equal(like, sparsity.random_mask(wide, connectivity=total / size, **chosen))


def test_kernels_count_by_default_and_a_predicate_chooses_others():
    mask = sparsity.random_mask(own(8), connectivity=0.5, key=KEY)
    attention = [f"attention/{name}/kernel" for name in ("key", "out", "query", "value")]
    assert sorted(sparsity.num_kept(mask)) == [*attention, "conv/kernel", "output/kernel"]
    norm = sparsity.random_mask(own(8), total=3, key=KEY, counted=lambda path, leaf: path == "norm/scale")
    assert sparsity.num_kept(norm) == {"norm/scale": 3}


def test_the_last_leaf_is_the_one_that_is_named():
    params = {"a_head": np.zeros((4, 3)), "body": np.zeros((20, 4))}
    chosen = {"total": 30, "key": KEY, "distribution": "dense_last"}
    assert sparsity.num_kept(sparsity.random_mask(params, last="a_head", **chosen)) == {
        "a_head": 12,
        "body": 18,
    }
    with pytest.raises(UserError, match="body: 80|the last layer keeps 80"):
        sparsity.random_mask(params, **chosen)


@dataclasses.dataclass
class Layer:
    value: np.ndarray
    bias: np.ndarray


jax.tree_util.register_dataclass(Layer, ["value", "bias"], [])


def test_trees_of_any_make_get_the_same_draw_by_the_same_names():
    """Dictionaries of numpy arrays, lists, tuples, data classes and nnx; within jit as well."""
    kernels = {"hidden_0": (6, 8), "output": (8, 3)}
    linen = {
        name: {"kernel": np.zeros(shape), "bias": np.zeros(shape[1:])} for name, shape in kernels.items()
    }
    mask = sparsity.random_mask(linen, total=30, key=KEY)
    abstract = nnx.state(nnx.eval_shape(lambda: OwnNnx(8)), nnx.Param)
    from_nnx = sparsity.random_mask(abstract, total=30, key=KEY)
    assert sparsity.num_kept(from_nnx) == sparsity.num_kept(mask)
    for name in kernels:
        assert np.array_equal(from_nnx[name]["kernel"][...], mask[name]["kernel"])
    within = jax.jit(lambda params: sparsity.random_mask(params, total=30, key=KEY))(linen)
    assert trees_equal(within, mask)
    mixed = [(Layer(np.zeros((4, 5)), np.zeros(5)), {"w": np.zeros((5, 6))}), None]
    assert sparsity.num_kept(sparsity.random_mask(mixed, total=7, key=KEY)).keys() == {"0/0", "0/1/w"}
    assert sparsity.num_kept(sparsity.random_mask(np.zeros((3, 3)), total=7, key=KEY)) == {"": 7}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "one budget.*none"),
        ({"total": 40, "connectivity": 0.5}, "one budget.*total and connectivity"),
        ({"total": 1}, "cannot leave one in each of 2"),
        ({"total": 109}, "exceeds the 108"),
        ({"total": 40.0}, "total=40.0 is not a whole number"),
        ({"connectivity": 0.0}, "connectivity=0 is outside"),
        ({"connectivity": 1.5}, "connectivity=1.5 is outside"),
        ({"connectivity": float("nan")}, "connectivity=nan is outside"),
        ({"like": {"w": np.zeros((20, 20))}}, "exceeds the 108"),
        ({"like": {"bias": np.zeros(3)}}, "no leaf counts.*bias"),
        ({"total": 40, "distribution": "even"}, "distribution=even is unknown.*largest_first"),
        ({"total": 40, "pattern": "columns"}, "pattern=columns is unknown.*elementwise"),
        ({"total": 36, "distribution": "dense_last"}, "dense_last.*the last layer keeps 36"),
        ({"total": 40, "counted": lambda path, leaf: False}, "no leaf counts"),
        ({"total": 40, "counted": lambda path, leaf: path == "step"}, r"step has shape \(\)"),
        ({"total": 40, "last": "classes"}, "last=classes.*hidden/kernel, output/kernel"),
    ],
)
def test_bad_input_is_one_line_without_flags(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        sparsity.random_mask(plain() | {"step": np.zeros(())}, key=KEY, **arguments)
    assert "\n" not in str(caught.value) and "--" not in str(caught.value)


def test_what_cannot_be_drawn_or_does_not_fit_is_refused():
    with pytest.raises(UserError, match="no whole kernel in conv.*larger base width") as caught:
        shapes = {"conv": np.zeros((3, 3, 4, 4)), "output": np.zeros((4, 4))}
        sparsity.random_mask(shapes, total=12, key=KEY, pattern="io")
    assert "--" not in str(caught.value)
    with pytest.raises(UserError, match="outside of jit"):
        jax.jit(lambda key: sparsity.random_mask(plain(), total=40, key=key))(KEY)
    with pytest.raises(UserError, match="same path"):
        sparsity.random_mask({"a/b": np.zeros((2, 2)), "a": {"b": np.zeros((2, 2))}}, total=4, key=KEY)
    mask = sparsity.random_mask(plain(), total=40, key=KEY)
    with pytest.raises(UserError, match="no params/hidden/bias"):
        sparsity.mask_and_rescale({"params": plain()}, mask)
    other = plain() | {"output": {"kernel": np.zeros((12, 4))}}
    with pytest.raises(UserError, match=r"output/kernel has shape \(12, 3\)"):
        sparsity.with_static_mask(optax.sgd(0.1), mask).init(other)
    optimizer = sparsity.with_static_mask(optax.sgd(0.1), mask)
    with pytest.raises(UserError, match="needs the parameters"):
        optimizer.update(plain(), optimizer.init(plain()))


# --- The start --------------------------------------------------------------------------------------------


def test_the_start_is_that_of_the_effective_fan_in():
    """Of weights drawn by the fan-in, the start is what wsn's own parameterisation gives them."""
    params = plain()
    mask = sparsity.random_mask(params, total=40, key=KEY)
    started = jax.jit(sparsity.mask_and_rescale)(params, mask)
    counts = sparsity.num_kept(mask)
    for layer in ("hidden", "output"):
        kernel, kept = params[layer]["kernel"], mask[layer]["kernel"]
        connectivity = counts[f"{layer}/kernel"] / kernel.size
        expected = np.where(kept, kernel * connectivity**-0.5, 0)
        assert np.allclose(started[layer]["kernel"], expected, rtol=1e-6, atol=0)
    assert np.array_equal(started["hidden"]["bias"], params["hidden"]["bias"])
    assert trees_equal(
        sparsity.mask_and_rescale(params, sparsity.random_mask(params, connectivity=1.0, key=KEY)), params
    )
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(sparsity.mask_and_rescale(half, mask)))


# --- The optimiser ----------------------------------------------------------------------------------------

OPTIMIZERS = {
    "sgd": optax.sgd(0.1),
    "momentum": optax.sgd(0.1, momentum=0.9),
    "nesterov": optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9, nesterov=True)),
    "adam": optax.adam(1e-2),
    "adamw": optax.adamw(1e-2, weight_decay=0.1),
    "lion": optax.lion(1e-2),
    "rmsprop": optax.rmsprop(1e-2),
    "adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=4),
    "lamb": optax.lamb(1e-2, weight_decay=0.1),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2)),
    "averaged": optax.chain(optax.adam(1e-2), optax.ema(0.9)),
    "noisy": optax.chain(optax.add_noise(1.0, 0.5, KEY), optax.sgd(0.1)),
    "accumulated": optax.MultiSteps(optax.adamw(1e-2), 2).gradient_transformation(),
    "schedule_free": optax.contrib.schedule_free_adamw(1e-2, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("started", [True, False], ids=["started", "forgotten"])
def test_removed_weights_are_exactly_zero_under_any_transformation(name, started):
    params = plain()
    mask = sparsity.random_mask(params, total=40, key=KEY)
    if started:
        params = sparsity.mask_and_rescale(params, mask)
    params, average, _ = steps(sparsity.with_static_mask(OPTIMIZERS[name], mask), params, 4)
    assert np.all(removed(mask, params) == 0) and removed(mask, params).size == 108 - 40
    assert kept_entries(mask, params) == 40
    if started:
        assert np.all(removed(mask, average) == 0) and kept_entries(mask, average) == 40


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_keeping_everything_is_the_transformation_itself(name):
    """Bit for bit, update by update (in one compiled program roundings may fuse in another way)."""
    params = plain()
    mask = sparsity.random_mask(params, connectivity=1.0, key=KEY)
    wrapped, bare = sparsity.with_static_mask(OPTIMIZERS[name], mask), OPTIMIZERS[name]
    state, own_state = bare.init(params), wrapped.init(params)
    assert trees_equal(own_state.inner, state)
    for scale in (1.0, -0.3):
        gradient = jax.tree.map(lambda leaf, scale=scale: scale * jnp.cos(leaf), params)
        updates, state = bare.update(gradient, state, params)
        own_updates, own_state = wrapped.update(gradient, own_state, params)
        assert trees_equal(own_updates, updates) and trees_equal(own_state.inner, state)
        params = optax.apply_updates(params, updates)


def test_a_hundred_steps_of_adam_with_weight_decay_and_averages_keep_the_count():
    params = plain()
    mask = sparsity.random_mask(params, total=40, key=KEY)
    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=0.1), optax.ema(0.5))
    params, average, state = steps(
        sparsity.with_static_mask(inner, mask), sparsity.mask_and_rescale(params, mask), 100
    )
    for tree in (params, average, state.inner[1][0].mu, state.inner[1][0].nu, state.inner[2].ema):
        assert np.all(removed(mask, tree) == 0) and kept_entries(mask, tree) == 40
    assert loss(params) < 0.5 * loss(sparsity.mask_and_rescale(plain(), mask))


@pytest.mark.parametrize(
    "outer", [lambda tx: optax.MultiSteps(tx, 2), optax.apply_if_finite], ids=["steps", "finite"]
)
def test_other_wrappers_may_stand_outside(outer):
    mask = sparsity.random_mask(plain(), total=40, key=KEY)
    masked = sparsity.with_static_mask(optax.adamw(1e-2), mask)
    optimizer = outer(masked, 3) if outer is optax.apply_if_finite else outer(masked)
    params, _, _ = steps(optimizer, plain(), 4)
    assert np.all(removed(mask, params) == 0) and kept_entries(mask, params) == 40


def test_a_partition_hands_on_a_part_of_the_tree():
    params = plain()
    mask = sparsity.random_mask(params, total=40, key=KEY)
    parts = {
        "hidden": sparsity.with_static_mask(optax.adam(1e-2), mask),
        "output": sparsity.with_static_mask(optax.sgd(0.1), mask),
    }
    params, _, _ = steps(optax.partition(parts, {name: name for name in params}), params, 2)
    assert np.all(removed(mask, params) == 0) and kept_entries(mask, params) == 40


def test_a_step_of_sgd_is_that_on_the_masked_parameters():
    """The gradient of mask ⊙ params ↦ loss is what the wrapped transformation steps along."""
    params = plain()
    mask = sparsity.random_mask(params, total=40, key=KEY)
    params = sparsity.mask_and_rescale(params, mask)
    gradient = jax.grad(lambda params: loss(jax.tree.map(jnp.multiply, mask, params)))(params)
    expected = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, gradient)
    stepped, _, _ = steps(sparsity.with_static_mask(optax.sgd(0.1), mask), params, 1)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-6, atol=1e-7), stepped, expected))


def test_a_global_norm_counts_kept_weights_only():
    params = plain()
    mask = sparsity.random_mask(params, total=40, key=KEY)
    optimizer = sparsity.with_static_mask(optax.clip_by_global_norm(1.0), mask)
    gradient = jax.tree.map(lambda kept, leaf: jnp.where(kept, jnp.ones_like(leaf), 1e6), mask, params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    entries = 40 + 12  # and the biases
    assert np.allclose(updates["hidden"]["bias"], entries**-0.5)
    assert np.allclose(updates["output"]["kernel"][mask["output"]["kernel"]], entries**-0.5)


def test_infinite_gradients_of_removed_weights_do_not_matter():
    params = plain()
    mask = sparsity.random_mask(params, total=40, key=KEY)
    optimizer = sparsity.with_static_mask(optax.adam(0.1), mask)
    gradient = jax.tree.map(lambda kept, leaf: np.where(kept, leaf, np.nan), mask, params)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    stepped = optax.apply_updates(params, updates)
    assert np.all(removed(mask, stepped) == 0)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(stepped))


def test_extra_arguments_reach_the_transformation_masked_where_they_are_gradients():
    """A line search needs value, gradient and function; its steps are those on mask ⊙ params."""
    mask = sparsity.random_mask(plain(), total=40, key=KEY)
    start = sparsity.mask_and_rescale(plain(), mask)

    def masked_loss(params):
        return loss(jax.tree.map(jnp.multiply, mask, params))

    def searched(optimizer, value_fn):
        params, state = start, optimizer.init(start)
        for _ in range(3):
            value, gradient = jax.value_and_grad(value_fn)(params)
            updates, state = optimizer.update(
                gradient, state, params, value=value, grad=gradient, value_fn=value_fn
            )
            params = optax.apply_updates(params, updates)
        return params

    ours = searched(sparsity.with_static_mask(optax.lbfgs(), mask), loss)
    reference = searched(optax.lbfgs(), masked_loss)
    assert jax.tree.all(jax.tree.map(lambda a, b: np.allclose(a, b, rtol=1e-4, atol=1e-5), ours, reference))
    assert loss(ours) < loss(start) and kept_entries(mask, ours) == 40


def test_seeds_may_be_mapped_each_with_its_mask():
    """`mask` is an argument of the mapped function and travels in the state."""
    masks = [sparsity.random_mask(plain(), total=40, key=jax.random.key(seed)) for seed in range(2)]

    def stepped(mask):
        optimizer = sparsity.with_static_mask(optax.adam(1e-2), mask)
        params = sparsity.mask_and_rescale(plain(), mask)
        updates, _ = optimizer.update(jax.grad(loss)(params), optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    together = jax.jit(jax.vmap(stepped))(jax.tree.map(lambda *leaves: np.stack(leaves), *masks))
    for seed, mask in enumerate(masks):
        params = jax.tree.map(lambda leaf, seed=seed: leaf[seed], together)
        assert np.all(removed(mask, params) == 0) and kept_entries(mask, params) == 40


def test_an_nnx_optimizer_trains_kept_weights_only():
    model, narrow = OwnNnx(8), OwnNnx(4)
    params = nnx.state(model, nnx.Param)
    mask = sparsity.random_mask(params, like=nnx.state(narrow, nnx.Param), key=KEY)
    assert jax.tree.structure(mask) == jax.tree.structure(nnx.split(model, nnx.Param, ...)[1])
    assert sparsity.num_kept(mask) == {"hidden_0/kernel": 18, "output/kernel": 18}
    nnx.update(model, sparsity.mask_and_rescale(params, mask))
    optimizer = nnx.Optimizer(model, sparsity.with_static_mask(optax.adamw(0.1), mask), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda model: jnp.mean((model(X) - 1) ** 2))(model))

    before = model.hidden_0.kernel[...]
    for _ in range(2):
        step(model, optimizer)
    for layer, name in ((model.hidden_0, "hidden_0"), (model.output, "output")):
        assert np.array_equal(layer.kernel[...] != 0, mask[name]["kernel"][...])
    assert not np.array_equal(model.hidden_0.kernel[...], before)


def test_the_room_needs_neither_data_nor_training_nor_drawing():
    unwanted = ("wsn.data", "wsn.training", "matplotlib", "tensorflow_datasets", "tensorflow")
    code = f"import sys, wsn.sparsity; print([name for name in {unwanted} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_old_names_work_with_a_deprecation_warning():
    mask = sparsity.random_mask(plain(), total=40, key=KEY)
    with pytest.warns(DeprecationWarning, match="random_mask"):
        assert trees_equal(sparsity.draw_keep(plain(), total=40, key=KEY), mask)
    with pytest.warns(DeprecationWarning, match="num_kept"):
        from wsn.sparsity import counts
    assert counts(keep=mask) == sparsity.num_kept(mask)
    with pytest.warns(DeprecationWarning, match="mask_and_rescale"):
        assert trees_equal(sparsity.start(plain(), mask), sparsity.mask_and_rescale(plain(), mask))
