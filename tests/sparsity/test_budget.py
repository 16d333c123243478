"""Kept counts: exact, by the algorithm of Appendix B, in proportion; the budgets of Figures 5 and 8."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wsn.errors import UserError
from wsn.sparsity.budget import (
    DISTRIBUTIONS,
    dense_last,
    erdos_renyi,
    erdos_renyi_kernel,
    in_proportion,
    kept_counts,
    largest_first,
    last_layer_fraction,
    uniform,
)
from wsn.sparsity.shapes import mlp_shapes, sizes

BASE_WIDTH, FIGURE8_BUDGET, FIGURE5_BUDGET = 8, 6352, 3970


def named(numbers):
    return {f"layer{i}": n for i, n in enumerate(numbers)}


def mlp(width):
    return sizes(mlp_shapes(784, [width], 10))


@st.composite
def budgets_of_shapes(draw):
    """Shapes of convolutions and dense layers, and a total that they can meet."""
    side = st.sampled_from([(), (1, 1), (3, 3), (7, 7)])
    channels = st.tuples(st.integers(1, 600), st.integers(1, 600))
    shapes = draw(st.lists(st.builds(tuple.__add__, side, channels), min_size=1, max_size=12))
    return named(shapes), draw(st.integers(len(shapes), sum(map(math.prod, shapes))))


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
@given(budget=budgets_of_shapes())
def test_counts_are_exact_and_no_layer_is_empty_or_overfull(distribution, budget):
    """Ten budgets each, from the one drawn to the whole network."""
    shapes, fewest = budget
    layers = sizes(shapes)
    step = max(1, (sum(layers.values()) - fewest) // 9)
    for total in range(fewest, sum(layers.values()) + 1, step):
        try:
            kept = kept_counts(distribution, shapes, total)
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


def test_the_first_of_equally_large_layers_takes_the_remainder():
    assert largest_first({"a": 5, "b": 100, "c": 100, "d": 100}, 5 + 31) == {"a": 5, "b": 9, "c": 11, "d": 11}


def test_a_remainder_that_would_empty_the_largest_layer_is_shared():
    assert largest_first(named([100] * 5), 6) == named([1, 1, 1, 1, 2])
    assert largest_first(named([100] * 5), 5) == named([1] * 5)
    with pytest.raises(UserError, match="cannot leave one in each of 5"):
        largest_first(named([100] * 5), 4)


def test_figure8_leaves_two_weights_in_the_first_layer_at_width_635():
    for width in (8, 32, 128, 216, 328, 512, 635):
        assert dense_last(mlp(width), FIGURE8_BUDGET) == {"hidden_0": 6352 - 10 * width, "output": 10 * width}
    assert dense_last(mlp(635), FIGURE8_BUDGET)["hidden_0"] == 2
    with pytest.raises(UserError, match="6360.*smaller"):
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
    with pytest.raises(UserError, match="larger width"):
        last_layer_fraction(mlp(5), FIGURE5_BUDGET, 0.9)
    with pytest.raises(UserError, match="smaller width"):
        last_layer_fraction(mlp(640), FIGURE5_BUDGET, 0.7)
    assert last_layer_fraction(mlp(640), FIGURE5_BUDGET, 0.6)["hidden_0"] == 130
    for fraction in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(UserError, match="of the last layer"):
            last_layer_fraction(mlp(40), FIGURE5_BUDGET, fraction)


@pytest.mark.parametrize(
    ("distribution", "total", "message"),
    [
        ("even", 10, "`distribution=even` is unknown"),
        ("largest_first", 0, "cannot leave one in each of 2 layers"),
        ("dense_last", 10**9, "exceeds the 6352 of the dense network"),
        ("uniform", 10.5, "`total=10.5` is not a whole number"),
    ],
)
def test_bad_input_is_refused_in_one_line(distribution, total, message):
    with pytest.raises(UserError, match=message) as caught:
        kept_counts(distribution, mlp_shapes(784, [8], 10), total)
    assert "\n" not in str(caught.value)


def test_layers_that_stay_whole_are_named():
    shapes = {"hidden_0": (8, 8), "hidden_1": (8, 8), "output": (8, 2)}
    assert kept_counts("dense_last", shapes, 60, ["output"]) == {"hidden_0": 22, "hidden_1": 22, "output": 16}
    assert kept_counts("dense_last", shapes, 144, list(shapes)) == sizes(shapes)
    for whole in (["outptu"], "output"):
        with pytest.raises(UserError, match="`whole=.*hidden_0, hidden_1, output"):
            kept_counts("largest_first", shapes, 60, whole)


def test_counts_of_ones_own_distribution_are_checked(monkeypatch):
    monkeypatch.setitem(DISTRIBUTIONS, "mine", lambda shapes, total: dict.fromkeys(shapes, 2))
    assert kept_counts("mine", {"a": (2, 2), "b": (2, 2)}, 4) == {"a": 2, "b": 2}
    with pytest.raises(UserError, match="`distribution=mine` keeps 4 weights instead of 5"):
        kept_counts("mine", {"a": (2, 2), "b": (2, 2)}, 5)
    with pytest.raises(UserError, match="`distribution=mine` gives"):
        kept_counts("mine", {"a": (2, 2), "b": (1,)}, 5)


# In proportion.


def densities(shapes, kept):
    return {name: kept[name] / math.prod(shape) for name, shape in shapes.items()}


@settings(deadline=None, max_examples=200)
@given(budgets(largest=1000), st.data())
def test_counts_in_proportion_lie_within_one_weight_of_one_level(budget, data):
    """Layers that are neither whole nor down to a weight share one level, up to the rounding."""
    layers, total = budget
    shares = {name: data.draw(st.integers(1, 50)) for name in layers}
    kept = in_proportion(shares, layers, total)
    assert sum(kept.values()) == total and all(1 <= kept[name] <= layers[name] for name in layers)
    lowest = max([(kept[name] - 1) / shares[name] for name in layers if kept[name] > 1], default=0)
    highest = min(
        [(kept[name] + 1) / shares[name] for name in layers if kept[name] < layers[name]], default=1e9
    )
    assert lowest < highest * (1 + 1e-12)
    assert uniform({name: (n, 1) for name, n in layers.items()}, total) == in_proportion(
        layers, layers, total
    )


@pytest.mark.parametrize("rule", [uniform, erdos_renyi, erdos_renyi_kernel])
@settings(deadline=None, max_examples=100)
@given(budgets_of_shapes())
def test_the_order_of_the_layers_decides_no_more_than_a_weight(rule, budget):
    shapes, total = budget
    kept, back = rule(shapes, total), rule(dict(reversed(shapes.items())), total)
    assert all(abs(kept[name] - back[name]) <= 1 for name in shapes)


def test_erdos_renyi_has_the_connectivities_of_its_formula_where_no_layer_is_whole():
    shapes = {"a": (3, 3, 40, 60), "b": (1, 1, 60, 80), "c": (80, 50)}
    formulas = {
        erdos_renyi: {"a": 100 / 2400, "b": 140 / 4800, "c": 130 / 4000},
        erdos_renyi_kernel: {"a": 106 / 21600, "b": 142 / 4800, "c": 130 / 4000},
    }
    for rule, formula in formulas.items():
        density = densities(shapes, rule(shapes, 2000))
        for name in shapes:
            assert density[name] / density["c"] == pytest.approx(formula[name] / formula["c"], rel=0.01)


def test_layers_that_would_exceed_their_size_are_whole_and_the_rest_is_rescaled():
    """By hand: shares 32, 42, 50; at 90 of 40 + 80 + 400 weights the level is (90 − 40)/92 as soon as a is whole."""
    shapes = {"a": (2, 20), "b": (2, 40), "c": (10, 40)}
    shares = {"a": 60, "b": 42, "c": 50}
    assert in_proportion(shares, sizes(shapes), 90) == {"a": 35, "b": 25, "c": 30}  # 35.5, 24.9, 29.6
    assert in_proportion(shares, sizes(shapes), 132) == {"a": 40, "b": 42, "c": 50}
    assert erdos_renyi({"a": (1, 2), "b": (50, 50)}, 52) == {"a": 2, "b": 50}


def test_a_layer_that_would_be_empty_keeps_a_weight():
    assert in_proportion({"a": 1, "b": 1000}, {"a": 1000, "b": 1000}, 500) == {"a": 1, "b": 499}
