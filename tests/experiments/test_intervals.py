"""Intervals over seeds: closed forms, coverage in simulation, and the verdicts on claims."""

import numpy as np
import pytest
from scipy import stats

from experiments.lab import intervals
from experiments.lab.intervals import Estimate

RANDOM = np.random.default_rng(0)


def test_the_difference_of_two_networks_is_that_of_welch():
    one, other = RANDOM.normal(0, 0.1, 4), RANDOM.normal(1, 2, 7)
    theirs = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    expected = one.mean() - other.mean(), theirs.low, theirs.high
    assert intervals.difference(one, other) == pytest.approx(expected)
    assert intervals.linear(np.array([1.0, -1.0]), [one, other]) == pytest.approx(expected)


def test_simulated_intervals_are_those_of_students_t():
    values, mean = RANDOM.normal(1, 2, 6), np.array([1.0])
    simulated = intervals.simulated(lambda means: means[:, 0], [values])
    [percentiles] = intervals.percentiles(lambda means: means, [values], 10_000)
    theirs = intervals.linear(mean, [values])
    width = theirs.high - theirs.low
    assert simulated == pytest.approx(theirs, abs=0.05 * width)
    assert percentiles == pytest.approx(theirs, abs=0.05 * width)


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("deviations", [(0.2,) * 5, (0.4, 0.25, 0.15, 0.08, 0.05)], ids=["equal", "falling"])
def test_the_interval_of_a_slope_has_its_coverage(seeds, deviations):
    """Over five widths, also where narrow networks vary more from seed to seed than wide ones."""
    random, x = np.random.default_rng(1), np.arange(5.0) - 2
    slopes = [
        intervals.linear(x / (x @ x), [random.normal(0, d, seeds) for d in deviations]) for _ in range(1000)
    ]
    assert 0.93 <= np.mean([slope.low <= 0 <= slope.high for slope in slopes]) <= 0.99


def test_the_best_of_several_networks_keeps_its_level():
    """Five equal networks and a base: the gain of the best is biased upward, and its interval still holds 0."""
    random, holds = np.random.default_rng(1), 0
    for _ in range(500):
        networks = list(random.normal(0, 1, (6, 5)))
        contrast = np.eye(6)[1 + np.argmax([np.mean(values) for values in networks[1:]])] - np.eye(6)[0]
        holds += intervals.linear(contrast, networks, comparisons=5).low <= 0
    assert holds / 500 >= 0.95


def test_one_seed_has_the_deviation_of_the_others_and_alone_none():
    shared = intervals.linear(np.array([1.0, 0.0]), [[3.0], [1.0, 2.0]])
    assert shared.value == 3 and shared.low < 3 < shared.high
    alone = intervals.difference([0.3], [0.2])
    assert np.isnan(alone.low) and alone.show(100) == "+10.0 (no interval)"
    assert np.isnan(intervals.simulated(lambda means: means.max(1), [[0.3], [0.2]]).low)


def test_a_single_seed_adds_no_degree_of_freedom():
    """Its deviation is that of the other network, so the interval is Student's t with the other's one degree."""
    low, high = stats.t.interval(0.95, 1, loc=3 - 1.5, scale=np.std([1, 2], ddof=1) * np.sqrt(1 + 1 / 2))
    assert intervals.difference([3.0], [1.0, 2.0]) == pytest.approx((1.5, low, high))


def test_a_simulated_interval_with_a_single_seed_is_nearly_the_closed_form():
    networks = [[1.0, 2.0, 1.5, 1.2, 1.8], [3.0]]
    theirs = intervals.difference(*networks)
    for ours in (
        intervals.simulated(lambda means: means[:, 0] - means[:, 1], networks),
        *intervals.percentiles(lambda means: means[:1] - means[1:], networks, 10_000),
    ):
        assert ours.high - ours.low == pytest.approx(theirs.high - theirs.low, rel=0.1)


def test_one_deviation_for_all_is_that_of_the_t_test_with_equal_variances():
    one, other, third = RANDOM.normal(size=(3, 4))
    pair = intervals.linear(np.array([1.0, -1.0]), [one, other], pooled=True)
    expected = stats.ttest_ind(one, other, equal_var=True).confidence_interval()
    assert (pair.low, pair.high) == pytest.approx((expected.low, expected.high))
    family = intervals.linear(np.array([1.0, -1.0, 0.0]), [one, other, third], pooled=True)
    spread = np.sqrt(np.var([one, other, third], axis=1, ddof=1).mean() / 2)
    half = stats.t.isf(0.025, 9) * spread
    assert family == pytest.approx((pair.value, pair.value - half, pair.value + half))


def test_a_regression_is_that_of_scipy():
    x, y = np.arange(9.0), RANDOM.normal(size=9)
    (slope,), explained = intervals.regression([x], y)
    theirs = stats.linregress(x, y)
    half = stats.t.ppf(0.975, 7) * theirs.stderr
    assert slope == pytest.approx((theirs.slope, theirs.slope - half, theirs.slope + half))
    assert explained == pytest.approx(theirs.rvalue**2)
    assert np.isnan(intervals.regression([x[:1]], y[:1])[0][0].value)


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        (Estimate(0.0, -0.05, 0.05), "holds"),
        (Estimate(0.3, 0.11, 0.5), "fails"),
        (Estimate(0.3, 0.05, 0.5), "inconclusive"),
        (Estimate(0.0), "inconclusive"),
    ],
)
def test_a_quantity_is_zero_if_its_whole_interval_is_within_the_margin(estimate, verdict):
    assert intervals.equal(estimate, 0.1) == intervals.equal(-estimate, 0.1) == verdict
