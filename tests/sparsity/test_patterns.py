"""Patterns: exact counts, uniform and reproducible draws; masks applied to parameters."""

import math
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn.errors import UserError
from wsn.sparsity import patterns
from wsn.sparsity.budget import kept_counts
from wsn.sparsity.masks import apply_mask, mask_array
from wsn.sparsity.shapes import resnet18_shapes, sizes

SHAPES = resnet18_shapes(12, 100)
COUNTS = kept_counts("largest_first", SHAPES, sum(sizes(resnet18_shapes(8, 100)).values()))
RECORDED = [10, 23, 30, 36, 52]  # of 100, five, for key 0 and path hidden_0/kernel


def is_sorted_and_unique(positions):
    return bool(np.all(np.diff(positions) > 0))


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
def test_ties_between_words_keep_the_count_and_go_to_the_earlier(words, data):
    kept = data.draw(st.integers(0, len(words)))
    expected = sorted(np.argsort(words, kind="stable")[:kept])
    assert patterns.smallest(np.array(words, np.uint64), kept).tolist() == expected


def test_counts_outside_the_layer_are_refused():
    for kept in (-1, 11):
        with pytest.raises(ValueError, match="cannot keep"):
            patterns.uniform_positions(jax.random.key(0), 10, kept)


def test_the_draw_is_the_same_for_ever():
    """NumPy promises Philox's raw stream, JAX threefry keys; another value would void all old runs."""
    key = patterns.layer_key(jax.random.key(0), "hidden_0/kernel")
    assert patterns.uniform_positions(key, 100, 5).tolist() == RECORDED
    raw = patterns.layer_key(jax.random.PRNGKey(0), "hidden_0/kernel")
    assert patterns.uniform_positions(raw, 100, 5).tolist() == RECORDED


@pytest.mark.parametrize(("size", "kept"), [(10, 3), (60, 45)])
def test_every_position_and_pair_is_equally_likely(size, kept):
    """Over many seeds: chi-square of the hits of each position, and every pair's hits, to 6 deviations."""
    draws = 4000
    kept_at = np.zeros((draws, size))
    for seed, key in enumerate(jax.random.split(jax.random.key(7), draws)):
        kept_at[seed, patterns.uniform_positions(key, size, kept)] = 1
    p = kept / size
    chi2 = np.sum((kept_at.sum(0) - draws * p) ** 2) / (draws * p * (1 - p)) * (size - 1) / size
    assert abs(chi2 - (size - 1)) < 6 * math.sqrt(2 * (size - 1))
    pairs = (kept_at.T @ kept_at)[np.triu_indices(size, 1)] / draws
    both = p * (kept - 1) / (size - 1)
    assert np.abs(pairs - both).max() < 6 * math.sqrt(both * (1 - both) / draws)


def test_a_layer_depends_on_its_own_path_alone():
    key = jax.random.key(5)
    together = patterns.draw(key, SHAPES, COUNTS)
    name = "layer4.0.conv2"
    alone = patterns.draw(key, {name: SHAPES[name]}, COUNTS)
    assert list(alone) == [name] and np.array_equal(alone[name], together[name])


@settings(deadline=None, max_examples=200)
@given(
    st.integers(0, 2**31 - 1), st.sampled_from([1, 2, 3, 5]), st.integers(1, 9), st.integers(1, 9), st.data()
)
def test_io_keeps_whole_kernels(seed, k, fan_in, fan_out, data):
    kernels = data.draw(st.integers(0, fan_in * fan_out))
    shape = (k, k, fan_in, fan_out)
    positions = patterns.kernel_positions(jax.random.key(seed), shape, kernels * k * k)
    assert is_sorted_and_unique(positions)
    taps_kept = mask_array(positions, shape).sum((0, 1))
    assert set(np.unique(taps_kept)) <= {0, k * k} and np.count_nonzero(taps_kept) == kernels


def test_io_refuses_a_broken_kernel():
    with pytest.raises(ValueError, match="whole number"):
        patterns.kernel_positions(jax.random.key(0), (3, 3, 2, 2), 10)


def test_the_array_is_a_view_of_the_positions():
    positions = patterns.uniform_positions(jax.random.key(0), 60, 17)
    for dtype in (np.bool_, np.float32):
        array = mask_array(positions, (3, 4, 5), dtype)
        assert array.dtype == dtype and array.shape == (3, 4, 5) and array.sum() == 17
        assert np.array_equal(np.flatnonzero(array), positions)


def network():
    kernels = jax.random.split(jax.random.key(0))
    params = {
        "hidden_0": {"kernel": jax.random.normal(kernels[0], (6, 5)), "bias": jnp.ones(5)},
        "output": {"kernel": jax.random.normal(kernels[1], (5, 3))},
    }
    positions = patterns.draw(jax.random.key(1), {"hidden_0/kernel": (6, 5)}, {"hidden_0/kernel": 11})
    return params, {path: jnp.asarray(mask_array(p, (6, 5))) for path, p in positions.items()}


