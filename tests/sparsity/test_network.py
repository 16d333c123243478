"""Masks and initial parameters of anyone's network: linen, nnx and plain small_networks."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import Nnx, equal, linen, plain

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
    st.sampled_from(sorted(DISTRIBUTIONS)),
    st.sampled_from(sorted(PATTERNS)),
    st.data(),
)
def test_counts_are_exact_or_the_budget_is_refused(shapes, distribution, pattern, data):
    params = {name: np.zeros(shape) for name, shape in shapes.items()} | {"bias": np.zeros(3)}
    size = sum(sizes(shapes).values())
    total = data.draw(st.integers(len(shapes), size))
    try:
        mask = sparsity.random_mask(params, total=total, key=KEY, distribution=distribution, pattern=pattern)
    except UserError as error:
        assert "\n" not in str(error) and distribution != "largest_first"
        return
    assert sum(sparsity.num_kept(mask).values()) == total
    assert mask.keys() == params.keys() and mask["bias"].shape == ()
    assert all(mask[name].shape == shape and mask[name].any() for name, shape in shapes.items())


def test_budgets_say_the_same_in_three_ways():
    wide, narrow = linen(16), linen(8)
    chosen = {"key": KEY, "counted": lambda path, leaf: path.endswith(("kernel", "embedding"))}
    like = sparsity.random_mask(wide, like=narrow, **chosen)
    total = sum(sparsity.num_kept(like).values())
    assert total == sum(
        leaf.size
        for path, leaf in flatten_dict(narrow, sep="/").items()
        if "bias" not in path and "scale" not in path
    )
    size = sum(sparsity.num_kept(sparsity.random_mask(wide, connectivity=1.0, **chosen)).values())
    assert equal(like, sparsity.random_mask(wide, total=total, **chosen))
    assert equal(like, sparsity.random_mask(wide, connectivity=total / size, **chosen))


def test_kernels_count_by_default_and_a_predicate_chooses_others():
    mask = sparsity.random_mask(linen(8), connectivity=0.5, key=KEY)
    attention = [f"attention/{name}/kernel" for name in ("key", "out", "query", "value")]
    assert sorted(sparsity.num_kept(mask)) == [*attention, "conv/kernel", "output/kernel"]
    norm = sparsity.random_mask(linen(8), total=3, key=KEY, counted=lambda path, leaf: path == "norm/scale")
    assert sparsity.num_kept(norm) == {"norm/scale": 3}


def test_integers_and_state_are_no_weights():
    """Tables of positions, causal masks, and what variables hold beside parameters."""
    params = {"kernel": np.zeros((8, 8)), "positions": np.arange(64).reshape(8, 8), "causal": np.eye(8) > 0}
    assert sparsity.num_kept(sparsity.random_mask(params, total=32, key=KEY)) == {"kernel": 32}
    variables = {"params": {"kernel": np.zeros((8, 8))}, "cache": {"key": np.zeros((8, 8))}}
    assert sparsity.num_kept(sparsity.random_mask(variables, total=32, key=KEY)) == {"params/kernel": 32}
    mask = {"kernel": np.eye(8) > 0}
    with pytest.raises(UserError, match="kernel has type int8"):
        sparsity.mask_and_rescale({"kernel": np.ones((8, 8), np.int8)}, mask)


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
    abstract = nnx.state(nnx.eval_shape(lambda: Nnx(8)), nnx.Param)
    from_nnx = sparsity.random_mask(abstract, total=30, key=KEY)
    assert sparsity.num_kept(from_nnx) == sparsity.num_kept(mask)
    for name in kernels:
        assert np.array_equal(from_nnx[name]["kernel"][...], mask[name]["kernel"])
    within = jax.jit(lambda params: sparsity.random_mask(params, total=30, key=KEY))(linen)
    assert equal(within, mask)
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
        ({"total": 40.0}, "`total=40.0` is not a whole number"),
        ({"connectivity": 0.0}, "`connectivity=0` is outside"),
        ({"connectivity": 1.5}, "`connectivity=1.5` is outside"),
        ({"connectivity": float("nan")}, "`connectivity=nan` is outside"),
        ({"like": {"w": np.zeros((20, 20))}}, "exceeds the 108"),
        ({"like": {"bias": np.zeros(3)}}, "no leaf counts.*bias"),
        ({"total": 40, "distribution": "even"}, "`distribution=even` is unknown.*largest_first"),
        ({"total": 40, "pattern": "columns"}, "`pattern=columns` is unknown.*elementwise"),
        ({"total": 36, "distribution": "dense_last"}, "dense_last.*the last layer keeps 36"),
        ({"total": 40, "counted": lambda path, leaf: False}, "no leaf counts"),
        ({"total": 40, "counted": lambda path, leaf: path == "step"}, r"step has shape \(\)"),
        ({"total": 40, "last": "classes"}, "`last=classes`.*hidden/kernel, output/kernel"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        sparsity.random_mask(plain() | {"step": np.zeros(())}, key=KEY, **arguments)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UserError, match="no whole kernel in conv: give a larger budget"):
        shapes = {"conv": np.zeros((3, 3, 4, 4)), "output": np.zeros((4, 4))}
        sparsity.random_mask(shapes, total=12, key=KEY, pattern="io")
    with pytest.raises(UserError, match="outside of jit"):
        jax.jit(lambda key: sparsity.random_mask(plain(), total=40, key=key))(KEY)
    with pytest.raises(UserError, match="same path"):
        sparsity.random_mask({"a/b": np.zeros((2, 2)), "a": {"b": np.zeros((2, 2))}}, total=4, key=KEY)
    mask = sparsity.random_mask(plain(), total=40, key=KEY)
    with pytest.raises(UserError, match="`mask` has no params/hidden/bias"):
        sparsity.mask_and_rescale({"params": plain()}, mask)
    with pytest.raises(UserError, match="^`params`: name is no array of numbers[^\n]*$"):
        sparsity.mask_and_rescale(plain() | {"name": "text"}, mask | {"name": np.ones((), bool)})


@pytest.mark.parametrize(
    "number", [np.int64(40), np.array(40), jnp.asarray(40), np.geomspace(0.1, 0.5, 3)[1]]
)
def test_numbers_of_numpy_are_budgets(number):
    """Whatever `operator.index` accepts is a total, whatever `float` accepts a connectivity."""
    name = "total" if number > 1 else "connectivity"
    python = {name: number.item()}
    mask = sparsity.random_mask(plain(), key=KEY, **{name: number})
    assert equal(mask, sparsity.random_mask(plain(), key=KEY, **python))
    assert sparsity.kept_counts("uniform", {"a": (4, 4), "b": (4, 4)}, np.int32(8)) == {"a": 4, "b": 4}


def test_initial_weights_have_the_scale_of_the_effective_fan_in():
    params = plain()
    mask = sparsity.random_mask(params, total=40, key=KEY)
    rescaled = jax.jit(sparsity.mask_and_rescale)(params, mask)
    counts = sparsity.num_kept(mask)
    for layer in ("hidden", "output"):
        kernel, kept = params[layer]["kernel"], mask[layer]["kernel"]
        connectivity = counts[f"{layer}/kernel"] / kernel.size
        expected = np.where(kept, kernel * connectivity**-0.5, 0)
        assert np.allclose(rescaled[layer]["kernel"], expected, rtol=1e-6, atol=0)
    assert np.array_equal(rescaled["hidden"]["bias"], params["hidden"]["bias"])
    assert equal(
        sparsity.mask_and_rescale(params, sparsity.random_mask(params, connectivity=1.0, key=KEY)), params
    )
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(sparsity.mask_and_rescale(half, mask)))


def test_old_names_work_with_a_deprecation_warning():
    mask = sparsity.random_mask(plain(), total=40, key=KEY)
    with pytest.warns(DeprecationWarning, match="random_mask"):
        assert equal(sparsity.draw_keep(plain(), total=40, key=KEY), mask)
    with pytest.warns(DeprecationWarning, match="num_kept"):
        from wsn.sparsity import counts
    assert counts(keep=mask) == sparsity.num_kept(mask)
    with pytest.warns(DeprecationWarning, match="mask_and_rescale"):
        assert equal(sparsity.start(plain(), mask), sparsity.mask_and_rescale(plain(), mask))


def test_the_example_of_the_guide_runs(capsys):
    guide = (Path(sparsity.__file__).parent / "README.md").read_text()
    block = guide.partition("```python\n")[2].partition("```")[0]
    assert len(block.splitlines()) <= 15
    exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out == "16384\n"


def test_a_mask_by_hand_may_have_pythons_true_where_nothing_is_removed_and_no_single_false():
    params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    mask = {"w": np.eye(4, dtype=bool), "b": True}
    assert sparsity.num_kept(mask) == {"w": 4}
    assert (sparsity.mask_and_rescale(params, mask)["b"] == 1).all()
    sparsity.with_static_mask(optax.sgd(0.1), mask).init(params)
    for use in (sparsity.apply_mask, sparsity.mask_and_rescale):
        with pytest.raises(UserError, match="^`mask`: b is a single False: give an array of its shape$"):
            use(params, mask | {"b": np.False_})


def test_scales_and_embeddings_are_no_weights_whatever_their_shape():
    params = {
        "pos_embedding": jnp.ones((1, 5, 4)),
        "norm": {"scale": jnp.ones((3, 4))},
        "w": jnp.ones((4, 4)),
    }
    assert sparsity.num_kept(sparsity.random_mask(params, total=8, key=jax.random.key(0))) == {"w": 8}
