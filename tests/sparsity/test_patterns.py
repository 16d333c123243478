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
SPARSE = {name for name in SHAPES if COUNTS[name] < sizes(SHAPES)[name]}

RECORDED = [10, 23, 30, 36, 52]  # of 100, five, for key 0 and path hidden_0/kernel


def is_sorted_and_unique(positions):
    return bool(np.all(np.diff(positions) > 0))


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**31 - 1), st.integers(1, 4000))
def test_the_count_is_exact_for_every_seed(seed, size):
    key = jax.random.key(seed)
    for kept in {0, 1, *np.linspace(0, size, 11, dtype=int).tolist()}:
        positions = patterns.uniform_positions(key, size, kept)
        assert positions.dtype == np.int64 and positions.shape == (kept,)
        assert is_sorted_and_unique(positions) and np.all((positions >= 0) & (positions < size))


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


def test_no_two_layers_and_no_two_seeds_share_a_draw():
    keys = [patterns.layer_key(jax.random.key(seed), path) for seed in range(3) for path in SHAPES]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == len(keys)
    twins = {"layer4.1.conv1": (3, 3, 40, 40), "layer4.1.conv2": (3, 3, 40, 40)}
    first, second = patterns.draw(jax.random.key(0), twins, dict.fromkeys(twins, 7200)).values()
    shared = np.intersect1d(first, second).size
    assert abs(shared - 3600) < 6 * math.sqrt(3600 / 4)  # hypergeometric: half of half, variance below n/4


def test_a_layer_depends_on_its_own_path_alone():
    key = jax.random.key(5)
    together = patterns.draw(key, SHAPES, COUNTS)
    name = "layer4.0.conv2"
    alone = patterns.draw(key, {name: SHAPES[name]}, COUNTS)
    assert list(alone) == [name] and np.array_equal(alone[name], together[name])


def test_only_layers_that_lose_weights_have_an_entry():
    mask = patterns.draw(jax.random.key(1), SHAPES, COUNTS, "elementwise")
    assert mask.keys() == SPARSE
    assert all(mask[name].size == COUNTS[name] for name in mask)


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


def test_io_draws_a_whole_network():
    counts = patterns.rounded("io", COUNTS, SHAPES)
    mask = patterns.draw(jax.random.key(1), SHAPES, counts, "io")
    for name, positions in mask.items():
        kernel = mask_array(positions, SHAPES[name])
        assert kernel.sum() == counts[name]
        if kernel.ndim == 4:
            assert np.all(kernel == kernel[:1, :1])


def test_io_refuses_a_broken_kernel():
    with pytest.raises(ValueError, match="whole number"):
        patterns.kernel_positions(jax.random.key(0), (3, 3, 2, 2), 10)


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="`pattern=columns`.*elementwise, io"):
        patterns.draw(jax.random.key(0), SHAPES, COUNTS, "columns")


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


def test_masking_removes_what_is_not_kept_and_touches_nothing_else():
    params, mask = network()
    masked = jax.jit(apply_mask)(params, mask)
    assert jax.tree.structure(masked) == jax.tree.structure(params)
    kernel_mask = mask["hidden_0/kernel"]
    assert np.array_equal(
        masked["hidden_0"]["kernel"], np.where(kernel_mask, params["hidden_0"]["kernel"], 0)
    )
    assert masked["hidden_0"]["kernel"].dtype == jnp.float32
    assert np.array_equal(masked["hidden_0"]["bias"], params["hidden_0"]["bias"])
    assert np.array_equal(masked["output"]["kernel"], params["output"]["kernel"])
    assert jax.tree.all(jax.tree.map(np.array_equal, apply_mask(params, {}), params))


def test_a_removed_weight_has_no_gradient():
    params, mask = network()

    def loss(params):
        p = apply_mask(params, mask)
        hidden = jnp.tanh(jnp.ones((2, 6)) @ p["hidden_0"]["kernel"] + p["hidden_0"]["bias"])
        return jnp.sum(hidden @ p["output"]["kernel"])

    gradient = jax.grad(loss)(params)
    kept = np.asarray(mask["hidden_0/kernel"])
    assert np.all(gradient["hidden_0"]["kernel"][~kept] == 0)
    assert np.any(gradient["hidden_0"]["kernel"][kept] != 0)
    assert np.all(gradient["output"]["kernel"] != 0)