def test_masking_removes_what_is_not_kept_and_its_gradient_and_nothing_else():
    params, mask = network()
    masked, pull = jax.vjp(jax.jit(lambda params: apply_mask(params, mask)), params)
    [gradient] = pull(jax.tree.map(jnp.ones_like, masked))
    kept = mask["hidden_0/kernel"]
    expected = params | {
        "hidden_0": params["hidden_0"] | {"kernel": np.where(kept, params["hidden_0"]["kernel"], 0)}
    }
    for ours, theirs in ((masked, expected), (apply_mask(params, {}), params)):
        assert jax.tree.all(
            jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), ours, theirs)
        )
    assert np.array_equal(gradient["hidden_0"]["kernel"], kept) and np.all(gradient["output"]["kernel"] == 1)
    seeds = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    both = jax.vmap(apply_mask)(seeds, {"hidden_0/kernel": jnp.stack([kept, ~kept])})["hidden_0"]["kernel"]
    kernel = params["hidden_0"]["kernel"]
    assert np.array_equal(both, jnp.stack([kernel * kept, 2 * kernel * ~kept]))


def test_a_mask_without_its_parameter_is_an_error():
    params, mask = network()
    with pytest.raises(UserError, match="hidden_9/kernel"):
        apply_mask(params, {"hidden_9/kernel": mask["hidden_0/kernel"]})
    with pytest.raises(UserError, match="output/kernel"):
        apply_mask(params, {"output/kernel": mask["hidden_0/kernel"]})


