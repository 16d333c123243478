import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn.errors import UserError
from wsn.sparsity.budget import (
    DISTRIBUTIONS,
    connectivity,
    dense_last,
    kept_counts,
    largest_first,
    last_layer_fraction,
)
from wsn.sparsity.shapes import mlp_shapes, sizes

BASE_WIDTH, FIGURE8_BUDGET, FIGURE5_BUDGET = 8, 6352, 3970


def named(numbers):
    return {f"layer{i}": n for i, n in enumerate(numbers)}


def mlp(width):
    return sizes(mlp_shapes(784, [width], 10))


@st.composite
def budgets(draw, largest=10**7):
    """Layer sizes, often with ties, and a total that they can meet with a weight in every layer."""
    pool = draw(st.lists(st.integers(1, largest), min_size=1, max_size=4))
    numbers = draw(st.lists(st.sampled_from(pool) | st.integers(1, largest), min_size=1, max_size=25))
    return named(numbers), draw(st.integers(len(numbers), sum(numbers)))


def as_appendix_b_says(layers, total):
    """One weight at a time from every layer at the top; the first gives what does not divide."""
    numbers = [layers[name] for name in sorted(layers, key=lambda name: -layers[name])]
    frozen = sum(numbers) - total
    while frozen:
        top = [i for i, n in enumerate(numbers) if n == max(numbers)]
        if len(top) > frozen:
            numbers[0] -= frozen
            break
        for i in top:
            numbers[i] -= 1
        frozen -= len(top)
    return numbers


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@settings(deadline=None, max_examples=200)
@given(budget=budgets())
def test_counts_are_exact_and_no_layer_is_empty_or_overfull(distribution, budget):
    """Ten budgets each, from the one drawn to the whole network."""
    layers, fewest = budget
    step = max(1, (sum(layers.values()) - fewest) // 9)
    for total in range(fewest, sum(layers.values()) + 1, step):
        try:
            kept = kept_counts(distribution, layers, total)
        except UserError:
            *others, last = layers
            assert distribution == "dense_last" and total - layers[last] < len(others)
            continue
        assert list(kept) == list(layers)
        assert sum(kept.values()) == total
        assert all(1 <= kept[name] <= layers[name] for name in layers)


@settings(deadline=None, max_examples=200)
@given(budgets(largest=60))
def test_largest_first_is_the_algorithm_of_appendix_b(budget):
    layers, total = budget
    kept = largest_first(layers, total)
    descending = [kept[name] for name in sorted(layers, key=lambda name: -layers[name])]
    expected = as_appendix_b_says(layers, total)
    if expected[0] >= 1:
        assert descending == expected
    else:  # the largest layer would be left empty
        assert min(descending) >= 1 and max(descending) - min(descending[: len(layers) // 2]) <= 1


@settings(deadline=None, max_examples=200)
@given(budgets())
def test_largest_first_cuts_to_one_level(budget):
    layers, total = budget
    kept = largest_first(layers, total)
    cut = [name for name in layers if kept[name] < layers[name]]
    largest = max(layers, key=lambda name: layers[name])
    if not cut:
        assert total == sum(layers.values())
        return
    level = max(kept[name] for name in cut)
    if level >= len(layers):  # the remainder fits the largest layer
        assert {kept[name] for name in cut if name != largest} <= {level}
        assert level - len(layers) < kept[largest] <= max(kept.values())
    assert all(layers[name] <= level + 1 for name in layers if name not in cut)
    assert all(kept[name] >= kept[largest] for name in cut)


@settings(deadline=None, max_examples=200)
@given(budgets(), st.data())
def test_a_larger_budget_lowers_no_layer_but_by_the_remainder_in_the_largest(budget, data):
    layers, total = budget
    more = data.draw(st.integers(total, sum(layers.values())))
    fewer_kept, more_kept = largest_first(layers, total), largest_first(layers, more)
    largest = max(layers, key=lambda name: layers[name])
    if min(fewer_kept.values()) >= len(layers):
        assert all(fewer_kept[name] <= more_kept[name] for name in layers if name != largest)
    assert fewer_kept[largest] - more_kept[largest] < len(layers)


def test_the_first_of_equally_large_layers_takes_the_remainder():
    assert largest_first({"a": 5, "b": 100, "c": 100, "d": 100}, 5 + 31) == {"a": 5, "b": 9, "c": 11, "d": 11}


def test_a_remainder_that_would_empty_the_largest_layer_is_shared():
    assert largest_first(named([100] * 5), 6) == named([1, 1, 1, 1, 2])
    assert largest_first(named([100] * 5), 5) == named([1] * 5)
    with pytest.raises(UserError, match="--base_width"):
        largest_first(named([100] * 5), 4)


def test_figure8_leaves_two_weights_in_the_first_layer_at_width_635():
    for width in (8, 32, 128, 216, 328, 512, 635):
        assert dense_last(mlp(width), FIGURE8_BUDGET) == {"hidden_0": 6352 - 10 * width, "output": 10 * width}
    assert dense_last(mlp(635), FIGURE8_BUDGET)["hidden_0"] == 2
    with pytest.raises(UserError, match="--widths.*6360.*smaller"):
        dense_last(mlp(636), FIGURE8_BUDGET)


def test_largest_first_cuts_the_last_layer_of_figure8_from_width_318_on():
    assert largest_first(mlp(317), FIGURE8_BUDGET)["output"] == 3170
    assert largest_first(mlp(318), FIGURE8_BUDGET)["output"] == 3176


@pytest.mark.parametrize("tenths", range(1, 11))
def test_figure5_fixes_the_count_of_the_last_layer(tenths):
    for width in (10, 40, 320):
        kept = last_layer_fraction(mlp(width), FIGURE5_BUDGET, tenths / 10)
        assert kept == {"hidden_0": FIGURE5_BUDGET - tenths * width, "output": tenths * width}


def test_figure5_refuses_cells_that_do_not_fit():
    assert last_layer_fraction(mlp(5), FIGURE5_BUDGET, 1.0) == mlp(5)
    with pytest.raises(UserError, match="--widths.*larger"):
        last_layer_fraction(mlp(5), FIGURE5_BUDGET, 0.9)
    with pytest.raises(UserError, match="--widths.*smaller"):
        last_layer_fraction(mlp(640), FIGURE5_BUDGET, 0.7)
    assert last_layer_fraction(mlp(640), FIGURE5_BUDGET, 0.6)["hidden_0"] == 130
    for fraction in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(UserError, match="--last_connectivity"):
            last_layer_fraction(mlp(40), FIGURE5_BUDGET, fraction)


@pytest.mark.parametrize(
    ("distribution", "total", "flag"),
    [("even", 10, "--distribution"), ("largest_first", 0, "--base_width"), ("dense_last", 10**9, "--widths")],
)
def test_bad_input_is_one_line_that_names_the_flag(distribution, total, flag):
    with pytest.raises(UserError, match=flag) as caught:
        kept_counts(distribution, mlp(8), total)
    assert "\n" not in str(caught.value)


def test_connectivity_is_the_kept_share_of_the_network():
    assert connectivity({"a": 1, "b": 2}, {"a": 4, "b": 2}) == 0.5