def test_seeds_are_masked_under_vmap():
    params, mask = network()
    many_params = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    many_masks = jax.tree.map(lambda leaf: jnp.stack([leaf, ~leaf]), mask)
    masked = jax.vmap(apply_mask)(many_params, many_masks)
    kernel, kept = params["hidden_0"]["kernel"], mask["hidden_0/kernel"]
    assert np.array_equal(masked["hidden_0"]["kernel"], jnp.stack([kernel * kept, 2 * kernel * ~kept]))


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
    found = matrix("n_m")
    units, inputs = found.shape[1], len(found)
    of_group = np.add.reduceat(found, range(0, inputs, 4), dtype=int)
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
    found = matrix("block")

    def of_block(x):
        x = np.pad(x.astype(int), [(0, -n % 4) for n in x.shape])
        return x.reshape(len(x) // 4, 4, -1, 4).sum((1, 3))

    kept, size = of_block(found), of_block(np.ones_like(found))
    assert np.count_nonzero((kept > 0) & (kept < size)) <= 1


def test_random_words_are_the_same_in_pieces(monkeypatch):
    whole = patterns.balanced_positions(jax.random.key(0), 30, 40, 30, 500)
    monkeypatch.setattr(patterns, "PIECE", 100)
    assert np.array_equal(patterns.balanced_positions(jax.random.key(0), 30, 40, 30, 500), whole)


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
@given(convolutional())
def test_a_pattern_keeps_never_more_than_the_budget_and_at_least_a_weight_a_layer(name, case):
    shapes, counts = case
    try:
        kept = patterns.rounded(name, counts, shapes)
    except UserError as error:
        assert "no whole kernel" in str(error) and "\n" not in str(error)
        return
    size = sizes(shapes)
    assert list(kept) == list(counts) and sum(kept.values()) <= sum(counts.values())
    assert all(1 <= kept[layer] <= size[layer] for layer in kept)
    assert patterns.rounded(name, kept, shapes) == kept, "what it can keep, it keeps"


@pytest.mark.parametrize("name", patterns.PATTERNS)
@settings(deadline=None, max_examples=50)
@given(convolutional(), st.integers(0, 2**31 - 1))
def test_every_pattern_draws_exactly_what_it_counts_and_the_same_again(name, case, seed):
    shapes, counts = case
    try:
        counts = patterns.rounded(name, counts, shapes)
    except UserError:
        return
    key = jax.random.key(seed)
    drawn, again = (patterns.draw(key, shapes, counts, name) for _ in range(2))
    assert drawn.keys() == {layer for layer, size in sizes(shapes).items() if counts[layer] < size}
    for layer, positions in drawn.items():
        assert positions.dtype == np.int64 and positions.shape == (counts[layer],)
        assert is_sorted_and_unique(positions)
        assert positions[0] >= 0 and positions[-1] < math.prod(shapes[layer])
        np.testing.assert_array_equal(positions, again[layer])


@pytest.mark.parametrize("name", patterns.PATTERNS)
def test_every_pattern_draws_another_mask_for_another_seed_or_layer(name):
    shapes = {"a": (3, 3, 16, 16), "b": (3, 3, 16, 16)}
    counts = patterns.rounded(name, dict.fromkeys(shapes, 1152), shapes)
    first, second = (patterns.draw(jax.random.key(seed), shapes, counts, name) for seed in (0, 1))
    for left, right in ((first["a"], second["a"]), (first["a"], first["b"])):
        assert not np.array_equal(left, right)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 30), st.integers(0, 2**31))
def test_positions_drawn_in_pieces_are_those_drawn_at_once(size, kept, piece, seed):
    key, kept = jax.random.key(seed), min(size, kept)
    with mock.patch.object(patterns, "PIECE", piece):
        in_pieces = patterns.uniform_positions(key, size, kept)
    np.testing.assert_array_equal(in_pieces, patterns.uniform_positions(key, size, kept))