@st.composite
def convolutional(draw):
    """Shapes with 1x1, 3x3, 7x7 and dense kernels, and a kept count for each with room for a kernel."""
    shapes, counts = {}, {}
    for i in range(draw(st.integers(1, 8))):
        k = draw(st.sampled_from([0, 1, 3, 7]))
        shape = (*([k, k] if k else []), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
        shapes[f"layer{i}"] = shape
        counts[f"layer{i}"] = draw(st.integers(max(1, k * k), math.prod(shape)))
    return shapes, counts


@settings(deadline=None, max_examples=200)
@given(convolutional())
def test_io_counts_are_whole_kernels_and_lose_less_than_one_has(case):
    shapes, counts = case
    kept = patterns.rounded("io", counts, shapes)
    remainder = sum(counts.values()) - sum(kept.values())
    taps = {name: shape[0] * shape[1] if len(shape) == 4 else 1 for name, shape in shapes.items()}
    size = sizes(shapes)
    assert list(kept) == list(counts)
    assert remainder >= 0
    assert all(0 < kept[name] <= size[name] and kept[name] % taps[name] == 0 for name in counts)
    assert all(remainder < taps[name] for name in counts if kept[name] < size[name])


def test_io_counts_return_the_surplus_as_kernels_first_then_as_single_weights():
    shapes = {"a": (3, 3, 4, 4), "b": (3, 3, 4, 4), "c": (4, 4)}
    for counts in ({"a": 25, "b": 26, "c": 10}, {"a": 25, "b": 26, "c": 16}):
        assert patterns.rounded("io", counts, shapes) == {"a": 18, "b": 27, "c": 16}


def test_io_refuses_a_layer_without_a_kernel():
    with pytest.raises(UserError, match="no whole kernel in a"):
        patterns.rounded("io", {"a": 8, "b": 20}, {"a": (3, 3, 4, 4), "b": (4, 5)})


# Balanced groups of inputs, and blocks.

MATRICES = st.tuples(st.sampled_from([(), (1, 1), (3, 3)]), st.integers(1, 13), st.integers(1, 9))


@st.composite
def kernels(draw):
    """(key, shape, kept, the kernel as a matrix of kept weights by pattern)."""
    area, inputs, units = draw(MATRICES)
    shape = (*area, inputs, units)
    kept = draw(st.integers(1, math.prod(shape)))
    key = jax.random.key(draw(st.integers(0, 2**31 - 1)))
    return kept, lambda name: mask_array(patterns.PATTERNS[name].draw(key, shape, kept), shape).reshape(
        -1, units
    )


@settings(deadline=None, max_examples=100)
@given(kernels())
def test_fan_in_keeps_as_many_inputs_of_every_unit_or_one_more(case):
    kept, matrix = case
    of_unit = matrix("fan_in").sum(0)
    assert set(of_unit) <= {kept // of_unit.size, kept // of_unit.size + 1}


@settings(deadline=None, max_examples=100)
@given(kernels())
def test_n_m_keeps_as_many_of_every_four_inputs_or_one_more(case):
    kept, matrix = case
    mask = matrix("n_m")
    units, inputs = mask.shape[1], len(mask)
    of_group = np.add.reduceat(mask, range(0, inputs, 4), dtype=int)
    size = np.minimum(4, inputs - np.arange(0, inputs, 4))[:, None]
    least = max(n for n in range(4) if units * np.minimum(size, n).sum() <= kept)
    assert np.all((of_group == np.minimum(size, least)) | (of_group == least + 1))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_count_of_whole_groups_is_n_of_m(n):
    for shape in ((16, 10), (3, 3, 8, 5)):
        positions = patterns.PATTERNS["n_m"].draw(jax.random.key(n), shape, n * math.prod(shape) // 4)
        assert np.all(mask_array(positions, shape).reshape(-1, 4, shape[-1]).sum(1) == n)


@settings(deadline=None, max_examples=100)
@given(kernels())
def test_blocks_are_whole_but_one(case):
    _, matrix = case
    mask = matrix("block")

    def of_block(x):
        x = np.pad(x.astype(int), [(0, -n % 4) for n in x.shape])
        return x.reshape(len(x) // 4, 4, -1, 4).sum((1, 3))

    kept, size = of_block(mask), of_block(np.ones_like(mask))
    assert np.count_nonzero((kept > 0) & (kept < size)) <= 1


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_every_weight_is_as_likely_as_any_other(name):
    """Over many seeds, to 6 deviations; 16 × 8 weights, so no group and no block is smaller."""
    draws, size, kept = 600, 128, 40
    keys = jax.random.split(jax.random.key(1), draws)
    hits = np.bincount(np.concatenate([patterns.PATTERNS[name].draw(key, (16, 8), kept) for key in keys]))
    p = kept / size
    assert hits.size == size and np.abs(hits - draws * p).max() < 6 * math.sqrt(draws * p * (1 - p))


# Every pattern.


@pytest.mark.parametrize("name", patterns.PATTERNS)
@settings(deadline=None, max_examples=100)
@given(convolutional(), st.integers(0, 2**31 - 1))
def test_every_pattern_draws_exactly_the_counts_that_it_rounds_to_and_the_same_again(name, case, seed):
    """Never more than the budget, and at least a weight a layer."""
    shapes, counts = case
    try:
        kept = patterns.rounded(name, counts, shapes)
    except UserError as error:
        assert "no whole kernel" in str(error) and "\n" not in str(error)
        return
    size, key = sizes(shapes), jax.random.key(seed)
    assert list(kept) == list(counts) and sum(kept.values()) <= sum(counts.values())
    assert all(1 <= kept[layer] <= size[layer] for layer in kept)
    assert patterns.rounded(name, kept, shapes) == kept, "what it can keep, it keeps"
    drawn, again = (patterns.draw(key, shapes, kept, name) for _ in range(2))
    assert drawn.keys() == {layer for layer in shapes if kept[layer] < size[layer]}
    for layer, positions in drawn.items():
        assert positions.dtype == np.int64 and positions.shape == (kept[layer],)
        assert is_sorted_and_unique(positions)
        assert positions[0] >= 0 and positions[-1] < size[layer]
        np.testing.assert_array_equal(positions, again[layer])


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_another_seed_or_layer_has_an_independent_draw(name):
    """Half of the weights: two draws share a half of these, to 6 deviations of single weights (of blocks: 4 times)."""
    shapes = {"a": (3, 3, 16, 16), "b": (3, 3, 16, 16)}
    counts = patterns.rounded(name, dict.fromkeys(shapes, 1152), shapes)
    first, second = (patterns.draw(jax.random.key(seed), shapes, counts, name) for seed in (0, 1))
    spread = {"block": 4, "io": 3}.get(name, 1)
    for left, right in ((first["a"], second["a"]), (first["a"], first["b"])):
        assert abs(np.intersect1d(left, right).size - 576) < 6 * spread * math.sqrt(576 / 4)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 4000), st.floats(0, 1), st.integers(1, 30), st.integers(0, 2**31))
def test_words_drawn_in_pieces_are_those_drawn_at_once(size, share, piece, seed):
    key, kept = jax.random.key(seed), round(share * size)
    whole = patterns.uniform_positions(key, size, kept)
    assert whole.shape == (kept,) and is_sorted_and_unique(whole)
    balanced = patterns.balanced_positions(key, 30, 40, 30, 500)
    with mock.patch.object(patterns, "PIECE", max(piece, size // 20)):
        np.testing.assert_array_equal(patterns.uniform_positions(key, size, kept), whole)
        np.testing.assert_array_equal(patterns.balanced_positions(key, 30, 40, 30, 500), balanced)
